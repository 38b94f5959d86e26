"""A cell that reads an encoded sequence at every step, by additive attention.

Axes: `S` positions, `*B` any batch axes, `...` any leading axes, `I` inputs, `F` outputs of the
inner cell, `M` memory features, `Q` query features, `A` attention features.
"""

import dataclasses
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import (
    Carry,
    Cell,
    Rule,
    RuledCell,
    StepRecord,
    nested_gate_names,
    prepared,
    rule_of,
)
from gatedrnn._src.cells.alignment import (
    Alignment,
    AttentionCarry,
    AttentionParams,
    Memory,
    align,
    check_memory,
)
from gatedrnn._src.cells.common import ruled_step
from gatedrnn._src.describe import short_repr
from gatedrnn._src.masks import draws
from gatedrnn._src.numerics import (
    accumulator,
    dot_transposed,
    for_cotangents,
    lecun_normal,
    over_leading,
    sum_leading,
    sum_of_outer,
)
from gatedrnn._src.pytree import first_leaf, zeros

# The equations (Bahdanau, Cho & Bengio 2015), with m̂_t the context of `align`:
#
#   y_t, s_t = cell([x_t, m̂_t], s_{t-1})      output [y_t, m̂_t]


class AttentionGates(NamedTuple):
    """The gates of a step."""

    alignment: Alignment
    inputs: Array  # [x_t, m̂_t]
    gates: Any  # of the inner cell


def project(cell: "Attention", params: AttentionParams, xs: Array) -> Array:
    """Return `xs`: the inner cell also reads `m̂`, which depends on the carry."""
    check_memory(params, xs)
    return xs


def recur(
    cell: "Attention", params: AttentionParams, carry: AttentionCarry, x: Array
) -> tuple[AttentionCarry, AttentionGates]:
    """Return the next carry and the gates, from `x [..., I]`."""
    inner, rule = cell.cell, cell.inner_rule
    alignment = align(params, carry.cell)
    inputs = jnp.concatenate([x, alignment.context.astype(x.dtype)], axis=-1)
    a = rule.project(inner, params.cell, inputs)
    after, gates = rule.recur(inner, params.cell, carry.cell, a)
    output = jnp.concatenate([first_leaf(after), inputs[..., x.shape[-1] :]], axis=-1)
    return AttentionCarry(output, after), AttentionGates(alignment, inputs, gates)


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
    """The values of a step that the reverse recurrence reads."""

    alignment: Alignment
    inner: StepRecord  # of the inner cell


class AttentionDelta(NamedTuple):
    """The cotangents kept for each step, from which `contract` forms the weight gradients."""

    context: Array  # δm̂_t in full
    e: Array  # δe_t [..., S]
    q: Array  # δq_t [..., A]
    cell: Any  # of the inner cell


class ReverseParams(NamedTuple):
    """The parameters in the layout of the reverse steps."""

    params: AttentionParams
    cell: Any  # those of the inner cell, in the layout of its reverse steps


def prepare(cell: "Attention", params: AttentionParams) -> tuple[AttentionParams, ReverseParams]:
    """Return `params` with the layouts of the inner cell."""
    forward, reverse = prepared(cell.inner_rule, cell.cell, params.cell)
    return params._replace(cell=forward), ReverseParams(params, reverse)


def linearize(
    cell: "Attention",
    params: AttentionParams,
    record: StepRecord[AttentionCarry, AttentionGates, None],
) -> AttentionLocal:
    """Return the alignment and the record of the inner cell, local derivatives included."""
    alignment, inputs, gates = record.gates
    inner: StepRecord = StepRecord(inputs, record.before.cell, record.after.cell, gates)
    local = cell.inner_rule.linearize(cell.cell, params.cell, inner)
    return AttentionLocal(alignment, inner._replace(local=local))


def backward(
    cell: "Attention", reverse: ReverseParams, local: AttentionLocal, dcarry: AttentionCarry
) -> tuple[AttentionCarry, AttentionDelta]:
    """Return `δs_{t-1}` from `δ[y_t, m̂_t]` and `δs_t`."""
    inner, rule, params = cell.cell, cell.inner_rule, reverse.params
    alignment, record = local
    assert dcarry.output is not None
    assert params.memory is not None
    split = dcarry.output.shape[-1] - cell.memory_features
    dy, dcontext = dcarry.output[..., :split], dcarry.output[..., split:]
    dafter = _added_to_output(dcarry.cell, dy)
    dbefore, dinner = rule.backward(inner, reverse.cell, record.local, dafter)
    # only δ[x, m̂] is used; the compiler drops the rest
    _, dinputs = rule.contract(inner, params.cell, record, dinner)
    dcontext = dcontext + dinputs[..., record.xs.shape[-1] - cell.memory_features :]

    dtype = for_cotangents(params.memory.values.dtype)
    dweights = jnp.einsum(
        "...sm,...m->...s",
        params.memory.values.astype(dtype),
        dcontext.astype(dtype),
        preferred_element_type=accumulator(dtype),
    )
    mean = jnp.sum(alignment.weights * dweights, axis=-1, keepdims=True)
    de = alignment.weights * (dweights - mean)
    dq = jnp.sum(_through_tanh(params, alignment, de), axis=-2)
    dbefore = _added_to_output(dbefore, dot_transposed(dq, params.query_kernel))
    return AttentionCarry(zeros(dcarry.output), dbefore), AttentionDelta(dcontext, de, dq, dinner)


