"""The equations of every recurrent cell in NumPy, one gate per line.

Nothing here is shared with the library but the containers: kernels are taken apart gate by gate,
and each line is the published one. Arrays are row vectors, and any batch axes are in front.

Axes: `*B` any batch axes, `I` input features, `H` features.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray


class Step(NamedTuple):
    """The results of one step."""

    carry: Any
    output: ndarray  # [*B, F]
    gates: Mapping[str, ndarray] = MappingProxyType({})  # between 0 and 1, in the cell's order


def sigmoid(a: ndarray) -> ndarray:
    """Return the logistic function of `a`."""
    return 1.0 / (1.0 + np.exp(-a))


ACTIVATIONS: dict[str, Callable[[ndarray], ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0.0),
    "sigmoid": sigmoid,
    "identity": lambda a: a,
}


def elman(cell: Any, p: Any, carry: Any, x: ndarray) -> Step:
    """`h_t = f(x_t U + h_{t-1} W + b)`."""
    h = ACTIVATIONS[cell.activation](x @ p.kernel + carry.h @ p.recurrent_kernel + _or_0(p.bias))
    return Step(carry._replace(h=h), h)


def jordan(cell: Any, p: Any, carry: Any, x: ndarray) -> Step:
    """`h_t = f(x_t U + o_{t-1} W + b)`, `o_t = g(h_t V + c)`."""
    f, g = ACTIVATIONS[cell.activation], ACTIVATIONS[cell.output_activation]
    h = f(x @ p.kernel + carry.o @ p.recurrent_kernel + _or_0(p.bias))
    o = g(h @ p.output_kernel + _or_0(p.output_bias))
    return Step(carry._replace(o=o), o)


def lstm(cell: Any, p: Any, carry: Any, x: ndarray) -> Step:
    """Gates `i, f, g, o`; coupled: `i, g, o` and `f = 1 - i`; `r_t = m_t R` with a projection."""
    r, c = carry.h, carry.c
    gates = "igo" if cell.coupled else "ifgo"
    W_x, W_r, b = (_per_gate(gates, w) for w in (p.kernel, p.recurrent_kernel, p.bias))
    P = _per_gate(gates[:-2], p.peephole)  # i and f, coupled: i

    i = sigmoid(x @ W_x["i"] + r @ W_r["i"] + _peep(c, P["i"]) + b["i"])
    if cell.coupled:
        f = 1.0 - i
    else:
        f = sigmoid(x @ W_x["f"] + r @ W_r["f"] + _peep(c, P["f"]) + b["f"])
    g = np.tanh(x @ W_x["g"] + r @ W_r["g"] + b["g"])
    c = f * c + i * g
    o = sigmoid(x @ W_x["o"] + r @ W_r["o"] + _peep(c, p.output_peephole) + b["o"])
    m = o * np.tanh(c)
    r = m if cell.projection is None else m @ p.projection_kernel
    return Step(carry._replace(h=r, c=c), r, {"i": i, "f": f, "o": o})


def gru(cell: Any, p: Any, carry: Any, x: ndarray) -> Step:
    """Gates `r, z, n`; the reset gate before or after the product, the update gate both ways."""
    h = carry.h
    W_x, W_h, b = (_per_gate("rzn", w) for w in (p.kernel, p.recurrent_kernel, p.bias))

    r = sigmoid(x @ W_x["r"] + h @ W_h["r"] + b["r"])
    z = sigmoid(x @ W_x["z"] + h @ W_h["z"] + b["z"])
    if cell.reset == "before":
        n = np.tanh(x @ W_x["n"] + (r * h) @ W_h["n"] + b["n"])
    else:
        n = np.tanh(x @ W_x["n"] + b["n"] + r * (h @ W_h["n"] + _or_0(p.recurrent_bias)))
    h = (1.0 - z) * h + z * n if cell.update == "writes" else z * h + (1.0 - z) * n
    return Step(carry._replace(h=h), h, {"r": r, "z": z})


def layer_norm_lstm(cell: Any, p: Any, carry: Any, x: ndarray) -> Step:
    """Both products normalised over all gates at once, the memory on its way out."""
    a = _layer_norm(x @ p.kernel, p.scale) + _or_0(p.bias)
    a = a + _layer_norm(carry.h @ p.recurrent_kernel, p.recurrent_scale)
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=-1)
    i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)
    c = f * carry.c + i * np.tanh(a_g)
    h = o * np.tanh(_layer_norm(c, p.memory_scale) + _or_0(p.memory_bias))
    return Step(carry._replace(h=h, c=c), h, {"i": i, "f": f, "o": o})


def layer_norm_gru(cell: Any, p: Any, carry: Any, x: ndarray) -> Step:
    """`r` and `z` normalised together, the candidate by itself, both products apart."""
    h, size = carry.h, 2 * cell.features
    W_rz, W_n = np.split(p.kernel, [size], axis=-1)
    U_rz, U_n = np.split(p.recurrent_kernel, [size], axis=-1)
    x_rz, x_n = np.split(p.scale, [size])
    h_rz, h_n = np.split(p.recurrent_scale, [size])
    b_rz, b_n = (0.0, 0.0) if p.bias is None else np.split(p.bias, [size])
    rz = sigmoid(_layer_norm(x @ W_rz, x_rz) + _layer_norm(h @ U_rz, h_rz) + b_rz)
    r, z = np.split(rz, 2, axis=-1)
    inside = _layer_norm(h @ U_n, h_n) + _or_0(p.recurrent_bias)
    n = np.tanh(_layer_norm(x @ W_n, x_n) + b_n + r * inside)
    h = (1.0 - z) * h + z * n
    return Step(carry._replace(h=h), h, {"r": r, "z": z})


# Cells around a cell; `inner` makes the step of that cell ----------------------------------------


def zoneout(inner: Callable[..., Step], cell: Any, p: Any, carry: Any, x: ndarray) -> Step:
    """Without a key: every unit keeps the share of its rate."""
    made = inner(cell.cell, p, carry, x)
    rates = (cell.h, cell.c)
    mixed = [d * v + (1.0 - d) * w for d, v, w in zip(rates, carry, made.carry, strict=False)]
    return Step(type(carry)(*mixed), mixed[0], made.gates)


def recurrent_dropout(
    inner: Callable[..., Step], cell: Any, p: Any, carry: Any, x: ndarray
) -> Step:
    """Without a key: the cell itself."""
    return inner(cell.cell, p, carry, x)


def attention(inner: Callable[..., Step], cell: Any, p: Any, carry: Any, x: ndarray) -> Step:
    """`α = softmax_s(v · tanh(k_s + s W_q))` where positions are valid; the cell reads `[x, m̂]`."""
    values, keys, valid = p.memory.values, p.memory.keys, p.memory.valid > 0
    q = carry.cell[0] @ p.query_kernel
    e = np.tanh(keys + q[..., None, :]) @ p.score
    raised = np.where(valid, np.exp(e), 0.0)
    summed = np.sum(raised, axis=-1, keepdims=True)
    alpha = raised / np.where(summed > 0, summed, 1.0)  # zeros where no position is valid
    context = np.einsum("...s,...sm->...m", alpha, values)
    made = inner(cell.cell, p.cell, carry.cell, np.concatenate([x, context], axis=-1))
    output = np.concatenate([made.output, context], axis=-1)
    return Step(carry._replace(output=output, cell=made.carry), output, made.gates)


# Pieces -----------------------------------------------------------------------------------------


def _layer_norm(v: ndarray, gain: ndarray) -> ndarray:
    return gain * (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)


def _per_gate(gates: str, stacked: ndarray | None) -> dict[str, Any]:
    """Return the stacked array of each gate, by the gate's letter; zeros for an absent one."""
    if stacked is None:
        return dict.fromkeys(gates, 0.0)
    return dict(zip(gates, np.split(stacked, len(gates), axis=-1), strict=True))


def _peep(c: ndarray, P: Any) -> Any:
    """Return `c P` for a full peephole, `c ⊙ p` for a diagonal one, 0 for none."""
    return c @ P if np.ndim(P) == 2 else c * _or_0(P)


def _or_0(value: Any) -> Any:
    return 0.0 if value is None else value
