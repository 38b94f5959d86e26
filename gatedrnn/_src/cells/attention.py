"""A cell that looks back at an encoded sequence at every step: additive attention.

Axes: `T` time, `S` positions, `*B` any batch axes, `I` inputs, `F` outputs of the inner cell, `M`
memory features, `Q` query features, `A` attention features.
"""

import dataclasses
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import (
    Bound,
    Carry,
    Cell,
    Params,
    Rule,
    RuledCell,
    nested,
    prepared,
    rule_of,
)
from gatedrnn._src.cells.common import ruled_step
from gatedrnn._src.masks import draws
from gatedrnn._src.numerics import (
    accumulator,
    dot,
    dot_transposed,
    lecun_normal,
    sum_leading,
    sum_of_outer,
)
from gatedrnn._src.pytree import first_leaf, zeros


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory(Bound):
    """Encoded positions, in the layout that each step reads: batch axes first.

    It stands among the parameters, not in the carry: a loop over time reads it without saving it
    at every step, its gradient is summed as that of a weight is, and beams share it.
    """

    values: Array  # [*B, S, M]
    keys: Array  # [*B, S, A]
    valid: Array  # [*B, S], 1 or 0, in the dtype of the parameters


class AttentionParams(NamedTuple):
    """Parameters of a cell with attention."""

    cell: Params  # of the inner cell, which reads [x, m̂] [..., I + M]
    memory_kernel: Array  # W_m [M, A]
    query_kernel: Array  # W_q [Q, A]
    score: Array  # v [A]
    memory: Memory | None = None  # what `attend` bound; None from `init`


class AttentionCarry(NamedTuple):
    """The state between steps."""

    output: Array | None  # [y, m̂] [*B, F + M], not read by the next step; None without a rule
    cell: Carry  # of the inner cell; its first leaf [*B, Q] is the query


# The equations (Bahdanau, Cho & Bengio 2015), over the positions s of a memory, k_s = m_s W_m:
#
#   q_t = s_{t-1} W_q      u_ts = tanh(k_s + q_t)      e_ts = u_ts · v      α_t = softmax_s e_ts
#   m̂_t = Σ_s α_ts m_s     y_t, s_t = cell([x_t, m̂_t], s_{t-1})             output [y_t, m̂_t]
#
# The softmax is over valid positions; where there is none, α_t = 0 and m̂_t = 0.


def check_memory(params: AttentionParams, x: Array | None) -> None:
    """Raise unless there is a memory, with the batch axes of `x [..., *B, I]`."""
    if params.memory is None:
        raise ValueError(
            "params.memory: got None, expected parameters that gr.attend has bound to a memory"
        )
    batch_shape = params.memory.valid.shape[:-1]
    got = None if x is None else x.shape[:-1]
    if got is not None and got[len(got) - len(batch_shape) :] != batch_shape:
        raise ValueError(
            f"params.memory: got batch axes {batch_shape}, expected the last of {got}, as xs has"
        )


class Look(NamedTuple):
    """One look at the memory."""

    u: Array  # [..., S, A]
    weights: Array  # α [..., S]
    context: Array  # m̂ [..., M]


def look(params: AttentionParams, carry: Carry) -> Look:
    """What a step that starts from the inner `carry` reads; extra leading axes share the memory."""
    assert params.memory is not None
    values, keys = params.memory.values, params.memory.keys
    valid = params.memory.valid
    q = dot(first_leaf(carry), params.query_kernel)
    u = jnp.tanh(keys.astype(q.dtype) + q[..., None, :])
    weights = _softmax(u @ params.score.astype(u.dtype), valid > 0)
    context = jnp.einsum(
        "...s,...sm->...m",
        weights.astype(values.dtype),
        values,
        preferred_element_type=accumulator(values.dtype),
    )
    return Look(u, weights, context)


