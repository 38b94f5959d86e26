"""The Tree-LSTM: binary and child-sum.

Axes: `*B` batch, `I` input features, `H` features (memory cells), `k` children that are there.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Rule, StepRecord
from gatedrnn._src.describe import documented, short_repr
from gatedrnn._src.numerics import (
    accumulator,
    affine,
    dot,
    dot_transposed,
    gates_apart,
    lecun_normal,
    orthogonal_gates,
    sigmoid,
    sum_leading,
    sum_of_outer,
    transposed,
)
from gatedrnn._src.trees.common import child_by_child, padded_to, ruled_compose, side_by_side


@documented
class TreeLSTMParams(NamedTuple):
    """The parameters of a Tree-LSTM, gates stacked in the order `i, f, g, o`.

    Attributes:
      kernel: `W [I, 4H]`, of the input.
      recurrent_kernel: `U` of the children. Binary: `[2H, 5H]`, the matrix of the left child above
        that of the right, with a forget gate for each child, `i, f_1, f_2, g, o`. Child-sum:
        `[H, 4H]`.
      bias: `b [4H]`, the forget bias included; None without a bias.

    Example:
      >>> params = gr.TreeLSTM(3).init(jax.random.key(0), in_features=2)
      >>> params.kernel.shape, params.recurrent_kernel.shape, params.bias.shape
      ((2, 12), (6, 15), (12,))
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None


@documented
class TreeLSTMState(NamedTuple):
    """The state of a node of a Tree-LSTM.

    Attributes:
      h: the output, `[*B, H]`, in the dtype of the inputs.
      c: the memory, `[*B, H]`, in at least float32.

    Example:
      >>> state = gr.TreeLSTM(3).state((4,), jnp.bfloat16)
      >>> state.h.shape, state.c.shape, state.c.dtype.name
      ((4, 3), (4, 3), 'float32')
    """

    h: Array
    c: Array


class TreeLSTMGates(NamedTuple):
    """A value for each gate, `[..., H]`; for the forget gates of `k` children `[..., k, H]`."""

    i: Array
    f: Array
    g: Array
    o: Array


# The equations (Tai et al. 2015), with a = x_p W + b, of which every child's forget gate reads the
# same part a^f, and (h_k, c_k) the children of p:
#
#   binary (eq. 9–14)                                    child-sum (eq. 2–8), h̃ = Σ_k h_k
#   i   = σ(a^i + [h_1, h_2] U_i)                        i   = σ(a^i + h̃ U_i)
#   f_k = σ(a^f + [h_1, h_2] U_fk)                       f_k = σ(a^f + h_k U_f)
#   g   = tanh(a^g + [h_1, h_2] U_g)                     g   = tanh(a^g + h̃ U_g)
#   o   = σ(a^o + [h_1, h_2] U_o)                        o   = σ(a^o + h̃ U_o)
#
#   c_p = i ⊙ g + Σ_k f_k ⊙ c_k        h_p = o ⊙ tanh(c_p)


def project(cell: "TreeLSTM", params: TreeLSTMParams, xs: Array) -> Array:
    """Return `x W + b`, `[..., 4H]`."""
    return affine(xs, params.kernel, params.bias)


def prepare(cell: "TreeLSTM", params: TreeLSTMParams) -> tuple[TreeLSTMParams, TreeLSTMParams]:
    """Return `params` with the parts of the recurrent kernel, and the same transposed."""
    forward = params._replace(recurrent_kernel=_recurrent(cell, params.recurrent_kernel))
    return forward, transposed(forward)


def _recurrent(cell: "TreeLSTM", kernel: Any) -> Any:
    """Return the recurrent kernel; child-sum: `U_i, U_g, U_o` side by side, and `U_f`."""
    if cell.kind == "binary" or isinstance(kernel, tuple):
        return kernel
    i, f, g, o = gates_apart(kernel, 4)
    return jnp.concatenate([i, g, o], axis=-1), f


def recur(
    cell: "TreeLSTM", params: TreeLSTMParams, children: TreeLSTMState, a: Array
) -> tuple[TreeLSTMState, TreeLSTMGates]:
    """Return the states and gates of nodes, from the projected input `a [..., 4H]`."""
    a_i, a_f, a_g, a_o = gates_apart(a, 4)
    of_children = _of_children(cell, params, children.h)
    i, o = sigmoid(a_i + of_children.i), sigmoid(a_o + of_children.o)
    f = sigmoid(a_f[..., None, :] + of_children.f)
    g = jnp.tanh(a_g + of_children.g)
    c = i * g + jnp.sum(f * children.c, axis=-2)
    h = o * jnp.tanh(c)
    return TreeLSTMState(h.astype(children.h.dtype), c), TreeLSTMGates(i, f, g, o)


