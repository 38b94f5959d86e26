"""The Elman network: recurrence from the hidden state.

Axes: `*B` batch, `I` input features, `H` features.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Rule, StepRecord
from gatedrnn._src.cells.common import ruled_step
from gatedrnn._src.describe import documented, short_repr
from gatedrnn._src.kernels.pallas import KERNELS
from gatedrnn._src.numerics import (
    ACTIVATIONS,
    ActivationName,
    affine,
    dot,
    dot_transposed,
    lecun_normal,
    masked,
    orthogonal_gates,
    sum_leading,
    sum_of_outer,
    transposed,
)


@documented
class ElmanParams(NamedTuple):
    """The parameters of an Elman network.

    Attributes:
      kernel: `U [I, H]`, of the input.
      recurrent_kernel: `W [H, H]`, of the hidden state.
      bias: `b [H]`, None without a bias.

    Example:
      >>> params = gr.Elman(3).init(jax.random.key(0), in_features=2)
      >>> params.kernel.shape, params.recurrent_kernel.shape, params.bias.shape
      ((2, 3), (3, 3), (3,))
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None


@documented
class ElmanCarry(NamedTuple):
    """The state between the steps of an Elman network.

    Attributes:
      h: the hidden state and output, `[*B, H]`.

    Example:
      >>> gr.Elman(3).carry((2,)).h.shape
      (2, 3)
    """

    h: Array


# The equations (Elman 1990):        a_t = x_t U + h_{t-1} W + b        h_t = f(a_t)


def project(cell: "Elman", params: ElmanParams, xs: Array) -> Array:
    """Return `x U + b`, `[..., H]`."""
    return affine(xs, params.kernel, params.bias)


def recur(
    cell: "Elman",
    params: ElmanParams,
    carry: ElmanCarry,
    a: Array,
    *,
    mask: Array | None = None,
) -> tuple[ElmanCarry, None]:
    """Return the next carry from the projected input `a [..., H]`; no gates."""
    a = a + dot(masked(carry.h, mask), params.recurrent_kernel)
    return ElmanCarry(ACTIVATIONS[cell.activation].apply(a).astype(carry.h.dtype)), None


# The rule, with δh_t in full (the loss at t and δa_{t+1} Wᵀ):
#
#   δa_t = δh_t ⊙ f'(a_t)        δh_{t-1} = δa_t Wᵀ
#
# The derivative of every f follows from its value, so h_t is enough.


def prepare(cell: "Elman", params: ElmanParams) -> tuple[ElmanParams, ElmanParams]:
    """Return `params` as they are and, for the reverse steps, with every matrix transposed."""
    return params, transposed(params)


def linearize(
    cell: "Elman", params: ElmanParams, record: StepRecord[ElmanCarry, None, None]
) -> Array:
    """Return `f'(a_t)`, from `h_t`."""
    return ACTIVATIONS[cell.activation].slope(record.after.h)


def backward(
    cell: "Elman",
    params: ElmanParams,
    slope: Array,
    dcarry: ElmanCarry,
    *,
    mask: Array | None = None,
) -> tuple[ElmanCarry, Array]:
    """Return `δh_{t-1}` and `δa_t` from `δh_t`."""
    da = dcarry.h * slope.astype(dcarry.h.dtype)
    return ElmanCarry(masked(dot(da, params.recurrent_kernel), mask)), da


def contract(
    cell: "Elman",
    params: ElmanParams,
    record: StepRecord[ElmanCarry, None, Array],
    da: Array,
    *,
    mask: Array | None = None,
) -> tuple[ElmanParams, Array]:
    """Return `δU = Σ xᵀ δa`, `δW = Σ h_{t-1}ᵀ δa` and `δb = Σ δa`; and `δx = δa Uᵀ`."""
    dparams = ElmanParams(
        kernel=sum_of_outer(record.xs, da),
        recurrent_kernel=sum_of_outer(masked(record.before.h, mask), da),
        bias=sum_leading(da) if cell.use_bias else None,
    )
    return dparams, dot_transposed(da, params.kernel)


@dataclasses.dataclass(frozen=True, repr=False)
class Elman:
    """The simple recurrent network of Elman (1990): `h' = f(x U + h W + b)`; the output is `h'`.

    A read-out is a `gr.dense` layer on top.

    Attributes:
      features: `H`.
      activation: `f`: `"tanh"`, `"relu"`, `"sigmoid"` or `"identity"` (the linear network).
      use_bias: True for a `b`.

    Raises:
      ValueError: features below 1, or an unknown activation.

    Example:
      >>> cell = gr.Elman(3, activation="relu")
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> carry, ys = gr.unroll(cell, params, jnp.ones((5, 4, 2), "float32"))
      >>> cell, carry.h.shape, ys.shape
      (Elman(3, activation='relu'), (4, 3), (5, 4, 3))
    """

    features: int
    activation: ActivationName = "tanh"
    use_bias: bool = True

    rule: ClassVar[Rule] = Rule(
        project,
        recur,
        linearize,
        backward,
        contract,
        prepare,
        takes_mask=True,
        kernels=KERNELS,
    )
    __repr__ = short_repr

    def __post_init__(self) -> None:
        checks.sizes(self, "features")
        checks.option("activation", self.activation, ActivationName)
        checks.flag("use_bias", self.use_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> ElmanParams:
        """Return new parameters: kernels LeCun normal and orthogonal, bias zero."""
        key = validation.as_init_key(key, in_features, dtype)
        input_key, recurrent_key = jax.random.split(key)
        return ElmanParams(
            kernel=lecun_normal(input_key, (in_features, self.features), dtype),
            recurrent_kernel=orthogonal_gates(
                recurrent_key, self.features, self.features, 1, dtype
            ),
            bias=jnp.zeros(self.features, dtype) if self.use_bias else None,
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> ElmanCarry:
        """Return zeros, `h [*B, H]` in `dtype`."""
        return ElmanCarry(validation.zeros(batch_shape, self.features, dtype=dtype))

    def step(self, params: ElmanParams, carry: ElmanCarry, x: Array) -> tuple[ElmanCarry, Array]:
        """Return the new carry and the output `[*B, H]` of one time step, from `x [*B, I]`."""
        return ruled_step(self, params, carry, x)
