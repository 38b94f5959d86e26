"""Long short-term memory: peepholes, recurrent projection, coupled gates.

Axes: `*B` batch, `I` input features, `H` features (memory cells), `P` projected features,
`R` recurrent features (`P` with projection, else `H`), `n` gates (4, or 3 if coupled).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Rule, StepRecord
from gatedrnn._src.cells.common import ruled_step
from gatedrnn._src.describe import documented, short_repr
from gatedrnn._src.kernels.pallas import MEASURED
from gatedrnn._src.numerics import (
    Gates,
    accumulator,
    dot,
    dot_gates,
    dot_sum,
    dot_transposed,
    gates_apart,
    lecun_normal,
    masked,
    orthogonal_gates,
    over_leading,
    sigmoid,
    sum_leading,
    sum_of_outer,
    transposed,
)


@documented
class LSTMParams(NamedTuple):
    """The parameters of an LSTM, gates stacked in the order `i, f, g, o` (coupled: `i, g, o`).

    Attributes:
      kernel: `W [I, nH]`, of the input.
      recurrent_kernel: `W_r [R, nH]`, of the previous output.
      bias: `b [nH]`, the forget bias included; None without a bias.
      peephole: `P` of `i` and `f` (coupled: of `i`), which read the old memory: diagonal `[2H]` or
        full `[H, 2H]` (coupled: `[H]` or `[H, H]`); None without peepholes.
      output_peephole: `P` of `o`, which reads the new memory: diagonal `[H]` or full `[H, H]`; None
        without peepholes.
      projection_kernel: `R [H, P]`, of the output; None without a projection.

    Example:
      >>> params = gr.LSTM(3, peephole="diagonal").init(jax.random.key(0), in_features=2)
      >>> params.kernel.shape, params.recurrent_kernel.shape, params.peephole.shape
      ((2, 12), (3, 12), (6,))
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None
    peephole: Array | None
    output_peephole: Array | None
    projection_kernel: Array | None


@documented
class LSTMCarry(NamedTuple):
    """The state between the steps of an LSTM.

    Attributes:
      h: the output, `[*B, R]`, in the dtype of the inputs.
      c: the memory, `[*B, H]`, in at least float32.

    Example:
      >>> carry = gr.LSTM(3, projection=2).carry((4,), jnp.bfloat16)
      >>> carry.h.shape, carry.c.shape, carry.c.dtype.name
      ((4, 2), (4, 3), 'float32')
    """

    h: Array
    c: Array


class LSTMGates(NamedTuple):
    """The gates, each `[..., H]`; coupled: `f = 1 − i`."""

    i: Array
    f: Array
    g: Array
    o: Array


# The equations, with a^k = x W_k + r_{t-1} W_kr + b_k (Hochreiter & Schmidhuber 1997; forget gate:
# Gers et al. 2000; peepholes: Gers et al. 2002; projection: Sak et al. 2014; coupled: Greff et al.
# 2017):
#
#   i = σ(a^i + c_{t-1} P_i)    f = σ(a^f + c_{t-1} P_f)    g = tanh(a^g)
#   c_t = f ⊙ c_{t-1} + i ⊙ g
#   o = σ(a^o + c_t P_o)        m_t = o ⊙ tanh(c_t)         r_t = m_t R   (m_t without projection)
#
# Coupled: f = 1 − i.


def project(cell: "LSTM", params: LSTMParams, xs: Array) -> tuple[Array, ...]:
    """Return `x W` of each gate, `n` of `[..., H]`; the step adds the bias, at no cost there."""
    return dot_gates(xs, params.kernel, cell.gates)


def prepare(cell: "LSTM", params: LSTMParams) -> tuple[LSTMParams, LSTMParams]:
    """Return `params` for the steps, and the same transposed for reverse steps."""
    return _declared(cell, params, -1), _declared(cell, transposed(params), 0)


def _declared(cell: "LSTM", params: LSTMParams, axis: int) -> LSTMParams:
    """Return `params` with gates declared, those of matrices along `axis`."""
    n, bias, peephole = cell.gates, params.bias, params.peephole
    of_matrix = axis if cell.peephole == "full" else -1
    declared: dict[str, Any] = {
        "kernel": Gates(params.kernel, n, axis),
        "recurrent_kernel": Gates(params.recurrent_kernel, n, axis),
        "bias": None if bias is None else Gates(bias, n),
        "peephole": None if peephole is None else Gates(peephole, n - 2, of_matrix),
    }
    return params._replace(**declared)


