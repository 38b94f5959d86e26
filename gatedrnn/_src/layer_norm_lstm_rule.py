"""The equations of the layer-normalised LSTM and its backward rule.

Axes: `...` any leading axes, `*B` batch, `I` input features, `H` features (memory cells).
"""

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src.lstm_rule import LSTMCarry, LSTMDelta
from gatedrnn._src.normalise import Normalised, normalise, normalise_transposed, scaled
from gatedrnn._src.numerics import (
    dot,
    dot_transposed,
    gates_apart,
    masked,
    outer,
    sigmoid,
    total,
    transposed,
)
from gatedrnn._src.rule import Rule

if TYPE_CHECKING:
    from gatedrnn._src.layer_norm_lstm import LayerNormLSTM


class LayerNormLSTMParams(NamedTuple):
    """Parameters of a layer-normalised LSTM, gates stacked in the order `i, f, g, o`."""

    kernel: Array  # [I, 4H]
    recurrent_kernel: Array  # [H, 4H]
    scale: Array  # γ_x [4H]
    recurrent_scale: Array  # γ_h [4H]
    memory_scale: Array  # γ_c [H]
    bias: Array | None  # b [4H]
    memory_bias: Array | None  # β_c [H]


# The equations (Ba et al. 2016, supplement, with their two shifts and b in one b).
# û, v̂ and ĉ are normalised, u and v over the stacked vector of all four gates, as published:
#
#   u = x W      v = h_{t-1} U      a = γ_x ⊙ û + γ_h ⊙ v̂ + b
#   i, f, o = σ(a^i), σ(a^f), σ(a^o)                   g = tanh(a^g)
#   c_t = f ⊙ c_{t-1} + i ⊙ g
#   m = tanh(γ_c ⊙ ĉ_t + β_c)                          h_t = o ⊙ m
#
# The memory that goes on to the next step is c_t itself, not normalised.


class LayerNormLSTMGates(NamedTuple):
    """What a step makes on its way: the gates `[..., H]` and all that is normalised."""

    i: Array
    f: Array
    g: Array
    o: Array
    m: Array
    inputs: Normalised  # û [..., 4H]
    recurrent: Normalised  # v̂ [..., 4H]
    memory: Normalised  # ĉ_t [..., H]


def project(cell: "LayerNormLSTM", params: LayerNormLSTMParams, xs: Array) -> Normalised:
    """`û`, the normalised `x W` of all gates."""
    return normalise(dot(xs, params.kernel))


def prepare(
    cell: "LayerNormLSTM", params: LayerNormLSTMParams
) -> tuple[LayerNormLSTMParams, LayerNormLSTMParams]:
    """For the reverse step, every matrix transposed."""
    return params, transposed(params)


def recur(
    cell: "LayerNormLSTM",
    params: LayerNormLSTMParams,
    carry: LSTMCarry,
    a: Normalised,
    *,
    cell_path_only: bool = False,
    mask: Array | None = None,
) -> tuple[LSTMCarry, LayerNormLSTMGates]:
    """One step from the projected input; also all that it makes on its way."""
    h, c = carry
    read = masked(lax.stop_gradient(h) if cell_path_only else h, mask)
    v = normalise(dot(read, params.recurrent_kernel))
    pre = scaled(a.value, params.scale, params.bias)
    a_i, a_f, a_g, a_o = gates_apart(pre + scaled(v.value, params.recurrent_scale), 4)
    i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)
    g = jnp.tanh(a_g)
    c = f * c + i * g
    memory = normalise(c)
    m = jnp.tanh(scaled(memory.value, params.memory_scale, params.memory_bias))
    gates = LayerNormLSTMGates(i, f, g, o, m, a, v, memory)
    return LSTMCarry((o * m).astype(h.dtype), c), gates


