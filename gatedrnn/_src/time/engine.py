"""The engine: chunks of time, and the backward pass that `jax.custom_vjp` puts in autodiff's place.

Axes: `T` time, `*B` batch, `I` input features, `F` output features.

Time is cut into chunks: a scan over chunks, and inside it a loop over the steps of one (see
`loops`), which the plan chooses. What does not depend on the carry is done for a chunk at once, as
large products, so that temporaries stay small however long the sequence. A cell with a rule (see
`base.Rule`) goes through five phases. Forward: `project` a chunk, `recur` over its steps. Backward:
recompute the gates of a chunk and `linearize`, run `backward` over its steps in reverse, `contract`
into the weight gradients.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src.base import Carry, Params, StepRecord, rule_of
from gatedrnn._src.loops import Steps
from gatedrnn._src.placement import ROWS, STEPS, WHOLE, Rows, by_device
from gatedrnn._src.pytree import (
    as_dtypes,
    clipped,
    first_leaf,
    in_accumulator,
    shift,
    vary_alike,
    where,
    zeros,
)
from gatedrnn._src.time.plan import planned
from gatedrnn._src.time.recurrence import Recurrence, Weights, steps_of, weights_of


@partial(jax.jit, static_argnames="recurrence")
def run(
    recurrence: Recurrence, params: Params, carry: Carry, steps: Steps, reset_carry: Carry
) -> tuple:
    """Return the final carry, outputs `[T, *B, F]`, and every carry `[T, *B, ...]` or None.

    Jitted, so that outside `jit` too equal recurrences and shapes compile once.
    """
    rows = _rows_by_device(recurrence)
    if rows is not None:
        return by_device(
            partial(run, dataclasses.replace(recurrence, rows=None)),
            (params, carry, steps, reset_carry),
            (WHOLE, ROWS, Steps(STEPS, STEPS, STEPS, WHOLE), ROWS),
            (ROWS, STEPS, STEPS),
            rows,
        )
    params, carry, steps, reset_carry = vary_alike((params, carry, steps, reset_carry))
    recurrence = planned(recurrence, params, carry, steps)
    arguments = (recurrence, params, carry, steps, reset_carry)
    if recurrence.rule is None:
        final, (outputs, carries), _ = _forward(
            *arguments, lambda carry, y, gates: (y, carry if recurrence.every_carry else None)
        )
        return final, outputs, carries
    final, visible = _ruled(*arguments)
    return final, first_leaf(visible), visible if recurrence.every_carry else None


def _rows_by_device(recurrence: Recurrence) -> Rows | None:
    """Return how rows are divided where each device can run the steps of its own, else None.

    A cell of the user's own, without a rule, may not know that it runs in `jax.shard_map`.
    """
    rows = recurrence.rows
    by_itself = rows is not None and rows.alone and rule_of(recurrence.cell) is not None
    return rows if by_itself else None


# ------------------------------------------------------------------------------ forward


def _forward(
    recurrence: Recurrence,
    params: Params,
    carry: Carry,
    steps: Steps,
    reset_carry: Carry,
    keep: Callable,
) -> tuple[Carry, Any, Carry]:
    """Return the final carry, `keep(carry, y, gates)` of each step, and the carry before chunks."""
    weights = weights_of(recurrence, params, steps.xs)

    def chunk(carry: Carry, steps: Steps, _: None) -> tuple[Carry, Any, Carry]:
        final, kept = _forward_chunk(recurrence, weights, carry, steps, reset_carry, keep)
        return final, kept, carry

    if recurrence.rule is None and recurrence.plan.save == "boundaries":
        chunk = jax.checkpoint(chunk, prevent_cse=False)
    return _over_chunks(
        chunk, carry, steps, None, recurrence.plan.chunk_size, reverse=recurrence.reverse
    )


def _forward_chunk(
    recurrence: Recurrence,
    weights: Weights,
    carry: Carry,
    steps: Steps,
    reset_carry: Carry,
    keep: Callable,
) -> tuple[Carry, Any]:
    bptt, plan, by_autodiff = recurrence.bptt, recurrence.plan, recurrence.rule is None
    inputs, advance = steps_of(recurrence, weights.forward, steps.xs)
    if by_autodiff and plan.save == "carries":
        advance = jax.checkpoint(advance, prevent_cse=False)

    def step(weights: Any, reset_carry: Carry, carry: Carry, inputs: Steps) -> tuple[Carry, Any]:
        a, skip, reset, cut = inputs
        if by_autodiff:
            carry = carry if cut is None else _cut_gradient(cut, carry)
        start = where(reset, reset_carry, carry)
        if by_autodiff and bptt.clip is not None:
            start = _clip_cotangent(bptt.clip, start)
        new, y, gates = advance(weights, start, a)
        carry = where(skip, carry, vary_alike(new, like=carry))
        return carry, keep(carry, y, gates)

    inputs = steps._replace(xs=inputs)
    return plan.loop(step, weights.forward, reset_carry, carry, inputs, reverse=recurrence.reverse)


# ------------------------------------------------------------------- backward, by the rule


class Residuals(NamedTuple):
    """The values that the forward pass saves for the backward pass."""

    params: Params
    steps: Steps
    reset_carry: Carry
    starts: Carry  # the carry before each chunk
    carries: Carry | None  # after each step
    gates: Any  # of each step


@partial(jax.custom_vjp, nondiff_argnames=("recurrence",))
def _ruled(
    recurrence: Recurrence, params: Params, carry: Carry, steps: Steps, reset_carry: Carry
) -> tuple:
    """Return the final carry and the visible part of every step's carry."""
    final, visible, _ = _forward(
        recurrence,
        params,
        carry,
        steps,
        reset_carry,
        lambda carry, y, gates: _visible(recurrence, carry),
    )
    return final, visible