def _through_tanh(params: AttentionParams, alignment: Alignment, de: Array) -> Array:
    """Return `δp [..., S, A]` from `δe`."""
    u = alignment.u
    slope = 1 - u * u
    return de[..., None] * (over_leading(params.score, slope) * slope)


def _added_to_output(dcarry: Carry, doutput: Array) -> Carry:
    """Return `dcarry` with `doutput` added to its first leaf, the output."""
    (first, *rest), structure = jax.tree.flatten(dcarry)
    return jax.tree.unflatten(structure, [first + doutput.astype(first.dtype), *rest])


def contract(
    cell: "Attention",
    params: AttentionParams,
    record: StepRecord[AttentionCarry, AttentionGates, AttentionLocal],
    delta: AttentionDelta,
) -> tuple[AttentionParams, Array]:
    """Return `δm = Σ α δm̂`, `δk = Σ δp`, `δW_q = Σ sᵀ δq`, `δv = Σ δe u`, and the inner cell's."""
    assert params.memory is not None
    alignment, inner = record.local
    dcell, dinputs = cell.inner_rule.contract(cell.cell, params.cell, inner, delta.cell)
    keys, valid = params.memory.keys, params.memory.valid
    # time in one axis, which is summed by a product; there is none within a single step
    weights, dcontext = (
        v.reshape(-1, *v.shape[v.ndim - valid.ndim :]) for v in (alignment.weights, delta.context)
    )
    dp = _through_tanh(params, alignment, delta.e)
    dparams = AttentionParams(
        cell=dcell,
        memory_kernel=zeros(params.memory_kernel),
        query_kernel=sum_of_outer(first_leaf(inner.before), delta.q),
        score=sum_leading(delta.e[..., None] * alignment.u),
        memory=Memory(
            values=jnp.einsum("t...s,t...m->...sm", weights, dcontext),
            keys=jnp.sum(dp, axis=tuple(range(dp.ndim - keys.ndim))),
            valid=zeros(valid),
        ),
    )
    return dparams, dinputs[..., : record.xs.shape[-1]]


RULE = Rule(project, recur, linearize, backward, contract, prepare)


@dataclasses.dataclass(frozen=True, repr=False)
class Attention:
    """A cell that reads its input beside a context from a memory (Bahdanau, Cho & Bengio 2015).

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

    Example:
      >>> cell = gr.Attention(gr.GRU(3), memory_features=4, features=2)
      >>> params = cell.init(jax.random.key(0), in_features=5)
      >>> encoded = jnp.ones((8, 6, 4), "float32")  # 8 positions
      >>> bound = gr.attend(params, encoded, lengths=jnp.full(6, 7))
      >>> carry, ys = gr.unroll(cell, bound, jnp.ones((9, 6, 5), "float32"))
      >>> cell, ys.shape
      (Attention(GRU(3), 4, 2), (9, 6, 7))
    """

    cell: Cell
    memory_features: int
    features: int

    __repr__ = short_repr

    def __post_init__(self) -> None:
        validation.check_cell(self.cell)
        if draws(self.cell):
            raise TypeError(
                f"cell: got {self.cell!r}, expected a cell that draws no masks: an attention "
                "passes no key on"
            )
        checks.sizes(self, "memory_features", "features")

    @property
    def inner_rule(self) -> Rule:
        """The rule of the inner cell, which must have one."""
        rule = rule_of(self.cell)
        assert rule is not None
        return rule

    @property
    def rule(self) -> Rule | None:
        """The backward pass by hand, around the rule of the inner cell; None without one."""
        inner = rule_of(self.cell)
        if inner is None:
            return None
        return RULE._replace(gate_names=nested_gate_names("gates", inner))

    def output_features(self, in_features: int) -> int:
        """Return the size of the output, `F + M`."""
        return validation.output_features(self.cell, in_features + self.memory_features) + (
            self.memory_features
        )

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> AttentionParams:
        """Return new parameters, without a memory: all kernels LeCun normal, `v` too."""
        key = validation.as_init_key(key, in_features, dtype)
        cell_key, memory_key, query_key, score_key = jax.random.split(key, 4)
        query = first_leaf(jax.eval_shape(lambda: self.cell.carry(()))).shape[-1]
        return AttentionParams(
            cell=self.cell.init(cell_key, in_features + self.memory_features, dtype),
            memory_kernel=lecun_normal(memory_key, (self.memory_features, self.features), dtype),
            query_kernel=lecun_normal(query_key, (query, self.features), dtype),
            score=lecun_normal(score_key, (self.features, 1), dtype)[:, 0],
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> AttentionCarry:
        """Return the inner cell's initial carry, and an output of zeros."""
        checks.of_state(batch_shape, dtype)
        carry = self.cell.carry(batch_shape, dtype)
        if self.rule is None:
            return AttentionCarry(None, carry)
        features = first_leaf(carry).shape[-1] + self.memory_features
        return AttentionCarry(validation.zeros(batch_shape, features, dtype=dtype), carry)

    def step(
        self, params: AttentionParams, carry: AttentionCarry, x: Array
    ) -> tuple[AttentionCarry, Array]:
        """Return the new carry and the output `[*B, F + M]` of one time step, from `x [*B, I]`."""
        if self.rule is not None:
            return ruled_step(cast(RuledCell, self), params, carry, x)
        x = validation.as_array("x", x)
        carry = validation.check_step(self, params, carry, x)
        check_memory(params, x)
        context = align(params, carry.cell).context.astype(x.dtype)
        inner, y = self.cell.step(params.cell, carry.cell, jnp.concatenate([x, context], axis=-1))
        return AttentionCarry(None, inner), jnp.concatenate([y, context], axis=-1)
