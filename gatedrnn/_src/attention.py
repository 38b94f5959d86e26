"""A cell that looks back at an encoded sequence at every step: additive attention.

Axes: `T` time, `S` positions, `*B` any batch axes, `I` inputs, `F` outputs of the inner cell, `M`
memory features, `Q` query features, `A` attention features.
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, inputs
from gatedrnn._src.attention_rule import (
    RULE,
    AttentionCarry,
    AttentionParams,
    check_memory,
    look,
)
from gatedrnn._src.drawing import draws
from gatedrnn._src.memory import Memory
from gatedrnn._src.numerics import dot, lecun_normal
from gatedrnn._src.rule import Carry, Cell, Params, Rule, RuledCell, nested, rule_of
from gatedrnn._src.step import ruled_step
from gatedrnn._src.trees import first_leaf


@dataclasses.dataclass(frozen=True)
class Attention:
    """A cell that reads its input beside what it attends to (Bahdanau, Cho & Bengio 2015).

    `e_ts = v · tanh(m_s W_m + s_{t-1} W_q)`, `α_t = softmax_s e_ts` over the valid positions,
    `m̂_t = Σ_s α_ts m_s`; the inner cell reads `[x_t, m̂_t]`, and the output is `[y_t, m̂_t]`, for a
    read-out that sees both. The query `s_{t-1}` is the first leaf of the inner cell's carry: `h` of
    every shipped cell, `o` of a Jordan network. Where no position is valid, `m̂_t` is zero.

    The memory is bound to the parameters by `gr.attend`, once for a batch of sources; parameters
    straight from `init` have none and raise. Its backward pass is a rule by hand where the inner
    cell has one. The weights `α` are not kept: `gr.attention_weights` makes them from the carries.

    Attributes:
      cell: any cell whose carry starts with a leaf `[*B, Q]`, and that draws no masks.
      memory_features: `M`, of the encoded positions.
      features: `A`, of the comparison.

    Raises:
      TypeError: `cell` is not a cell, or draws masks (`gr.Zoneout`, `gr.RecurrentDropout`).
      ValueError: sizes below 1.
    """

    cell: Cell
    memory_features: int
    features: int

    def __post_init__(self) -> None:
        inputs.check_cell(self.cell)
        if draws(self.cell):
            raise TypeError(
                f"cell: got {self.cell!r}, expected a cell that draws no masks: an attention "
                "passes no key on"
            )
        checks.size("memory_features", self.memory_features)
        checks.size("features", self.features)

    @property
    def inner_rule(self) -> Rule:
        """That of the inner cell, which has one wherever this is asked."""
        rule = rule_of(self.cell)
        assert rule is not None
        return rule

    @property
    def rule(self) -> Rule | None:
        """The backward pass by hand, around that of the inner cell; None if it has none."""
        inner = rule_of(self.cell)
        return None if inner is None else RULE._replace(gate_names=nested("gates", inner))

    def output_features(self, in_features: int) -> int:
        """`F + M`."""
        return inputs.output_features(self.cell, in_features + self.memory_features) + (
            self.memory_features
        )

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> AttentionParams:
        """The inner cell's parameters; all kernels LeCun normal, `v` too. No memory yet."""
        checks.size("in_features", in_features)
        cell_key, memory_key, query_key, score_key = jax.random.split(key, 4)
        query = first_leaf(jax.eval_shape(lambda: self.cell.carry(()))).shape[-1]
        return AttentionParams(
            cell=self.cell.init(cell_key, in_features + self.memory_features, dtype),
            memory_kernel=lecun_normal(memory_key, (self.memory_features, self.features), dtype),
            query_kernel=lecun_normal(query_key, (query, self.features), dtype),
            score=lecun_normal(score_key, (self.features, 1), dtype)[:, 0],
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> AttentionCarry:
        """The inner cell's initial carry, and an output of zeros."""
        carry = self.cell.carry(batch_shape, dtype)
        if self.rule is None:
            return AttentionCarry(None, carry)
        features = first_leaf(carry).shape[-1] + self.memory_features
        return AttentionCarry(jnp.zeros((*batch_shape, features), dtype), carry)

    def step(
        self, params: AttentionParams, carry: AttentionCarry, x: Array
    ) -> tuple[AttentionCarry, Array]:
        """One time step: `x [*B, I]` -> the new carry and the output `[*B, F + M]`."""
        if self.rule is not None:
            return ruled_step(cast(RuledCell, self), params, carry, x)
        x = jnp.asarray(x)
        carry = inputs.check_step(self, params, carry, x)
        check_memory(params, x)
        context = look(params, carry.cell).context.astype(x.dtype)
        inner, y = self.cell.step(params.cell, carry.cell, jnp.concatenate([x, context], axis=-1))
        return AttentionCarry(None, inner), jnp.concatenate([y, context], axis=-1)


def attend(
    params: Params, memory: Array, *, lengths: Array | None = None, mask: Array | None = None
) -> Params:
    """`params` in which every `gr.Attention` looks back at `memory`.

    Computes the keys `m W_m` once for all steps. Bind inside the loss, so that the gradient reaches
    the encoder and `W_m`; what an optimiser holds are the parameters without a memory.

    Args:
      params: of a `gr.Attention`, or of any layer or network that contains some.
      memory: encoded positions `[S, *B, M]`, time first as an encoder returns them. Cast to the
        dtype of the parameters.
      lengths: `[*B]`, integers: row `b` has `lengths[b]` positions.
      mask: `[S, *B]`, booleans, instead of `lengths`. Positions that are not valid have weight
        zero, and whatever they hold, NaN included, reaches nothing.

    Returns:
      The parameters with a memory each, a different pytree than those of `init`.

    Raises:
      ValueError: parameters without an attention, or one within `gr.repeat`, whose layers have
        their parameters stacked; a memory of the wrong shape; lengths as in `unroll`.
      TypeError: a memory that is not floating-point.
    """
    memory = jnp.asarray(memory)
    if memory.ndim < 2:
        raise ValueError(f"memory: got shape {memory.shape}, expected [S, *B, M]")
    inputs.check_floating("memory", memory)
    mask = inputs.as_mask(lengths, mask, len(memory), memory.shape[1:-1])
    if mask is None:
        mask = jnp.ones(memory.shape[:-1], bool)
    memory = jnp.moveaxis(inputs.zero_masked(memory, mask), 0, -2)
    valid = jnp.moveaxis(mask, 0, -1)

    def bind(node: Any) -> Any:
        if not isinstance(node, AttentionParams):
            return node
        kernel = node.memory_kernel
        if jnp.ndim(kernel) != 2:
            raise ValueError(
                f"params: got a memory_kernel of shape {jnp.shape(kernel)}, expected [M, A]: "
                "an attention inside gr.repeat cannot be bound"
            )
        if kernel.shape[0] != memory.shape[-1]:
            raise ValueError(
                f"memory: got {memory.shape[-1]} features, expected {kernel.shape[0]}, the "
                "memory_features of gr.Attention"
            )
        values = memory.astype(kernel.dtype)
        keys = dot(values, kernel).astype(kernel.dtype)
        return node._replace(
            cell=jax.tree.map(bind, node.cell, is_leaf=_is_attention),
            memory=Memory(values, keys, valid.astype(kernel.dtype)),
        )

    if not has_attention(params):
        raise ValueError("params: got none of a gr.Attention, expected at least one")
    return jax.tree.map(bind, params, is_leaf=_is_attention)


def attention_weights(params: Params, carry: Carry) -> Array:
    """The weights `α` of the step that starts from `carry`, for pictures and for losses.

    They follow from the query, and so from the carry **before** the step: nothing has to be kept
    for them. For many steps at once, stack those in front: `gr.trajectory` returns the carry after
    each step, so shift by one.

    Args:
      params: parameters with exactly one `gr.Attention`, bound by `gr.attend`: its own or those of
        a network that contains it.
      carry: the carry of the same, with leaves `[..., *B, n]`.

    Returns:
      `[..., *B, S]`, in at least float32; rows sum to 1, or to 0 where no position is valid.

    Raises:
      ValueError: no attention or more than one, or one without a memory.
    """
    found = [
        [node for node in jax.tree.leaves(tree, is_leaf=_is_attention) if _is_attention(node)]
        for tree in (params, carry)
    ]
    for name, nodes in zip(("params", "carry"), found, strict=True):
        if len(nodes) != 1:
            raise ValueError(f"{name}: got {len(nodes)} of a gr.Attention, expected one")
    (attention,), (at,) = found
    check_memory(attention, None)
    return look(attention, at.cell).weights


def has_attention(params: Params) -> bool:
    """Whether there is a `gr.Attention` anywhere in `params`."""
    return any(map(_is_attention, jax.tree.leaves(params, is_leaf=_is_attention)))


def _is_attention(node: Any) -> bool:
    return isinstance(node, AttentionParams | AttentionCarry)
