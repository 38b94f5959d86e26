"""Nodes that move, split and join axes, and those that take a part of one."""

import itertools
import math

import numpy as np

from gatedrnn._interop.onnx.read_graph import Graph, Node, refused
from gatedrnn._interop.onnx.read_values import (
    Axes,
    Backward,
    Count,
    Flow,
    Given,
    Known,
    Memory,
    Pair,
    Pieces,
    Source,
    Step,
    Value,
    axis_of,
    is_stated,
    regroup,
    replaced,
    settled,
    shown,
    size_of,
    steps_of,
)

HUGE = 2**31 - 1  # as an end that is none


def axis_number(node: Node, axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise refused(node, f"it names axis {axis} of {rank}")
    return axis % rank


def identity(graph: Graph, node: Node) -> list[Value]:
    """The input as it is."""
    return [graph.flow(node)]


def cast(graph: Graph, node: Node) -> list[Value]:
    """Integers as others, numbers as they are."""
    flow = graph.flow(node)
    dtype = np.dtype(graph.onnx.helper.tensor_dtype_to_np_dtype(node.attributes["to"]))
    integers = flow.dtype.kind == dtype.kind == "i"
    if dtype != flow.dtype and not integers and not isinstance(flow.net, Count):
        raise refused(node, f"it turns {flow.dtype} into {dtype}")
    return [flow._replace(dtype=dtype)]


def transpose(graph: Graph, node: Node) -> list[Value]:
    """Axes in another order."""
    flow = graph.flow(node)
    perm = node.attributes.get("perm", range(len(flow.axes))[::-1])
    if sorted(perm) != list(range(len(flow.axes))):
        raise refused(node, f"its perm is {list(perm)}, for {len(flow.axes)} axes")
    return [flow._replace(axes=tuple(flow.axes[k] for k in perm))]


def squeeze(graph: Graph, node: Node) -> list[Value]:
    """Without axes of size 1."""
    flow = graph.flow(node)
    rank, axes = len(flow.axes), graph.ints(node, "axes", 1)
    gone = [k for k, axis in enumerate(flow.axes) if axes is None and not axis]
    gone += [axis_number(node, axis, rank) for axis in axes or []]
    for k in gone:
        if flow.axes[k]:
            raise refused(node, f"it drops axis {k}, whose size is not 1")
    return [flow._replace(axes=tuple(a for k, a in enumerate(flow.axes) if k not in gone))]


def unsqueeze(graph: Graph, node: Node) -> list[Value]:
    """With more axes of size 1."""
    flow = graph.flow(node)
    new = graph.ints(node, "axes", 1) or []
    rank = len(flow.axes) + len(new)
    at = {axis_number(node, axis, rank) for axis in new}
    old = iter(flow.axes)
    return [flow._replace(axes=tuple(() if k in at else next(old) for k in range(rank)))]


def reshape(graph: Graph, node: Node) -> list[Value]:
    """The same atoms in other axes."""
    flow = graph.flow(node)
    shape = graph.ints(node, "shape", 1) or []
    sizes = [size_of(axis) for axis in flow.axes]
    if not node.attributes.get("allowzero", 0):
        shape = [sizes[k] if n == 0 and k < len(sizes) else n for k, n in enumerate(shape)]
    if shape.count(-1) == 1:
        rest = max(1, math.prod(n for n in shape if n != -1))
        shape = [math.prod(sizes) // rest if n == -1 else n for n in shape]
    return [flow._replace(axes=_regrouped(node, flow.axes, shape))]


def flatten(graph: Graph, node: Node) -> list[Value]:
    """The axes before one and those from it on, each as one."""
    flow = graph.flow(node)
    axis, rank = node.attributes.get("axis", 1), len(flow.axes)
    if not -rank <= axis <= rank:
        raise refused(node, f"it names axis {axis} of {rank}")
    sizes = [size_of(a) for a in flow.axes]
    axis = axis % rank if axis < 0 else axis
    shape = [math.prod(sizes[:axis]), math.prod(sizes[axis:])]
    return [flow._replace(axes=_regrouped(node, flow.axes, shape))]


def _regrouped(node: Node, axes: Axes, shape: list[int]) -> Axes:
    grouped = regroup(axes, shape)
    if grouped is None:
        got = "x".join(map(shown, axes))
        raise refused(node, f"it gives {got} a shape that mixes or divides its axes")
    return grouped


def shape(graph: Graph, node: Node) -> list[Value]:
    """The sizes as a constant, in which primes stand for those that the graph leaves open."""
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    axes = graph.flow(node).axes[start:end]
    sizes = np.array([size_of(axis) for axis in axes], np.int64)
    return [Known(sizes, not all(map(is_stated, axes)))]


def gather(graph: Graph, node: Node) -> list[Value]:
    """One entry along an axis."""
    flow, index = graph.flow(node), graph.constant(node, 1)
    k = axis_number(node, node.attributes.get("axis", 0), len(flow.axes))
    if index is None or index.size != 1 or index.ndim > 1:
        raise refused(node, "it takes other than one entry along an axis")
    start, size = int(index.reshape(())), size_of(flow.axes[k])
    if not -size <= start < size:
        raise refused(node, f"it takes entry {start} along axis {k}")
    start %= size
    flow = part(graph, node, flow, k, start, start + 1)
    return [flow if index.ndim else flow._replace(axes=replaced(flow.axes, k))]


def slice_(graph: Graph, node: Node) -> list[Value]:
    """Neighbouring entries along axes."""
    flow = graph.flow(node)
    starts, ends = graph.ints(node, "starts", 1) or [], graph.ints(node, "ends", 2) or []
    axes = graph.ints(node, "axes", 3) or list(range(len(starts)))
    steps = (graph.ints(node, "steps", 4) if "starts" not in node.attributes else None) or [1]
    if set(steps) != {1}:
        raise refused(node, f"its steps are {steps}, not 1")
    for axis, start, end in zip(axes, starts, ends, strict=True):
        k = axis_number(node, axis, len(flow.axes))
        size = size_of(flow.axes[k])
        if not is_stated(flow.axes[k]) and any(size < abs(n) < HUGE for n in (start, end)):
            raise refused(node, f"it cuts axis {k}, whose size is open, at {start} or {end}")
        start, end, _ = slice(start, end).indices(size)
        flow = part(graph, node, flow, k, start, end)
    return [flow]


def split(graph: Graph, node: Node) -> list[Value]:
    """All entries along an axis, in parts."""
    flow = graph.flow(node)
    k = axis_number(node, node.attributes.get("axis", 0), len(flow.axes))
    size, count = size_of(flow.axes[k]), len(node.outputs)
    sizes = graph.ints(node, "split", 1) or [-(-size // count)] * (count - 1)
    ends = np.cumsum([0, *sizes, size - sum(sizes)][: count + 1]).tolist()
    return [part(graph, node, flow, k, start, end) for start, end in itertools.pairwise(ends)]


def part(graph: Graph, node: Node, flow: Flow, k: int, start: int, end: int) -> Flow:
    """Entries `start` to `end` along axis `k`, which stays: a direction, a layer, the last step."""
    net, axis = flow.net, flow.axes[k]
    size, frame = size_of(axis), graph.frame
    if (start, end) == (0, size):
        return flow
    if isinstance(net, Source | Given):  # of inputs only states may be parted, and these are fed
        axes = replaced(flow.axes, k, axis_of(end - start))
        return flow._replace(net=Given(net.names), axes=axes)
    if isinstance(net, Memory) and 0 <= start < end <= size:
        return flow._replace(axes=replaced(flow.axes, k, axis_of(end - start)))
    if isinstance(net, Pair) and axis[:1] == (net.directions,):
        inner = size // 2
        if (start, end) in ((0, inner), (inner, size)):
            made = flow._replace(axes=replaced(flow.axes, k, axis[1:]))
            made = made._replace(net=net.half(backward=start > 0))
            if flow.end not in ("first", "last"):
                return made
            if (flow.end == "first") == (start > 0):
                return made._replace(end="final")
    if isinstance(net, Pieces) and axis and axis in (net.along, net.along[:1]):
        return _piece(graph, node, flow, k, start, end)
    if frame is not None and axis == frame.time and not flow.end:
        ended = _ended(flow, frame.lengths, first=(start, end) == (0, 1), last=start == size - 1)
        if ended is not None:
            return ended._replace(axes=replaced(flow.axes, k, ()))
    raise refused(node, f"it takes entries {start} to {end} of {shown(axis)} along axis {k}")


def _piece(graph: Graph, node: Node, flow: Flow, k: int, start: int, end: int) -> Flow:
    """Entries of one of several layers' states."""
    pieces, offset = flow.net, 0
    assert isinstance(pieces, Pieces)
    apart = flow.axes[k] != pieces.along  # an axis of layers, another of directions
    for piece in pieces.flows:
        own = piece.axes[pieces.k]
        size = 1 if apart else size_of(own)
        if offset <= start < end <= offset + size:
            theirs = zip(pieces.flows[0].axes, piece.axes, strict=True)
            renamed = {a: b for j, (a, b) in enumerate(theirs) if j != pieces.k}
            if apart:
                renamed[pieces.along[1:]] = own
            axes = tuple(renamed.get(axis, axis) for axis in flow.axes)
            axes = replaced(axes, k, () if apart else own)
            return part(graph, node, piece._replace(axes=axes), k, start - offset, end - offset)
        offset += size
    raise refused(node, f"it takes states {start} to {end}, which are of several layers")


def _ended(flow: Flow, lengths: str | None, first: bool, last: bool) -> Flow | None:
    """The step at an end of the sequence, if it belongs to the final carry."""
    net = settled(flow).net
    if lengths is not None:  # the last step of the array is not that of a row
        return None
    if isinstance(net, Backward) and first:
        return flow._replace(end="final")
    if isinstance(net, Step) and last and ends_with_last_step(net):
        return flow._replace(net=net, end="final")
    if isinstance(flow.net, Pair) and first != last:  # of one of the directions it is the final one
        return flow._replace(end="first" if first else "last")
    return None


def ends_with_last_step(net: Step) -> bool:
    """Whether the output that belongs to the final carry is that of the last step."""
    over_time = [step.layer for step in steps_of(net) if not step.layer.stepwise]
    return not over_time or over_time[-1].causal