def _visible(recurrence: Recurrence, carry: Carry) -> Any:
    """Return what the caller sees of the carry of a step: all, or only the output."""
    return carry if recurrence.every_carry else first_leaf(carry)


def _ruled_fwd(
    recurrence: Recurrence, params: Params, carry: Carry, steps: Steps, reset_carry: Carry
) -> tuple[tuple, Residuals]:
    save = recurrence.plan.save

    def keep(carry: Carry, y: Array, gates: Any) -> tuple[Carry, Any]:
        return (
            _visible(recurrence, carry) if save == "boundaries" else carry,
            gates if save == "gates" else None,
        )

    final, (carries, gates), starts = _forward(recurrence, params, carry, steps, reset_carry, keep)
    visible = carries if save == "boundaries" else _visible(recurrence, carries)
    carries = None if save == "boundaries" else carries
    return (final, visible), Residuals(params, steps, reset_carry, starts, carries, gates)


def _ruled_bwd(recurrence: Recurrence, saved: Residuals, cotangents: tuple) -> tuple:
    params, steps, reset_carry, starts, carries, gates = saved
    dfinal, dvisible = cotangents

    def chunk(state: tuple, chunked: tuple, start: Carry) -> tuple[tuple, Array, None]:
        flow, dparams = state
        flow, new, dxs = _backward_chunk(recurrence, weights, reset_carry, start, flow, *chunked)
        return (flow, jax.tree.map(jnp.add, dparams, new)), dxs, None

    weights = weights_of(recurrence, params, steps.xs)
    flow = _Flow(in_accumulator(dfinal), None if steps.resets is None else zeros(reset_carry))
    state = vary_alike((flow, zeros(params)), like=saved)
    per_step = (steps, carries, gates, dvisible)
    (flow, dparams), dxs, _ = _over_chunks(
        chunk, state, per_step, starts, recurrence.plan.chunk_size, reverse=not recurrence.reverse
    )
    dreset = zeros(reset_carry) if flow.dreset is None else flow.dreset
    return (
        as_dtypes(dparams, params),
        as_dtypes(flow.dcarry, dfinal),
        Steps(dxs),
        as_dtypes(dreset, reset_carry),
    )


class _Flow(NamedTuple):
    """The cotangents that flow from step to step in reverse, in at least float32."""

    dcarry: Carry
    dreset: Carry | None  # the sum of what reached the reset carry


