"""Nodes that mask steps by the lengths of sequences, which our layers do by themselves."""

import numpy as np

from gatedrnn._interop.onnx.read_axes import ends_with_last_step
from gatedrnn._interop.onnx.read_joins import is_state
from gatedrnn._interop.onnx.read_tensors import (
    Axis,
    Constant,
    FromLengths,
    GraphInput,
    GraphReader,
    LayerOutput,
    Mask,
    Node,
    SequenceAxes,
    Tensor,
    Value,
    as_layer_output,
    axis_of,
    refused,
    size_of,
)


def at_least_one(graph: GraphReader, node: Node) -> list[Value]:
    """Lengths, 1 where they are 0: what is made of such a row is replaced later."""
    lengths, name = _lengths(graph, node, 1, "it is not the maximum of lengths and 1")
    return [lengths._replace(origin=FromLengths(name, "at least 1"))]


def last_step(graph: GraphReader, node: Node) -> list[Value]:
    """The number of each row's last step."""
    lengths, name = _lengths(graph, node, 1, "it is not lengths minus 1")
    return [lengths._replace(origin=FromLengths(name, "last"))]


def has_any(graph: GraphReader, node: Node) -> list[Value]:
    """A mask of the rows that have a valid step."""
    lengths, name = _lengths(graph, node, 0, "it does not compare lengths with 0")
    return [Tensor(Mask(name, "any", (), lengths.axes[0]), lengths.axes, np.dtype(bool))]


def _lengths(graph: GraphReader, node: Node, beside: int, why: str) -> tuple[Tensor, str]:
    """A graph input of integers, and its name; raise unless that constant is beside it."""
    values = [graph.value(node, k) for k in range(len(node.inputs))]
    if node.op == "Max" and isinstance(values[0], Constant):
        values.reverse()
    match values:
        case [Tensor(origin=GraphInput(name=name)) as lengths, Constant(array=array)] if (
            lengths.dtype.kind == "i"
            and len(lengths.axes) == 1
            and array.size == 1
            and array.ndim < 2
            and np.all(array == beside)
        ):
            return lengths, name
    raise refused(node, why)


def valid_steps(graph: GraphReader, node: Node) -> list[Value]:
    """A mask of the steps before a row's length."""
    return [_steps(graph, node, "valid")]


def last_steps(graph: GraphReader, node: Node) -> list[Value]:
    """A mask of the last step of each row."""
    return [_steps(graph, node, "last")]


def _steps(graph: GraphReader, node: Node, what: str) -> Tensor:
    """The numbers of all steps `[T, 1]`, compared with lengths or last steps `[B]`."""
    steps, tensor = graph.value(node, 0), graph.value(node, 1)
    if isinstance(steps, Constant) and isinstance(tensor, Tensor) and steps.array.ndim == 2:
        count, right = len(steps.array), tensor.origin
        numbers = np.array_equal(steps.array, np.arange(count)[:, None])
        if what == "valid":
            fits = isinstance(right, GraphInput) and tensor.dtype.kind == "i"
        else:
            fits = isinstance(right, FromLengths) and right.what == "last"
        if numbers and fits and len(tensor.axes) == 1:
            name = right.name if isinstance(right, GraphInput) else getattr(right, "lengths", "")
            time, batch = axis_of(count), tensor.axes[0]
            return Tensor(Mask(name, what, time, batch), (time, batch), np.dtype(bool))
    raise refused(node, "it does not compare the numbers of all steps with lengths")


def where(graph: GraphReader, node: Node) -> list[Value]:
    """A mask, which our layers apply by themselves."""
    mask, value, other = (graph.value(node, k) for k in range(3))
    if isinstance(mask, Tensor) and isinstance(mask.origin, Mask) and isinstance(value, Tensor):
        if mask.origin.what == "any":
            if graph.sequence is not None and graph.sequence.lengths == mask.origin.lengths:
                return [_not_empty(graph, node, mask, value, other)]
        elif isinstance(other, Constant) and other.array.size == 1 and not other.from_sizes:
            fill = float(other.array.reshape(()))
            return [_masked(graph, node, mask, as_layer_output(value), fill)]
    raise refused(node, "it does not mask steps by lengths")


def _aligned(mask: Tensor, value: Tensor) -> tuple[Axis, Axis] | None:
    """The axes of `value` that are time and batch, if the shape of the mask fits."""
    axes = ((),) * (len(value.axes) - len(mask.axes)) + mask.axes
    origin, found = mask.origin, {}
    assert isinstance(origin, Mask)
    if len(axes) != len(value.axes):
        return None
    for ours, theirs in zip(value.axes, axes, strict=True):
        if theirs and theirs == origin.time and size_of(ours) == size_of(theirs):
            found["time"] = ours
        elif theirs and theirs == origin.batch:
            found["batch"] = ours
        elif theirs:
            return None
    return found.get("time", ()), found.get("batch", ())


def _masked(graph: GraphReader, node: Node, mask: Tensor, value: Tensor, fill: float) -> Tensor:
    origin, axes = mask.origin, _aligned(mask, value)
    assert isinstance(origin, Mask)
    if axes is None or value.end or not isinstance(value.origin, GraphInput | LayerOutput):
        raise refused(node, "the mask does not have the time and batch axes of what it masks")
    graph.agree(node, SequenceAxes(*axes, origin.lengths))
    if value.padding == "last":
        raise refused(node, "all but the last step of what it masks are masked already")
    if origin.what == "valid" and fill == 0:
        return value._replace(padding="zero")
    if origin.what == "valid" and value.dtype.kind == "f" and fill == np.finfo(value.dtype).min:
        return value._replace(padding="lowest")
    ends = isinstance(value.origin, LayerOutput) and ends_with_last_step(value.origin)
    if origin.what == "last" and fill == 0 and ends:
        return value._replace(padding="last")
    raise refused(node, f"it fills what it masks with {fill:g}")


def _not_empty(
    graph: GraphReader, node: Node, mask: Tensor, value: Tensor, other: Value | None
) -> Tensor:
    """Rows without a step: zeros, or the states as they were."""
    axes = _aligned(mask, value)
    if axes is None or not value.end or axes[1] != (graph.sequence and graph.sequence.batch):
        raise refused(node, "the mask does not have the batch axis of what it masks")
    if isinstance(other, Constant) and not np.any(other.array) and not other.from_sizes:
        return value
    starts = [graph.starts.get(name, frozenset()) for name in value.origin.nodes]
    if is_state(value) and starts and all(node.inputs[2] in names for names in starts):
        return value
    raise refused(node, "what it gives to empty rows is neither zeros nor their initial states")