def _softmax(e: Array, valid: Array) -> Array:
    """Over the valid of the last axis; zeros where there is none."""
    fixed = lax.stop_gradient(e)
    greatest = jnp.max(fixed, axis=-1, keepdims=True, where=valid, initial=jnp.finfo(e.dtype).min)
    # what is not valid becomes exp(0), not an overflow that a gradient would carry on
    raised = jnp.exp(jnp.where(valid, e - greatest, 0))
    raised = jnp.where(valid, raised, 0)
    summed = jnp.sum(raised, axis=-1, keepdims=True)
    return raised / jnp.where(summed > 0, summed, 1)


class AttentionGates(NamedTuple):
    """What a step computes on the way."""

    look: Look
    inputs: Array  # [x_t, m̂_t]
    gates: Any  # of the inner cell


def project(cell: "Attention", params: AttentionParams, xs: Array) -> Array:
    """Nothing: what the inner cell reads depends on the carry."""
    check_memory(params, xs)
    return xs


def recur(
    cell: "Attention", params: AttentionParams, carry: AttentionCarry, x: Array
) -> tuple[AttentionCarry, AttentionGates]:
    """One step, from `x [..., I]`."""
    inner, rule = cell.cell, cell.inner_rule
    seen = look(params, carry.cell)
    inputs = jnp.concatenate([x, seen.context.astype(x.dtype)], axis=-1)
    a = rule.project(inner, params.cell, inputs)
    after, gates = rule.recur(inner, params.cell, carry.cell, a)
    output = jnp.concatenate([first_leaf(after), inputs[..., x.shape[-1] :]], axis=-1)
    return AttentionCarry(output, after), AttentionGates(seen, inputs, gates)


# The rule. With δ[y_t, m̂_t] from the loss at t and δs_t from step t+1, the first leaf of which is
# y_t, the rule of the inner cell gives its own δs_{t-1} and δ[x_t, m̂_t]. With δm̂_t in full (from
# the loss and from the inner cell):
#
#   δα_ts = m_s · δm̂_t      δe_ts = α_ts (δα_ts − Σ_r α_tr δα_tr)
#   δp_ts = δe_ts v ⊙ (1 − u_ts²)      δq_t = Σ_s δp_ts      δs_{t-1} += δq_t W_qᵀ
#
# and, summed over time, where the memory is a constant of the loop as weights are:
#
#   δm_s = Σ_t α_ts δm̂_t    δk_s = Σ_t δp_ts    δW_q = Σ_t s_{t-1}ᵀ δq_t    δv = Σ_ts δe_ts u_ts
#
# Positions that are not valid have α = 0, hence δe = 0. δW_m follows from δk where k was made.


class AttentionLocal(NamedTuple):
    """What the reverse step reads of a step."""

    before: Carry  # of the inner cell
    after: Carry
    gates: AttentionGates
    local: Any  # of the inner cell


class AttentionDelta(NamedTuple):
    """What the sums over time need to know of a step."""

    context: Array  # δm̂_t in full
    e: Array  # δe_t [..., S]
    q: Array  # δq_t [..., A]
    cell: Any  # of the inner cell


class Backward(NamedTuple):
    """The parameters as the reverse step reads them."""

    params: AttentionParams
    cell: Any  # as the reverse step of the inner cell does


def prepare(cell: "Attention", params: AttentionParams) -> tuple[AttentionParams, Backward]:
    """The inner cell's own layouts."""
    ahead, back = prepared(cell.inner_rule, cell.cell, params.cell)
    return params._replace(cell=ahead), Backward(params, back)


def linearize(
    cell: "Attention",
    params: AttentionParams,
    before: AttentionCarry,
    after: AttentionCarry,
    gates: AttentionGates,
) -> AttentionLocal:
    """The inner cell's, beside what was seen."""
    local = cell.inner_rule.linearize(cell.cell, params.cell, before.cell, after.cell, gates.gates)
    return AttentionLocal(before.cell, after.cell, gates, local)