def recur(
    cell: "LSTM",
    params: LSTMParams,
    carry: LSTMCarry,
    a: tuple[Array, ...],
    *,
    cell_path_only: bool = False,
    mask: Array | None = None,
) -> tuple[LSTMCarry, LSTMGates]:
    """Return the next carry and the gates, from the projected input `a` of each gate."""
    h, c = carry
    recurrent = masked(lax.stop_gradient(h) if cell_path_only else h, mask)
    pre = _add(a, dot_gates(recurrent, params.recurrent_kernel, cell.gates))
    if params.bias is not None:
        pre = _add(pre, [over_leading(b, pre[0]) for b in gates_apart(params.bias, cell.gates)])
    *reading, a_g, a_o = pre  # i and f (coupled: i) read the old memory
    if params.peephole is not None:
        reading = _add(reading, _peeped(cell, c, params.peephole, cell.gates - 2))
    i, *f_or_none = map(sigmoid, reading)
    f = 1 - i if cell.coupled else f_or_none[0]
    g = jnp.tanh(a_g)
    c = f * c + i * g
    if params.output_peephole is not None:
        (peeped,) = _peeped(cell, c, params.output_peephole, 1)
        a_o = a_o + peeped
    o = sigmoid(a_o)
    m = o * jnp.tanh(c)
    r = m if params.projection_kernel is None else dot(m, params.projection_kernel)
    return LSTMCarry(r.astype(h.dtype), c), LSTMGates(i, f, g, o)


def _add(these: Sequence[Array], those: Sequence[Array]) -> list[Array]:
    return list(map(jnp.add, these, those))


def _peeped(cell: "LSTM", c: Array, peephole: Any, gates: int) -> tuple[Array, ...]:
    """Return `c P` of each of the `gates` that read the memory `c`."""
    if cell.peephole == "full":
        return dot_gates(c, peephole, gates)
    return tuple(c * over_leading(p, c) for p in gates_apart(peephole, gates))


def _peepholes(cell: "LSTM", params: LSTMParams, kind: str) -> tuple[Any, Any] | None:
    """Return `P` of the gates that read the old memory, and of `o`; None for another `kind`."""
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
    """The derivatives of one step that the reverse recurrence multiplies by, each `[..., H]`."""

    gates: tuple[Array, ...]  # k of each gate, k_o last
    into_memory: Array  # the factor of δm in δc_t
    keep: Array  # the factor of δc_t in δc_{t-1}


class LSTMDelta(NamedTuple):
    """The cotangents kept for each step, in full, from which `contract` forms the gradients."""

    output: Array  # δr_t, [..., R]
    memory: Array  # δc_t, [..., H]


def linearize(
    cell: "LSTM", params: LSTMParams, record: StepRecord[LSTMCarry, LSTMGates, None]
) -> LSTMLocal:
    """Return the local derivatives of the steps."""
    before, after, (i, f, g, o) = record.before, record.after, record.gates
    tanh_c = jnp.tanh(after.c)
    k_o = tanh_c * o * (1 - o)
    k_g = i * (1 - g * g)
    if cell.coupled:
        reading = [(g - before.c) * i * (1 - i)]
    else:
        reading = [g * i * (1 - i), before.c * f * (1 - f)]
    into_memory = o * (1 - tanh_c * tanh_c)
    keep = f
    diagonal = _peepholes(cell, params, "diagonal")
    if diagonal is not None:
        into_memory = into_memory + k_o * over_leading(diagonal[1], k_o)
        for k, p in zip(reading, gates_apart(diagonal[0], len(reading)), strict=True):
            keep = keep + k * over_leading(p, k)
    return LSTMLocal((*reading, k_g, k_o), into_memory, keep)


def _pre_activations(local: LSTMLocal, dm: Array, dc: Array) -> tuple[Array, ...]:
    """Return `δa` of each gate, from `δm_t` and `δc_t`."""
    *others, k_o = local.gates
    return (*(dc * k for k in others), dm * k_o)


def backward(
    cell: "LSTM",
    params: LSTMParams,
    local: LSTMLocal,
    dcarry: LSTMCarry,
    *,
    cell_path_only: bool = False,
    mask: Array | None = None,
) -> tuple[LSTMCarry, LSTMDelta]:
    """Return `δr_{t-1}, δc_{t-1}` from `δr_t, δc`, by products with the transposed kernels."""
    dr, dc = dcarry
    projection = params.projection_kernel
    dm = dr if projection is None else dot(dr, projection)
    dc = dc + dm * local.into_memory
    full = _peepholes(cell, params, "full")
    if full is not None:
        dc = dc + dot(dm * local.gates[-1], full[1])
    da = _pre_activations(local, dm, dc)
    dc_before = dc * local.keep
    if full is not None:
        dc_before = dc_before + dot_sum(da[:-2], full[0])
    kernels: Any = params.recurrent_kernel
    dr_before = jnp.zeros_like(dr) if cell_path_only else masked(dot_sum(da, kernels), mask)
    return LSTMCarry(dr_before, dc_before), LSTMDelta(dr, dc)


