"""Gated recurrent units in all four published forms.

Axes: `*B` batch, `I` input features, `H` features.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Rule, StepRecord
from gatedrnn._src.cells.common import ruled_step
from gatedrnn._src.describe import documented, short_repr
from gatedrnn._src.kernels.pallas import KERNELS
from gatedrnn._src.numerics import (
    Gates,
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
class GRUParams(NamedTuple):
    """The parameters of a GRU, gates stacked in the order `r, z, n`.

    Attributes:
      kernel: `W [I, 3H]`, of the input.
      recurrent_kernel: `U [H, 3H]`, of the state.
      bias: `b [3H]`, None without a bias.
      recurrent_bias: `d_n [H]`, inside the product that `r` gates; None without a bias, and where
        the reset comes before the product.

    Example:
      >>> params = gr.GRU(3, reset="after").init(jax.random.key(0), in_features=2)
      >>> params.kernel.shape, params.recurrent_kernel.shape, params.recurrent_bias.shape
      ((2, 9), (3, 9), (3,))
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None
    recurrent_bias: Array | None


@documented
class GRUCarry(NamedTuple):
    """The state between the steps of a GRU.

    Attributes:
      h: the state and output, `[*B, H]`.

    Example:
      >>> gr.GRU(3).carry((2,)).h.shape
      (2, 3)
    """

    h: Array


class GRUGates(NamedTuple):
    """The gates, each `[..., H]`; `u = h U_s + d_s`, None where the reset comes before."""

    r: Array
    z: Array
    n: Array
    u: Array | None


# The equations (before: Cho et al. 2014, which keeps, and Chung et al. 2014, which writes; after:
# cuDNN and PyTorch, which keep):
#
#   r = σ(x W_r + h U_r + b_r)      z = σ(x W_z + h U_z + b_z)      n = tanh(s)
#   before: s = x W_s + (r ⊙ h) U_s + b_s
#   after:  s = x W_s + b_s + r ⊙ u,     u = h U_s + d_s
#   writes: h' = (1−z) ⊙ h + z ⊙ n       keeps: h' = z ⊙ h + (1−z) ⊙ n


def project(cell: "GRU", params: GRUParams, xs: Array) -> tuple[Array, ...]:
    """Return `x W` of `r, z, s`, each `[..., H]`; the step adds the bias, at no cost there."""
    return dot_gates(xs, params.kernel, 3)


def prepare(cell: "GRU", params: GRUParams) -> tuple[GRUParams, GRUParams]:
    """Return `params` for the steps, and the same transposed for reverse steps."""
    return _declared(cell, params, -1), _declared(cell, transposed(params), 0)


def _declared(cell: "GRU", params: GRUParams, axis: int) -> GRUParams:
    """Return `params` with gates declared, those of matrices along `axis`.

    The recurrent kernel of `s` stands alone where its product waits for the reset gate.
    """
    recurrent: Any = Gates(params.recurrent_kernel, 3, axis)
    if cell.reset == "before":
        u_rz, u_s = _split(cell, params.recurrent_kernel, axis)
        recurrent = Gates(u_rz, 2, axis), u_s
    declared: dict[str, Any] = {
        "kernel": Gates(params.kernel, 3, axis),
        "recurrent_kernel": recurrent,
        "bias": None if params.bias is None else Gates(params.bias, 3),
    }
    return params._replace(**declared)


