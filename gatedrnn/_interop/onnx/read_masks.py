"""Nodes that mask steps by the lengths of sequences, which our layers do by themselves."""

import numpy as np

from gatedrnn._interop.onnx.read_axes import ends_with_last_step
from gatedrnn._interop.onnx.read_graph import Frame, Graph, Node, refused
from gatedrnn._interop.onnx.read_joins import is_state
from gatedrnn._interop.onnx.read_values import (
    Axis,
    Count,
    Flow,
    Known,
    Mask,
    Net,
    Source,
    Step,
    Value,
    axis_of,
    settled,
    size_of,
)


def at_least_one(graph: Graph, node: Node) -> list[Value]:
    """Lengths, 1 where they are 0: what is made of such a row is replaced later."""
    lengths, others = _lengths(graph, node, either=True)
    if lengths is None or not np.all(others == 1):
        raise refused(node, "it is not the maximum of lengths and 1")
    assert isinstance(lengths.net, Source)
    return [lengths._replace(net=Count(lengths.net.name, "at least 1"))]


def last_step(graph: Graph, node: Node) -> list[Value]:
    """The number of each row's last step."""
    lengths, other = _lengths(graph, node)
    if lengths is None or not np.all(other == 1):
        raise refused(node, "it is not lengths minus 1")
    assert isinstance(lengths.net, Source)
    return [lengths._replace(net=Count(lengths.net.name, "last"))]


def has_any(graph: Graph, node: Node) -> list[Value]:
    """Which rows have a valid step."""
    lengths, other = _lengths(graph, node)
    if lengths is None or not np.all(other == 0):
        raise refused(node, "it does not compare lengths with 0")
    assert isinstance(lengths.net, Source)
    batch = lengths.axes[0]
    net = Mask(lengths.net.name, "any", (), batch)
    return [Flow(net, lengths.axes, np.dtype(bool))]


def _lengths(graph: Graph, node: Node, either: bool = False) -> tuple[Flow | None, np.ndarray]:
    """A graph input of integers, and the constant beside it."""
    values = [graph.value(node, k) for k in range(len(node.inputs))]
    if either and isinstance(values[0], Known):
        values.reverse()
    match values:
        case [Flow(net=Source()) as flow, Known(array=array)] if (
            flow.dtype.kind == "i" and len(flow.axes) == 1
        ):
            return flow, array
    return None, np.zeros(0)


def valid_steps(graph: Graph, node: Node) -> list[Value]:
    """Which steps come before a row's length."""
    return [_steps(graph, node, "valid")]


def last_steps(graph: Graph, node: Node) -> list[Value]:
    """Which steps are their row's last."""
    return [_steps(graph, node, "last")]


def _steps(graph: Graph, node: Node, what: str) -> Flow:
    """The numbers of all steps `[T, 1]`, compared with lengths or last steps `[B]`."""
    steps, flow = graph.value(node, 0), graph.value(node, 1)
    if isinstance(steps, Known) and isinstance(flow, Flow) and steps.array.ndim == 2:
        count, right = len(steps.array), flow.net
        numbers = np.array_equal(steps.array, np.arange(count)[:, None])
        if what == "valid":
            fits = isinstance(right, Source) and flow.dtype.kind == "i"
        else:
            fits = isinstance(right, Count) and right.what == "last"
        if numbers and fits and len(flow.axes) == 1:
            name = right.name if isinstance(right, Source) else getattr(right, "lengths", "")
            time, batch = axis_of(count), flow.axes[0]
            return Flow(Mask(name, what, time, batch), (time, batch), np.dtype(bool))
    raise refused(node, "it does not compare the numbers of all steps with lengths")


def where(graph: Graph, node: Node) -> list[Value]:
    """A mask, which our layers apply by themselves."""
    mask, value, other = (graph.value(node, k) for k in range(3))
    if isinstance(mask, Flow) and isinstance(mask.net, Mask) and isinstance(value, Flow):
        if mask.net.what == "any":
            if graph.frame is not None and graph.frame.lengths == mask.net.lengths:
                return [_not_empty(graph, node, mask, value, other)]
        elif isinstance(other, Known) and other.array.size == 1:
            return [_masked(graph, node, mask, settled(value), float(other.array.reshape(())))]
    raise refused(node, "it does not mask steps by lengths")


def _aligned(mask: Flow, value: Flow) -> tuple[Axis, Axis] | None:
    """The axes of `value` that are time and batch, if the shape of the mask fits."""
    axes = ((),) * (len(value.axes) - len(mask.axes)) + mask.axes
    net, found = mask.net, {}
    assert isinstance(net, Mask)
    if len(axes) != len(value.axes):
        return None
    for ours, theirs in zip(value.axes, axes, strict=True):
        if theirs and theirs == net.time and size_of(ours) == size_of(theirs):
            found["time"] = ours
        elif theirs and theirs == net.batch:
            found["batch"] = ours
        elif theirs:
            return None
    return found.get("time", ()), found.get("batch", ())


def _masked(graph: Graph, node: Node, mask: Flow, value: Flow, fill: float) -> Flow:
    net, axes = mask.net, _aligned(mask, value)
    assert isinstance(net, Mask)
    if axes is None or value.end or not isinstance(value.net, Source | Step):
        raise refused(node, "the mask does not have the time and batch axes of what it masks")
    graph.agree(node, Frame(*axes, net.lengths))
    if value.padding == "last":
        raise refused(node, "all but the last step of what it masks are masked already")
    if net.what == "valid" and fill == 0:
        return value._replace(padding="zero")
    if net.what == "valid" and value.dtype.kind == "f" and fill == np.finfo(value.dtype).min:
        return value._replace(padding="lowest")
    if net.what == "last" and fill == 0 and _ends(value.net):
        return value._replace(padding="last")
    raise refused(node, f"it fills what it masks with {fill:g}")


def _ends(net: Net) -> bool:
    return isinstance(net, Step) and ends_with_last_step(net)


def _not_empty(graph: Graph, node: Node, mask: Flow, value: Flow, other: Value | None) -> Flow:
    """Rows without a step: zeros, or the states as they were."""
    axes = _aligned(mask, value)
    if axes is None or not value.end or axes[1] != (graph.frame and graph.frame.batch):
        raise refused(node, "the mask does not have the batch axis of what it masks")
    if isinstance(other, Known) and not np.any(other.array):
        return value
    starts = [graph.starts.get(name, frozenset()) for name in value.net.nodes]
    if is_state(value) and starts and all(node.inputs[2] in names for names in starts):
        return value
    raise refused(node, "what it gives to empty rows is neither zeros nor their initial states")