def contract(
    cell: "LSTM",
    params: LSTMParams,
    record: StepRecord[LSTMCarry, LSTMGates, LSTMLocal],
    delta: LSTMDelta,
    *,
    mask: Array | None = None,
) -> tuple[LSTMParams, Array]:
    """Return `δW = Σ xᵀ δa`, `δW_r = Σ r_{t-1}ᵀ δa`, `δb`, `δP`, `δR = Σ mᵀ δr`; `δx = δa Wᵀ`."""
    xs, before, after, gates, local = record
    peephole = output_peephole = projection = None
    dm = delta.output
    if params.projection_kernel is not None:
        dm = dot_transposed(dm, params.projection_kernel)
        m = gates.o * jnp.tanh(after.c)
        projection = sum_of_outer(m.astype(xs.dtype), delta.output)
    of_gates = _pre_activations(local, dm, delta.memory)
    da = jnp.concatenate(of_gates, axis=-1)
    if cell.peephole == "full":
        peephole = sum_of_outer(before.c, jnp.concatenate(of_gates[:-2], axis=-1))
        output_peephole = sum_of_outer(after.c, of_gates[-1])
    elif cell.peephole == "diagonal":
        peephole = jnp.concatenate([sum_leading(before.c * of_gate) for of_gate in of_gates[:-2]])
        output_peephole = sum_leading(after.c * of_gates[-1])
    dparams = LSTMParams(
        kernel=sum_of_outer(xs, da),
        recurrent_kernel=sum_of_outer(masked(before.h, mask), da),
        bias=sum_leading(da) if cell.use_bias else None,
        peephole=peephole,
        output_peephole=output_peephole,
        projection_kernel=projection,
    )
    return dparams, dot_transposed(da, params.kernel)


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
    kernels=MEASURED,
)

Peephole = Literal["diagonal", "full"]


@dataclasses.dataclass(frozen=True, repr=False)
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
      coupled: True for a forget gate `1 − i` (Greff et al. 2017).
      forget_bias: added to the stored bias of the forget gate at `init` (coupled: subtracted from
        the bias of `i`), never inside the step. None: 1.0 where there is a bias.
      use_bias: True for gates with a bias.

    Raises:
      ValueError: sizes below 1, an unknown peephole, or a forget bias without a bias to live in.

    Example:
      >>> cell = gr.LSTM(3, peephole="diagonal")
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> carry, ys = gr.unroll(cell, params, jnp.ones((5, 4, 2), "float32"))
      >>> cell, carry.c.shape, ys.shape
      (LSTM(3, peephole='diagonal'), (4, 3), (5, 4, 3))
    """

    features: int
    peephole: Peephole | None = None
    projection: int | None = None
    coupled: bool = False
    forget_bias: float | None = None
    use_bias: bool = True

    rule: ClassVar[Rule] = RULE
    __repr__ = short_repr

    @property
    def gates(self) -> int:
        """The number `n` of gates: 4, or 3 where two are coupled."""
        return 3 if self.coupled else 4

    def __post_init__(self) -> None:
        checks.sizes(self, "features")
        checks.option("peephole", self.peephole, Peephole | None)
        if self.projection is not None:
            checks.sizes(self, "projection")
        checks.flag("coupled", self.coupled)
        checks.flag("use_bias", self.use_bias)
        forget_bias = checks.forget_bias(self.forget_bias, self.use_bias)
        object.__setattr__(self, "forget_bias", forget_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> LSTMParams:
        """Return new parameters: biases zero, but for the forget bias.

        Input kernel and projection are LeCun normal; recurrent kernels and full peepholes
        orthogonal, gate by gate; diagonal peepholes zero.
        """
        key = validation.as_init_key(key, in_features, dtype)
        features, gates = self.features, self.gates
        recurrent = self.projection or features
        keys = jax.random.split(key, 5)
        peephole = output_peephole = bias = projection = None
        if self.peephole == "diagonal":
            peephole = jnp.zeros((gates - 2) * features, dtype)
            output_peephole = jnp.zeros(features, dtype)
        elif self.peephole == "full":
            peephole = orthogonal_gates(keys[2], features, features, gates - 2, dtype)
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
        """Return zeros, `h [*B, R]` in `dtype` and `c [*B, H]` in at least float32."""
        return LSTMCarry(
            h=validation.zeros(batch_shape, self.projection or self.features, dtype=dtype),
            c=validation.zeros(batch_shape, self.features, dtype=accumulator(dtype)),
        )

    def step(self, params: LSTMParams, carry: LSTMCarry, x: Array) -> tuple[LSTMCarry, Array]:
        """Return the new carry and the output `[*B, R]` of one time step, from `x [*B, I]`."""
        return ruled_step(self, params, carry, x)