def _of_children(cell: "TreeLSTM", params: TreeLSTMParams, h: Array) -> TreeLSTMGates:
    """Return the part of each pre-activation that comes from the children, `h [..., k, H]`."""
    kernel = _recurrent(cell, params.recurrent_kernel)
    if cell.kind == "child_sum":
        i, g, o = gates_apart(dot(_summed(h), kernel[0]), 3)
        return TreeLSTMGates(i, dot(h, kernel[1]), g, o)
    joined = side_by_side(h)
    i, f_1, f_2, g, o = gates_apart(dot(joined, kernel[: joined.shape[-1]]), 5)
    return TreeLSTMGates(i, jnp.stack([f_1, f_2], axis=-2)[..., : h.shape[-2], :], g, o)


def _summed(h: Array) -> Array:
    """Return `h̃`, `[..., k, H] -> [..., H]`, in at least float32."""
    return jnp.sum(h, axis=-2, dtype=accumulator(h.dtype))


# The rule. With δh_p and δc in full (the loss at p and what its parent left for it); c is c_p:
#
#   δa^o = δh_p ⊙ k_o                                    k_o = tanh(c) ⊙ o(1−o)
#   δc_p = δc + δh_p ⊙ o ⊙ (1−tanh²c)
#   δa^i = δc_p ⊙ k_i      δa^g = δc_p ⊙ k_g             k_i = g ⊙ i(1−i)      k_g = i ⊙ (1−g²)
#   δa^fk = δc_p ⊙ k_fk                                  k_fk = c_k ⊙ f_k(1−f_k)
#   δc_k = δc_p ⊙ f_k
#   binary:     [δh_1, δh_2] = Σ_γ δa^γ U_γᵀ             γ = i, f_1, f_2, g, o
#   child-sum:  δh_k = δh̃ + δa^fk U_fᵀ                  δh̃ = Σ_γ δa^γ U_γᵀ,  γ = i, g, o
#
# a^f is read by every child's forget gate: what reaches it is Σ_k δa^fk.


class TreeLSTMLocal(NamedTuple):
    """The derivatives of nodes that the reverse steps multiply by."""

    gates: TreeLSTMGates  # k of each gate
    into_memory: Array  # the factor of δh_p in δc_p, [..., H]
    keep: Array  # f_k, the factor of δc_p in δc_k, [..., k, H]


def linearize(
    cell: "TreeLSTM",
    params: TreeLSTMParams,
    record: StepRecord[TreeLSTMState, TreeLSTMGates, None],
) -> TreeLSTMLocal:
    """Return the local derivatives of the nodes."""
    children, (i, f, g, o) = record.before, record.gates
    tanh_c = jnp.tanh(record.after.c)
    k = TreeLSTMGates(
        i=g * i * (1 - i),
        f=children.c * f * (1 - f),
        g=i * (1 - g * g),
        o=tanh_c * o * (1 - o),
    )
    return TreeLSTMLocal(k, o * (1 - tanh_c * tanh_c), f)


def _pre_activations(local: TreeLSTMLocal, dstate: TreeLSTMState) -> TreeLSTMGates:
    """Return `δa` of each gate, from `δh_p` and `δc_p`."""
    (dh, dc), k = dstate, local.gates
    return TreeLSTMGates(dc * k.i, dc[..., None, :] * k.f, dc * k.g, dh * k.o)


def backward(
    cell: "TreeLSTM", params: TreeLSTMParams, local: TreeLSTMLocal, dstate: TreeLSTMState
) -> tuple[TreeLSTMState, TreeLSTMState]:
    """Return `δh_k, δc_k` and `δh_p, δc_p` from `δh_p, δc`, by the transposed kernels."""
    dh, dc = dstate
    full = TreeLSTMState(dh, dc + dh * local.into_memory)
    da = _pre_activations(local, full)
    kernel: Any = params.recurrent_kernel
    if cell.kind == "child_sum":
        of_sum = dot(jnp.concatenate([da.i, da.g, da.o], axis=-1), kernel[0])
        dchildren = of_sum[..., None, :] + dot(da.f, kernel[1])
    else:
        dchildren = child_by_child(dot(_stacked(da), kernel), cell.features)
        dchildren = dchildren[..., : da.f.shape[-2], :]
    return TreeLSTMState(dchildren, full.c[..., None, :] * local.keep), full


def _stacked(da: TreeLSTMGates) -> Array:
    """Return `i, f_1, f_2, g, o` of a binary Tree-LSTM, `[..., 5H]`, zeros for an absent child."""
    f = side_by_side(padded_to(da.f, 2, axis=-2))
    return jnp.concatenate([da.i, f, da.g, da.o], axis=-1)


