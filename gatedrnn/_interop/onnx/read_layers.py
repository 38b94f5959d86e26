"""Nodes that are layers of ours: dense, embedding, dropout, the recurrent ones."""

from typing import Any

import numpy as np

from gatedrnn._interop.arrays import Arrays, as_array
from gatedrnn._interop.networks import layer_of
from gatedrnn._interop.onnx.read_graph import Frame, Graph, Node, refused
from gatedrnn._interop.onnx.read_node import read_recurrences
from gatedrnn._interop.onnx.read_values import (
    Axes,
    Axis,
    Backward,
    Count,
    Flow,
    Given,
    Known,
    Memory,
    Net,
    Pair,
    Source,
    Step,
    Value,
    axis_of,
    is_stated,
    settled,
    size_of,
    steps_of,
)
from gatedrnn._src.layers.pointwise import Dense, DenseParams, Dropout, Embed, EmbedParams


def read(graph: Graph, node: Node, k: int = 0) -> Flow:
    """Input `k`, which a layer reads: one that no pooling has ended."""
    flow = settled(graph.flow(node, k))
    if flow.end not in ("", "final"):
        what = f"the {flow.end}" + (" step" if flow.end in ("first", "last") else " over time")
        raise refused(node, f"it reads {what}, after which no layer of ours goes on")
    if flow.padding == "last":
        raise refused(node, "it reads steps of which all but the last are masked")
    if not isinstance(flow.net, Source | Step):
        why = {
            Backward: "the output of a reverse node, for which alone there is no layer",
            Pair: "two directions that are not joined along the axis of features",
            Memory: "the memory of an LSTM",
        }.get(type(flow.net), "states or lengths")
        raise refused(node, f"it reads {why}")
    return flow


def check_features(node: Node, flow: Flow, k: int, size: int) -> None:
    """Raise unless axis `k` holds the features, as many as this."""
    axis = flow.axes[k]
    wanted = flow.net.features if isinstance(flow.net, Step) else axis
    if axis != wanted or (len(axis) > 1 and not isinstance(flow.net, Step)):
        raise refused(node, f"axis {k % len(flow.axes)} of what it reads is not that of features")
    if is_stated(axis) and size_of(axis) != size:
        raise ValueError(
            f"model, {node}: got {size_of(axis)} features, expected {size} for its weights"
        )


def matmul(graph: Graph, node: Node) -> list[Value]:
    """`x W`."""
    if isinstance(graph.value(node, 0), Known):
        raise refused(node, "its matrix comes first: x W is a layer, W x is not")
    return [_dense(graph, node, graph.weight(node, 1), None)]


def gemm(graph: Graph, node: Node) -> list[Value]:
    """`x W + b`, or with `Wᵀ`."""
    scales = [node.attributes.get(name, 1.0) for name in ("alpha", "beta")]
    kernel, bias = graph.weight(node, 1), graph.weight(node, 2)
    if scales[0] != 1 or (bias is not None and scales[1] != 1):
        raise refused(node, f"its alpha and beta are {scales[0]:g} and {scales[1]:g}, not 1")
    if node.attributes.get("transA", 0):
        raise refused(node, "it transposes its input")
    if kernel is not None and node.attributes.get("transB", 0):
        kernel = kernel.T
    return [_dense(graph, node, kernel, bias)]


def _dense(graph: Graph, node: Node, kernel: np.ndarray | None, bias: np.ndarray | None) -> Flow:
    flow = read(graph, node)
    if kernel is None or kernel.ndim != 2:
        got = None if kernel is None else kernel.shape
        raise ValueError(f"model, {node}: got weights of shape {got}, expected two axes")
    check_features(node, flow, -1, kernel.shape[0])
    features = axis_of(kernel.shape[1])
    params = DenseParams(as_array(f"model, {node}, kernel", kernel), None)
    net = Step(flow.net, Dense(kernel.shape[1], use_bias=False), params, features)
    flow = flow._replace(net=net, axes=(*flow.axes[:-1], features), padding="")
    return flow if bias is None else _with_bias(node, flow, bias)


def add_bias(graph: Graph, node: Node, flow: Flow, k: int) -> Flow:
    """A product with a kernel, and the bias that input `k` holds."""
    bias = graph.weight(node, k)
    assert bias is not None
    return _with_bias(node, flow, bias)


def _with_bias(node: Node, flow: Flow, bias: np.ndarray) -> Flow:
    net = flow.net
    if not isinstance(net, Step) or net.layer != Dense(size_of(net.features), use_bias=False):
        raise refused(node, "it adds a constant to other than a product with a matrix")
    if flow.end == "sum":
        raise refused(node, "it adds a constant to a sum over time")
    size = size_of(net.features)
    shape = (1,) * (len(flow.axes) - bias.ndim) + bias.shape
    wanted = tuple(size if axis == net.features else 1 for axis in flow.axes)
    if shape != wanted:
        raise ValueError(f"model, {node}: got a bias of shape {bias.shape}, expected ({size},)")
    params = net.params._replace(bias=as_array(f"model, {node}, bias", bias.reshape(size)))
    return flow._replace(net=Step(net.below, Dense(size), params, net.features), padding="")


def embed(graph: Graph, node: Node) -> list[Value]:
    """A row of a table for every token."""
    table, flow = graph.weight(node, 0), graph.flow(node, 1)
    assert table is not None
    if not isinstance(flow.net, Source) or flow.dtype.kind != "i":
        raise refused(node, "what it looks up is not a graph input of integers")
    if table.ndim != 2 or node.attributes.get("axis", 0) != 0:
        raise refused(node, f"it takes other than rows of a matrix, of shape {table.shape}")
    params = EmbedParams(as_array(f"model, {node}, table", table))
    net = Step(flow.net, Embed(*table.shape), params, axis_of(table.shape[1]))
    return [Flow(net, (*flow.axes, net.features), table.dtype)]


