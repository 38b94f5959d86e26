"""The engine: the only module that knows `lax.scan` and `jax.custom_vjp`.

Axes: `T` time, `*B` batch, `I` input features, `F` output features.

Time is cut into chunks: an outer scan over chunks, an inner scan over the steps of one. What does
not depend on the carry is done for a chunk at once, as large products, so that temporaries stay
small however long the sequence. A cell with a rule (see `rule.Rule`) goes through five phases.
Forward: `project` a chunk, `recur` over its steps. Backward: recompute the gates of a chunk and
`linearize`, run `backward` over its steps in reverse, `contract` into the weight gradients.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src.bptt import BPTT
from gatedrnn._src.numerics import accumulator, matrices_as
from gatedrnn._src.rule import Carry, Cell, Params, Rule

# A chunk has as many steps as keep its temporaries near this size: on a CPU larger ones are fresh
# memory, whose page faults cost more than the arithmetic on it.
CHUNK_BYTES = 2**22
CHUNK_STEPS = (16, 128)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is static about a run."""

    cell: Cell
    bptt: BPTT
    reverse: bool
    every_carry: bool  # stack the carry of every step, not only the output

    @property
    def rule(self) -> Rule | None:
        """The cell's own backward rule, unless autodiff is asked for."""
        return None if self.bptt.rule == "autodiff" else getattr(self.cell, "rule", None)


class Steps(NamedTuple):
    """What each step reads, stacked over time; None where there is nothing to read."""

    xs: Array  # [T, *B, I]
    skips: Array | None = None  # [T, *B], True: the step is skipped and keeps the carry
    resets: Array | None = None  # [T, *B], True: the step starts from the reset carry
    cuts: Array | None = None  # [T], True: no gradient from this step to the one before


@partial(jax.jit, static_argnames="plan")
def run(plan: Plan, params: Params, carry: Carry, steps: Steps, reset_carry: Carry) -> tuple:
    """The whole recurrence: `(final carry, outputs [T, *B, F], every carry [T, *B, ...] or None)`.

    Jitted, so that outside `jit` too equal plans and shapes compile once.
    """
    params, carry, steps, reset_carry = _vary_alike((params, carry, steps, reset_carry))
    if plan.rule is None:
        final, (outputs, carries), _ = _forward(
            plan,
            params,
            carry,
            steps,
            reset_carry,
            keep=lambda carry, y, gates: (y, carry if plan.every_carry else None),
        )
        return final, outputs, carries
    final, kept = _ruled(plan, params, carry, steps, reset_carry)
    return final, _output(kept), kept if plan.every_carry else None


def scan_layers(body: Callable, carry: Any, stacked: Any) -> tuple[Any, Any]:
    """A scan over depth: equal layers one after the other, `stacked` along a leading layer axis."""
    return lax.scan(body, carry, stacked)


# ------------------------------------------------------------------------------ forward


def _forward(
    plan: Plan, params: Params, carry: Carry, steps: Steps, reset_carry: Carry, keep: Callable
) -> tuple[Carry, Any, Carry]:
    """The final carry, `keep(carry, y, gates)` of every step, and the carry that starts each chunk."""

    def chunk(carry: Carry, steps: Steps, _: None) -> tuple[Carry, Any, Carry]:
        final, kept = _forward_chunk(plan, params, carry, steps, reset_carry, keep)
        return final, kept, carry

    if plan.rule is None and plan.bptt.save == "boundaries":
        chunk = jax.checkpoint(chunk, prevent_cse=False)
    size = _chunk_size(plan, params, carry, steps)
    return _over_chunks(chunk, carry, steps, None, size, reverse=plan.reverse)


