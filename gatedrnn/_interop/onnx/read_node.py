"""One `RNN`, `LSTM` or `GRU` node as one or two recurrences of ours.

ONNX's gates are rows, in the order `i, o, f, c` and `z, r, h`; peepholes `i, o, f`; the biases of
the input's product and of the recurrent one follow each other; a GRU's update gate keeps.

Axes: `D` directions, `I` inputs, `H` features, `n` gates.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from gatedrnn._interop.arrays import Arrays, as_array, reorder
from gatedrnn._interop.onnx.read_graph import Node, refused
from gatedrnn._interop.parts import Run
from gatedrnn._src.cells.elman import Elman, ElmanParams
from gatedrnn._src.cells.gru import GRU, GRUParams
from gatedrnn._src.cells.lstm import LSTM, LSTMParams
from gatedrnn._src.numerics import ActivationName

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
ATTRIBUTES = {
    "RNN": set(),
    "GRU": {"linear_before_reset"},
    "LSTM": {"input_forget"},
}
SHARED = {"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size"}
# those of each direction, where the node does not say
DEFAULTS = {"RNN": ["tanh"], "GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}
ELMAN: dict[str, ActivationName] = {
    "tanh": "tanh",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "affine": "identity",
}
# what activations of ONNX take from activation_alpha and activation_beta, in the nodes' order
TAKES_ALPHA = {"affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh", "thresholdedrelu"}
TAKES_BETA = {"affine", "hardsigmoid", "scaledtanh"}


def read_runs(
    node: Node, arrays: Arrays, in_features: int | None, initial: dict[str, np.ndarray]
) -> tuple[Run, ...]:
    """The runs of a node, one for each direction.

    Args:
      node: of the three kinds.
      arrays: its weights `W [D, nH, I]`, `R [D, nH, H]`, `B [D, 2nH]`, `P [D, 3H]`.
      in_features: `I`, None where the graph does not state it.
      initial: its initial states that are constants, and not zeros, `[D, H]`.
    """
    _check(node)
    gates = GATES[node.op]
    directions = 2 if node.attributes.get("direction") == "bidirectional" else 1
    features = node.attributes.get("hidden_size") or (arrays.shape("R") or (0,))[-1]
    kernel = arrays.take("W", (directions, gates * features, in_features))
    recurrent = arrays.take("R", (directions, gates * features, features))
    bias = peephole = None
    if "B" in arrays:
        bias = arrays.take("B", (directions, 2 * gates * features))
    if "P" in arrays:
        peephole = arrays.take("P", (directions, 3 * features))
    arrays.close()
    starts = {name: _start(node, name, s, (directions, features)) for name, s in initial.items()}
    activations = list(_activations(node, directions))
    runs = []
    for d in range(directions):
        cell, params = _read(
            node,
            kernel[d].T,
            recurrent[d].T,
            None if bias is None else tuple(jnp.split(bias[d], 2)),
            None if peephole is None else peephole[d],
            activations[d],
        )
        runs.append(Run(cell, params, _carry(cell, {k: v[d] for k, v in starts.items()}, kernel)))
    return tuple(runs)


def _check(node: Node) -> None:
    """Raise for what changes the function and no cell of ours has."""
    attributes = node.attributes
    if "clip" in attributes:
        raise refused(node, f"it clips what goes into its activations, at {attributes['clip']:g}")
    direction = attributes.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise refused(node, f"its direction is {direction!r}")
    unknown = attributes.keys() - SHARED - ATTRIBUTES[node.op] - {"layout"}
    if unknown:
        raise refused(node, f"its attribute {min(unknown)!r} is not one that is known")


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
        raise ValueError(
            f"model, {node}: got activations {names}, expected {len(default)} for each direction"
        )
    alphas = list(node.attributes.get("activation_alpha", []))
    betas = list(node.attributes.get("activation_beta", []))
    for k, name in enumerate(names):
        alpha = alphas.pop(0) if alphas and name in TAKES_ALPHA else None
        beta = betas.pop(0) if betas and name in TAKES_BETA else None
        if node.op != "RNN" and name != default[k % len(default)]:
            raise refused(node, f"its activations are {', '.join(names)}, not {', '.join(default)}")
        if name not in ELMAN:
            raise refused(node, f"its activation is {name}, not {', '.join(ELMAN)}")
        if name == "affine" and (alpha, beta) != (1.0, 0.0):  # unsaid, runtimes differ
            raise refused(node, f"its activation is Affine of {alpha} and {beta}, not of 1 and 0")
        if k % len(default) == 0:
            yield ELMAN[name] if node.op == "RNN" else name
    if alphas or betas:
        raise refused(
            node, "activation_alpha or activation_beta are more than its activations take"
        )


def _read(
    node: Node,
    kernel: Array,
    recurrent: Array,
    biases: tuple[Array, ...] | None,
    peephole: Array | None,
    activation: Any,
) -> tuple[Any, Any]:
    """The cell and its parameters of one direction: `[I, nH]`, `[H, nH]`, two `[nH]`, `[3H]`."""
    features = recurrent.shape[0]
    bias = None if biases is None else biases[0] + biases[1]
    if node.op == "RNN":
        return Elman(features, activation, bias is not None), ElmanParams(kernel, recurrent, bias)
    if node.op == "LSTM":
        return _lstm(node, kernel, recurrent, bias, peephole)
    order, inside = ("zrn", "rzn"), None
    after = bool(node.attributes.get("linear_before_reset", 0))
    if biases is not None and bias is not None:
        if after:  # n's two biases are apart in ours as well
            inside = biases[1][2 * features :]
            bias = jnp.concatenate([bias[: 2 * features], biases[0][2 * features :]])
        bias = reorder(bias, *order)
    gru = GRU(features, "after" if after else "before", "keeps", bias is not None)
    return gru, GRUParams(reorder(kernel, *order), reorder(recurrent, *order), bias, inside)


def _lstm(
    node: Node, kernel: Array, recurrent: Array, bias: Array | None, peephole: Array | None
) -> tuple[LSTM, LSTMParams]:
    """Coupled, `f` is `1 − i`, and what the node holds for it has no effect."""
    coupled = bool(node.attributes.get("input_forget", 0))
    order = ("iofg", "igo" if coupled else "ifgo")
    read, written = None, None
    if peephole is not None:
        read = reorder(peephole, "iof", "i" if coupled else "if")
        written = reorder(peephole, "iof", "o")
    cell = LSTM(
        recurrent.shape[0],
        peephole=None if peephole is None else "diagonal",
        coupled=coupled,
        use_bias=bias is not None,
    )
    kernels = reorder(kernel, *order), reorder(recurrent, *order)
    biases = None if bias is None else reorder(bias, *order)
    return cell, LSTMParams(*kernels, biases, read, written, None)
