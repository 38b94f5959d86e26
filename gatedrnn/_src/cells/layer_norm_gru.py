"""The layer-normalised gated recurrent unit.

Axes: `...` any leading axes, `*B` batch, `I` input features, `H` features.
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
from gatedrnn._src.cells.gru import GRUCarry
from gatedrnn._src.cells.normalisation import Normalised, normalise, normalise_transposed, scaled
from gatedrnn._src.describe import documented, short_repr
from gatedrnn._src.numerics import (
    dot,
    dot_transposed,
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
class LayerNormGRUParams(NamedTuple):
    """The parameters of a layer-normalised GRU, gates stacked in the order `r, z, n`.

    Attributes:
      kernel: `W [I, 3H]`, of the input.
      recurrent_kernel: `U [H, 3H]`, of the state.
      scale: `γ_x [3H]`, the gain of the normalised input product.
      recurrent_scale: `γ_h [3H]`, the gain of the normalised recurrent product.
      bias: `b [3H]`, None without a bias.
      recurrent_bias: `d [H]`, inside the product that `r` gates; None without a bias.

    Example:
      >>> params = gr.LayerNormGRU(3).init(jax.random.key(0), in_features=2)
      >>> params.kernel.shape, params.scale.shape, params.recurrent_bias.shape
      ((2, 9), (9,), (3,))
    """

    kernel: Array
    recurrent_kernel: Array
    scale: Array
    recurrent_scale: Array
    bias: Array | None
    recurrent_bias: Array | None


# The equations (Ba et al. 2016, supplement, the two shifts of r and z in one b).
# û and v̂ are normalised, r and z over the stacked vector of the two, as published, n by itself:
#
#   u = x W      v = h U      a_x = γ_x ⊙ û + b      a_h = γ_h ⊙ v̂
#   r = σ(a_x^r + a_h^r)      z = σ(a_x^z + a_h^z)
#   n = tanh(a_x^n + r ⊙ p)   p = a_h^n + d
#   h' = (1−z) ⊙ h + z ⊙ n


class LayerNormGRUGates(NamedTuple):
    """The gates of a step, each `[..., H]`, and all values that it normalises."""

    r: Array
    z: Array
    n: Array
    p: Array
    inputs: Normalised  # û [..., 3, H]
    recurrent: Normalised  # v̂ [..., 3, H]


# All that is normalised is `[..., 3, H]`, a row for each gate: r and z share their statistics
# without being taken apart and joined again, which XLA cannot always compile for a GPU.


def _gates(stacked: Array) -> Array:
    """Return `[..., 3, H]` of `[..., 3H]`."""
    return stacked.reshape(*stacked.shape[:-1], 3, stacked.shape[-1] // 3)


def _stacked(gates: Array) -> Array:
    """Return `[..., 3H]` of `[..., 3, H]`."""
    return gates.reshape(*gates.shape[:-2], 3 * gates.shape[-1])


def _mean(v: Array) -> Array:
    """Return `[..., 3, 1]` of `[..., 3, H]`: for `r` and `z` their common mean, and that of `n`."""
    of_gate = jnp.mean(v, axis=-1, keepdims=True)
    of_both = jnp.mean(of_gate[..., :2, :], axis=-2, keepdims=True)
    return jnp.where(
        lax.broadcasted_iota(jnp.int32, of_gate.shape, v.ndim - 2) < 2, of_both, of_gate
    )


def project(cell: "LayerNormGRU", params: LayerNormGRUParams, xs: Array) -> Normalised:
    """Return `û`, the normalised `x W`."""
    return normalise(_gates(dot(xs, params.kernel)), _mean)


def prepare(
    cell: "LayerNormGRU", params: LayerNormGRUParams
) -> tuple[LayerNormGRUParams, LayerNormGRUParams]:
    """Return `params` as they are and, for the reverse steps, with every matrix transposed."""
    return params, transposed(params)


def recur(
    cell: "LayerNormGRU",
    params: LayerNormGRUParams,
    carry: GRUCarry,
    a: Normalised,
    *,
    cell_path_only: bool = False,
    mask: Array | None = None,
) -> tuple[GRUCarry, LayerNormGRUGates]:
    """Return the next carry and the gates, from the projected input `a`."""
    (h,) = carry
    read = masked(lax.stop_gradient(h) if cell_path_only else h, mask)
    v = normalise(_gates(dot(read, params.recurrent_kernel)), _mean)
    bias = None if params.bias is None else _gates(params.bias)
    x = scaled(a.value, _gates(params.scale), bias)
    y = scaled(v.value, _gates(params.recurrent_scale))
    r, z = (sigmoid(x[..., gate, :] + y[..., gate, :]) for gate in range(2))
    p = y[..., 2, :]
    if params.recurrent_bias is not None:
        p = p + over_leading(params.recurrent_bias, p)
    n = jnp.tanh(x[..., 2, :] + r * p)
    new = n + (1 - z) * (h.astype(n.dtype) - n)
    return GRUCarry(new.astype(h.dtype)), LayerNormGRUGates(r, z, n, p, a, v)


# The rule, with δ short for δh', and LNᵀ the transpose of the normalisation at what stands behind
# the semicolon (see `normalise`), r and z together and n by itself:
#
#   δs   = δ ⊙ k_s      k_s = z ⊙ (1−n²)              the cotangent of a_x^n
#   δa^z = δ ⊙ k_z      k_z = (n − h) ⊙ z(1−z)
#   δp   = δ ⊙ k_p      k_p = k_s ⊙ r
#   δa^r = δ ⊙ k_r      k_r = k_s ⊙ p ⊙ r(1−r)
#   δv   = LNᵀ(γ_h ⊙ [δa^r, δa^z, δp]; v̂)             δh = δ ⊙ (1−z) + δv Uᵀ
#   δu   = LNᵀ(γ_x ⊙ [δa^r, δa^z, δs]; û)             δx = δu Wᵀ
#
#   δW = Σ xᵀ δu       δγ_x = Σ [δa^r, δa^z, δs] ⊙ û       δb = Σ [δa^r, δa^z, δs]
#   δU = Σ hᵀ δv       δγ_h = Σ [δa^r, δa^z, δp] ⊙ v̂       δd = Σ δp
#
# The sums over time need no more of a step than δ: the rest follows for many steps at once.


class LayerNormGRULocal(NamedTuple):
    """The derivatives of one step that the reverse recurrence multiplies by."""

    keep: Array  # 1 − z, [..., H]
    inputs: Array  # k_r, k_z, k_s, [..., 3, H]
    recurrent: Array  # k_r, k_z, k_p, [..., 3, H]
    at: Normalised  # v̂


def linearize(
    cell: "LayerNormGRU",
    params: LayerNormGRUParams,
    record: StepRecord[GRUCarry, LayerNormGRUGates, None],
) -> LayerNormGRULocal:
    """Return the local derivatives of the steps."""
    r, z, n, p = record.gates[:4]
    k_s = z * (1 - n * n)
    k_z = (n - record.before.h.astype(n.dtype)) * z * (1 - z)
    k_r = k_s * p * r * (1 - r)
    into_inputs, into_recurrent = (jnp.stack([k_r, k_z, k], axis=-2) for k in (k_s, k_s * r))
    return LayerNormGRULocal(1 - z, into_inputs, into_recurrent, record.gates.recurrent)


def _through_norm(da: Array, scale: Array, at: Normalised) -> Array:
    """Return the cotangent of a product, `[..., 3H]`, from that of its gates, `[..., 3, H]`."""
    return _stacked(normalise_transposed(scaled(da, _gates(scale)), at, _mean))


def backward(
    cell: "LayerNormGRU",
    params: LayerNormGRUParams,
    local: LayerNormGRULocal,
    dcarry: GRUCarry,
    *,
    cell_path_only: bool = False,
    mask: Array | None = None,
) -> tuple[GRUCarry, Array]:
    """Return `δh` from `δh'`, by products with the transposed kernels."""
    (d,) = dcarry
    dv = _through_norm(local.recurrent * d[..., None, :], params.recurrent_scale, local.at)
    kept, through = d * local.keep, masked(dot(dv, params.recurrent_kernel), mask)
    return GRUCarry(kept if cell_path_only else kept + through), d


def contract(
    cell: "LayerNormGRU",
    params: LayerNormGRUParams,
    record: StepRecord[GRUCarry, LayerNormGRUGates, LayerNormGRULocal],
    d: Array,
    *,
    mask: Array | None = None,
) -> tuple[LayerNormGRUParams, Array]:
    """Return the sums over time above, and `δx = δu Wᵀ`."""
    xs, before, _, gates, local = record
    da_x, da_h = local.inputs * d[..., None, :], local.recurrent * d[..., None, :]
    du = _through_norm(da_x, params.scale, gates.inputs)
    dv = _through_norm(da_h, params.recurrent_scale, gates.recurrent)
    dparams = LayerNormGRUParams(
        kernel=sum_of_outer(xs, du),
        recurrent_kernel=sum_of_outer(masked(before.h, mask), dv),
        scale=sum_leading(_stacked(da_x * gates.inputs.value)),
        recurrent_scale=sum_leading(_stacked(da_h * gates.recurrent.value)),
        bias=sum_leading(_stacked(da_x)) if cell.use_bias else None,
        recurrent_bias=sum_leading(da_h[..., 2, :]) if cell.use_bias else None,
    )
    return dparams, dot_transposed(du, params.kernel)


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNormGRU:
    """The gated recurrent unit with layer normalisation (Ba et al. 2016).

    `r, z = σ(LN(x W; γ_x) + LN(h U; γ_h) + b)`,
    `n = tanh(LN(x W_n; γ_x) + b_n + r ⊙ (LN(h U_n; γ_h) + d))`, `h' = (1−z) ⊙ h + z ⊙ n`; the
    output is `h'`: the reset comes after the product and the update gate writes, as published.
    `LN(v; γ) = γ ⊙ (v − μ) / √(var + ε)` with ε = 1e-5; as published, mean and variance are over
    the stacked vector of `r` and `z`, and over that of `n` by itself. Statistics are in at least
    float32. Gate order `r, z, n`.

    Attributes:
      features: `H`.
      use_bias: True for `b` and `d`.

    Raises:
      ValueError: features below 1.

    Example:
      >>> cell = gr.LayerNormGRU(3)
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> carry, ys = gr.unroll(cell, params, jnp.ones((5, 4, 2), "float32"))
      >>> cell, carry.h.shape, ys.shape
      (LayerNormGRU(3), (4, 3), (5, 4, 3))
    """

    features: int
    use_bias: bool = True

    rule: ClassVar[Rule] = Rule(
        project,
        recur,
        linearize,
        backward,
        contract,
        prepare,
        has_cell_path=True,
        takes_mask=True,
        gate_names=("r", "z"),
    )
    __repr__ = short_repr

    def __post_init__(self) -> None:
        checks.sizes(self, "features")
        checks.flag("use_bias", self.use_bias)

    def init(
        self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32
    ) -> LayerNormGRUParams:
        """Return new parameters: kernels LeCun normal, orthogonal per gate; gains 1, biases 0."""
        key = validation.as_init_key(key, in_features, dtype)
        features = self.features
        input_key, recurrent_key = jax.random.split(key)
        return LayerNormGRUParams(
            kernel=lecun_normal(input_key, (in_features, 3 * features), dtype),
            recurrent_kernel=orthogonal_gates(recurrent_key, features, features, 3, dtype),
            scale=jnp.ones(3 * features, dtype),
            recurrent_scale=jnp.ones(3 * features, dtype),
            bias=jnp.zeros(3 * features, dtype) if self.use_bias else None,
            recurrent_bias=jnp.zeros(features, dtype) if self.use_bias else None,
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> GRUCarry:
        """Return zeros, `h [*B, H]` in `dtype`."""
        return GRUCarry(validation.zeros(batch_shape, self.features, dtype=dtype))

    def step(self, params: LayerNormGRUParams, carry: GRUCarry, x: Array) -> tuple[GRUCarry, Array]:
        """Return the new carry and the output `[*B, H]` of one time step, from `x [*B, I]`."""
        return ruled_step(self, params, carry, x)