def _forward_chunk(
    plan: Plan, params: Params, carry: Carry, steps: Steps, reset_carry: Carry, keep: Callable
) -> tuple[Carry, Any]:
    bptt, by_autodiff = plan.bptt, plan.rule is None
    inputs, advance = _pieces(plan, params, steps.xs)
    if by_autodiff and bptt.save == "carries":
        advance = jax.checkpoint(advance, prevent_cse=False)

    def step(carry: Carry, inputs: tuple) -> tuple[Carry, Any]:
        a, skip, reset, cut = inputs
        if by_autodiff:
            carry = _where(cut, lax.stop_gradient(carry), carry)
        start = _where(reset, reset_carry, carry)
        if by_autodiff and bptt.clip is not None:
            start = _clip_cotangent(bptt.clip, start)
        new, y, gates = advance(start, a)
        carry = _where(skip, carry, new)
        return carry, keep(carry, y, gates)

    return lax.scan(step, carry, (inputs, *steps[1:]), reverse=plan.reverse)


def _pieces(plan: Plan, params: Params, xs: Array) -> tuple[Any, Callable]:
    """What to scan over, and `advance(carry, a) -> (carry, y, gates)`."""
    cell, rule = plan.cell, getattr(plan.cell, "rule", None)
    if rule is None:
        return xs, lambda carry, x: (*cell.step(params, carry, x), None)
    params = matrices_as(params, xs.dtype)
    cut = {"cell_path_only": True} if plan.rule is None and plan.bptt.cell_path_only else {}

    def advance(carry: Carry, a: Any) -> tuple[Carry, Array, Any]:
        carry, gates = rule.recur(cell, params, carry, a, **cut)
        return carry, _output(carry), gates

    return rule.project(cell, params, xs), advance


# ------------------------------------------------------------------- backward, by the rule


class Residuals(NamedTuple):
    """What the forward pass saves for the backward pass."""

    params: Params
    steps: Steps
    reset_carry: Carry
    starts: Carry  # the carry at the start of each chunk
    carries: Carry | None  # after each step
    gates: Any  # of each step


@partial(jax.custom_vjp, nondiff_argnames=("plan",))
def _ruled(plan: Plan, params: Params, carry: Carry, steps: Steps, reset_carry: Carry) -> tuple:
    """The final carry and what `_kept` keeps of every step."""
    final, kept, _ = _forward(
        plan, params, carry, steps, reset_carry, lambda carry, y, gates: _kept(plan, carry)
    )
    return final, kept


def _kept(plan: Plan, carry: Carry) -> Any:
    return carry if plan.every_carry else _output(carry)


def _ruled_fwd(
    plan: Plan, params: Params, carry: Carry, steps: Steps, reset_carry: Carry
) -> tuple[tuple, Residuals]:
    save = plan.bptt.save

    def keep(carry: Carry, y: Array, gates: Any) -> tuple[Carry, Any]:
        return (
            _kept(plan, carry) if save == "boundaries" else carry,
            gates if save == "gates" else None,
        )

    final, (carries, gates), starts = _forward(plan, params, carry, steps, reset_carry, keep)
    if save == "boundaries":
        kept, carries = carries, None
    else:
        kept = _kept(plan, carries)
    return (final, kept), Residuals(params, steps, reset_carry, starts, carries, gates)


def _ruled_bwd(plan: Plan, saved: Residuals, cotangents: tuple) -> tuple:
    params, steps, reset_carry, starts, carries, gates = saved
    dfinal, dkept = cotangents

    def chunk(state: tuple, chunked: tuple, start: Carry) -> tuple[tuple, Array, None]:
        flow, dparams = state
        flow, new, dxs = _backward_chunk(plan, params, reset_carry, start, flow, *chunked)
        return (flow, jax.tree.map(jnp.add, dparams, new)), dxs, None

    flow = _Flow(_wide(dfinal), None if steps.resets is None else _zeros(reset_carry))
    state = _vary_alike((flow, _zeros(params)), like=saved)
    first = jax.tree.map(lambda leaf: leaf[0], starts)
    size = _chunk_size(plan, params, first, steps)
    (flow, dparams), dxs, _ = _over_chunks(
        chunk, state, (steps, carries, gates, dkept), starts, size, reverse=not plan.reverse
    )
    dreset = _zeros(reset_carry) if flow.dreset is None else flow.dreset
    return (
        _as_dtypes(dparams, params),
        _as_dtypes(flow.dcarry, dfinal),
        Steps(dxs),
        _as_dtypes(dreset, reset_carry),
    )