def _backward_chunk(
    recurrence: Recurrence,
    weights: Weights,
    reset_carry: Carry,
    start: Carry,
    flow: _Flow,
    steps: Steps,
    carries: Carry | None,
    gates: Any,
    dvisible: Any,
) -> tuple[_Flow, Params, Array]:
    """Return the flow that leaves a chunk, and the gradients of weights and inputs."""
    cell, bptt, rule, plan = recurrence.cell, recurrence.bptt, recurrence.rule, recurrence.plan
    assert rule is not None
    if carries is None:
        _, (carries, gates) = _forward_chunk(
            recurrence, weights, start, steps, reset_carry, lambda carry, y, gates: (carry, gates)
        )
    before = where(steps.resets, reset_carry, shift(start, carries, recurrence.reverse))
    if plan.save == "carries":
        projected = rule.project(cell, weights.params, steps.xs)
        _, gates = rule.recur(cell, weights.params, before, projected)
    record: StepRecord = StepRecord(steps.xs, before, carries, gates)
    record = record._replace(local=rule.linearize(cell, weights.params, record))
    cut_path = {"cell_path_only": True} if bptt.cell_path_only else {}

    def step(weights: Any, _: None, flow: _Flow, inputs: Steps) -> tuple[_Flow, Any]:
        (local, direct), skip, reset, cut = inputs
        dcarry = _add_direct(recurrence, flow.dcarry, direct)
        zero = zeros(dcarry)
        # a skipped step hands δcarry on as it is, and none of it to the rule
        entering = where(skip, zero, dcarry)
        dbefore, delta = rule.backward(cell, weights, local, entering, **cut_path)
        dbefore = vary_alike(dbefore, like=entering)
        if bptt.clip is not None:
            dbefore = clipped(bptt.clip, dbefore)
        dreset = flow.dreset
        if reset is not None:
            dreset = jax.tree.map(jnp.add, dreset, where(reset, dbefore, zero))
            dbefore = where(reset, zero, dbefore)
        dbefore = where(skip, dcarry, dbefore)
        return _Flow(where(cut, zero, dbefore), dreset), delta

    inputs = steps._replace(xs=(record.local, dvisible))
    flow, delta = plan.loop(
        step, weights.reverse, None, flow, inputs, reverse=not recurrence.reverse
    )
    dparams, dxs = rule.contract(cell, weights.params, record, delta)
    dtype = first_leaf(steps.xs).dtype
    return flow, dparams, jax.tree.map(lambda d: d.astype(dtype), dxs)


_ruled.defvjp(_ruled_fwd, _ruled_bwd)


def _add_direct(recurrence: Recurrence, dcarry: Carry, direct: Any) -> Carry:
    """Return `δcarry` and, added, the loss's own cotangent of the carry or of the output."""
    if recurrence.every_carry:
        return jax.tree.map(lambda d, e: d + e.astype(d.dtype), dcarry, direct)
    (output, *rest), structure = jax.tree.flatten(dcarry)
    return jax.tree.unflatten(structure, [output + direct.astype(output.dtype), *rest])


# ------------------------------------------------------------------- cutting and clipping


def _cut_gradient(cut: Array, carry: Carry) -> Carry:
    """Return `carry` whose gradient stops where `cut`, also that of what rows share."""
    return jax.tree.map(lambda v: jnp.where(cut, lax.stop_gradient(v), v), carry)


@partial(jax.custom_vjp, nondiff_argnames=("bound",))
def _clip_cotangent(bound: float, carry: Carry) -> Carry:
    """Return `carry`; backward, clip every element of the cotangent to `[-bound, bound]`."""
    return carry


_clip_cotangent.defvjp(
    lambda bound, carry: (carry, None), lambda bound, _, dcarry: (clipped(bound, dcarry),)
)


# --------------------------------------------------------------------------------- chunks


def _over_chunks(
    body: Callable, state: Any, per_step: Any, per_chunk: Any, size: int, *, reverse: bool
) -> tuple[Any, Any, Any]:
    """Run `body(state, steps, chunk) -> (state, steps, chunk)` over chunks of `size` steps in turn.

    `per_step` is cut along its leading axis `T`, the remainder last; `per_chunk` has one entry for
    each chunk; the values that the body returns are joined likewise. The program is bounded in `T`:
    the body stands in the program at most twice, in the scan and for the remainder.
    """
    length = jax.tree.leaves(per_step)[0].shape[0]

    def single(state: Any, steps: Any, index: int) -> tuple[Any, Any, Any]:
        state, steps, chunk = body(state, steps, jax.tree.map(lambda v: v[index], per_chunk))
        return state, steps, jax.tree.map(lambda v: v[None], chunk)

    if length <= size:
        return single(state, per_step, 0)

    def scanned(state: Any, inputs: tuple) -> tuple[Any, tuple]:
        state, *outputs = body(state, *inputs)
        return state, tuple(outputs)

    count, rest = divmod(length, size)
    whole = count * size
    chunks = jax.tree.map(lambda v: v[:whole].reshape(count, size, *v.shape[1:]), per_step)
    inputs = (chunks, jax.tree.map(lambda v: v[:count], per_chunk))
    tail = jax.tree.map(lambda v: v[whole:], per_step)
    if rest and reverse:
        state, tail_steps, tail_chunk = single(state, tail, -1)
    state, (steps, chunk) = lax.scan(scanned, state, inputs, reverse=reverse)
    steps = jax.tree.map(lambda v: v.reshape(whole, *v.shape[2:]), steps)
    if not rest:
        return state, steps, chunk
    if not reverse:
        state, tail_steps, tail_chunk = single(state, tail, -1)
    join = partial(jax.tree.map, lambda main, last: jnp.concatenate([main, last]))
    return state, join(steps, tail_steps), join(chunk, tail_chunk)
