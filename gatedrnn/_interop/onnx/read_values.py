"""What a tensor of an ONNX graph stands for while the graph is read.

An axis is a product of atoms (time, batch, directions, features), in row-major order, so that a
reshape is a regrouping of atoms; an axis of size 1 is the empty product. Primes that the graph does
not mention stand for the sizes that it leaves open, so that it can compute with them.
"""

import dataclasses
import math
from typing import Any, NamedTuple, Union

import numpy as np

from gatedrnn._interop.networks import Recurrence, layer_of, recurrences_of
from gatedrnn._src.layers.recurrent import Recurrent


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
    """How long an axis is, or what stands for it."""
    return math.prod(atom.size for atom in axis)


def is_stated(axis: Axis) -> bool:
    """Whether the graph states how long an axis is."""
    return all(atom.stated for atom in axis)


def shown(axis: Axis) -> str:
    """How long an axis is, for errors."""
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


def replaced(axes: Axes, k: int, *by: Axis) -> Axes:
    """`axes` with others in the place of axis `k`, or none."""
    return (*axes[:k], *by, *axes[k + 1 :])


# What computes a tensor: a graph input, or a layer on top of what is below; compared by identity.
# `nodes` are the directions of recurrent nodes that are in a layer.

Nodes = frozenset[str]


@dataclasses.dataclass(eq=False)
class Source:
    """A graph input."""

    name: str
    nodes: Nodes = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Its own, as `Given` has them."""
        return frozenset({self.name})


@dataclasses.dataclass(eq=False)
class Given:
    """States that graph inputs hold, in part or together."""

    names: frozenset[str]  # of these inputs
    nodes: Nodes = frozenset()


@dataclasses.dataclass(eq=False)
class Count:
    """What is computed from the lengths: `"at least 1"`, or the number of the `"last"` step."""

    lengths: str  # the graph input
    what: str
    nodes: Nodes = frozenset()


@dataclasses.dataclass(eq=False)
class Mask:
    """Which steps are `"valid"`, which is the `"last"` of a row, whether a row has `"any"`."""

    lengths: str  # the graph input
    what: str
    time: Axis = ()
    batch: Axis = ()
    nodes: Nodes = frozenset()


@dataclasses.dataclass(eq=False)
class Step:
    """A layer of ours."""

    below: "Net"
    layer: Any
    params: Any
    features: Axis  # of its output
    nodes: Nodes = frozenset()


@dataclasses.dataclass(eq=False)
class Backward:
    """A recurrence backward in time, for which alone we have no layer."""

    below: "Net"
    recurrence: Recurrence
    features: Axis
    nodes: Nodes


@dataclasses.dataclass(eq=False)
class Pair:
    """Two directions that are not merged yet."""

    below: "Net"
    recurrences: tuple[Recurrence, ...]
    features: Axis  # of either
    forward: Nodes
    backward: Nodes
    directions: Atom = dataclasses.field(default_factory=lambda: Atom(2))
    _layers: dict[str, Step] = dataclasses.field(default_factory=dict)

    @property
    def nodes(self) -> Nodes:
        return self.forward | self.backward

    def half(self, backward: bool) -> "Step | Backward":
        """One of the directions."""
        if backward:
            return Backward(self.below, self.recurrences[1], self.features, self.backward)
        return Step(self.below, *layer_of(self.recurrences[:1]), self.features, self.forward)

    def merged(self, merge: str) -> Step:
        """Both as one layer, for each merge always the same one."""
        if merge not in self._layers:
            both = (self.directions,) if merge == "concat" else ()
            layer, params = layer_of(self.recurrences, merge)
            self._layers[merge] = Step(self.below, layer, params, both + self.features, self.nodes)
        return self._layers[merge]


@dataclasses.dataclass(eq=False)
class Memory:
    """The final memory of an LSTM, which only the carry holds."""

    features: Axis
    nodes: Nodes


@dataclasses.dataclass(eq=False)
class Pieces:
    """Final states of several layers, joined along one axis."""

    flows: tuple["Flow", ...]
    k: int  # which axis that is in each of them
    along: Axis  # the joint one

    @property
    def nodes(self) -> Nodes:
        return frozenset().union(*(flow.net.nodes for flow in self.flows))


Net = Union[Source, Given, Count, Mask, Step, Backward, Pair, Memory, Pieces]  # noqa: UP007


class Known(NamedTuple):
    """A constant."""

    array: np.ndarray
    sized: bool = False  # whether its values follow from sizes that the graph leaves open


class Flow(NamedTuple):
    """A tensor that the network computes."""

    net: Net
    axes: Axes
    dtype: np.dtype
    end: str = ""  # how it lost the time axis: "final", "mean", "max", "sum"; "first", "last"
    # what stands where, of sequences with lengths: "zero" or "lowest" in the padding; "last": zeros
    # everywhere but at the last step
    padding: str = ""


Value = Known | Flow


def settled(flow: Flow) -> Flow:
    """`flow` as the output of one layer, where both directions are side by side in one axis."""
    net = flow.net
    if isinstance(net, Pair) and (net.directions, *net.features) in flow.axes:
        return flow._replace(net=net.merged("concat"))
    return flow


def both_ways(ahead: Net, back: Net) -> Pair | None:
    """A forward and a backward recurrence over the same input; None if they are something else."""
    if not isinstance(ahead, Step) or not isinstance(ahead.layer, Recurrent):
        return None
    if not isinstance(back, Backward) or ahead.below is not back.below:
        return None
    (forward,) = recurrences_of(ahead.layer, ahead.params)
    return Pair(ahead.below, (forward, back.recurrence), ahead.features, ahead.nodes, back.nodes)


def steps_of(net: Net) -> list[Step]:
    """The layers from the lowest one up to `net`."""
    found: list[Step] = []
    while isinstance(net, Step):
        found.insert(0, net)
        net = net.below
    return found


def alike(a: Flow, b: Flow, but: int = -1) -> bool:
    """Whether all axes but one are the same, where those of features need the same size only."""
    if len(a.axes) != len(b.axes) or a.end != b.end or "last" in (a.padding, b.padding):
        return False
    features = [getattr(flow.net, "features", None) for flow in (a, b)]
    return all(
        k == but or one == two or ([one, two] == features and size_of(one) == size_of(two))
        for k, (one, two) in enumerate(zip(a.axes, b.axes, strict=True))
    )
