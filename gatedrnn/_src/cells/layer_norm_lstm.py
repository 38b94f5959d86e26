"""The layer-normalised LSTM.

Axes: `*B` batch, `I` input features, `H` features (memory cells).
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Rule, StepRecord
from gatedrnn._src.cells.common import ruled_step
from gatedrnn._src.cells.lstm import LSTMCarry, LSTMDelta
from gatedrnn._src.cells.normalisation import Normalised, normalise, normalise_transposed, scaled
from gatedrnn._src.describe import documented, short_repr
from gatedrnn._src.numerics import (
    accumulator,
    dot,
    dot_transposed,
    gates_apart,
    lecun_normal,
    masked,
    orthogonal_gates,
    sigmoid,
    sum_leading,
    sum_of_outer,
    transposed,
)


@documented
class LayerNormLSTMParams(NamedTuple):
    """The parameters of a layer-normalised LSTM, gates stacked in the order `i, f, g, o`.

    Attributes:
      kernel: `W [I, 4H]`, of the input.
      recurrent_kernel: `U [H, 4H]`, of the previous output.
      scale: `γ_x [4H]`, the gain of the normalised input product.
      recurrent_scale: `γ_h [4H]`, the gain of the normalised recurrent product.
      memory_scale: `γ_c [H]`, the gain of the normalised memory.
      bias: `b [4H]`, the forget bias included; None without a bias.
      memory_bias: `β_c [H]`, the shift of the normalised memory; None without a bias.

    Example:
      >>> params = gr.LayerNormLSTM(3).init(jax.random.key(0), in_features=2)
      >>> params.kernel.shape, params.scale.shape, params.memory_scale.shape
      ((2, 12), (12,), (3,))
    """

    kernel: Array
    recurrent_kernel: Array
    scale: Array
    recurrent_scale: Array
    memory_scale: Array
    bias: Array | None
    memory_bias: Array | None


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
    """The gates of a step, each `[..., H]`, and all values that it normalises."""

    i: Array
    f: Array
    g: Array
    o: Array
    m: Array
    inputs: Normalised  # û [..., 4H]
    recurrent: Normalised  # v̂ [..., 4H]
    memory: Normalised  # ĉ_t [..., H]


def project(cell: "LayerNormLSTM", params: LayerNormLSTMParams, xs: Array) -> Normalised:
    """Return `û`, the normalised `x W` of all gates."""
    return normalise(dot(xs, params.kernel))


def prepare(
    cell: "LayerNormLSTM", params: LayerNormLSTMParams
) -> tuple[LayerNormLSTMParams, LayerNormLSTMParams]:
    """Return `params` as they are and, for the reverse steps, with every matrix transposed."""
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
    """Return the next carry and the gates, from the projected input `a`."""
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
# The sums need no more of a step than δh_t and δc_t: the rest follows for many steps at once.


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
    record: StepRecord[LSTMCarry, LayerNormLSTMGates, None],
) -> LayerNormLSTMLocal:
    """Return the local derivatives of the steps."""
    before, gates = record.before, record.gates
    i, f, g, o, m = gates[:5]
    of_gates = (g * i * (1 - i), before.c * f * (1 - f), i * (1 - g * g), m * o * (1 - o))
    return LayerNormLSTMLocal(of_gates, o * (1 - m * m), f, gates.recurrent, gates.memory)


def _pre_activations(local: LayerNormLSTMLocal, dh: Array, dc: Array) -> Array:
    """Return `δa` of all gates, stacked, from `δh_t` and `δc_t`."""
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
    """Return `δh_{t-1}, δc_{t-1}` from `δh_t, δc`, by products with the transposed kernels."""
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
    record: StepRecord[LSTMCarry, LayerNormLSTMGates, LayerNormLSTMLocal],
    delta: LSTMDelta,
    *,
    mask: Array | None = None,
) -> tuple[LayerNormLSTMParams, Array]:
    """Return the sums over time above, and `δx = δu Wᵀ`."""
    xs, before, _, gates, local = record
    da = _pre_activations(local, delta.output, delta.memory)
    dn = delta.output * local.into_memory
    du = normalise_transposed(scaled(da, params.scale), gates.inputs)
    dv = normalise_transposed(scaled(da, params.recurrent_scale), gates.recurrent)
    dparams = LayerNormLSTMParams(
        kernel=sum_of_outer(xs, du),
        recurrent_kernel=sum_of_outer(masked(before.h, mask), dv),
        scale=sum_leading(da * gates.inputs.value),
        recurrent_scale=sum_leading(da * gates.recurrent.value),
        memory_scale=sum_leading(dn * gates.memory.value),
        bias=sum_leading(da) if cell.use_bias else None,
        memory_bias=sum_leading(dn) if cell.use_bias else None,
    )
    return dparams, dot_transposed(du, params.kernel)


RULE = Rule(
    project,
    recur,
    linearize,
    backward,
    contract,
    prepare,
    has_cell_path=True,
    takes_mask=True,
    gate_names=("i", "f", "o"),
)


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNormLSTM:
    """Long short-term memory with layer normalisation (Ba et al. 2016).

    `a = LN(x W; γ_x) + LN(h U; γ_h) + b`; `i, f, o = σ(a)`, `g = tanh(a)`, `c' = f ⊙ c + i ⊙ g`,
    `h' = o ⊙ tanh(LN(c'; γ_c) + β_c)`; the output is `h'`. `LN(v; γ) = γ ⊙ (v − μ) / √(var + ε)`
    with ε = 1e-5 and, as published, mean and variance over the stacked vector of all four gates; of
    the published shifts of the two products and `b`, which are only ever added, there is one `b`.
    Statistics are in at least float32. Gate order `i, f, g, o`; no peepholes and no projection, as
    published.

    Attributes:
      features: `H`, the number of memory cells.
      forget_bias: added to the stored bias of the forget gate at `init`, never inside the step.
        None: 1.0 where there is a bias.
      use_bias: True for `b` and `β_c`.

    Raises:
      ValueError: features below 1, or a forget bias without a bias to live in.

    Example:
      >>> cell = gr.LayerNormLSTM(3)
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> carry, ys = gr.unroll(cell, params, jnp.ones((5, 4, 2), "float32"))
      >>> cell, carry.c.shape, ys.shape
      (LayerNormLSTM(3), (4, 3), (5, 4, 3))
    """

    features: int
    forget_bias: float | None = None
    use_bias: bool = True

    rule: ClassVar[Rule] = RULE
    __repr__ = short_repr

    def __post_init__(self) -> None:
        checks.sizes(self, "features")
        checks.flag("use_bias", self.use_bias)
        bias = checks.forget_bias(self.forget_bias, self.use_bias)
        object.__setattr__(self, "forget_bias", bias)

    def init(
        self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32
    ) -> LayerNormLSTMParams:
        """Return new parameters: gains 1, biases 0, but for the forget bias.

        The input kernel is LeCun normal, the recurrent kernel orthogonal, gate by gate.
        """
        key = validation.as_init_key(key, in_features, dtype)
        features = self.features
        input_key, recurrent_key = jax.random.split(key)
        bias = memory_bias = None
        if self.use_bias:
            shift = 1.0 if self.forget_bias is None else self.forget_bias
            bias = jnp.zeros(4 * features, dtype).at[features : 2 * features].set(shift)
            memory_bias = jnp.zeros(features, dtype)
        return LayerNormLSTMParams(
            kernel=lecun_normal(input_key, (in_features, 4 * features), dtype),
            recurrent_kernel=orthogonal_gates(recurrent_key, features, features, 4, dtype),
            scale=jnp.ones(4 * features, dtype),
            recurrent_scale=jnp.ones(4 * features, dtype),
            memory_scale=jnp.ones(features, dtype),
            bias=bias,
            memory_bias=memory_bias,
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> LSTMCarry:
        """Return zeros, `h [*B, H]` in `dtype` and `c [*B, H]` in at least float32."""
        return LSTMCarry(
            h=validation.zeros(batch_shape, self.features, dtype=dtype),
            c=validation.zeros(batch_shape, self.features, dtype=accumulator(dtype)),
        )

    def step(
        self, params: LayerNormLSTMParams, carry: LSTMCarry, x: Array
    ) -> tuple[LSTMCarry, Array]:
        """Return the new carry and the output `[*B, H]` of one time step, from `x [*B, I]`."""
        return ruled_step(self, params, carry, x)
