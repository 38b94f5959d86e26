"""Bounds of what a model may ask for: arrays are counted before they are made."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

BESIDE = 2**28  # bytes of arrays that any model may ask for
TIMES = 32  # and how often its own bytes: weights in float16, cast and cut apart, take 18
NODES = 100_000  # that its functions may stand for
RANK = 64  # NumPy's arrays have no more axes


def quoted(text: object) -> str:
    """A name or a value of a model, for errors: on one line, and not too long."""
    found = repr(text)
    return found if len(found) <= 100 else f"{found[:96]} ..."


@dataclasses.dataclass
class Memory:
    """The bytes of all arrays that reading a model has made, those that it has dropped included.

    Attributes:
      own: bytes of the model and of the files that its weights lie in.
      made: bytes so far.
    """

    own: int
    made: int = 0

    @property
    def limit(self) -> int:
        """The most bytes that reading may make."""
        return BESIDE + TIMES * self.own

    def take(self, what: str, size: int) -> None:
        """Count an array before it is made; raise where that would be too much."""
        if self.made + size > self.limit:
            raise ValueError(
                f"model, {what}: got constants of {_number(self.made + size)} bytes up to here, "
                f"expected {self.limit:,} at most: {BESIDE:,} and {TIMES} times the "
                f"{self.own:,} bytes of the model"
            )
        self.made += size


def _number(n: int) -> str:
    return f"{n:,}" if n < 2**63 else "more than 2^63"


def broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of arrays of these shapes together; axes that do not fit count as the larger."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))


def size_of_shape(shape: Iterable[int]) -> int:
    """The number of elements of a shape."""
    return math.prod(int(n) for n in shape)


# Functions ----------------------------------------------------------------------------------------

Key = tuple[str, str, str]


def check_functions(model: Any) -> None:
    """Raise where the functions of a model call themselves, or stand for too many nodes."""
    nodes = {(_domain(f), f.name, f.overload): f.node for f in model.functions}
    counts: dict[Key, int] = {}
    for start in nodes:
        calling, inside = {start}, [(start, _calls(nodes[start]))]
        while inside:
            key, calls = inside[-1]
            called = next((c for c in calls if c in nodes and c not in counts), None)
            if called is None:
                counts[key] = _count(nodes[key], counts)
                calling.discard(key)
                inside.pop()
            elif called in calling:
                raise ValueError(f"model, function {quoted(called[1])}: got one that calls itself")
            else:
                calling.add(called)
                inside.append((called, _calls(nodes[called])))
    total = _count(model.graph.node, counts)
    if total > max(NODES, len(model.graph.node)):
        raise ValueError(
            f"model: got functions that stand for {_number(total)} nodes, expected {NODES:,} at "
            "most"
        )


def _domain(proto: Any) -> str:
    return "" if proto.domain == "ai.onnx" else proto.domain


def _calls(nodes: Any) -> Iterator[Key]:
    """The kinds of all nodes, those of the graphs inside them included."""
    left = list(nodes)
    while left:
        node = left.pop()
        yield _domain(node), node.op_type, node.overload
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                left.extend(graph.node)


def _count(nodes: Any, counts: dict[Key, int]) -> int:
    return min(2**63, sum(counts.get(key, 1) for key in _calls(nodes)))
