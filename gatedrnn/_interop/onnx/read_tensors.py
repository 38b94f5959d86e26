"""An ONNX graph while it is read: its nodes, and the value that each of its tensors stands for.

An axis is a product of atoms (time, batch, directions, features), in row-major order, so that a
reshape is a regrouping of atoms; an axis of size 1 is the empty product. Primes that the graph does
not mention stand for the sizes that it leaves open, so that it can compute with them.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from gatedrnn._interop.networks import DirectedCell, layer_of, recurrences_of, runs_forward
from gatedrnn._interop.onnx.read_limits import RANK, Memory, quoted


@dataclasses.dataclass(eq=False)
class Atom:
    """A size above 1. Two axes are the same if their atoms are, not only their sizes."""

    size: int
    stated: bool = True  # in the graph; else it may be any, and `size` stands for it


Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]


def axis_of(size: int) -> Axis:
    """A new axis."""
    return () if size == 1 else (Atom(size),)


def size_of(axis: Axis) -> int:
    """The length of an axis, or the prime that stands for it."""
    return math.prod(atom.size for atom in axis)


def is_stated(axis: Axis) -> bool:
    """Return whether the graph states the length of an axis."""
    return all(atom.stated for atom in axis)


def size_text(axis: Axis) -> str:
    """The length of an axis, for errors."""
    return str(size_of(axis)) if is_stated(axis) else "?"


def regroup(axes: Axes, shape: list[int]) -> Axes | None:
    """The same atoms in the same order, in axes of this `shape`; None where an atom would break."""
    left = [atom for axis in axes for atom in axis]
    grouped = []
    for size in shape:
        taken: Axis = ()
        while left and size_of(taken) < size:
            taken += (left.pop(0),)
        if size_of(taken) != size:
            return None
        grouped.append(taken)
    return None if left else tuple(grouped)


def with_axes(axes: Axes, k: int, *by: Axis) -> Axes:
    """`axes` with others in the place of axis `k`, or none."""
    return (*axes[:k], *by, *axes[k + 1 :])


# The origin of a tensor: a graph input, or a layer on top of another origin; compared by identity.
# `nodes` are the directions of recurrent nodes that are in a layer.

Nodes = frozenset[str]


@dataclasses.dataclass(eq=False)
class GraphInput:
    """A graph input."""

    name: str
    nodes: Nodes = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Its own, as `GivenStates` has them."""
        return frozenset({self.name})


@dataclasses.dataclass(eq=False)
class GivenStates:
    """States that graph inputs hold, in part or together."""

    names: frozenset[str]  # of these inputs
    nodes: Nodes = frozenset()


@dataclasses.dataclass(eq=False)
class FromLengths:
    """Integers made from the lengths: `"at least 1"`, or the number of the `"last"` step."""

    lengths: str  # the graph input
    what: str
    nodes: Nodes = frozenset()


@dataclasses.dataclass(eq=False)
class Mask:
    """Booleans made from the lengths: `"valid"` steps, the `"last"` one, rows with `"any"`."""

    lengths: str  # the graph input
    what: str
    time: Axis = ()
    batch: Axis = ()
    nodes: Nodes = frozenset()


@dataclasses.dataclass(eq=False)
class LayerOutput:
    """A layer of ours."""

    below: "Origin"
    layer: Any
    params: Any
    features: Axis  # of its output
    nodes: Nodes = frozenset()


@dataclasses.dataclass(eq=False)
class ReverseOutput:
    """A recurrence backward in time, which alone is not converted."""

    below: "Origin"
    recurrence: DirectedCell
    features: Axis
    nodes: Nodes


