"""One `RNN`, `LSTM` or `GRU` node as one or two recurrences of ours.

Axes: `D` directions, `I` inputs, `H` features, `n` gates.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax import Array

from gatedrnn._interop.arrays import Arrays, as_array
from gatedrnn._interop.conventions import ONNX
from gatedrnn._interop.layouts import cell_of, from_arrays, shapes_of
from gatedrnn._interop.networks import Recurrence
from gatedrnn._interop.onnx.read_graph import Node, refused
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.lstm import LSTM

ATTRIBUTES = {
    "RNN": set(),
    "GRU": {"linear_before_reset"},
    "LSTM": {"input_forget"},
}
SHARED = {"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size"}
# those of each direction, where the node does not say
DEFAULTS = {"RNN": ["tanh"], "GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}
ELMAN = {theirs.lower(): ours for ours, theirs in ONNX.row("RNN").activations.items()}
# what activations of ONNX take from activation_alpha and activation_beta, in the nodes' order
TAKES_ALPHA = {"affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh", "thresholdedrelu"}
TAKES_BETA = {"affine", "hardsigmoid", "scaledtanh"}


def read_recurrences(
    node: Node, arrays: Arrays, in_features: int | None, initial: dict[str, np.ndarray]
) -> tuple[Recurrence, ...]:
    """The cells of a node with their parameters, one for each direction.

    Args:
      node: of the three kinds.
      arrays: its weights `W [D, nH, I]`, `R [D, nH, H]`, `B [D, 2nH]`, `P [D, 3H]`.
      in_features: `I`, None where the graph does not state it.
      initial: its initial states that are constants, and not zeros, `[D, H]`.
    """
    _check(node)
    row = ONNX.row(node.op)
    directions = 2 if node.attributes.get("direction") == "bidirectional" else 1
    features = node.attributes.get("hidden_size") or (arrays.shape("R") or (0,))[-1]
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
        found.append(Recurrence(own, params, carry))
    return tuple(found)


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
