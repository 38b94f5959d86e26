"""The equations of additive attention around a cell, and their rule.

Axes: `...` time and batch, `*B` batch, `S` positions, `I` inputs, `M` memory features, `Q` query
features, `A` attention features, `F` outputs of the inner cell.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src.memory import Memory
from gatedrnn._src.numerics import accumulator, dot, dot_transposed, outer, total
from gatedrnn._src.rule import Carry, Params, Rule, prepared
from gatedrnn._src.trees import first_leaf, zeros

if TYPE_CHECKING:
    from gatedrnn._src.attention import Attention


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
    values, keys, valid = params.memory
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
        query_kernel=outer(first_leaf(before.cell), delta.q),
        score=total(delta.e[..., None] * seen.u),
        memory=Memory(
            values=jnp.einsum("t...s,t...m->...sm", weights, dcontext),
            keys=jnp.sum(dp, axis=tuple(range(dp.ndim - keys.ndim))),
            valid=zeros(valid),
        ),
    )
    return dparams, dinputs[..., : xs.shape[-1]]


RULE = Rule(project, recur, linearize, backward, contract, prepare)