def dropout(graph: Graph, node: Node) -> list[Value]:
    """`gr.dropout`, the identity as long as there is no key."""
    flow, given = read(graph, node), graph.weight(node, 1)
    rate = float(node.attributes.get("ratio", 0.5) if given is None else given.reshape(()))
    training = graph.constant(node, 2)
    if training is not None and np.any(training):
        raise refused(node, "it is in training mode")
    if not 0 <= rate < 1:
        raise refused(node, f"its ratio is {rate:g}, not in [0, 1)")
    if rate == 0:
        return [flow]
    features = flow.net.features if isinstance(flow.net, Step) else flow.axes[-1]
    return [flow._replace(net=Step(flow.net, Dropout(rate), (), features))]


WEIGHTS = {"W": 1, "R": 2, "B": 3, "P": 7}
STATES = {"initial_h": 5, "initial_c": 6}


def recurrent(graph: Graph, node: Node) -> list[Value]:
    """The outputs of an `RNN`, `LSTM` or `GRU` node: all steps, the last, the last memory."""
    flow = read(graph, node)
    if flow.end or len(flow.axes) != 3:
        raise refused(node, f"it reads {len(flow.axes)} axes, not time, batch and features")
    batch_major = _layout(node)
    time, batch = flow.axes[:2][:: -1 if batch_major else 1]
    if len(time) > 1:
        raise refused(node, "its time axis is several of the input's axes as one")
    graph.agree(node, Frame(time, batch, _lengths(graph, node)))
    arrays = {name: graph.weight(node, k) for name, k in WEIGHTS.items()}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    initial = _initial(graph, node, flow, batch_major)
    in_features = size_of(flow.axes[2]) if is_stated(flow.axes[2]) else None
    recurrences = read_recurrences(node, Arrays(f"model, {node}", arrays), in_features, initial)
    check_features(node, flow, 2, recurrences[0].params.kernel.shape[0])
    features = axis_of(recurrences[0].params.recurrent_kernel.shape[0])
    ahead, back = (frozenset({f"{id(node)} {way}"}) for way in ("forward", "reverse"))
    direction = node.attributes.get("direction", "forward")
    net: Net
    both: Axis = ()
    if direction == "bidirectional":
        net = Pair(flow.net, recurrences, features, ahead, back)
        both = (net.directions,)
    elif direction == "reverse":
        net = Backward(flow.net, recurrences[0], features, back)
    else:
        net = Step(flow.net, *layer_of(recurrences), features, ahead)
    names = frozenset(node.inputs[k] for k in STATES.values() if k < len(node.inputs))
    for name in net.nodes:
        graph.starts[name] = names
    ys: Axes = (batch, time, both, features) if batch_major else (time, both, batch, features)
    end: Axes = (batch, both, features) if batch_major else (both, batch, features)
    made: list[Value] = [
        Flow(net, ys, flow.dtype, padding="zero"),
        Flow(net, end, flow.dtype, end="final"),
        Flow(Memory(features, net.nodes), end, flow.dtype, end="final"),
    ]
    return made[: len(node.outputs)]


def _layout(node: Node) -> bool:
    """Whether the batch comes before time."""
    layout = node.attributes.get("layout", 0)
    if layout not in (0, 1):
        raise refused(node, f"its layout is {layout}, neither 0 nor 1")
    return bool(layout)


def _lengths(graph: Graph, node: Node) -> str | None:
    """The graph input that the lengths of the sequences are."""
    value = graph.value(node, 4)
    if value is None:
        return None
    if isinstance(value, Known):
        raise refused(node, "its sequence_lens is a constant, no input: ours is `lengths`")
    if isinstance(value.net, Count) and value.net.what == "at least 1":
        return value.net.lengths
    if not isinstance(value.net, Source) or value.dtype.kind != "i" or len(value.axes) != 1:
        raise refused(node, "its sequence_lens is not a graph input of integers, one for each row")
    return value.net.name


def _initial(graph: Graph, node: Node, xs: Flow, batch_major: bool) -> dict[str, np.ndarray]:
    """Initial states that the graph holds, a row `[D, H]` of each; zeros are left out."""
    found: dict[str, np.ndarray] = {}
    given = []
    source = next((step.below for step in steps_of(xs.net)), xs.net)
    for name, k in STATES.items():
        value: Any = graph.value(node, k)
        if isinstance(value, Flow):
            if not isinstance(value.net, Source | Given) or len(value.axes) != 3:
                raise refused(node, f"its {name} is computed, neither an input nor a constant")
            if isinstance(source, Source) and source.name in value.net.names:
                raise refused(node, f"its {name} is made of the sequence that the network reads")
            given.append(name)
        elif value is not None:
            states = graph.weight(node, k)
            assert states is not None
            if states.ndim != 3:
                raise ValueError(
                    f"model, {node}, {name}: got shape {states.shape}, expected three axes"
                )
            rows = np.moveaxis(states, 0 if batch_major else 1, 0)
            if len(rows) == 0 or np.any(rows != rows[:1]):
                raise refused(
                    node,
                    f"its {name} is a constant with rows of its own for each sequence of the batch;"
                    " one row, for all of them, would be a learned initial carry",
                )
            if np.any(rows[0]):
                found[name] = rows[0]
    if given and found:
        raise refused(node, f"its {given[0]} is an input, but its {next(iter(found))} a constant")
    return found
