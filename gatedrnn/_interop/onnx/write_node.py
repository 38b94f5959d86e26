"""One recurrent layer as an `RNN`, `LSTM` or `GRU` node, or as one for each direction.

ONNX's gates are rows, in the order `i, o, f, c` and `z, r, h`; peepholes `i, o, f`; a GRU's update
gate keeps; of two biases ours is the input's. The axis of directions comes before the batch.

Axes: `T` time, `B` batch, `D` directions, `I` inputs, `H` features, `n` gates.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import reorder
from gatedrnn._interop.forms import Forms, gru_params
from gatedrnn._interop.onnx.write_graph import Graph, Lengths, Sizes
from gatedrnn._interop.parts import Run
from gatedrnn._src.base import Cell
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.lstm import LSTM

FORMS = Forms(
    "an ONNX graph",
    elman=("tanh", "relu", "sigmoid", "identity"),
    lstm=True,
    peephole=True,
    coupled=True,
    gru=("before", "after"),
)
ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}


class NodeWeights(NamedTuple):
    """What a node reads of one direction."""

    W: Array  # [nH, I]
    R: Array  # [nH, H]
    B: Array | None  # [2nH]
    P: Array | None = None  # [3H]


class NodeOutputs(NamedTuple):
    """What a node makes."""

    ys: str  # [T, D, B, H]; zeros in the padding are not to be relied on
    ends: list[str]  # [D, B, H] for each leaf of the carry


def add_node(
    graph: Graph,
    runs: tuple[Run, ...],
    direction: str,
    scope: str,
    xs: str,
    sizes: Sizes,
    lengths: Lengths | None,
    initial: list[list[str]] | None,
) -> NodeOutputs:
    """A node for `runs` of one cell, the forward one first; `xs [T, B, I]`.

    Args:
      graph: that it is added to.
      runs: one, or two for the direction `"bidirectional"`.
      direction: as ONNX has it.
      scope: what the names of its weights start with: `"0."`.
      xs: the input.
      sizes: `T` and `B`.
      lengths: which steps are valid; None: all.
      initial: for each run the names of its initial carry's leaves, `[B, H]`; None for the learned
        ones, or zeros.
    """
    cell: Any = runs[0].cell
    weights = [_weights(run) for run in runs]
    fed = {"B": "", "P": ""} | {
        name: graph.weight(f"{scope}{name}", jnp.stack([getattr(w, name) for w in weights]))
        for name in NodeWeights._fields
        if getattr(weights[0], name) is not None
    }
    leaves = len(cell.carry(()))
    starts = [_start(graph, runs, leaf, scope, sizes, initial) for leaf in range(leaves)]
    kind = {LSTM: "LSTM", GRU: "GRU", Elman: "RNN"}[type(cell)]
    names = tuple(f"{scope}{name}" for name in ("Y", "Y_h", "Y_c")[: 1 + leaves])
    graph.node(
        kind,
        *(xs, fed["W"], fed["R"], fed["B"]),
        *("" if lengths is None else lengths.at_least_one, *starts),
        *([fed["P"]] if kind == "LSTM" else []),
        outputs=names,
        direction=direction,
        hidden_size=cell.features,
        **_attributes(cell, len(runs)),
    )
    ys, *ends = names
    if lengths is not None:
        zero = graph.number(0)
        ends = [
            graph.node("Where", lengths.any, end, start or zero)
            for end, start in zip(ends, starts, strict=True)
        ]
    return NodeOutputs(ys, ends)


def _attributes(cell: Cell, directions: int) -> dict[str, Any]:
    if isinstance(cell, LSTM):
        return {"input_forget": 1} if cell.coupled else {}
    if isinstance(cell, GRU):
        return {"linear_before_reset": int(cell.reset == "after")}
    assert isinstance(cell, Elman)
    attributes: dict[str, Any] = {"activations": [ACTIVATIONS[cell.activation]] * directions}
    if cell.activation == "identity":
        attributes |= {"activation_alpha": [1.0] * directions}
        attributes |= {"activation_beta": [0.0] * directions}
    return attributes


def _weights(run: Run) -> NodeWeights:
    """Our parameters as ONNX stacks them."""
    cell, params = run.cell, run.params
    if isinstance(cell, LSTM):
        gates = ("igo" if cell.coupled else "ifgo", "iofg")
        both = [params.peephole, params.output_peephole]
        peepholes = None
        if cell.peephole is not None:
            order = "io" if cell.coupled else "ifo"
            peepholes = _gates(jnp.concatenate(both), order, "iof")
    elif isinstance(cell, GRU):
        params = gru_params(params, cell.update, "keeps")
        gates, peepholes = ("rzn", "zrn"), None
    else:
        gates, peepholes = ("h", "h"), None
    bias = None
    if params.bias is not None:
        ours = _gates(params.bias, *gates)
        inside = jnp.zeros_like(ours)
        if isinstance(cell, GRU) and params.recurrent_bias is not None:
            inside = inside.at[-cell.features :].set(params.recurrent_bias)
        bias = jnp.concatenate([ours, inside])
    kernel, recurrent = (_gates(k, *gates).T for k in (params.kernel, params.recurrent_kernel))
    return NodeWeights(kernel, recurrent, bias, peepholes)


def _gates(array: Array, order: str, to: str) -> Array:
    """The gates along the last axis in another order; zeros for the one that is coupled."""
    if len(order) < len(to):
        one = array.shape[-1] // len(order)
        array = jnp.concatenate([array, jnp.zeros_like(array[..., :one])], axis=-1)
        order += next(gate for gate in to if gate not in order)
    return reorder(array, order, to)


def _start(
    graph: Graph,
    runs: tuple[Run, ...],
    leaf: int,
    scope: str,
    sizes: Sizes,
    initial: list[list[str]] | None,
) -> str:
    """One leaf of the initial carry, `[D, B, H]`; `""` for zeros."""
    if initial is not None:
        both = [graph.unsqueeze(leaves[leaf], 0) for leaves in initial]
        return both[0] if len(both) == 1 else graph.node("Concat", *both, axis=0)
    learned = [None if run.initial is None else run.initial[leaf] for run in runs]
    if all(value is None for value in learned):
        return ""
    cell: Any = runs[0].cell
    features = cell.features
    rows = [jnp.zeros(features) if value is None else value for value in learned]
    name = f"{scope}initial_{'hc'[leaf]}"
    value = graph.weight(name, jnp.stack([row[None].astype(graph.dtype) for row in rows]))
    ends = (graph.integers(len(runs)), sizes.batch, graph.integers(features))
    return graph.node("Expand", value, graph.node("Concat", *ends, axis=0))