@dataclasses.dataclass(eq=False)
class BothDirections:
    """Two directions that are not merged yet."""

    below: "Origin"
    recurrences: tuple[DirectedCell, ...]
    features: Axis  # of either
    forward: Nodes
    backward: Nodes
    directions: Atom = dataclasses.field(default_factory=lambda: Atom(2))
    _layers: dict[str, LayerOutput] = dataclasses.field(default_factory=dict)

    @property
    def nodes(self) -> Nodes:
        return self.forward | self.backward

    def half(self, backward: bool) -> "LayerOutput | ReverseOutput":
        """One of the directions."""
        if backward:
            return ReverseOutput(self.below, self.recurrences[1], self.features, self.backward)
        return LayerOutput(self.below, *layer_of(self.recurrences[:1]), self.features, self.forward)

    def merged(self, merge: str) -> LayerOutput:
        """Both as one layer, for each merge always the same one."""
        if merge not in self._layers:
            both = (self.directions,) if merge == "concat" else ()
            layer, params = layer_of(self.recurrences, merge)
            features = both + self.features
            self._layers[merge] = LayerOutput(self.below, layer, params, features, self.nodes)
        return self._layers[merge]


@dataclasses.dataclass(eq=False)
class FinalMemory:
    """The final memory of an LSTM, which only the carry holds."""

    features: Axis
    nodes: Nodes


@dataclasses.dataclass(eq=False)
class JoinedStates:
    """Final states of several layers, joined along one axis."""

    tensors: tuple["Tensor", ...]
    k: int  # which axis that is in each of them
    along: Axis  # the joint one
    nodes: Nodes
    states: frozenset[tuple[str, bool]]  # by direction of a node, and whether it is the memory


_OfInputs = GraphInput | GivenStates | FromLengths | Mask
Origin = _OfInputs | LayerOutput | ReverseOutput | BothDirections | FinalMemory | JoinedStates


class Constant(NamedTuple):
    """A constant."""

    array: np.ndarray
    sized: np.ndarray | None = None  # values that follow from sizes that are open; None: none do

    @property
    def from_sizes(self) -> bool:
        """True if some of its values follow from sizes that the graph leaves open."""
        return self.sized is not None


class Tensor(NamedTuple):
    """A tensor that the network computes."""

    origin: Origin
    axes: Axes
    dtype: np.dtype
    end: str = ""  # how it lost the time axis: "final", "mean", "max", "sum"; "first", "last"
    # what stands where, of sequences with lengths: "zero" or "lowest" in the padding; "last": zeros
    # everywhere but at the last step
    padding: str = ""


Value = Constant | Tensor


def as_layer_output(tensor: Tensor) -> Tensor:
    """`tensor` as the output of one layer, where both directions are side by side in one axis."""
    origin = tensor.origin
    if isinstance(origin, BothDirections) and (origin.directions, *origin.features) in tensor.axes:
        return tensor._replace(origin=origin.merged("concat"))
    return tensor


def both_directions(ahead: Origin, back: Origin) -> BothDirections | None:
    """A forward and a backward recurrence over the same input; None if they are something else."""
    if not isinstance(ahead, LayerOutput) or not runs_forward(ahead.layer):
        return None
    if not isinstance(back, ReverseOutput) or ahead.below is not back.below:
        return None
    (forward,) = recurrences_of(ahead.layer, ahead.params)
    both = forward, back.recurrence
    return BothDirections(ahead.below, both, ahead.features, ahead.nodes, back.nodes)


def layers_below(origin: Origin) -> list[LayerOutput]:
    """The layers from the lowest one up to `origin`."""
    found: list[LayerOutput] = []
    while isinstance(origin, LayerOutput):
        found.append(origin)
        origin = origin.below
    return found[::-1]


def same_axes(a: Tensor, b: Tensor, but: int = -1) -> bool:
    """Return whether all axes but one are the same; those of features need the same size only."""
    if len(a.axes) != len(b.axes) or a.end != b.end or "last" in (a.padding, b.padding):
        return False
    features = [getattr(tensor.origin, "features", None) for tensor in (a, b)]
    return all(
        k == but or one == two or ([one, two] == features and size_of(one) == size_of(two))
        for k, (one, two) in enumerate(zip(a.axes, b.axes, strict=True))
    )


# The graph ----------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A node of a graph."""

    op: str  # with its domain, where that is not ONNX's own
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    proto: Any

    def __str__(self) -> str:
        op = self.op if self.op.isidentifier() else quoted(self.op)[1:-1]
        if self.name:
            return f"{op} node {quoted(self.name)}"
        return f"{op} node that makes {quoted(next(filter(None, self.outputs), ''))}"