def recur(
    cell: "GRU",
    params: GRUParams,
    carry: GRUCarry,
    a: tuple[Array, ...],
    *,
    cell_path_only: bool = False,
    mask: Array | None = None,
) -> tuple[GRUCarry, GRUGates]:
    """Return the next carry and the gates, from the projected input `a` of each gate."""
    a_r, a_z, a_s = a
    if params.bias is not None:
        b_r, b_z, b_s = (over_leading(b, a_s) for b in gates_apart(params.bias, 3))
        a_r, a_z, a_s = a_r + b_r, a_z + b_z, a_s + b_s
    state = carry.h.astype(a_s.dtype)
    h = masked(lax.stop_gradient(carry.h) if cell_path_only else carry.h, mask)
    if cell.reset == "before":
        u_rz, u_s = _split(cell, params.recurrent_kernel)
        h_r, h_z = dot_gates(h, u_rz, 2)
        r, z = sigmoid(a_r + h_r), sigmoid(a_z + h_z)
        u = None
        s = a_s + dot(r * h.astype(r.dtype), u_s)
    else:
        h_r, h_z, u = dot_gates(h, params.recurrent_kernel, 3)
        if params.recurrent_bias is not None:
            u = u + over_leading(params.recurrent_bias, u)
        r, z = sigmoid(a_r + h_r), sigmoid(a_z + h_z)
        s = a_s + r * u
    n = jnp.tanh(s)
    k = _kept(cell, z)
    return GRUCarry((n + k * (state - n)).astype(carry.h.dtype)), GRUGates(r, z, n, u)


def _split(cell: "GRU", kernel: Any, axis: int = -1) -> Any:
    """Return the kernels of `r` and `z`, and the kernel of `s`."""
    if isinstance(kernel, tuple):
        return kernel
    return jnp.split(kernel, [2 * cell.features], axis=axis)


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
#   after:  δu   = δs ⊙ r = δ ⊙ k_u              k_u = k_s ⊙ r
#           δa^r = δs ⊙ u ⊙ r(1−r) = δ ⊙ k_r     k_r = k_s ⊙ u ⊙ r(1−r)
#           δh   = δ ⊙ k + [δa^r, δa^z, δu] Uᵀ
#
# With a mask m, the products read m ⊙ h for h: q and what comes back through U_rz and U are
# multiplied by it once more, the direct share δ ⊙ k is not.
#
# After the product every cotangent is a coefficient times δ, so one product is enough, and the sums
# over time need no more of a step than δ (with q, before).


class GRULocal(NamedTuple):
    """The derivatives of one step that the reverse recurrence multiplies by, each `[..., H]`."""

    keep: Array  # k
    r: Array  # k_r
    z: Array  # k_z
    s: Array  # k_s
    u: Array  # k_u; before: r


class GRUDelta(NamedTuple):
    """The cotangents kept for each step, from which `contract` forms the weight gradients."""

    h: Array  # δh', [..., H]
    q: Array | None  # [..., H], where the reset comes before


def linearize(
    cell: "GRU", params: GRUParams, record: StepRecord[GRUCarry, GRUGates, None]
) -> GRULocal:
    """Return the local derivatives of the steps."""
    r, z, n, u = record.gates
    h = record.before.h.astype(n.dtype)
    k = _kept(cell, z)
    sign = -1 if cell.update == "writes" else 1
    k_s = (1 - k) * (1 - n * n)
    k_z = sign * (h - n) * z * (1 - z)
    if u is None:
        return GRULocal(k, h * r * (1 - r), k_z, k_s, r)
    return GRULocal(k, k_s * u * r * (1 - r), k_z, k_s, k_s * r)


def backward(
    cell: "GRU",
    params: GRUParams,
    local: GRULocal,
    dcarry: GRUCarry,
    *,
    cell_path_only: bool = False,
    mask: Array | None = None,
) -> tuple[GRUCarry, GRUDelta]:
    """Return `δh` from `δh'`, by products with the transposed kernels."""
    (d,) = dcarry
    q, kept = None, d * local.keep
    kernels: Any = params.recurrent_kernel
    if cell.reset == "before":
        u_rz, u_s = kernels
        q = masked(dot(d * local.s, u_s), mask)
        through = q * local.u + masked(dot_sum((q * local.r, d * local.z), u_rz), mask)
    else:
        through = masked(dot_sum((d * local.r, d * local.z, d * local.u), kernels), mask)
    return GRUCarry(kept if cell_path_only else kept + through), GRUDelta(d, q)


