"""Nodes that are layers of ours: dense, embedding, dropout, the recurrent ones.

Axes: `D` directions, `B` batch, `I` inputs, `H` features, `n` gates.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax import Array

from gatedrnn._interop.arrays import Arrays, as_array
from gatedrnn._interop.conventions import ONNX
from gatedrnn._interop.layouts import cell_of, from_arrays, shapes_of
from gatedrnn._interop.networks import DirectedCell, layer_of
from gatedrnn._interop.onnx.read_limits import quoted
from gatedrnn._interop.onnx.read_tensors import (
    Axes,
    Axis,
    BothDirections,
    Constant,
    FinalMemory,
    FromLengths,
    GivenStates,
    GraphInput,
    GraphReader,
    LayerOutput,
    Node,
    Origin,
    ReverseOutput,
    SequenceAxes,
    Tensor,
    Value,
    as_layer_output,
    axis_of,
    is_stated,
    layers_below,
    refused,
    size_of,
)
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.lstm import LSTM
from gatedrnn._src.layers.pointwise import Dense, DenseParams, Dropout, Embed, EmbedParams


def read(graph: GraphReader, node: Node, k: int = 0) -> Tensor:
    """Input `k`, which a layer reads: one that no pooling has ended."""
    tensor = as_layer_output(graph.tensor(node, k))
    if tensor.end not in ("", "final"):
        what = f"the {tensor.end}" + (" step" if tensor.end in ("first", "last") else " over time")
        raise refused(node, f"it reads {what}, after which no layer of ours goes on")
    if tensor.padding == "last":
        raise refused(node, "it reads steps of which all but the last are masked")
    if not tensor.axes or (len(tensor.axes) == 1 and isinstance(tensor.origin, GraphInput)):
        raise refused(node, f"it reads {len(tensor.axes)} axes, expected time and features")
    if not isinstance(tensor.origin, GraphInput | LayerOutput):
        why = {
            ReverseOutput: "the output of a reverse node, which alone is not converted",
            BothDirections: "two directions that are not joined along the axis of features",
            FinalMemory: "the memory of an LSTM",
        }.get(type(tensor.origin), "states or lengths")
        raise refused(node, f"it reads {why}")
    return tensor


def check_features(node: Node, tensor: Tensor, k: int, size: int) -> None:
    """Raise unless axis `k` holds the features, as many as this."""
    axis = tensor.axes[k]
    wanted = tensor.origin.features if isinstance(tensor.origin, LayerOutput) else axis
    if axis != wanted or (len(axis) > 1 and not isinstance(tensor.origin, LayerOutput)):
        raise refused(node, f"axis {k % len(tensor.axes)} of what it reads is not that of features")
    if is_stated(axis) and size_of(axis) != size:
        raise ValueError(
            f"model, {node}: got {size_of(axis)} features, expected {size} for its weights"
        )


def matmul(graph: GraphReader, node: Node) -> list[Value]:
    """`x W`."""
    if isinstance(graph.value(node, 0), Constant):
        raise refused(node, "its matrix comes first: x W is a layer, W x is not")
    return [_dense(graph, node, graph.weight(node, 1), None)]


def gemm(graph: GraphReader, node: Node) -> list[Value]:
    """`x W + b`, or with `Wᵀ`."""
    scales = [node.attributes.get(name, 1.0) for name in ("alpha", "beta")]
    kernel, bias = graph.weight(node, 1), graph.weight(node, 2)
    if scales[0] != 1 or (bias is not None and scales[1] != 1):
        raise refused(node, f"its alpha and beta are {scales[0]:g} and {scales[1]:g}, not 1")
    if node.attributes.get("transA", 0):
        raise refused(node, "it transposes its input")
    if len(graph.tensor(node).axes) != 2:
        raise refused(node, f"it reads {len(graph.tensor(node).axes)} axes, not two")
    if kernel is not None and node.attributes.get("transB", 0):
        kernel = kernel.T
    if kernel is not None and bias is not None and kernel.shape[-1:] == (bias.size,):
        bias = bias.reshape(-1) if bias.shape in (bias.shape[-1:], (1, bias.size)) else bias
    return [_dense(graph, node, kernel, bias)]


def _dense(
    graph: GraphReader, node: Node, kernel: np.ndarray | None, bias: np.ndarray | None
) -> Tensor:
    tensor = read(graph, node)
    if kernel is None or kernel.ndim != 2 or not kernel.size:
        got = None if kernel is None else kernel.shape
        raise ValueError(f"model, {node}: got weights of shape {got}, expected two axes")
    check_features(node, tensor, -1, kernel.shape[0])
    graph.memory.take(str(node), kernel.nbytes)
    features = axis_of(kernel.shape[1])
    params = DenseParams(as_array(f"model, {node}, kernel", kernel), None)
    origin = LayerOutput(tensor.origin, Dense(kernel.shape[1], use_bias=False), params, features)
    tensor = tensor._replace(origin=origin, axes=(*tensor.axes[:-1], features), padding="")
    return tensor if bias is None else _with_bias(node, tensor, bias)


def add_bias(graph: GraphReader, node: Node, tensor: Tensor, k: int) -> Tensor:
    """A product with a kernel, and the bias that input `k` holds."""
    bias = graph.weight(node, k)
    assert bias is not None
    return _with_bias(node, tensor, bias)


def _with_bias(node: Node, tensor: Tensor, bias: np.ndarray) -> Tensor:
    origin = tensor.origin
    size = size_of(origin.features) if isinstance(origin, LayerOutput) else 1
    if not isinstance(origin, LayerOutput) or origin.layer != Dense(size, use_bias=False):
        raise refused(node, "it adds a constant to other than a product with a matrix")
    if tensor.end == "sum":
        raise refused(node, "it adds a constant to a sum over time")
    shape = (1,) * (len(tensor.axes) - bias.ndim) + bias.shape
    wanted = tuple(size if axis == origin.features else 1 for axis in tensor.axes)
    if shape != wanted:
        raise ValueError(f"model, {node}: got a bias of shape {bias.shape}, expected ({size},)")
    params = origin.params._replace(bias=as_array(f"model, {node}, bias", bias.reshape(size)))
    return tensor._replace(
        origin=LayerOutput(origin.below, Dense(size), params, origin.features), padding=""
    )


def embed(graph: GraphReader, node: Node) -> list[Value]:
    """A row of a table for every token."""
    table, tensor = graph.weight(node, 0), graph.tensor(node, 1)
    assert table is not None
    if not isinstance(tensor.origin, GraphInput) or tensor.dtype.kind != "i":
        raise refused(node, "what it looks up is not a graph input of integers")
    if table.ndim != 2 or not table.size or node.attributes.get("axis", 0) not in (0, -2):
        raise refused(node, f"it takes other than rows of a matrix, of shape {table.shape}")
    graph.memory.take(str(node), table.nbytes)
    params = EmbedParams(as_array(f"model, {node}, table", table))
    origin = LayerOutput(tensor.origin, Embed(*table.shape), params, axis_of(table.shape[1]))
    return [Tensor(origin, (*tensor.axes, origin.features), table.dtype)]


def dropout(graph: GraphReader, node: Node) -> list[Value]:
    """`gr.dropout`, the identity as long as there is no key."""
    tensor, given = read(graph, node), graph.weight(node, 1)
    if given is not None and given.size != 1:
        raise refused(node, f"its ratio is of shape {given.shape}, no number")
    rate = float(node.attributes.get("ratio", 0.5) if given is None else given.reshape(()))
    training = graph.constant(node, 2)
    if training is not None and np.any(training):
        raise refused(node, "it is in training mode")
    if not 0 <= rate < 1:
        raise refused(node, f"its ratio is {rate:g}, not in [0, 1)")
    if rate == 0:
        return [tensor]
    features = tensor.origin.features if isinstance(tensor.origin, LayerOutput) else tensor.axes[-1]
    return [tensor._replace(origin=LayerOutput(tensor.origin, Dropout(rate), (), features))]


WEIGHTS = {"W": 1, "R": 2, "B": 3, "P": 7}
STATES = {"initial_h": 5, "initial_c": 6}


def recurrent(graph: GraphReader, node: Node) -> list[Value]:
    """The outputs of an `RNN`, `LSTM` or `GRU` node: all steps, the last, the last memory."""
    tensor = read(graph, node)
    if tensor.end or len(tensor.axes) != 3:
        raise refused(node, f"it reads {len(tensor.axes)} axes, not time, batch and features")
    _check(node)
    batch_major = _layout(node)
    time, batch = tensor.axes[:2][:: -1 if batch_major else 1]
    if len(time) > 1:
        raise refused(node, "its time axis is several of the input's axes as one")
    graph.agree(node, SequenceAxes(time, batch, _lengths(graph, node)))
    arrays = {name: graph.weight(node, k) for name, k in WEIGHTS.items()}
    given = {name: array for name, array in arrays.items() if array is not None}
    initial = _initial(graph, node, tensor, batch_major)
    graph.memory.take(str(node), sum(array.nbytes for array in given.values()))
    in_features = size_of(tensor.axes[2]) if is_stated(tensor.axes[2]) else None
    recurrences = read_recurrences(node, Arrays(f"model, {node}", given), in_features, initial)
    check_features(node, tensor, 2, recurrences[0].params.kernel.shape[0])
    features = axis_of(recurrences[0].params.recurrent_kernel.shape[0])
    ahead, back = (frozenset({f"{id(node)} {way}"}) for way in ("forward", "reverse"))
    direction = node.attributes.get("direction", "forward")
    origin: Origin
    both: Axis = ()
    if direction == "bidirectional":
        origin = BothDirections(tensor.origin, recurrences, features, ahead, back)
        both = (origin.directions,)
    elif direction == "reverse":
        origin = ReverseOutput(tensor.origin, recurrences[0], features, back)
    else:
        origin = LayerOutput(tensor.origin, *layer_of(recurrences), features, ahead)
    names = frozenset(node.inputs[k] for k in STATES.values() if k < len(node.inputs))
    for name in origin.nodes:
        graph.starts[name] = names
    ys: Axes = (batch, time, both, features) if batch_major else (time, both, batch, features)
    end: Axes = (batch, both, features) if batch_major else (both, batch, features)
    made: list[Value] = [
        Tensor(origin, ys, tensor.dtype, padding="zero"),
        Tensor(origin, end, tensor.dtype, end="final"),
        Tensor(FinalMemory(features, origin.nodes), end, tensor.dtype, end="final"),
    ]
    return made[: len(node.outputs)]


def direction_count(node: Node) -> int:
    """One or two."""
    return 2 if node.attributes.get("direction") == "bidirectional" else 1


def _layout(node: Node) -> bool:
    """Return whether the batch comes before time."""
    layout = node.attributes.get("layout", 0)
    if layout not in (0, 1):
        raise refused(node, f"its layout is {layout}, neither 0 nor 1")
    return bool(layout)


def _lengths(graph: GraphReader, node: Node) -> str | None:
    """The graph input that the lengths of the sequences are."""
    value = graph.value(node, 4)
    if value is None:
        return None
    if isinstance(value, Constant):
        raise refused(node, "its sequence_lens is a constant, no input: ours is `lengths`")
    if isinstance(value.origin, FromLengths) and value.origin.what == "at least 1":
        return value.origin.lengths
    if not isinstance(value.origin, GraphInput) or value.dtype.kind != "i" or len(value.axes) != 1:
        raise refused(node, "its sequence_lens is not a graph input of integers, one for each row")
    return value.origin.name


def _initial(
    graph: GraphReader, node: Node, xs: Tensor, batch_major: bool
) -> dict[str, np.ndarray]:
    """Initial states that the graph holds, a row `[D, H]` of each; zeros are left out."""
    found: dict[str, np.ndarray] = {}
    given = []
    source = next((step.below for step in layers_below(xs.origin)), xs.origin)
    for name, k in STATES.items():
        value: Any = graph.value(node, k)
        if isinstance(value, Tensor):
            if not isinstance(value.origin, GraphInput | GivenStates) or len(value.axes) != 3:
                raise refused(node, f"its {name} is computed, neither an input nor a constant")
            if isinstance(source, GraphInput) and source.name in value.origin.names:
                raise refused(node, f"its {name} is made of the sequence that the network reads")
            ends = value.axes[batch_major], value.axes[2]
            wanted = direction_count(node), node.attributes["hidden_size"]
            for axis, size in zip(ends, wanted, strict=True):
                if is_stated(axis) and size_of(axis) != size:
                    raise ValueError(
                        f"model, {node}, {name}: got an axis of size {size_of(axis)}, expected "
                        f"{wanted[0]} directions and {wanted[1]} features"
                    )
            given.append(name)
        elif value is not None:
            states = graph.weight(node, k)
            assert states is not None
            if states.ndim != 3:
                raise ValueError(
                    f"model, {node}, {name}: got shape {states.shape}, expected three axes"
                )
            rows = np.moveaxis(states, 0 if batch_major else 1, 0)
            same = np.array_equal(rows, np.broadcast_to(rows[:1], rows.shape), equal_nan=True)
            if len(rows) == 0 or not same:
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


# The cells of a node ------------------------------------------------------------------------------

# those of each direction, where the node does not say
DEFAULTS = {"RNN": ["tanh"], "GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}
ELMAN = {theirs.lower(): ours for ours, theirs in ONNX.row("RNN").activations.items()}
# what activations of ONNX take from activation_alpha and activation_beta, in the nodes' order
TAKES_ALPHA = {"affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh", "thresholdedrelu"}
TAKES_BETA = {"affine", "hardsigmoid", "scaledtanh"}


def read_recurrences(
    node: Node, arrays: Arrays, in_features: int | None, initial: dict[str, np.ndarray]
) -> tuple[DirectedCell, ...]:
    """The cells of a node with their parameters, one for each direction.

    Args:
      node: of the three kinds.
      arrays: its weights `W [D, nH, I]`, `R [D, nH, H]`, `B [D, 2nH]`, `P [D, 3H]`.
      in_features: `I`, None where the graph does not state it.
      initial: its initial states that are constants, and not zeros, `[D, H]`.
    """
    row = ONNX.row(node.op)
    directions = direction_count(node)
    features = node.attributes["hidden_size"]
    options: dict[str, Any] = {}
    if row.cell is GRU:
        after = node.attributes.get("linear_before_reset", 0)
        options["reset"] = "after" if after else "before"
    if row.cell is LSTM:
        options["coupled"] = bool(node.attributes.get("input_forget", 0))
        options["peephole"] = "diagonal" if "P" in arrays else None
    cell = cell_of(row, features, "B" in arrays, **options)
    shapes = shapes_of(row, cell, in_features)
    taken = {name: arrays.take(name, (directions, *shape)) for name, shape in shapes.items()}
    arrays.close()
    starts = {name: _start(node, name, s, (directions, features)) for name, s in initial.items()}
    found = []
    for d, activation in enumerate(_activations(node, directions)):
        own = dataclasses.replace(cell, activation=activation) if row.cell is Elman else cell
        params = from_arrays(row, own, {name: array[d] for name, array in taken.items()})
        carry = _carry(own, {name: state[d] for name, state in starts.items()}, taken["W"])
        found.append(DirectedCell(own, params, carry))
    return tuple(found)


def _check(node: Node) -> None:
    """Raise for what changes the function and no cell of ours has."""
    attributes = node.attributes
    if "clip" in attributes:
        raise refused(node, f"it clips what goes into its activations, at {attributes['clip']:g}")
    direction = attributes.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise refused(node, f"its direction is {quoted(direction)}")
    size = attributes.get("hidden_size")
    if size is None or size < 1:
        got = "missing" if size is None else size
        raise refused(node, f"its hidden_size is {got}, expected an integer of at least 1")
    for name in ("input_forget", "linear_before_reset"):
        if attributes.get(name, 0) not in (0, 1):
            raise refused(node, f"its {name} is {attributes[name]}, neither 0 nor 1")


def _start(node: Node, name: str, states: np.ndarray, shape: tuple[int, int]) -> Array:
    if states.shape != shape:
        raise ValueError(
            f"model, {node}, {name}: got a row of shape {states.shape}, expected {shape}, "
            "directions and features"
        )
    return as_array(f"model, {node}, {name}", states)


def _carry(cell: Any, starts: dict[str, Array], like: Array) -> Any:
    """The learned initial carry, all of one dtype; None where all states start from zeros."""
    if not any(np.any(np.asarray(start)) for start in starts.values()):
        return None
    zeros = cell.carry((), like.dtype)
    leaves = zip(type(zeros)._fields, zeros, strict=True)
    return type(zeros)(
        *(starts.get(f"initial_{name}", zero).astype(like.dtype) for name, zero in leaves)
    )


def _activations(node: Node, directions: int) -> Iterator[str]:
    """The activation of each direction of an RNN; those of the others must be the usual ones."""
    default = DEFAULTS[node.op]
    names = [n.lower() for n in node.attributes.get("activations", default * directions)]
    if len(names) != len(default) * directions:
        got = quoted(names)
        raise ValueError(
            f"model, {node}: got activations {got}, expected {len(default)} for each direction"
        )
    alphas = list(node.attributes.get("activation_alpha", []))
    betas = list(node.attributes.get("activation_beta", []))
    for k, name in enumerate(names):
        alpha = alphas.pop(0) if alphas and name in TAKES_ALPHA else None
        beta = betas.pop(0) if betas and name in TAKES_BETA else None
        if node.op != "RNN" and name != default[k % len(default)]:
            raise refused(
                node,
                f"its activations are {quoted(', '.join(names))[1:-1]}, not {', '.join(default)}",
            )
        if name not in ELMAN:
            raise refused(node, f"its activation is {quoted(name)[1:-1]}, not {', '.join(ELMAN)}")
        if name == "affine" and (alpha, beta) != (1.0, 0.0):  # unsaid, runtimes differ
            raise refused(node, f"its activation is Affine of {alpha} and {beta}, not of 1 and 0")
        if k % len(default) == 0:
            yield ELMAN[name] if node.op == "RNN" else name
    if alphas or betas:
        raise refused(
            node, "activation_alpha or activation_beta are more than its activations take"
        )
