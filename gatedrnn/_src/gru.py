"""Gated recurrent units in all four published forms.

Axes: `*B` batch, `I` input features, `H` features.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.numerics import (
    affine,
    dot,
    dot_transposed,
    lecun_normal,
    orthogonal_gates,
    outer,
    squash,
    total,
)
from gatedrnn._src.rule import Rule
from gatedrnn._src.step import ruled_step


class GRUParams(NamedTuple):
    """Parameters of a GRU, gates stacked in the order `r, z, n`."""

    kernel: Array  # [I, 3H]
    recurrent_kernel: Array  # [H, 3H]
    bias: Array | None  # [3H]
    recurrent_bias: Array | None  # [H], inside the product that r gates (reset after only)


class GRUCarry(NamedTuple):
    """The state between steps: the output `h [*B, H]`."""

    h: Array


class GRUGates(NamedTuple):
    """The gates, each `[..., H]`; `u = h U_s + d_s`, None where the reset comes before."""

    r: Array
    z: Array
    n: Array
    u: Array | None


# The equations (before: Cho et al. 2014; after: its published code, cuDNN and PyTorch):
#
#   r = σ(x W_r + h U_r + b_r)      z = σ(x W_z + h U_z + b_z)      n = tanh(s)
#   before: s = x W_s + (r ⊙ h) U_s + b_s
#   after:  s = x W_s + b_s + r ⊙ u,     u = h U_s + d_s
#   writes: h' = (1−z) ⊙ h + z ⊙ n       keeps: h' = z ⊙ h + (1−z) ⊙ n


def project(cell: "GRU", params: GRUParams, xs: Array) -> Array:
    """`x W + b` of `r, z, s`, `[..., 3H]`."""
    return affine(xs, params.kernel, params.bias)


def recur(
    cell: "GRU", params: GRUParams, carry: GRUCarry, a: Array, *, cell_path_only: bool = False
) -> tuple[GRUCarry, GRUGates]:
    """One step from the projected input `a [..., 3H]`; also the gates."""
    state = carry.h.astype(a.dtype)
    h = lax.stop_gradient(carry.h) if cell_path_only else carry.h
    a_rz, a_s = jnp.split(a, [2 * cell.features], axis=-1)
    if cell.reset == "before":
        u_rz, u_s = _split(cell, params.recurrent_kernel)
        r, z = squash(a_rz + dot(h, u_rz), "ss")
        u = None
        s = a_s + dot(r * h.astype(r.dtype), u_s)
    else:
        h_rz, u = jnp.split(dot(h, params.recurrent_kernel), [2 * cell.features], axis=-1)
        if params.recurrent_bias is not None:
            u = u + params.recurrent_bias.astype(u.dtype)
        r, z = squash(a_rz + h_rz, "ss")
        s = a_s + r * u
    n = jnp.tanh(s)
    k = _kept(cell, z)
    return GRUCarry((n + k * (state - n)).astype(carry.h.dtype)), GRUGates(r, z, n, u)


def _split(cell: "GRU", kernel: Array) -> list[Array]:
    return jnp.split(kernel, [2 * cell.features], axis=-1)


def _kept(cell: "GRU", z: Array) -> Array:
    """The share of the old state, `k`."""
    return 1 - z if cell.update == "writes" else z


# The rule, with k the share of the old state, h' = k ⊙ h + (1−k) ⊙ n, and δ short for δh':
#
#   δs   = δ ⊙ k_s      k_s = (1−k) ⊙ (1−n²)
#   δa^z = δ ⊙ k_z      k_z = (h − n) ⊙ ∂k/∂a^z,   ∂k/∂a^z = −z(1−z) writes, +z(1−z) keeps
#
#   before: q    = δs U_sᵀ                       the cotangent of r ⊙ h
#           δa^r = q ⊙ k_r                       k_r = h ⊙ r(1−r)
#           δh   = δ ⊙ k + q ⊙ r + [δa^r, δa^z] U_rzᵀ
#   after:  δu   = δs ⊙ r = δ ⊙ k_s r
#           δa^r = δs ⊙ u ⊙ r(1−r) = δ ⊙ k_s u r(1−r)
#           δh   = δ ⊙ k + [δa^r, δa^z, δu] Uᵀ
#
# After the product, every gate's cotangent is a coefficient times δ, so one product is enough.


class GRULocal(NamedTuple):
    """The derivatives of one step that the reverse recurrence multiplies by, each `[..., H]`."""

    keep: Array  # k
    r: Array  # k_r; reset after: of δ itself, k_s u r(1−r)
    z: Array  # k_z
    s: Array  # k_s
    reset: Array  # r


class GRUDelta(NamedTuple):
    """Of one step, `δa = [δa^r, δa^z, δs] [..., 3H]` and `δu [..., H]` (reset after only)."""

    a: Array
    u: Array | None


def linearize(
    cell: "GRU", params: GRUParams, before: GRUCarry, after: GRUCarry, gates: GRUGates
) -> GRULocal:
    """The local derivatives of the steps that lead from `before` to `after`."""
    r, z, n, u = gates
    h = before.h.astype(n.dtype)
    k = _kept(cell, z)
    sign = -1 if cell.update == "writes" else 1
    k_s = (1 - k) * (1 - n * n)
    k_r = r * (1 - r) * (h if u is None else k_s * u)
    return GRULocal(k, k_r, sign * (h - n) * z * (1 - z), k_s, r)


def backward(
    cell: "GRU",
    params: GRUParams,
    local: GRULocal,
    dcarry: GRUCarry,
    *,
    cell_path_only: bool = False,
) -> tuple[GRUCarry, GRUDelta]:
    """The reverse step: `δh'` -> `δh` and the cotangents of the pre-activations."""
    (d,) = dcarry
    ds, da_z = d * local.s, d * local.z
    kept = d * local.keep
    if cell.reset == "before":
        u_rz, u_s = _split(cell, params.recurrent_kernel)
        q = dot_transposed(ds, u_s)
        da_rz = jnp.concatenate([q * local.r, da_z], axis=-1)
        before = kept + q * local.reset + dot_transposed(da_rz, u_rz)
        delta = GRUDelta(jnp.concatenate([da_rz, ds], axis=-1), None)
    else:
        da_rz = jnp.concatenate([d * local.r, da_z], axis=-1)
        du = ds * local.reset
        recurrent = jnp.concatenate([da_rz, du], axis=-1)
        before = kept + dot_transposed(recurrent, params.recurrent_kernel)
        delta = GRUDelta(jnp.concatenate([da_rz, ds], axis=-1), du)
    return GRUCarry(kept if cell_path_only else before), delta


def contract(
    cell: "GRU",
    params: GRUParams,
    xs: Array,
    before: GRUCarry,
    after: GRUCarry,
    gates: GRUGates,
    delta: GRUDelta,
) -> tuple[GRUParams, Array]:
    """`δW = Σ xᵀ δa`, `δU_rz = Σ hᵀ δa`, `δU_s = Σ (r ⊙ h)ᵀ δs` (before) or `Σ hᵀ δu` (after)."""
    da, du = delta
    h = before.h
    if du is None:
        da_rz, ds = _split(cell, da)
        gated = (gates.r * h.astype(gates.r.dtype)).astype(h.dtype)
        recurrent = jnp.concatenate([outer(h, da_rz), outer(gated, ds)], axis=-1)
    else:
        recurrent = outer(h, jnp.concatenate([da[..., : 2 * cell.features], du], axis=-1))
    dparams = GRUParams(
        kernel=outer(xs, da),
        recurrent_kernel=recurrent,
        bias=total(da) if cell.use_bias else None,
        recurrent_bias=total(du) if cell.use_bias and du is not None else None,
    )
    return dparams, dot_transposed(da, params.kernel)


@dataclasses.dataclass(frozen=True)
class GRU:
    """Gated recurrent unit; which of the four published forms is said, never assumed.

    `r, z = σ(x W + h U + b)`; `n = tanh(x W_n + (r ⊙ h) U_n + b_n)` where the reset comes before
    the product, `n = tanh(x W_n + b_n + r ⊙ (h U_n + d_n))` where it comes after. The update gate
    writes, `h' = (1−z) ⊙ h + z ⊙ n`, or keeps, `h' = z ⊙ h + (1−z) ⊙ n`: the same model with the
    sign of `z`'s weights flipped. Gate order `r, z, n`.

    The defaults are Cho et al. (2014) as most texts print it; PyTorch, cuDNN and Flax are
    `reset="after", update="keeps"`.

    Attributes:
      features: `H`.
      reset: `"before"` or `"after"` the recurrent product of the candidate.
      update: whether `z` is the share that is written (`"writes"`) or kept (`"keeps"`).
      use_bias: whether the gates have a bias (reset after: also `d_n` inside the product).

    Raises:
      ValueError: features below 1, or an unknown option.
    """

    features: int
    reset: str = "before"
    update: str = "writes"
    use_bias: bool = True

    rule: ClassVar[Rule] = Rule(project, recur, linearize, backward, contract, has_cell_path=True)

    def __post_init__(self) -> None:
        checks.size("features", self.features)
        checks.option("reset", self.reset, ("before", "after"))
        checks.option("update", self.update, ("writes", "keeps"))
        checks.flag("use_bias", self.use_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> GRUParams:
        """Kernels LeCun normal and orthogonal per gate, biases zero."""
        checks.size("in_features", in_features)
        checks.floating("dtype", dtype)
        features = self.features
        input_key, recurrent_key = jax.random.split(key)
        inside = self.use_bias and self.reset == "after"
        return GRUParams(
            kernel=lecun_normal(input_key, (in_features, 3 * features), dtype),
            recurrent_kernel=orthogonal_gates(recurrent_key, features, features, 3, dtype),
            bias=jnp.zeros(3 * features, dtype) if self.use_bias else None,
            recurrent_bias=jnp.zeros(features, dtype) if inside else None,
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> GRUCarry:
        """Zeros, `h [*B, H]` in `dtype`."""
        return GRUCarry(jnp.zeros((*batch_shape, self.features), dtype))

    def step(self, params: GRUParams, carry: GRUCarry, x: Array) -> tuple[GRUCarry, Array]:
        """One time step: `x [*B, I]` -> the new carry and the output `[*B, H]`."""
        return ruled_step(self, params, carry, x)