class _Flow(NamedTuple):
    """What the reverse recurrence hands from step to step, accumulated in at least float32."""

    dcarry: Carry
    dreset: Carry | None  # the sum of what reached the reset carry


def _backward_chunk(
    plan: Plan,
    params: Params,
    reset_carry: Carry,
    start: Carry,
    flow: _Flow,
    steps: Steps,
    carries: Carry | None,
    gates: Any,
    dkept: Any,
) -> tuple[_Flow, Params, Array]:
    """The flow that leaves a chunk, its weight gradients and its `δxs`."""
    cell, bptt, rule = plan.cell, plan.bptt, plan.rule
    if carries is None:
        _, (carries, gates) = _forward_chunk(
            plan, params, start, steps, reset_carry, lambda carry, y, gates: (carry, gates)
        )
    before = _where(steps.resets, reset_carry, _shift(start, carries, plan.reverse))
    matrices = matrices_as(params, steps.xs.dtype)
    if bptt.save == "carries":
        projected = rule.project(cell, matrices, steps.xs)
        _, gates = rule.recur(cell, matrices, before, projected)
    local = rule.linearize(cell, matrices, before, carries, gates)
    cut_path = {"cell_path_only": True} if bptt.cell_path_only else {}

    def step(flow: _Flow, inputs: tuple) -> tuple[_Flow, Any]:
        local, direct, skip, reset, cut = inputs
        dcarry = _add_direct(plan, flow.dcarry, direct)
        none = _zeros(dcarry)
        # a skipped step hands δcarry on as it is: nothing of it may enter the step's own rule
        live = _where(skip, none, dcarry)
        dbefore, delta = rule.backward(cell, matrices, local, live, **cut_path)
        if bptt.clip is not None:
            dbefore = _clip(bptt.clip, dbefore)
        dreset = flow.dreset
        if reset is not None:
            dreset = jax.tree.map(jnp.add, dreset, _where(reset, dbefore, none))
            dbefore = _where(reset, none, dbefore)
        dbefore = _where(skip, dcarry, dbefore)
        return _Flow(_where(cut, none, dbefore), dreset), delta

    inputs = (local, dkept, *steps[1:])
    flow, delta = lax.scan(step, flow, inputs, reverse=not plan.reverse)
    dparams, dxs = rule.contract(cell, matrices, steps.xs, before, carries, gates, delta)
    return flow, dparams, dxs.astype(steps.xs.dtype)


_ruled.defvjp(_ruled_fwd, _ruled_bwd)


def _add_direct(plan: Plan, dcarry: Carry, direct: Any) -> Carry:
    """`δcarry` and what reaches the step from the loss: a whole carry, or only its output."""
    if plan.every_carry:
        return jax.tree.map(lambda d, e: d + e.astype(d.dtype), dcarry, direct)
    (output, *rest), structure = jax.tree.flatten(dcarry)
    return jax.tree.unflatten(structure, [output + direct.astype(output.dtype), *rest])


# ------------------------------------------------------------------------------- clipping


def _clip(bound: float, dcarry: Carry) -> Carry:
    return jax.tree.map(lambda d: jnp.clip(d, -bound, bound), dcarry)


@partial(jax.custom_vjp, nondiff_argnames=("bound",))
def _clip_cotangent(bound: float, carry: Carry) -> Carry:
    """The identity; backward, every element of the cotangent is clipped to `[-bound, bound]`."""
    return carry


_clip_cotangent.defvjp(
    lambda bound, carry: (carry, None), lambda bound, _, dcarry: (_clip(bound, dcarry),)
)


# --------------------------------------------------------------------------------- chunks


