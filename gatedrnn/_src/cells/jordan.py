"""The Jordan network: recurrence from the previous output only.

Axes: `*B` batch, `I` input features, `H` features, `O` output features.
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


class JordanParams(NamedTuple):
    """Parameters of a Jordan network."""

    kernel: Array  # U [I, H]
    recurrent_kernel: Array  # W [O, H]
    bias: Array | None  # b [H]
    output_kernel: Array  # V [H, O]
    output_bias: Array | None  # c [O]


class JordanCarry(NamedTuple):
    """The state between steps: the output `o [*B, O]`."""

    o: Array


# The equations (Jordan 1986):
#
#   a_t = x_t U + o_{t-1} W + b      h_t = f(a_t)      e_t = h_t V + c      o_t = g(e_t)


def project(cell: "Jordan", params: JordanParams, xs: Array) -> Array:
    """`x U + b`, `[..., H]`."""
    return affine(xs, params.kernel, params.bias)


def recur(
    cell: "Jordan",
    params: JordanParams,
    carry: JordanCarry,
    a: Array,
    *,
    mask: Array | None = None,
) -> tuple[JordanCarry, Array]:
    """One step from the projected input `a [..., H]`; also the hidden `h_t`."""
    h = ACTIVATIONS[cell.activation].apply(a + dot(masked(carry.o, mask), params.recurrent_kernel))
    e = affine(h, params.output_kernel, params.output_bias)
    return JordanCarry(ACTIVATIONS[cell.output_activation].apply(e).astype(carry.o.dtype)), h


# The rule, with δo_t in full (the loss at t and δa_{t+1} Wᵀ):
#
#   δe_t = δo_t ⊙ g'(e_t)      δh_t = δe_t Vᵀ      δa_t = δh_t ⊙ f'(a_t)      δo_{t-1} = δa_t Wᵀ


class JordanLocal(NamedTuple):
    """The slopes of one step: `f'(a_t) [..., H]` and `g'(e_t) [..., O]`."""

    hidden: Array
    output: Array


def prepare(cell: "Jordan", params: JordanParams) -> tuple[JordanParams, JordanParams]:
    """For the reverse step, every matrix transposed."""
    return params, transposed(params)


def linearize(
    cell: "Jordan", params: JordanParams, before: JordanCarry, after: JordanCarry, h: Array
) -> JordanLocal:
    """`f'(a_t)` and `g'(e_t)`, from `h_t` and `o_t`."""
    return JordanLocal(
        hidden=ACTIVATIONS[cell.activation].slope(h),
        output=ACTIVATIONS[cell.output_activation].slope(after.o),
    )


def backward(
    cell: "Jordan",
    params: JordanParams,
    local: JordanLocal,
    dcarry: JordanCarry,
    *,
    mask: Array | None = None,
) -> tuple[JordanCarry, tuple[Array, Array]]:
    """The reverse step: `δo_t` -> `δo_{t-1}` and `(δa_t, δe_t)`."""
    de = dcarry.o * local.output.astype(dcarry.o.dtype)
    da = dot(de, params.output_kernel) * local.hidden
    return JordanCarry(masked(dot(da, params.recurrent_kernel), mask)), (da, de)


def contract(
    cell: "Jordan",
    params: JordanParams,
    xs: Array,
    before: JordanCarry,
    after: JordanCarry,
    h: Array,
    local: JordanLocal,
    delta: tuple[Array, Array],
    *,
    mask: Array | None = None,
) -> tuple[JordanParams, Array]:
    """`δU = Σ xᵀ δa`, `δW = Σ o_{t-1}ᵀ δa`, `δV = Σ hᵀ δe`, `δb`, `δc`; `δx = δa Uᵀ`."""
    da, de = delta
    dparams = JordanParams(
        kernel=outer(xs, da),
        recurrent_kernel=outer(masked(before.o, mask), da),
        bias=total(da) if cell.use_bias else None,
        output_kernel=outer(h.astype(xs.dtype), de),
        output_bias=total(de) if cell.use_bias else None,
    )
    return dparams, dot_transposed(da, params.kernel)


@dataclasses.dataclass(frozen=True)
class Jordan:
    """The simple recurrent network of Jordan (1986), which remembers its last output only.

    `h = f(x U + o W + b)`, `o' = g(h V + c)`; the output is `o'`.

    Attributes:
      features: `H`, the hidden layer.
      out_features: `O`, the output and the state.
      activation: `f`: `"tanh"`, `"relu"`, `"sigmoid"` or `"identity"`.
      output_activation: `g`, one of the same four.
      use_bias: whether there are `b` and `c`.

    Raises:
      ValueError: sizes below 1, or an unknown activation.
    """

    features: int
    out_features: int
    activation: ActivationName = "tanh"
    output_activation: ActivationName = "identity"
    use_bias: bool = True

    rule: ClassVar[Rule] = Rule(
        project, recur, linearize, backward, contract, prepare, takes_mask=True
    )

    def __post_init__(self) -> None:
        checks.size("features", self.features)
        checks.size("out_features", self.out_features)
        checks.option("activation", self.activation, ActivationName)
        checks.option("output_activation", self.output_activation, ActivationName)
        checks.flag("use_bias", self.use_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> JordanParams:
        """Kernels LeCun normal (the recurrent one orthogonal), biases zero."""
        checks.size("in_features", in_features)
        checks.floating("dtype", dtype)
        input_key, recurrent_key, output_key = jax.random.split(key, 3)
        hidden, out = self.features, self.out_features
        return JordanParams(
            kernel=lecun_normal(input_key, (in_features, hidden), dtype),
            recurrent_kernel=orthogonal_gates(recurrent_key, out, hidden, 1, dtype),
            bias=jnp.zeros(hidden, dtype) if self.use_bias else None,
            output_kernel=lecun_normal(output_key, (hidden, out), dtype),
            output_bias=jnp.zeros(out, dtype) if self.use_bias else None,
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> JordanCarry:
        """Zeros, `o [*B, O]` in `dtype`."""
        return JordanCarry(jnp.zeros((*batch_shape, self.out_features), dtype))

    def step(self, params: JordanParams, carry: JordanCarry, x: Array) -> tuple[JordanCarry, Array]:
        """One time step: `x [*B, I]` -> the new carry and the output `[*B, O]`."""
        return ruled_step(self, params, carry, x)