def contract(
    cell: "TreeLSTM",
    params: TreeLSTMParams,
    record: StepRecord[TreeLSTMState, TreeLSTMGates, TreeLSTMLocal],
    dstate: TreeLSTMState,
) -> tuple[TreeLSTMParams, Array]:
    """Return `δW = Σ xᵀ δa`, `δb = Σ δa`, `δU = Σ [h_1, h_2]ᵀ δa`; and `δx = δa Wᵀ`.

    Child-sum: `δU = Σ h̃ᵀ δa` for `i, g, o`, `δU_f = Σ Σ_k h_kᵀ δa^fk`.
    """
    da = _pre_activations(record.local, dstate)
    h = record.before.h
    if cell.kind == "child_sum":
        of_sum = sum_of_outer(
            _summed(h).astype(h.dtype), jnp.concatenate([da.i, da.g, da.o], axis=-1)
        )
        i, g, o = gates_apart(of_sum, 3)
        recurrent = jnp.concatenate([i, sum_of_outer(h, da.f), g, o], axis=-1)
    else:
        of_children = sum_of_outer(side_by_side(h), _stacked(da))
        recurrent = padded_to(of_children, len(params.recurrent_kernel), axis=0)
    da_x = jnp.concatenate([da.i, jnp.sum(da.f, axis=-2), da.g, da.o], axis=-1)
    dparams = TreeLSTMParams(
        kernel=sum_of_outer(record.xs, da_x),
        recurrent_kernel=recurrent,
        bias=sum_leading(da_x) if cell.use_bias else None,
    )
    return dparams, dot_transposed(da_x, params.kernel)


RULE = Rule(project, recur, linearize, backward, contract, prepare)

Kind = Literal["binary", "child_sum"]


@dataclasses.dataclass(frozen=True, repr=False)
class TreeLSTM:
    """The Tree-LSTM of Tai et al. (2015): a forget gate for each child.

    `c_p = i ⊙ g + Σ_k f_k ⊙ c_k`, `h_p = o ⊙ tanh(c_p)`. Binary (eq. 9–14): every gate reads `x_p`
    and the `h` of both children, each through a matrix of its own; a child that is absent has zero
    states. Child-sum (eq. 2–8): `i, g, o` read `x_p` and `Σ_k h_k`, and `f_k` reads `x_p` and
    `h_k`; with one child the cell is `gr.LSTM`, parameter for parameter. The forget gates share
    the matrix for `x_p` and the bias. Gate order `i, f, g, o`; the paper's `u` is `g`.

    Attributes:
      features: `H`, the number of memory cells.
      kind: `"binary"`, at most two children, left and right, or `"child_sum"`, any number, in no
        order.
      forget_bias: added to the stored bias of the forget gates at `init`, never inside the step.
        None: 1.0 where there is a bias.
      use_bias: True for gates with a bias.

    Raises:
      ValueError: features below 1, an unknown kind, or a forget bias without a bias to live in.

    Example:
      >>> cell, forest = gr.TreeLSTM(3, "child_sum"), gr.forest([(0, 1, 2), (0, 1)])
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> roots, states = gr.fold_tree(cell, params, jnp.ones((7, 2), "float32"), forest)
      >>> cell, roots.h.shape, states.h.shape
      (TreeLSTM(3, kind='child_sum'), (2, 3), (7, 3))
    """

    features: int
    kind: Kind = "binary"
    forget_bias: float | None = None
    use_bias: bool = True

    rule: ClassVar[Rule] = RULE
    __repr__ = short_repr

    @property
    def children(self) -> int | None:
        """The number of places for children: 2, or None for any number."""
        return 2 if self.kind == "binary" else None

    def __post_init__(self) -> None:
        checks.sizes(self, "features")
        checks.option("kind", self.kind, Kind)
        checks.flag("use_bias", self.use_bias)
        forget_bias = checks.forget_bias(self.forget_bias, self.use_bias)
        object.__setattr__(self, "forget_bias", forget_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> TreeLSTMParams:
        """Return new parameters: biases zero, but for the forget bias.

        The input kernel is LeCun normal, the recurrent kernel (semi-)orthogonal, gate by gate.
        """
        key = validation.as_init_key(key, in_features, dtype)
        features = self.features
        input_key, recurrent_key = jax.random.split(key)
        rows, gates = (2 * features, 5) if self.kind == "binary" else (features, 4)
        bias = None
        if self.use_bias:
            shift = 1.0 if self.forget_bias is None else self.forget_bias
            bias = jnp.zeros(4 * features, dtype).at[features : 2 * features].set(shift)
        return TreeLSTMParams(
            kernel=lecun_normal(input_key, (in_features, 4 * features), dtype),
            recurrent_kernel=orthogonal_gates(recurrent_key, rows, features, gates, dtype),
            bias=bias,
        )

    def state(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> TreeLSTMState:
        """Return zeros, for an absent child: `h [*B, H]` in `dtype`, `c` in at least float32."""
        return TreeLSTMState(
            h=validation.zeros(batch_shape, self.features, dtype=dtype),
            c=validation.zeros(batch_shape, self.features, dtype=accumulator(dtype)),
        )

    def compose(self, params: TreeLSTMParams, children: TreeLSTMState, x: Array) -> TreeLSTMState:
        """Return the state `[*B, H]` of a node, from children `[*B, k, H]` and `x [*B, I]`."""
        return ruled_compose(self, params, children, x)