def _chunk_size(plan: Plan, params: Params, carry: Carry, steps: Steps) -> int:
    """The number of steps in a chunk: as asked for, else from the bytes that a step holds."""
    length = len(steps.xs)
    if plan.bptt.chunk is not None:
        return max(1, min(plan.bptt.chunk, length))
    per_step = jax.eval_shape(
        lambda params, carry, x: _advance_once(plan, params, carry, x),
        params,
        carry,
        jax.ShapeDtypeStruct(steps.xs.shape[1:], steps.xs.dtype),
    )
    # forward and backward hold about three times what one forward step makes
    held = 3 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(per_step))
    least, most = CHUNK_STEPS
    size = min(max(CHUNK_BYTES // max(held, 1), least), most)
    if length <= size:
        return max(length, 1)
    # a remainder costs a copy of everything saved: prefer a size that leaves none
    return next((n for n in range(size, size // 2, -1) if length % n == 0), size)


def _advance_once(plan: Plan, params: Params, carry: Carry, x: Array) -> Any:
    a, advance = _pieces(plan, params, x)
    return a, advance(carry, a)


def _over_chunks(
    body: Callable, state: Any, per_step: Any, per_chunk: Any, size: int, *, reverse: bool
) -> tuple[Any, Any, Any]:
    """`body(state, steps, chunk) -> (state, steps, chunk)` over chunks of `size` steps in turn.

    `per_step` is cut along its leading axis `T`, the remainder last; `per_chunk` has one entry for
    each chunk. What the body returns is joined likewise.
    """
    length = len(jax.tree.leaves(per_step)[0])
    count, rest = divmod(length, size)

    def single(state: Any, steps: Any, index: int) -> tuple[Any, Any, Any]:
        state, steps, chunk = body(state, steps, jax.tree.map(lambda v: v[index], per_chunk))
        return state, steps, jax.tree.map(lambda v: v[None], chunk)

    if length <= size:
        return single(state, per_step, 0)

    def scanned(state: Any, inputs: tuple) -> tuple[Any, tuple]:
        state, *outputs = body(state, *inputs)
        return state, tuple(outputs)

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


# ---------------------------------------------------------------------------------- trees


def _output(carry: Carry) -> Array:
    """The output of a cell with a rule is the first leaf of its carry."""
    return jax.tree.leaves(carry)[0]


def _shift(start: Carry, carries: Carry, reverse: bool) -> Carry:
    """The carry before each step, from the one that starts the chunk and those after each step."""
    if reverse:
        return jax.tree.map(lambda s, v: jnp.concatenate([v, s[None]])[1:], start, carries)
    return jax.tree.map(lambda s, v: jnp.concatenate([s[None], v])[:-1], start, carries)


def _where(flag: Array | None, this: Any, other: Any) -> Any:
    """`this` where `flag` holds, else `other`, leaf by leaf; `flag` broadcasts from the left."""
    if flag is None:
        return other

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(flag.reshape(flag.shape + (1,) * (b.ndim - flag.ndim)), a, b)

    return jax.tree.map(pick, this, other)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda v: jnp.zeros(v.shape, accumulator(v.dtype)), tree)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda v: v.astype(accumulator(v.dtype)), tree)


def _as_dtypes(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda v, w: v.astype(w.dtype), tree, like)


def _vary_alike(tree: Any, like: Any = None) -> Any:
    """Inside `shard_map`, `tree` varying over every mesh axis that a leaf of it or `like` varies over.

    Gradients of replicated parameters are then summed once, by the transpose of this cast, outside
    every loop; and what is created here can be carried through a loop with what came from outside.
    """
    axes: frozenset = frozenset()
    for leaf in jax.tree.leaves((tree, like)):
        axes |= jax.typeof(leaf).mat.varying

    def vary(leaf: Array) -> Array:
        missing = axes - jax.typeof(leaf).mat.varying
        return lax.pcast(leaf, tuple(missing), to="varying") if missing else leaf

    return jax.tree.map(vary, tree)