def backward(
    cell: "Attention", back: Backward, local: AttentionLocal, dcarry: AttentionCarry
) -> tuple[AttentionCarry, AttentionDelta]:
    """The reverse step: `δ[y_t, m̂_t], δs_t` -> `δs_{t-1}`."""
    inner, rule, params = cell.cell, cell.inner_rule, back.params
    seen, inputs, gates = local.gates
    assert dcarry.output is not None
    assert params.memory is not None
    split = dcarry.output.shape[-1] - cell.memory_features
    dy, dcontext = dcarry.output[..., :split], dcarry.output[..., split:]
    dbefore, dinner = rule.backward(inner, back.cell, local.local, _added_to_first(dcarry.cell, dy))
    # of this only δ[x, m̂] is wanted here; the compiler drops the rest
    known = (inputs, local.before, local.after, gates, local.local)
    _, dinputs = rule.contract(inner, params.cell, *known, dinner)
    dcontext = dcontext + dinputs[..., inputs.shape[-1] - cell.memory_features :]

    values = params.memory.values
    dweights = jnp.einsum(
        "...sm,...m->...s",
        values,
        dcontext.astype(values.dtype),
        preferred_element_type=accumulator(values.dtype),
    )
    mean = jnp.sum(seen.weights * dweights, axis=-1, keepdims=True)
    de = seen.weights * (dweights - mean)
    dq = jnp.sum(_into_tanh(params, seen, de), axis=-2)
    dbefore = _added_to_first(dbefore, dot_transposed(dq, params.query_kernel))
    return AttentionCarry(zeros(dcarry.output), dbefore), AttentionDelta(dcontext, de, dq, dinner)


def _into_tanh(params: AttentionParams, seen: Look, de: Array) -> Array:
    """`δp [..., S, A]`."""
    return de[..., None] * (params.score.astype(de.dtype) * (1 - seen.u * seen.u))


def _added_to_first(carry: Carry, more: Array) -> Carry:
    (first, *rest), structure = jax.tree.flatten(carry)
    return jax.tree.unflatten(structure, [first + more.astype(first.dtype), *rest])


def contract(
    cell: "Attention",
    params: AttentionParams,
    xs: Array,
    before: AttentionCarry,
    after: AttentionCarry,
    gates: AttentionGates,
    local: AttentionLocal,
    delta: AttentionDelta,
) -> tuple[AttentionParams, Array]:
    """`δm = Σ α δm̂`, `δk = Σ δp`, `δW_q = Σ sᵀ δq`, `δv = Σ δe u`, and those of the inner cell."""
    assert params.memory is not None
    seen, inputs, inner_gates = gates
    known = (inputs, before.cell, after.cell, inner_gates, local.local)
    dcell, dinputs = cell.inner_rule.contract(cell.cell, params.cell, *known, delta.cell)
    keys, valid = params.memory.keys, params.memory.valid
    # time in one axis, which is summed by a product; there is none within a single step
    weights, dcontext = (
        v.reshape(-1, *v.shape[v.ndim - valid.ndim :]) for v in (seen.weights, delta.context)
    )
    dp = _into_tanh(params, seen, delta.e)
    dparams = AttentionParams(
        cell=dcell,
        memory_kernel=zeros(params.memory_kernel),
        query_kernel=sum_of_outer(first_leaf(before.cell), delta.q),
        score=sum_leading(delta.e[..., None] * seen.u),
        memory=Memory(
            values=jnp.einsum("t...s,t...m->...sm", weights, dcontext),
            keys=jnp.sum(dp, axis=tuple(range(dp.ndim - keys.ndim))),
            valid=zeros(valid),
        ),
    )
    return dparams, dinputs[..., : xs.shape[-1]]


RULE = Rule(project, recur, linearize, backward, contract, prepare)


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
        validation.check_cell(self.cell)
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
        return validation.output_features(self.cell, in_features + self.memory_features) + (
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
        carry = validation.check_step(self, params, carry, x)
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
    validation.check_floating("memory", memory)
    mask = validation.as_mask(lengths, mask, len(memory), memory.shape[1:-1])
    if mask is None:
        mask = jnp.ones(memory.shape[:-1], bool)
    memory = jnp.moveaxis(validation.zero_masked(memory, mask), 0, -2)
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
