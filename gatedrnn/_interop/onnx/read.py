"""ONNX, read: the network of a graph."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from gatedrnn._interop.networks import network_of
from gatedrnn._interop.onnx import read_axes, read_joins, read_layers, read_masks
from gatedrnn._interop.onnx.read_constants import FOLDED, array_of, can_fold, fold, stand_ins
from gatedrnn._interop.onnx.read_file import check_names, inlined, load
from gatedrnn._interop.onnx.read_limits import RANK, Memory, quoted
from gatedrnn._interop.onnx.read_schema import check_node
from gatedrnn._interop.onnx.read_tensors import (
    Atom,
    Axes,
    Axis,
    BothDirections,
    Constant,
    GraphInput,
    GraphReader,
    JoinedStates,
    LayerOutput,
    Node,
    Origin,
    Tensor,
    Value,
    as_layer_output,
    axis_of,
    layers_below,
    node_of,
    refused,
)
from gatedrnn._interop.require import require
from gatedrnn._src.layers.many_to_one import Final, Pool

OLDEST = 7  # of the versions of the operators: before, broadcasting was an attribute

Handler = Callable[[GraphReader, Node], list[Value]]
HANDLERS: dict[str, Handler] = {
    "Add": read_joins.add,
    "Cast": read_axes.cast,
    "Concat": read_joins.concat,
    "Div": read_joins.div,
    "Dropout": read_layers.dropout,
    "Equal": read_masks.last_steps,
    "Flatten": read_axes.flatten,
    "GRU": read_layers.recurrent,
    "Gemm": read_layers.gemm,
    "Greater": read_masks.has_any,
    "Identity": read_axes.identity,
    "LSTM": read_layers.recurrent,
    "Less": read_masks.valid_steps,
    "MatMul": read_layers.matmul,
    "Max": read_masks.at_least_one,
    "Mean": read_joins.mean,
    "Mul": read_joins.mul,
    "RNN": read_layers.recurrent,
    "ReduceMax": read_joins.reduction(None, "max"),
    "ReduceMean": read_joins.reduction("mean", "mean"),
    "ReduceProd": read_joins.reduction("mul", None),
    "ReduceSum": read_joins.reduction("sum", "sum"),
    "Reshape": read_axes.reshape,
    "Shape": read_axes.shape,
    "Slice": read_axes.slice_,
    "Split": read_axes.split,
    "Squeeze": read_axes.squeeze,
    "Sub": read_masks.last_step,
    "Sum": read_joins.add,
    "Transpose": read_axes.transpose,
    "Unsqueeze": read_axes.unsqueeze,
    "Where": read_masks.where,
}


def from_onnx(model: Any) -> tuple[Any, Any]:
    """The network of an ONNX graph: `(layer, params)`.

    `RNN`, `LSTM` and `GRU` nodes become `gr.recurrent` and `gr.bidirectional`, `MatMul` and `Gemm`
    `gr.dense`, `Gather` from a table `gr.embed`, `Dropout` `gr.dropout`, a sum with the input
    `gr.residual`; one after another they are a stack. The last step, `Y_h`, or a mean or maximum
    over time as the output is `gr.final` or `gr.pool`. Nodes that only move axes, and constants
    that nodes compute, are followed; anything else is refused by its name.

    The network reads `[T, *B, I]` (tokens `[T, *B]`) and makes `[T, *B, F]` or `[*B, F]`, the
    directions side by side, however the graph lays them out. What else is an input of the graph is
    an argument of `layer.apply`: `sequence_lens` is `lengths`, and initial states are `carry`,
    whose leaves `h` and `c`, forward before backward, are `initial_h` and `initial_c` of each node.
    An initial state that the graph holds, the same for all rows, is the layer's learned initial
    carry; zeros are no more than zeros. Final states `Y_h` and `Y_c` are in the carry that `apply`
    returns; where nothing else is an output, the highest layer's `Y_h` is the network's, as under
    `gr.final`. In the padding, outputs are zeros, whatever the graph has there.

    The two biases of a node are added where only their sum acts; their split is lost, as are the
    weights of a forget gate under `input_forget`, which is `1 − i`. A row of length 0 keeps its
    initial state, where onnxruntime returns zeros; a token that is negative or too large makes NaN.

    Args:
      model: an `onnx.ModelProto`, its bytes, or the path of a file, beside which weights may lie in
        files of their own.

    Raises:
      ModuleNotFoundError: onnx is not installed.
      OSError: a path where no file is, or one that may not be read.
      TypeError: something else as a model; weights of a precision that JAX would round here.
      ValueError: bytes or a file that are no model, an opset before 7 or newer than the installed
        onnx; a node that is no part of a network of ours, or would change its function (`clip`,
        other activations, a reverse node alone, initial states that differ between rows), by name
        and why; shapes that do not fit; constants that, computed, would take more than 256 MiB
        beside 32 times the size of the model; a graph that is another network for other sizes.

    Example:
      >>> net = gr.final(gr.stack(gr.GRU(4), gr.dense(2)))
      >>> model = gr.interop.to_onnx(net, net.init(jax.random.key(0), 3))
      >>> layer, params = gr.interop.from_onnx(model)
      >>> layer.out_features(3)
      2
    """
    onnx = require("onnx", "onnx", "onnx")
    try:
        model, size = load(onnx, model)
        opset = _opset(onnx, model)
        if model.functions:
            model = inlined(model)
        check_names(model.graph)
        found, computed = _read(GraphReader(onnx, Memory(size)), model.graph, opset, 1)
        if computed:  # what holds for some sizes might not for others
            again, _ = _read(GraphReader(onnx, Memory(size)), model.graph, opset, 2)
            if not _same(found, again):
                raise ValueError(
                    "model: got a graph that is another network for other sizes of its inputs, "
                    "expected one for all sizes"
                )
    except RecursionError:
        raise ValueError(
            "model: got layers that are nested too deeply, expected less than Python's limit"
        ) from None
    return found


def _same(one: tuple[Any, Any], two: tuple[Any, Any]) -> bool:
    """Return whether two networks are equal, to the bit."""
    structures: list[Any] = [jax.tree.structure(params) for _, params in (one, two)]
    if one[0] != two[0] or structures[0] != structures[1]:
        return False
    pairs = zip(jax.tree.leaves(one[1]), jax.tree.leaves(two[1]), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def _read(graph: GraphReader, proto: Any, opset: int, times: int) -> tuple[tuple[Any, Any], bool]:
    """The network of a graph, and whether its nodes compute constants.

    Sizes that the graph leaves open are primes, so many `times`.
    """
    nodes = [node_of(graph.onnx, one) for one in proto.node]
    outputs = [output.name for output in proto.output]
    needed = set(outputs)
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
    needed.discard("")  # what is left out
    _inputs(graph, proto, needed, times)
    for node in nodes:
        if needed.intersection(node.outputs):
            _follow(graph, node, opset)
    found = _network({info.name: _output(graph, info) for info in proto.output})
    return found, graph.folded


def _opset(onnx: Any, model: Any) -> int:
    versions = {o.version for o in model.opset_import if o.domain in ("", "ai.onnx")}
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not OLDEST <= min(versions) <= newest:
        some = " and ".join(map(str, sorted(versions)))
        got = f"opset {some}" if versions else "a model without an opset of ONNX"
        raise ValueError(
            f"model: got {got}, expected {OLDEST} or newer, up to {newest}, which the installed "
            "onnx knows"
        )
    return min(versions)


def _inputs(graph: GraphReader, proto: Any, needed: set[str], times: int) -> None:
    """Give a graph its inputs and weights, by name."""
    if any(sparse.values.name in needed for sparse in proto.sparse_initializer):
        raise ValueError("model: got a sparse initializer, expected dense ones")
    for tensor in proto.initializer:
        if tensor.name in needed:
            what = f"initializer {quoted(tensor.name)}"
            graph.define(what, tensor.name, Constant(array_of(graph, what, tensor)))
    constants = set(graph.values)
    primes = stand_ins(graph, proto, times)
    named: dict[str, int] = {}
    for info in proto.input:
        tensor = info.type.tensor_type
        if info.name in constants:
            continue  # which could be overruled
        if info.name not in needed or not tensor.HasField("shape"):
            continue  # one without axes fails where it is used
        what = f"input {quoted(info.name)}"
        axes = _axes(info, what, named, primes)
        try:
            dtype = np.dtype(graph.onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        except KeyError:
            raise ValueError(f"model, {what}: got values of an unknown type") from None
        graph.define(what, info.name, Tensor(GraphInput(info.name), axes, dtype))


def _axes(info: Any, what: str, named: dict[str, int], primes: Iterator[int]) -> Axes:
    """The axes of an input; those that are open have sizes by name."""
    dims = info.type.tensor_type.shape.dim
    if len(dims) > RANK:
        raise ValueError(f"model, {what}: got {len(dims)} axes, expected {RANK} at most")
    axes: list[Axis] = []
    for axis in dims:
        if not axis.HasField("dim_value"):
            name = axis.dim_param or f"{info.name} {len(axes)}"
            if name not in named:
                named[name] = next(primes)
            axes.append((Atom(named[name], stated=False),))
        elif axis.dim_value < 1:
            raise ValueError(
                f"model, {what}: got an axis of size {axis.dim_value}, expected 1 or more, or none "
                "where it is open"
            )
        else:
            axes.append(axis_of(axis.dim_value))
    return tuple(axes)


def _follow(graph: GraphReader, node: Node, opset: int) -> None:
    """The outputs of a node from its inputs."""
    if node.op in FOLDED or node.op in HANDLERS:
        check_node(graph, node, opset)
    if can_fold(graph, node):
        made = fold(graph, node, opset)
    elif node.op == "Gather" and isinstance(graph.value(node, 0), Constant):
        made = read_layers.embed(graph, node)
    elif node.op == "Gather":
        made = read_axes.gather(graph, node)
    elif node.op in HANDLERS:
        made = HANDLERS[node.op](graph, node)
    else:
        raise refused(node, "there is nothing like it among our layers")
    for name, value in zip(node.outputs, made, strict=False):
        if name:
            graph.define(str(node), name, value)


def _output(graph: GraphReader, info: Any) -> Tensor:
    value, what = graph.values.get(info.name), f"model, output {quoted(info.name)}"
    if not isinstance(value, Tensor):
        got = "nothing" if value is None else "a constant"
        raise ValueError(f"{what}: got {got}, expected what a network computes")
    if value.padding == "last":
        raise ValueError(f"{what}: got steps of which all but the last are masked")
    stated, helper = info.type.WhichOneof("value"), graph.onnx.helper
    if stated not in (None, "tensor_type") or (
        stated and helper.np_dtype_to_tensor_dtype(value.dtype) != info.type.tensor_type.elem_type
    ):
        raise ValueError(f"{what}: got another type than that of what is computed, {value.dtype}")
    return as_layer_output(value)


def _network(outputs: dict[str, Tensor]) -> tuple[Any, Any]:
    """The network whose outputs these are: one of its own, all others final states in its carry."""
    if not outputs:
        raise ValueError("model: got a graph without outputs, expected that of a network")
    states = {name: tensor for name, tensor in outputs.items() if read_joins.is_state(tensor)}
    others = [name for name in outputs if name not in states]
    if len(others) > 1:
        got = ", ".join(map(quoted, others[:9]))
        raise ValueError(f"model: got outputs {got}, expected one beside final states")
    if others:
        name, tensor = others[0], outputs[others[0]]
    else:
        every = [(name, end) for name, tensor in states.items() for end in _apart(tensor)]
        ends = [own for own in every if isinstance(own[1].origin, LayerOutput | BothDirections)]
        if not ends:
            got = ", ".join(map(quoted, list(outputs)[:9]))
            raise ValueError(
                f"model: got outputs {got}, expected an output or a final `h` among them"
            )
        name, tensor = max(ends, key=lambda own: _depth(own[1].origin))
    tensor = _joined(name, tensor)
    layers = layers_below(tensor.origin)
    partial = {"sum": "a sum over time", "first": "the first step", "last": "the last step"}
    if not layers or not isinstance(layers[0].below, GraphInput) or tensor.end in partial:
        what = partial.get(tensor.end, "no output of a layer of ours")
        raise ValueError(f"model, output {quoted(name)}: got {what}, expected that of a network")
    nodes = frozenset[str]().union(*(own.nodes for own in layers))
    for other, state in states.items():
        if not state.origin.nodes <= nodes:
            raise ValueError(
                f"model, output {quoted(other)}: got states of a node that output {quoted(name)} "
                "does not depend on, expected one network"
            )
    layer, params = network_of([own.layer for own in layers], [own.params for own in layers])
    if tensor.end == "final":
        layer = Final(layer)
    elif tensor.end:
        how: Any = tensor.end
        layer = Pool(layer, how)
    return layer, params


def _joined(name: str, tensor: Tensor) -> Tensor:
    """Two directions that the graph lays out apart, side by side as ours."""
    origin = tensor.origin
    if not isinstance(origin, BothDirections):
        return tensor
    if (origin.directions,) not in tensor.axes:
        raise ValueError(
            f"model, output {quoted(name)}: got directions and features in one axis, mixed"
        )
    return tensor._replace(origin=origin.merged("concat"))


def _apart(tensor: Tensor) -> list[Tensor]:
    """The states of one node each."""
    if not isinstance(tensor.origin, JoinedStates):
        return [tensor]
    return [single for one in tensor.origin.tensors for single in _apart(one)]


def _depth(origin: Origin) -> tuple[int, bool]:
    """The number of layers up to this one; of equal ones, two directions count for more."""
    if isinstance(origin, BothDirections):
        return len(layers_below(origin.below)) + 1, True
    return len(layers_below(origin)), False
