"""The Jordan network: recurrence from the previous output only.

Axes: `*B` batch, `I` input features, `H` features, `O` output features.
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
class JordanParams(NamedTuple):
    """The parameters of a Jordan network.

    Attributes:
      kernel: `U [I, H]`, of the input.
      recurrent_kernel: `W [O, H]`, of the previous output.
      bias: `b [H]`, of the hidden layer; None without a bias.
      output_kernel: `V [H, O]`, from the hidden layer to the output.
      output_bias: `c [O]`, of the output; None without a bias.

    Example:
      >>> params = gr.Jordan(3, 1).init(jax.random.key(0), in_features=2)
      >>> params.kernel.shape, params.recurrent_kernel.shape, params.output_kernel.shape
      ((2, 3), (1, 3), (3, 1))
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None
    output_kernel: Array
    output_bias: Array | None


@documented
class JordanCarry(NamedTuple):
    """The state between the steps of a Jordan network.

    Attributes:
      o: the output, `[*B, O]`.

    Example:
      >>> gr.Jordan(3, 1).carry((2,)).o.shape
      (2, 1)
    """

    o: Array


# The equations (Jordan 1986):
#
#   a_t = x_t U + o_{t-1} W + b      h_t = f(a_t)      e_t = h_t V + c      o_t = g(e_t)


def project(cell: "Jordan", params: JordanParams, xs: Array) -> Array:
    """Return `x U + b`, `[..., H]`."""
    return affine(xs, params.kernel, params.bias)


def recur(
    cell: "Jordan",
    params: JordanParams,
    carry: JordanCarry,
    a: Array,
    *,
    mask: Array | None = None,
) -> tuple[JordanCarry, Array]:
    """Return the next carry and the hidden `h_t`, from the projected input `a [..., H]`."""
    h = ACTIVATIONS[cell.activation].apply(a + dot(masked(carry.o, mask), params.recurrent_kernel))
    e = affine(h, params.output_kernel, params.output_bias)
    return JordanCarry(ACTIVATIONS[cell.output_activation].apply(e).astype(carry.o.dtype)), h


# The rule, with δo_t in full (the loss at t and δa_{t+1} Wᵀ):
#
#   δe_t = δo_t ⊙ g'(e_t)      δh_t = δe_t Vᵀ      δa_t = δh_t ⊙ f'(a_t)      δo_{t-1} = δa_t Wᵀ


class JordanLocal(NamedTuple):
    """The slopes of the two activations in one step."""

    hidden: Array  # f'(a_t) [..., H]
    output: Array  # g'(e_t) [..., O]


def prepare(cell: "Jordan", params: JordanParams) -> tuple[JordanParams, JordanParams]:
    """Return `params` as they are and, for the reverse steps, with every matrix transposed."""
    return params, transposed(params)


def linearize(
    cell: "Jordan", params: JordanParams, record: StepRecord[JordanCarry, Array, None]
) -> JordanLocal:
    """Return `f'(a_t)` and `g'(e_t)`, from `h_t` and `o_t`."""
    return JordanLocal(
        hidden=ACTIVATIONS[cell.activation].slope(record.gates),
        output=ACTIVATIONS[cell.output_activation].slope(record.after.o),
    )


def backward(
    cell: "Jordan",
    params: JordanParams,
    local: JordanLocal,
    dcarry: JordanCarry,
    *,
    mask: Array | None = None,
) -> tuple[JordanCarry, tuple[Array, Array]]:
    """Return `δo_{t-1}` and `(δa_t, δe_t)` from `δo_t`."""
    de = dcarry.o * local.output.astype(dcarry.o.dtype)
    da = dot(de, params.output_kernel) * local.hidden
    return JordanCarry(masked(dot(da, params.recurrent_kernel), mask)), (da, de)


def contract(
    cell: "Jordan",
    params: JordanParams,
    record: StepRecord[JordanCarry, Array, JordanLocal],
    delta: tuple[Array, Array],
    *,
    mask: Array | None = None,
) -> tuple[JordanParams, Array]:
    """Return `δU = Σ xᵀ δa`, `δW = Σ o_{t-1}ᵀ δa`, `δV = Σ hᵀ δe`, `δb`, `δc`; and `δx = δa Uᵀ`."""
    (xs, before, _, h, _), (da, de) = record, delta
    dparams = JordanParams(
        kernel=sum_of_outer(xs, da),
        recurrent_kernel=sum_of_outer(masked(before.o, mask), da),
        bias=sum_leading(da) if cell.use_bias else None,
        output_kernel=sum_of_outer(h.astype(xs.dtype), de),
        output_bias=sum_leading(de) if cell.use_bias else None,
    )
    return dparams, dot_transposed(da, params.kernel)


@dataclasses.dataclass(frozen=True, repr=False)
class Jordan:
    """The simple recurrent network of Jordan (1986), in which the last output is the only state.

    `h = f(x U + o W + b)`, `o' = g(h V + c)`; the output is `o'`.

    Attributes:
      features: `H`, the hidden layer.
      out_features: `O`, the output and the state.
      activation: `f`: `"tanh"`, `"relu"`, `"sigmoid"` or `"identity"`.
      output_activation: `g`, one of the same four.
      use_bias: True for `b` and `c`.

    Raises:
      ValueError: sizes below 1, or an unknown activation.

    Example:
      >>> cell = gr.Jordan(3, out_features=1)
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> carry, ys = gr.unroll(cell, params, jnp.ones((5, 4, 2), "float32"))
      >>> cell, carry.o.shape, ys.shape
      (Jordan(3, 1), (4, 1), (5, 4, 1))
    """

    features: int
    out_features: int
    activation: ActivationName = "tanh"
    output_activation: ActivationName = "identity"
    use_bias: bool = True

    rule: ClassVar[Rule] = Rule(
        project, recur, linearize, backward, contract, prepare, takes_mask=True
    )
    __repr__ = short_repr

    def __post_init__(self) -> None:
        checks.sizes(self, "features", "out_features")
        checks.option("activation", self.activation, ActivationName)
        checks.option("output_activation", self.output_activation, ActivationName)
        checks.flag("use_bias", self.use_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> JordanParams:
        """Return new parameters: kernels LeCun normal (recurrent: orthogonal), biases zero."""
        key = validation.as_init_key(key, in_features, dtype)
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
        """Return zeros, `o [*B, O]` in `dtype`."""
        return JordanCarry(validation.zeros(batch_shape, self.out_features, dtype=dtype))

    def step(self, params: JordanParams, carry: JordanCarry, x: Array) -> tuple[JordanCarry, Array]:
        """Return the new carry and the output `[*B, O]` of one time step, from `x [*B, I]`."""
        return ruled_step(self, params, carry, x)
