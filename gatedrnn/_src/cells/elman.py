"""The Elman network: recurrence from the hidden state.

Axes: `*B` batch, `I` input features, `H` features.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.base import Rule
from gatedrnn._src.cells.common import ruled_step
from gatedrnn._src.numerics import (
    ACTIVATIONS,
    ActivationName,
    affine,
    dot,
    dot_transposed,
    lecun_normal,
    masked,
    orthogonal_gates,
    outer,
    total,
    transposed,
)


class ElmanParams(NamedTuple):
    """Parameters of an Elman network."""

    kernel: Array  # U [I, H]
    recurrent_kernel: Array  # W [H, H]
    bias: Array | None  # b [H]


class ElmanCarry(NamedTuple):
    """The state between steps: the output `h [*B, H]`."""

    h: Array


# The equations (Elman 1990):        a_t = x_t U + h_{t-1} W + b        h_t = f(a_t)


def project(cell: "Elman", params: ElmanParams, xs: Array) -> Array:
    """`x U + b`, `[..., H]`."""
    return affine(xs, params.kernel, params.bias)


def recur(
    cell: "Elman",
    params: ElmanParams,
    carry: ElmanCarry,
    a: Array,
    *,
    mask: Array | None = None,
) -> tuple[ElmanCarry, None]:
    """One step from the projected input `a [..., H]`; the carry tells all there is to know."""
    a = a + dot(masked(carry.h, mask), params.recurrent_kernel)
    return ElmanCarry(ACTIVATIONS[cell.activation].apply(a).astype(carry.h.dtype)), None


# The rule, with δh_t in full (the loss at t and δa_{t+1} Wᵀ):
#
#   δa_t = δh_t ⊙ f'(a_t)        δh_{t-1} = δa_t Wᵀ
#
# Every f has a derivative that its own value tells, so h_t is enough.


def prepare(cell: "Elman", params: ElmanParams) -> tuple[ElmanParams, ElmanParams]:
    """For the reverse step, every matrix transposed."""
    return params, transposed(params)


def linearize(
    cell: "Elman", params: ElmanParams, before: ElmanCarry, after: ElmanCarry, gates: None
) -> Array:
    """`f'(a_t)`, from `h_t`."""
    return ACTIVATIONS[cell.activation].slope(after.h)


def backward(
    cell: "Elman",
    params: ElmanParams,
    slope: Array,
    dcarry: ElmanCarry,
    *,
    mask: Array | None = None,
) -> tuple[ElmanCarry, Array]:
    """The reverse step: `δh_t` -> `δh_{t-1}` and `δa_t`."""
    da = dcarry.h * slope.astype(dcarry.h.dtype)
    return ElmanCarry(masked(dot(da, params.recurrent_kernel), mask)), da


def contract(
    cell: "Elman",
    params: ElmanParams,
    xs: Array,
    before: ElmanCarry,
    after: ElmanCarry,
    gates: None,
    slope: Array,
    da: Array,
    *,
    mask: Array | None = None,
) -> tuple[ElmanParams, Array]:
    """`δU = Σ xᵀ δa`, `δW = Σ h_{t-1}ᵀ δa`, `δb = Σ δa`; `δx = δa Uᵀ`."""
    dparams = ElmanParams(
        kernel=outer(xs, da),
        recurrent_kernel=outer(masked(before.h, mask), da),
        bias=total(da) if cell.use_bias else None,
    )
    return dparams, dot_transposed(da, params.kernel)


@dataclasses.dataclass(frozen=True)
class Elman:
    """The simple recurrent network of Elman (1990): `h' = f(x U + h W + b)`; the output is `h'`.

    A read-out is a `dense` layer on top.

    Attributes:
      features: `H`.
      activation: `f`: `"tanh"`, `"relu"`, `"sigmoid"` or `"identity"` (the linear network).
      use_bias: whether there is a `b`.

    Raises:
      ValueError: features below 1, or an unknown activation.
    """

    features: int
    activation: ActivationName = "tanh"
    use_bias: bool = True

    rule: ClassVar[Rule] = Rule(
        project, recur, linearize, backward, contract, prepare, takes_mask=True
    )

    def __post_init__(self) -> None:
        checks.size("features", self.features)
        checks.option("activation", self.activation, ActivationName)
        checks.flag("use_bias", self.use_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> ElmanParams:
        """Kernels LeCun normal and orthogonal, bias zero."""
        checks.size("in_features", in_features)
        checks.floating("dtype", dtype)
        input_key, recurrent_key = jax.random.split(key)
        return ElmanParams(
            kernel=lecun_normal(input_key, (in_features, self.features), dtype),
            recurrent_kernel=orthogonal_gates(
                recurrent_key, self.features, self.features, 1, dtype
            ),
            bias=jnp.zeros(self.features, dtype) if self.use_bias else None,
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> ElmanCarry:
        """Zeros, `h [*B, H]` in `dtype`."""
        return ElmanCarry(jnp.zeros((*batch_shape, self.features), dtype))

    def step(self, params: ElmanParams, carry: ElmanCarry, x: Array) -> tuple[ElmanCarry, Array]:
        """One time step: `x [*B, I]` -> the new carry and the output `[*B, H]`."""
        return ruled_step(self, params, carry, x)
