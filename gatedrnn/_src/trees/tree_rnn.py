"""The simple recursive network: a matrix for each place that a child can have.

Axes: `*B` batch, `...` any leading axes, `I` input features, `H` features, `K` places for children,
`k` children that are there (up to `K`; 0 at leaves).
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Rule, StepRecord
from gatedrnn._src.describe import documented, short_repr
from gatedrnn._src.numerics import (
    ACTIVATIONS,
    ActivationName,
    affine,
    dot,
    dot_transposed,
    lecun_normal,
    orthogonal_gates,
    sum_leading,
    sum_of_outer,
    transposed,
)
from gatedrnn._src.trees.common import child_by_child, padded_to, ruled_compose, side_by_side


@documented
class TreeRNNParams(NamedTuple):
    """The parameters of a simple recursive network.

    Attributes:
      kernel: `U [I, H]`, of the input.
      recurrent_kernel: `W [K H, H]`, the `W_k` of each place, one above the other.
      bias: `b [H]`, None without a bias.

    Example:
      >>> params = gr.TreeRNN(3).init(jax.random.key(0), in_features=2)
      >>> params.kernel.shape, params.recurrent_kernel.shape, params.bias.shape
      ((2, 3), (6, 3), (3,))
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None


@documented
class TreeRNNState(NamedTuple):
    """The state of a node of a simple recursive network.

    Attributes:
      h: the hidden state, `[*B, H]`.

    Example:
      >>> gr.TreeRNN(3).state((4,)).h.shape
      (4, 3)
    """

    h: Array


# The equations (Goller & Kuchler 1996; Socher et al. 2011), h_k the children of p, W the W_k one
# above the other, so that Σ_k h_k W_k = [h_1, …, h_K] W:
#
#   a_p = x_p U + Σ_k h_k W_k + b        h_p = f(a_p)


def project(cell: "TreeRNN", params: TreeRNNParams, xs: Array) -> Array:
    """Return `x U + b`, `[..., H]`."""
    return affine(xs, params.kernel, params.bias)


def recur(
    cell: "TreeRNN", params: TreeRNNParams, children: TreeRNNState, a: Array
) -> tuple[TreeRNNState, None]:
    """Return the states of nodes from the projected input `a [..., H]`; no gates."""
    h = side_by_side(children.h)
    a = a + dot(h, params.recurrent_kernel[: h.shape[-1]])
    return TreeRNNState(ACTIVATIONS[cell.activation].apply(a).astype(children.h.dtype)), None


# The rule, with δh_p in full (the loss at p and what its parent left for it):
#
#   δa_p = δh_p ⊙ f'(a_p)        [δh_1, …, δh_K] = δa_p Wᵀ
#
# The derivative of every f follows from its value, so h_p is enough.


def prepare(cell: "TreeRNN", params: TreeRNNParams) -> tuple[TreeRNNParams, TreeRNNParams]:
    """Return `params` as they are and, for the reverse steps, with every matrix transposed."""
    return params, transposed(params)


def linearize(
    cell: "TreeRNN", params: TreeRNNParams, record: StepRecord[TreeRNNState, None, None]
) -> Array:
    """Return `f'(a_p)`, from `h_p`."""
    return ACTIVATIONS[cell.activation].slope(record.after.h)


def backward(
    cell: "TreeRNN", params: TreeRNNParams, slope: Array, dstate: TreeRNNState
) -> tuple[TreeRNNState, Array]:
    """Return `δh_k` of each place and `δa_p`, from `δh_p`."""
    da = dstate.h * slope.astype(dstate.h.dtype)
    return TreeRNNState(child_by_child(dot(da, params.recurrent_kernel), cell.features)), da


def contract(
    cell: "TreeRNN",
    params: TreeRNNParams,
    record: StepRecord[TreeRNNState, None, Array],
    da: Array,
) -> tuple[TreeRNNParams, Array]:
    """Return `δU = Σ xᵀ δa`, `δW_k = Σ h_kᵀ δa` and `δb = Σ δa`; and `δx = δa Uᵀ`."""
    of_children = sum_of_outer(side_by_side(record.before.h), da)
    dparams = TreeRNNParams(
        kernel=sum_of_outer(record.xs, da),
        recurrent_kernel=padded_to(of_children, len(params.recurrent_kernel), axis=0),
        bias=sum_leading(da) if cell.use_bias else None,
    )
    return dparams, dot_transposed(da, params.kernel)


@dataclasses.dataclass(frozen=True, repr=False)
class TreeRNN:
    """The simple recursive network: `h_p = f(x_p U + Σ_k h_k W_k + b)`.

    Goller & Kuchler 1996; Socher et al. 2011. There is one `W_k` for each place a child can have
    (binary: left and right); a place without a child adds nothing. With one place and a chain for a
    tree it is `gr.Elman`, parameter for parameter.

    Attributes:
      features: `H`.
      children: `K`, the places of a node.
      activation: `f`: `"tanh"`, `"relu"`, `"sigmoid"` or `"identity"`.
      use_bias: True for a `b`.

    Raises:
      ValueError: features or children below 1, or an unknown activation.

    Example:
      >>> cell, forest = gr.TreeRNN(3), gr.forest([((0, 1), 2), (0, 1)])
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> roots, states = gr.fold_tree(cell, params, jnp.ones((8, 2), "float32"), forest)
      >>> cell, roots.h.shape, states.h.shape
      (TreeRNN(3), (2, 3), (8, 3))
    """

    features: int
    children: int = 2
    activation: ActivationName = "tanh"
    use_bias: bool = True

    rule: ClassVar[Rule] = Rule(project, recur, linearize, backward, contract, prepare)
    __repr__ = short_repr

    def __post_init__(self) -> None:
        checks.sizes(self, "features", "children")
        checks.option("activation", self.activation, ActivationName)
        checks.flag("use_bias", self.use_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> TreeRNNParams:
        """Return new parameters: input kernel LeCun normal, bias zero.

        The `W_k` together are one semi-orthogonal matrix, so that with several children, too,
        states keep their size.
        """
        key = validation.as_init_key(key, in_features, dtype)
        input_key, recurrent_key = jax.random.split(key)
        rows = self.children * self.features
        return TreeRNNParams(
            kernel=lecun_normal(input_key, (in_features, self.features), dtype),
            recurrent_kernel=orthogonal_gates(recurrent_key, rows, self.features, 1, dtype),
            bias=jnp.zeros(self.features, dtype) if self.use_bias else None,
        )

    def state(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> TreeRNNState:
        """Return zeros, `h [*B, H]` in `dtype`: the state of a child that is absent."""
        return TreeRNNState(validation.zeros(batch_shape, self.features, dtype=dtype))

    def compose(self, params: TreeRNNParams, children: TreeRNNState, x: Array) -> TreeRNNState:
        """Return the state `[*B, H]` of a node, from children `[*B, k, H]` and `x [*B, I]`."""
        return ruled_compose(self, params, children, x)