def node_of(onnx: Any, proto: Any) -> Node:
    """A node with its attributes as Python's values."""
    domain = "" if proto.domain in ("", "ai.onnx") else f"{proto.domain}."
    names = tuple(proto.input), tuple(proto.output)
    node = Node(domain + proto.op_type, proto.name, *names, {}, proto)
    for attribute in proto.attribute:
        try:
            value = _plain(onnx.helper.get_attribute_value(attribute))
        except ValueError:  # of no type, or a reference outside of a function
            raise refused(node, f"its attribute {quoted(attribute.name)} has no value") from None
        node.attributes[attribute.name] = value
    return node


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def refused(node: Node, why: str) -> ValueError:
    """The error for a node that no layer of ours can stand for."""
    return ValueError(f"model, {node}: cannot become a part of our network: {why}")


class SequenceAxes(NamedTuple):
    """The axes and the lengths that all layers over time have in common."""

    time: Axis
    batch: Axis
    lengths: str | None  # the graph input


@dataclasses.dataclass
class GraphReader:
    """The values of the tensors so far, by name."""

    onnx: Any
    memory: Memory
    values: dict[str, Value] = dataclasses.field(default_factory=dict)
    sequence: SequenceAxes | None = None
    starts: dict[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    """The names of a recurrent node's initial states, by the node's directions."""
    folded: bool = False  # whether nodes computed constants

    def define(self, what: str, name: str, value: Value) -> None:
        """Give a name its value, once."""
        if name in self.values:
            raise ValueError(
                f"model, {what}: got {quoted(name)} a second time, expected a name of its own"
            )
        self.values[name] = value

    def value(self, node: Node, k: int) -> Value | None:
        """Input `k` of a node, None where it is left out."""
        if k >= len(node.inputs) or not node.inputs[k]:
            return None
        if node.inputs[k] not in self.values:
            raise ValueError(
                f"model, {node}: got an input {quoted(node.inputs[k])} that nothing before makes, "
                "expected a graph input, a constant or the output of an earlier node"
            )
        return self.values[node.inputs[k]]

    def tensor(self, node: Node, k: int = 0) -> Tensor:
        """Input `k`, which the network computes."""
        value = self.value(node, k)
        if isinstance(value, Tensor):
            return value
        why = "is missing" if value is None else f"{quoted(node.inputs[k])} is a constant"
        raise refused(node, f"input {k} {why}")

    def constant(self, node: Node, k: int) -> np.ndarray | None:
        """Input `k`, which is a constant or left out."""
        value = self.value(node, k)
        if value is None:
            return None
        if isinstance(value, Tensor):
            raise refused(node, f"input {quoted(node.inputs[k])} is computed, not a constant")
        return value.array

    def weight(self, node: Node, k: int) -> np.ndarray | None:
        """Input `k`, a constant that is the same for inputs of all sizes, or left out."""
        array = self.constant(node, k)
        value = self.value(node, k)
        if isinstance(value, Constant) and value.from_sizes:
            raise refused(
                node, f"input {quoted(node.inputs[k])} depends on the sizes of the inputs"
            )
        return array

    def ints(self, node: Node, name: str, k: int) -> list[int] | None:
        """Integers that one opset has as an attribute and another as input `k`."""
        if name in node.attributes:
            return list(node.attributes[name])
        array = self.constant(node, k)
        if array is None:
            return None
        if array.dtype.kind != "i" or array.size > max(RANK, len(node.outputs)):
            what = f"{array.size:,} numbers of {array.dtype}"
            raise refused(node, f"its {name} are {what}, no integers for axes")
        return [int(n) for n in np.ravel(array)]

    def agree(self, node: Node, sequence: SequenceAxes) -> None:
        """Raise unless every layer over time reads the same axes and the same lengths."""
        if self.sequence is None:
            self.sequence = sequence
        if sequence[:2] != self.sequence[:2]:
            raise refused(node, "its time and batch axes are not those of the nodes before")
        if sequence.lengths != self.sequence.lengths:
            got, others = (f.lengths or "none" for f in (sequence, self.sequence))
            raise refused(
                node, f"its lengths of sequences are {got!r}, those of the nodes before {others!r}"
            )
