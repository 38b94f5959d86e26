"""Nodes that move, split and join axes, and those that take a part of one."""

import itertools
import math

import numpy as np

from gatedrnn._interop.onnx.read_constants import cast_dtype
from gatedrnn._interop.onnx.read_limits import RANK, quoted
from gatedrnn._interop.onnx.read_tensors import (
    Axes,
    BothDirections,
    Constant,
    FinalMemory,
    FromLengths,
    GivenStates,
    GraphInput,
    GraphReader,
    JoinedStates,
    LayerOutput,
    Node,
    Origin,
    ReverseOutput,
    Tensor,
    Value,
    as_layer_output,
    axis_of,
    is_stated,
    layers_below,
    refused,
    regroup,
    size_of,
    size_text,
    with_axes,
)

HUGE = 2**31 - 1  # as an end that is none


def axis_number(node: Node, axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise refused(node, f"it names axis {axis} of {rank}")
    return axis % rank


def identity(graph: GraphReader, node: Node) -> list[Value]:
    """The input as it is."""
    return [graph.tensor(node)]


def cast(graph: GraphReader, node: Node) -> list[Value]:
    """Integers as others, numbers as they are."""
    tensor, dtype = graph.tensor(node), cast_dtype(graph, node)
    integers = tensor.dtype.kind == dtype.kind == "i" and dtype.itemsize >= 4
    if dtype != tensor.dtype and not integers and not isinstance(tensor.origin, FromLengths):
        raise refused(node, f"it turns {tensor.dtype} into {dtype}")
    return [tensor._replace(dtype=dtype)]


def transpose(graph: GraphReader, node: Node) -> list[Value]:
    """Axes in another order."""
    tensor = graph.tensor(node)
    perm = node.attributes.get("perm", range(len(tensor.axes))[::-1])
    if sorted(perm) != list(range(len(tensor.axes))):
        raise refused(node, f"its perm is {quoted(list(perm))}, for {len(tensor.axes)} axes")
    return [tensor._replace(axes=tuple(tensor.axes[k] for k in perm))]


def squeeze(graph: GraphReader, node: Node) -> list[Value]:
    """Without axes of size 1."""
    tensor = graph.tensor(node)
    rank, axes = len(tensor.axes), graph.ints(node, "axes", 1)
    if axes == [] or (axes is None and not all(map(is_stated, tensor.axes))):
        raise refused(node, "it names no axes to drop, and the sizes of some are open")
    gone = [k for k, axis in enumerate(tensor.axes) if axes is None and not axis]
    gone += [axis_number(node, axis, rank) for axis in axes or []]
    for k in gone:
        if tensor.axes[k]:
            raise refused(node, f"it drops axis {k}, whose size is not 1")
    return [tensor._replace(axes=tuple(a for k, a in enumerate(tensor.axes) if k not in gone))]


def unsqueeze(graph: GraphReader, node: Node) -> list[Value]:
    """With more axes of size 1."""
    tensor = graph.tensor(node)
    new = graph.ints(node, "axes", 1) or []
    rank = len(tensor.axes) + len(new)
    at = {axis_number(node, axis, rank) for axis in new}
    if len(at) < len(new) or rank > RANK:
        raise refused(node, f"its axes are {quoted(new)}")
    old = iter(tensor.axes)
    return [tensor._replace(axes=tuple(() if k in at else next(old) for k in range(rank)))]


def reshape(graph: GraphReader, node: Node) -> list[Value]:
    """The same atoms in other axes."""
    tensor = graph.tensor(node)
    shape = graph.ints(node, "shape", 1) or []
    sizes = [size_of(axis) for axis in tensor.axes]
    if not node.attributes.get("allowzero", 0):
        shape = [sizes[k] if n == 0 and k < len(sizes) else n for k, n in enumerate(shape)]
    if shape.count(-1) == 1:
        rest = max(1, math.prod(n for n in shape if n != -1))
        shape = [math.prod(sizes) // rest if n == -1 else n for n in shape]
    return [tensor._replace(axes=_regrouped(node, tensor.axes, shape))]


def flatten(graph: GraphReader, node: Node) -> list[Value]:
    """The axes before one and those from it on, each as one."""
    tensor = graph.tensor(node)
    axis, rank = node.attributes.get("axis", 1), len(tensor.axes)
    if not -rank <= axis <= rank:
        raise refused(node, f"it names axis {axis} of {rank}")
    sizes = [size_of(a) for a in tensor.axes]
    axis = axis % rank if axis < 0 else axis
    shape = [math.prod(sizes[:axis]), math.prod(sizes[axis:])]
    return [tensor._replace(axes=_regrouped(node, tensor.axes, shape))]


def _regrouped(node: Node, axes: Axes, shape: list[int]) -> Axes:
    grouped = regroup(axes, shape)
    if grouped is None:
        got = "x".join(map(size_text, axes))
        raise refused(node, f"it gives {got} a shape that mixes or divides its axes")
    return grouped


def shape(graph: GraphReader, node: Node) -> list[Value]:
    """The sizes as a constant, in which primes stand for those that the graph leaves open."""
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    axes = graph.tensor(node).axes[start:end]
    if any(size_of(axis) >= 2**63 for axis in axes):
        raise refused(node, "an axis is larger than integers of 64 bits")
    sizes = np.array([size_of(axis) for axis in axes], np.int64)
    sized = np.array([not is_stated(axis) for axis in axes], bool)
    return [Constant(sizes, sized if sized.any() else None)]


def gather(graph: GraphReader, node: Node) -> list[Value]:
    """One entry along an axis."""
    tensor, index = graph.tensor(node), graph.constant(node, 1)
    k = axis_number(node, node.attributes.get("axis", 0), len(tensor.axes))
    if index is None or index.size != 1 or index.ndim > 1:
        raise refused(node, "it takes other than one entry along an axis")
    start, size = int(index.reshape(())), size_of(tensor.axes[k])
    if not -size <= start < size:
        raise refused(node, f"it takes entry {start} along axis {k}")
    start %= size
    tensor = part(graph, node, tensor, k, start, start + 1)
    return [tensor if index.ndim else tensor._replace(axes=with_axes(tensor.axes, k))]


def slice_(graph: GraphReader, node: Node) -> list[Value]:
    """Neighbouring entries along axes."""
    tensor = graph.tensor(node)
    starts, ends = graph.ints(node, "starts", 1) or [], graph.ints(node, "ends", 2) or []
    axes = graph.ints(node, "axes", 3) or list(range(len(starts)))
    steps = (graph.ints(node, "steps", 4) if "starts" not in node.attributes else None) or [1]
    if set(steps) != {1}:
        raise refused(node, f"its steps are {quoted(steps)}, not 1")
    numbers = [axis_number(node, axis, len(tensor.axes)) for axis in axes]
    if not len(starts) == len(ends) == len(set(numbers)) == len(numbers):
        raise refused(node, "it does not have one start and one end for each of its axes")
    for k, start, end in zip(numbers, starts, ends, strict=True):
        size = size_of(tensor.axes[k])
        if not is_stated(tensor.axes[k]) and any(size < abs(n) < HUGE for n in (start, end)):
            raise refused(node, f"it cuts axis {k}, whose size is open, at {start} or {end}")
        start, end, _ = slice(start, end).indices(size)
        if end <= start:
            raise refused(node, f"it takes nothing of axis {k}")
        tensor = part(graph, node, tensor, k, start, end)
    return [tensor]


def split(graph: GraphReader, node: Node) -> list[Value]:
    """All entries along an axis, in parts."""
    tensor = graph.tensor(node)
    k = axis_number(node, node.attributes.get("axis", 0), len(tensor.axes))
    size, count = size_of(tensor.axes[k]), len(node.outputs)
    sizes = graph.ints(node, "split", 1)
    if sizes is None:
        sizes = [-(-size // count)] * (count - 1)
        sizes.append(size - sum(sizes))
    parts = node.attributes.get("num_outputs", count)
    if len(sizes) != count or parts != count or min(sizes) < 1 or sum(sizes) != size:
        raise refused(node, f"it splits {size_text(tensor.axes[k])} entries in {quoted(sizes)}")
    ends = [0, *itertools.accumulate(sizes)]
    return [part(graph, node, tensor, k, start, end) for start, end in itertools.pairwise(ends)]


def part(graph: GraphReader, node: Node, tensor: Tensor, k: int, start: int, end: int) -> Tensor:
    """Entries `start` to `end` along axis `k`, which stays: a direction, a layer, the last step."""
    origin, axis = tensor.origin, tensor.axes[k]
    size, sequence = size_of(axis), graph.sequence
    if (start, end) == (0, size):
        return tensor
    # of inputs only states may be parted, and these are fed
    if isinstance(origin, GraphInput | GivenStates):
        axes = with_axes(tensor.axes, k, axis_of(end - start))
        return tensor._replace(origin=GivenStates(origin.names), axes=axes)
    if isinstance(origin, FinalMemory) and 0 <= start < end <= size:
        return tensor._replace(axes=with_axes(tensor.axes, k, axis_of(end - start)))
    if isinstance(origin, BothDirections) and axis[:1] == (origin.directions,):
        inner = size // 2
        if (start, end) in ((0, inner), (inner, size)):
            made = tensor._replace(axes=with_axes(tensor.axes, k, axis[1:]))
            made = made._replace(origin=origin.half(backward=start > 0))
            if tensor.end not in ("first", "last"):
                return made
            if (tensor.end == "first") == (start > 0):
                return made._replace(end="final")
    if isinstance(origin, JoinedStates) and axis and axis in (origin.along, origin.along[:1]):
        return _state(graph, node, tensor, k, start, end)
    if sequence is not None and axis == sequence.time and not tensor.end:
        first, last = (start, end) == (0, 1), (start, end) == (size - 1, size)
        ended = _ended(tensor, sequence.lengths, first, last)
        if ended is not None:
            return ended._replace(axes=with_axes(tensor.axes, k, ()))
    raise refused(node, f"it takes entries {start} to {end} of {size_text(axis)} along axis {k}")


def _state(graph: GraphReader, node: Node, tensor: Tensor, k: int, start: int, end: int) -> Tensor:
    """Entries of one of several layers' states."""
    joined, offset = tensor.origin, 0
    assert isinstance(joined, JoinedStates)
    apart = tensor.axes[k] != joined.along  # an axis of layers, another of directions
    for one in joined.tensors:
        own = one.axes[joined.k]
        size = 1 if apart else size_of(own)
        if offset <= start < end <= offset + size:
            theirs = zip(joined.tensors[0].axes, one.axes, strict=True)
            renamed = {a: b for j, (a, b) in enumerate(theirs) if j != joined.k}
            if apart:
                renamed[joined.along[1:]] = own
            axes = tuple(renamed.get(axis, axis) for axis in tensor.axes)
            axes = with_axes(axes, k, () if apart else own)
            return part(graph, node, one._replace(axes=axes), k, start - offset, end - offset)
        offset += size
    raise refused(node, f"it takes states {start} to {end}, which are of several layers")


def _ended(tensor: Tensor, lengths: str | None, first: bool, last: bool) -> Tensor | None:
    """The step at an end of the sequence, if it belongs to the final carry."""
    origin = as_layer_output(tensor).origin
    if lengths is not None:  # the last step of the array is not that of a row
        return None
    if isinstance(origin, ReverseOutput) and first:
        return tensor._replace(end="final")
    if isinstance(origin, LayerOutput) and last and ends_with_last_step(origin):
        return tensor._replace(origin=origin, end="final")
    # of one of the directions it is the final one
    if isinstance(tensor.origin, BothDirections) and first != last:
        return tensor._replace(end="first" if first else "last")
    return None


def ends_with_last_step(origin: Origin) -> bool:
    """Return whether the output that belongs to the final carry is that of the last step."""
    over_time = [own.layer for own in layers_below(origin) if not own.layer.stepwise]
    return not over_time or over_time[-1].causal