def contract(
    cell: "GRU",
    params: GRUParams,
    record: StepRecord[GRUCarry, GRUGates, GRULocal],
    delta: GRUDelta,
    *,
    mask: Array | None = None,
) -> tuple[GRUParams, Array]:
    """Return the sums over time and `δx = δa Wᵀ`.

    `δW = Σ xᵀ δa`, `δU_rz = Σ hᵀ δa`, and `δU_s = Σ (r ⊙ h)ᵀ δs` (before) or `Σ hᵀ δu` (after).
    """
    (xs, before, _, gates, local), (d, q) = record, delta
    h = masked(before.h, mask)
    da_r, da_z, ds = (d if q is None else q) * local.r, d * local.z, d * local.s
    recurrent_bias = None
    if q is None:
        du = d * local.u
        recurrent = sum_of_outer(h, jnp.concatenate([da_r, da_z, du], axis=-1))
        recurrent_bias = sum_leading(du) if cell.use_bias else None
    else:
        gated = (gates.r * h.astype(gates.r.dtype)).astype(h.dtype)
        da_rz = jnp.concatenate([da_r, da_z], axis=-1)
        recurrent = jnp.concatenate([sum_of_outer(h, da_rz), sum_of_outer(gated, ds)], axis=-1)
    da = jnp.concatenate([da_r, da_z, ds], axis=-1)
    dparams = GRUParams(
        kernel=sum_of_outer(xs, da),
        recurrent_kernel=recurrent,
        bias=sum_leading(da) if cell.use_bias else None,
        recurrent_bias=recurrent_bias,
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
    gate_names=("r", "z"),
    kernels=KERNELS,
)

Reset = Literal["before", "after"]
Update = Literal["writes", "keeps"]


@dataclasses.dataclass(frozen=True, repr=False)
class GRU:
    """The gated recurrent unit, in any of the four published forms.

    `r, z = σ(x W + h U + b)`; `n = tanh(x W_n + (r ⊙ h) U_n + b_n)` where the reset comes before
    the product, `n = tanh(x W_n + b_n + r ⊙ (h U_n + d_n))` where it comes after. The update gate
    writes, `h' = (1−z) ⊙ h + z ⊙ n`, or keeps, `h' = z ⊙ h + (1−z) ⊙ n`: the same model with the
    sign of `z`'s weights flipped. Gate order `r, z, n`.

    The defaults are Chung et al. (2014), as most texts print it; PyTorch, cuDNN and Flax are
    `reset="after", update="keeps"`.

    Attributes:
      features: `H`.
      reset: `"before"` or `"after"` the recurrent product of the candidate.
      update: `"writes"`, if `z` is the share of the state that is written, or `"keeps"`, if `z` is
        the share that is kept.
      use_bias: True for gates with a bias (reset after: also `d_n` inside the product).

    Raises:
      ValueError: features below 1, or an unknown option.

    Example:
      >>> cell = gr.GRU(3, reset="after", update="keeps")  # as in PyTorch, cuDNN and Flax
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> carry, ys = gr.unroll(cell, params, jnp.ones((5, 4, 2), "float32"))
      >>> cell, carry.h.shape, ys.shape
      (GRU(3, reset='after', update='keeps'), (4, 3), (5, 4, 3))
    """

    features: int
    reset: Reset = "before"
    update: Update = "writes"
    use_bias: bool = True

    rule: ClassVar[Rule] = RULE
    __repr__ = short_repr

    def __post_init__(self) -> None:
        checks.sizes(self, "features")
        checks.option("reset", self.reset, Reset)
        checks.option("update", self.update, Update)
        checks.flag("use_bias", self.use_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> GRUParams:
        """Return new parameters: kernels LeCun normal, orthogonal per gate; biases zero."""
        key = validation.as_init_key(key, in_features, dtype)
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
        """Return zeros, `h [*B, H]` in `dtype`."""
        return GRUCarry(validation.zeros(batch_shape, self.features, dtype=dtype))

    def step(self, params: GRUParams, carry: GRUCarry, x: Array) -> tuple[GRUCarry, Array]:
        """Return the new carry and the output `[*B, H]` of one time step, from `x [*B, I]`."""
        return ruled_step(self, params, carry, x)
