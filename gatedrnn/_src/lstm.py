"""Long short-term memory: peepholes, recurrent projection, coupled gates.

Axes: `*B` batch, `I` input features, `H` features (memory cells), `P` projected features,
`R` recurrent features (`P` with projection, else `H`), `n` gates (4, or 3 if coupled).
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.numerics import (
    accumulator,
    affine,
    dot,
    dot_transposed,
    lecun_normal,
    orthogonal_gates,
    outer,
    sigmoid,
    squash,
    total,
)
from gatedrnn._src.rule import Rule
from gatedrnn._src.step import ruled_step


class LSTMParams(NamedTuple):
    """Parameters of an LSTM, gates stacked in the order `i, f, g, o` (coupled: `i, g, o`)."""

    kernel: Array  # [I, nH]
    recurrent_kernel: Array  # [R, nH]
    bias: Array | None  # [nH]
    peephole: Array | None  # c_{t-1} into i, f (coupled: i): diagonal [2H] or full [H, 2H]
    output_peephole: Array | None  # c_t into o: diagonal [H] or full [H, H]
    projection_kernel: Array | None  # [H, P]


class LSTMCarry(NamedTuple):
    """The state between steps: the output `h [*B, R]` and the memory `c [*B, H]`."""

    h: Array
    c: Array


# The equations, with a^k = x W_k + r_{t-1} W_kr + b_k (Hochreiter & Schmidhuber 1997; forget gate:
# Gers et al. 2000; peepholes: Gers et al. 2002; projection: Sak et al. 2014; coupled: Greff et al.
# 2017):
#
#   i = σ(a^i + c_{t-1} P_i)    f = σ(a^f + c_{t-1} P_f)    g = tanh(a^g)
#   c_t = f ⊙ c_{t-1} + i ⊙ g
#   o = σ(a^o + c_t P_o)        m_t = o ⊙ tanh(c_t)         r_t = m_t R   (m_t without projection)
#
# Coupled: f = 1 − i.


def project(cell: "LSTM", params: LSTMParams, xs: Array) -> Array:
    """`x W + b` of all gates, `[..., nH]`."""
    return affine(xs, params.kernel, params.bias)


def recur(
    cell: "LSTM", params: LSTMParams, carry: LSTMCarry, a: Array, *, cell_path_only: bool = False
) -> tuple[LSTMCarry, tuple[Array, ...]]:
    """One step from the projected input `a [..., nH]`; also the gates `i, f, g, o`."""
    h, c = carry
    a = a + dot(lax.stop_gradient(h) if cell_path_only else h, params.recurrent_kernel)
    if params.peephole is not None:
        peeped, others = jnp.split(a, [_peeped_width(cell)], axis=-1)
        a = jnp.concatenate([peeped + _peep(cell, c, params.peephole), others], axis=-1)
    if cell.coupled:
        i, g, o = squash(a, "sts")
        f = 1 - i
    else:
        i, f, g, o = squash(a, "ssts")
    c = f * c + i * g
    if params.output_peephole is not None:
        a_o = a[..., -cell.features :]
        o = sigmoid(a_o + _peep(cell, c, params.output_peephole))
    m = o * jnp.tanh(c)
    r = m if params.projection_kernel is None else dot(m, params.projection_kernel)
    return LSTMCarry(r.astype(h.dtype), c), (i, f, g, o)


def _peeped_width(cell: "LSTM") -> int:
    return cell.features if cell.coupled else 2 * cell.features


def _peep(cell: "LSTM", c: Array, peephole: Array) -> Array:
    if cell.peephole == "full":
        return dot(c, peephole)
    return jnp.tile(c, len(peephole) // cell.features) * peephole.astype(c.dtype)


def _peepholes(cell: "LSTM", params: LSTMParams, kind: str) -> tuple[Array, Array] | None:
    """`P` of the gates that read the old memory and of `o`, if the peepholes are of this `kind`."""
    if cell.peephole != kind or params.peephole is None or params.output_peephole is None:
        return None
    return params.peephole, params.output_peephole


# The rule. With δr_t in full (the loss at t and δa_{t+1} W_rᵀ), and δc what reaches c_t from step
# t+1 and from the loss; c without an index is c_t:
#
#   δm   = δr_t Rᵀ                                   (δr_t without projection)
#   δa^o = δm ⊙ k_o                                  k_o = tanh(c) ⊙ o(1−o)
#   δc_t = δc + δm ⊙ o ⊙ (1−tanh²c) + δa^o P_oᵀ
#   δa^i = δc_t ⊙ k_i      δa^f = δc_t ⊙ k_f         k_i = g ⊙ i(1−i)    k_f = c_{t-1} ⊙ f(1−f)
#   δa^g = δc_t ⊙ k_g                                k_g = i ⊙ (1−g²)
#   δc_{t-1} = δc_t ⊙ f + δa^i P_iᵀ + δa^f P_fᵀ      δr_{t-1} = δa W_rᵀ
#
# Coupled: f = 1 − i moves with i, so k_i = (g − c_{t-1}) ⊙ i(1−i) and there is no a^f.
# A diagonal P acts element-wise and folds into what multiplies δm and δc_t:
#   δc_t = δc + δm ⊙ (o(1−tanh²c) + k_o p_o)         δc_{t-1} = δc_t ⊙ (f + k_i p_i + k_f p_f)


class LSTMLocal(NamedTuple):
    """The derivatives of one step that the reverse recurrence multiplies by."""

    gates: Array  # k_i, k_f, k_g, k_o stacked, [..., nH]
    into_memory: Array  # what multiplies δm on its way into δc_t, [..., H]
    keep: Array  # what multiplies δc_t on its way into δc_{t-1}, [..., H]


def linearize(
    cell: "LSTM", params: LSTMParams, before: LSTMCarry, after: LSTMCarry, gates: tuple[Array, ...]
) -> LSTMLocal:
    """The local derivatives of the steps that lead from `before` to `after`."""
    i, f, g, o = gates
    tanh_c = jnp.tanh(after.c)
    k_o = tanh_c * o * (1 - o)
    k_g = i * (1 - g * g)
    if cell.coupled:
        peeped = (g - before.c) * i * (1 - i)
    else:
        peeped = jnp.concatenate([g * i * (1 - i), before.c * f * (1 - f)], axis=-1)
    into_memory = o * (1 - tanh_c * tanh_c)
    keep = f
    diagonal = _peepholes(cell, params, "diagonal")
    if diagonal is not None:
        into_memory = into_memory + k_o * diagonal[1].astype(k_o.dtype)
        through = peeped * diagonal[0].astype(peeped.dtype)
        keep = keep + sum(jnp.split(through, through.shape[-1] // cell.features, axis=-1))
    return LSTMLocal(jnp.concatenate([peeped, k_g, k_o], axis=-1), into_memory, keep)


def backward(
    cell: "LSTM",
    params: LSTMParams,
    local: LSTMLocal,
    dcarry: LSTMCarry,
    *,
    cell_path_only: bool = False,
) -> tuple[LSTMCarry, tuple[Array, Array]]:
    """The reverse step: `δr_t, δc` -> `δr_{t-1}, δc_{t-1}` and `(δa [..., nH], δr_t)`."""
    dr, dc = dcarry
    projection = params.projection_kernel
    dm = dr if projection is None else dot_transposed(dr, projection)
    dc = dc + dm * local.into_memory
    full = _peepholes(cell, params, "full")
    if full is not None:
        dc = dc + dot_transposed(dm * local.gates[..., -cell.features :], full[1])
    gates_from_memory = local.gates.shape[-1] // cell.features - 1
    da = local.gates * jnp.concatenate([dc] * gates_from_memory + [dm], axis=-1)
    dc = dc * local.keep
    if full is not None:
        dc = dc + dot_transposed(da[..., : _peeped_width(cell)], full[0])
    before = jnp.zeros_like(dr) if cell_path_only else dot_transposed(da, params.recurrent_kernel)
    return LSTMCarry(before, dc), (da, dr)


def contract(
    cell: "LSTM",
    params: LSTMParams,
    xs: Array,
    before: LSTMCarry,
    after: LSTMCarry,
    gates: tuple[Array, ...],
    delta: tuple[Array, Array],
) -> tuple[LSTMParams, Array]:
    """`δW = Σ xᵀ δa`, `δW_r = Σ r_{t-1}ᵀ δa`, `δb`, `δP`, `δR = Σ mᵀ δr`; `δx = δa Wᵀ`."""
    da, dr = delta
    peephole = output_peephole = projection = None
    if cell.peephole is not None:
        peeped, da_o = da[..., : _peeped_width(cell)], da[..., -cell.features :]
        if cell.peephole == "full":
            peephole, output_peephole = outer(before.c, peeped), outer(after.c, da_o)
        else:
            peephole = total(jnp.tile(before.c, peeped.shape[-1] // cell.features) * peeped)
            output_peephole = total(after.c * da_o)
    if cell.projection is not None:
        m = gates[3] * jnp.tanh(after.c)
        projection = outer(m.astype(xs.dtype), dr)
    dparams = LSTMParams(
        kernel=outer(xs, da),
        recurrent_kernel=outer(before.h, da),
        bias=total(da) if cell.use_bias else None,
        peephole=peephole,
        output_peephole=output_peephole,
        projection_kernel=projection,
    )
    return dparams, dot_transposed(da, params.kernel)


@dataclasses.dataclass(frozen=True)
class LSTM:
    """Long short-term memory.

    `i, f, o = σ(x W + r W_r + c P + b)`, `g = tanh(x W_g + r W_gr + b_g)`,
    `c' = f ⊙ c + i ⊙ g`, `m = o ⊙ tanh(c')`, `r' = m R`; the output is `r'`. The peephole of `o`
    reads the new `c'`, those of `i` and `f` the old `c`. Gate order `i, f, g, o`; coupled
    (`f = 1 − i`): `i, g, o`.

    Attributes:
      features: `H`, the number of memory cells.
      peephole: None, `"diagonal"` (Gers et al. 2002) or `"full"` (a matrix per gate).
      projection: `P`, the size of the recurrent projection (Sak et al. 2014), or None.
      coupled: whether the forget gate is `1 − i` (Greff et al. 2017).
      forget_bias: added to the stored bias of the forget gate at `init` (coupled: subtracted from
        the bias of `i`), never inside the step. None: 1.0 where there is a bias.
      use_bias: whether the gates have a bias.

    Raises:
      ValueError: sizes below 1, an unknown peephole, or a forget bias without a bias to live in.
    """

    features: int
    peephole: str | None = None
    projection: int | None = None
    coupled: bool = False
    forget_bias: float | None = None
    use_bias: bool = True

    rule: ClassVar[Rule] = Rule(project, recur, linearize, backward, contract, has_cell_path=True)

    def __post_init__(self) -> None:
        checks.size("features", self.features)
        checks.option("peephole", self.peephole, (None, "diagonal", "full"))
        if self.projection is not None:
            checks.size("projection", self.projection)
        checks.flag("coupled", self.coupled)
        checks.flag("use_bias", self.use_bias)
        if self.forget_bias is not None:
            checks.number("forget_bias", self.forget_bias)
            object.__setattr__(self, "forget_bias", float(self.forget_bias))
            if not self.use_bias:
                raise ValueError(
                    f"forget_bias: got {self.forget_bias} with use_bias=False, expected None: "
                    "it is stored in the bias, and there is none"
                )

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> LSTMParams:
        """Kernels LeCun normal and orthogonal per gate, biases zero plus the forget bias.

        Diagonal peepholes start at zero, full ones orthogonal, the projection LeCun normal.
        """
        checks.size("in_features", in_features)
        checks.floating("dtype", dtype)
        features, gates = self.features, 3 if self.coupled else 4
        recurrent = self.projection or features
        keys = jax.random.split(key, 5)
        peephole = output_peephole = bias = projection = None
        if self.peephole == "diagonal":
            peephole = jnp.zeros(_peeped_width(self), dtype)
            output_peephole = jnp.zeros(features, dtype)
        elif self.peephole == "full":
            peeped = _peeped_width(self) // features
            peephole = orthogonal_gates(keys[2], features, features, peeped, dtype)
            output_peephole = orthogonal_gates(keys[3], features, features, 1, dtype)
        if self.use_bias:
            shift = 1.0 if self.forget_bias is None else self.forget_bias
            start, shift = (0, -shift) if self.coupled else (features, shift)
            bias = jnp.zeros(gates * features, dtype).at[start : start + features].set(shift)
        if self.projection is not None:
            projection = lecun_normal(keys[4], (features, self.projection), dtype)
        return LSTMParams(
            kernel=lecun_normal(keys[0], (in_features, gates * features), dtype),
            recurrent_kernel=orthogonal_gates(keys[1], recurrent, features, gates, dtype),
            bias=bias,
            peephole=peephole,
            output_peephole=output_peephole,
            projection_kernel=projection,
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> LSTMCarry:
        """Zeros: `h [*B, R]` in `dtype`, `c [*B, H]` in at least float32."""
        return LSTMCarry(
            h=jnp.zeros((*batch_shape, self.projection or self.features), dtype),
            c=jnp.zeros((*batch_shape, self.features), accumulator(dtype)),
        )

    def step(self, params: LSTMParams, carry: LSTMCarry, x: Array) -> tuple[LSTMCarry, Array]:
        """One time step: `x [*B, I]` -> the new carry and the output `[*B, R]`."""
        return ruled_step(self, params, carry, x)
