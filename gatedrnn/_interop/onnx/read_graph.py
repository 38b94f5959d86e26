"""An ONNX graph while it is read: its nodes, its tensors so far, errors that name both."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from gatedrnn._interop.onnx.read_values import Axis, Flow, Known, Value


class Node(NamedTuple):
    """A node of a graph."""

    op: str  # with its domain, where that is not ONNX's own
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    proto: Any

    def __str__(self) -> str:
        if self.name:
            return f"{self.op} node {self.name!r}"
        return f"{self.op} node that makes {next(filter(None, self.outputs), '')!r}"


def node_of(onnx: Any, proto: Any) -> Node:
    """A node with its attributes as Python's values."""
    attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in proto.attribute}
    domain = "" if proto.domain in ("", "ai.onnx") else f"{proto.domain}."
    names = tuple(proto.input), tuple(proto.output)
    return Node(domain + proto.op_type, proto.name, *names, attributes, proto)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def refused(node: Node, why: str) -> ValueError:
    """The error for a node that no layer of ours can stand for."""
    return ValueError(f"model, {node}: cannot become a part of our network: {why}")


class Frame(NamedTuple):
    """What all layers over time have in common."""

    time: Axis
    batch: Axis
    lengths: str | None  # the graph input


@dataclasses.dataclass
class Graph:
    """The values of the tensors so far, by name."""

    onnx: Any
    values: dict[str, Value] = dataclasses.field(default_factory=dict)
    frame: Frame | None = None
    starts: dict[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    """The names of a recurrent node's initial states, by the node's directions."""

    def value(self, node: Node, k: int) -> Value | None:
        """Input `k` of a node, None where it is left out."""
        if k >= len(node.inputs) or not node.inputs[k]:
            return None
        if node.inputs[k] not in self.values:
            raise ValueError(
                f"model, {node}: got an input {node.inputs[k]!r} that nothing before makes, "
                "expected a graph input, a constant or the output of an earlier node"
            )
        return self.values[node.inputs[k]]

    def flow(self, node: Node, k: int = 0) -> Flow:
        """Input `k`, which the network computes."""
        value = self.value(node, k)
        if isinstance(value, Flow):
            return value
        why = "is missing" if value is None else f"{node.inputs[k]!r} is a constant"
        raise refused(node, f"input {k} {why}")

    def constant(self, node: Node, k: int) -> np.ndarray | None:
        """Input `k`, which is a constant or left out."""
        value = self.value(node, k)
        if value is None:
            return None
        if isinstance(value, Flow):
            raise refused(node, f"input {node.inputs[k]!r} is computed, not a constant")
        return value.array

    def weight(self, node: Node, k: int) -> np.ndarray | None:
        """Input `k`, a constant that is the same for inputs of all sizes, or left out."""
        array = self.constant(node, k)
        value = self.value(node, k)
        if isinstance(value, Known) and value.sized:
            raise refused(node, f"input {node.inputs[k]!r} depends on the sizes of the inputs")
        return array

    def ints(self, node: Node, name: str, k: int) -> list[int] | None:
        """Integers that one opset has as an attribute and another as input `k`."""
        if name in node.attributes:
            return list(node.attributes[name])
        array = self.constant(node, k)
        return None if array is None else [int(n) for n in np.ravel(array)]

    def agree(self, node: Node, frame: Frame) -> None:
        """Raise unless every layer over time reads the same axes and the same lengths."""
        if self.frame is None:
            self.frame = frame
        if frame[:2] != self.frame[:2]:
            raise refused(node, "its time and batch axes are not those of the nodes before")
        if frame.lengths != self.frame.lengths:
            got, others = (f.lengths or "none" for f in (frame, self.frame))
            raise refused(
                node, f"its lengths of sequences are {got!r}, those of the nodes before {others!r}"
            )