# The rule, with δh_t in full, δc what reaches c_t from step t+1 and from the loss, and LNᵀ the
# transpose of the normalisation at what stands behind the semicolon (see `normalise`):
#
#   δa^o = δh_t ⊙ k_o                                  k_o = m ⊙ o(1−o)
#   δn   = δh_t ⊙ k_n                                  k_n = o ⊙ (1−m²)     n = γ_c ⊙ ĉ_t + β_c
#   δc_t = δc + LNᵀ(γ_c ⊙ δn; ĉ_t)
#   δa^i = δc_t ⊙ k_i      δa^f = δc_t ⊙ k_f           k_i = g ⊙ i(1−i)     k_f = c_{t-1} ⊙ f(1−f)
#   δa^g = δc_t ⊙ k_g                                  k_g = i ⊙ (1−g²)
#   δc_{t-1} = δc_t ⊙ f
#   δv = LNᵀ(γ_h ⊙ δa; v̂)  δh_{t-1} = δv Uᵀ            δu = LNᵀ(γ_x ⊙ δa; û)     δx = δu Wᵀ
#
#   δW = Σ xᵀ δu           δU = Σ h_{t-1}ᵀ δv          δb = Σ δa
#   δγ_x = Σ δa ⊙ û        δγ_h = Σ δa ⊙ v̂             δγ_c = Σ δn ⊙ ĉ_t         δβ_c = Σ δn
#
# δh_t and δc_t are all that the sums need to know of a step: the rest follows for many at once.


class LayerNormLSTMLocal(NamedTuple):
    """The derivatives of one step that the reverse recurrence multiplies by."""

    gates: tuple[Array, Array, Array, Array]  # k of each gate, [..., H]
    into_memory: Array  # k_n [..., H]
    keep: Array  # f [..., H]
    recurrent: Normalised  # v̂ [..., 4H]
    memory: Normalised  # ĉ_t [..., H]


def linearize(
    cell: "LayerNormLSTM",
    params: LayerNormLSTMParams,
    before: LSTMCarry,
    after: LSTMCarry,
    gates: LayerNormLSTMGates,
) -> LayerNormLSTMLocal:
    """The local derivatives of the steps that lead from `before` to `after`."""
    i, f, g, o, m = gates[:5]
    of_gates = (g * i * (1 - i), before.c * f * (1 - f), i * (1 - g * g), m * o * (1 - o))
    return LayerNormLSTMLocal(of_gates, o * (1 - m * m), f, gates.recurrent, gates.memory)


def _pre_activations(local: LayerNormLSTMLocal, dh: Array, dc: Array) -> Array:
    """`δa`, stacked, from `δh_t` and `δc_t`."""
    k_i, k_f, k_g, k_o = local.gates
    return jnp.concatenate([dc * k_i, dc * k_f, dc * k_g, dh * k_o], axis=-1)


def backward(
    cell: "LayerNormLSTM",
    params: LayerNormLSTMParams,
    local: LayerNormLSTMLocal,
    dcarry: LSTMCarry,
    *,
    cell_path_only: bool = False,
    mask: Array | None = None,
) -> tuple[LSTMCarry, LSTMDelta]:
    """The reverse step, with transposed kernels: `δh_t, δc` -> `δh_{t-1}, δc_{t-1}`."""
    dh, dc = dcarry
    dn = scaled(dh * local.into_memory, params.memory_scale)
    dc = dc + normalise_transposed(dn, local.memory)
    da = _pre_activations(local, dh, dc)
    dv = normalise_transposed(scaled(da, params.recurrent_scale), local.recurrent)
    through = masked(dot(dv, params.recurrent_kernel), mask)
    dh_before = jnp.zeros_like(dh) if cell_path_only else through
    return LSTMCarry(dh_before, dc * local.keep), LSTMDelta(dh, dc)


def contract(
    cell: "LayerNormLSTM",
    params: LayerNormLSTMParams,
    xs: Array,
    before: LSTMCarry,
    after: LSTMCarry,
    gates: LayerNormLSTMGates,
    local: LayerNormLSTMLocal,
    delta: LSTMDelta,
    *,
    mask: Array | None = None,
) -> tuple[LayerNormLSTMParams, Array]:
    """The sums over time that stand above, and `δx = δu Wᵀ`."""
    da = _pre_activations(local, delta.output, delta.memory)
    dn = delta.output * local.into_memory
    du = normalise_transposed(scaled(da, params.scale), gates.inputs)
    dv = normalise_transposed(scaled(da, params.recurrent_scale), gates.recurrent)
    dparams = LayerNormLSTMParams(
        kernel=outer(xs, du),
        recurrent_kernel=outer(masked(before.h, mask), dv),
        scale=total(da * gates.inputs.value),
        recurrent_scale=total(da * gates.recurrent.value),
        memory_scale=total(dn * gates.memory.value),
        bias=total(da) if cell.use_bias else None,
        memory_bias=total(dn) if cell.use_bias else None,
    )
    return dparams, dot_transposed(du, params.kernel)


RULE = Rule(
    project, recur, linearize, backward, contract, prepare, has_cell_path=True, takes_mask=True
)
