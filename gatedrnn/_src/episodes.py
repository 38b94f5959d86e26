"""Episodes within a sequence: which steps start one, and how many steps it has had.

Axes: `T` time, `*B` any batch axes (also none).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


@partial(jax.jit, static_argnames="reverse", inline=True)
def episode_starts(resets: Array, mask: Array | None, reverse: bool) -> Array:
    """Return the steps that start from the reset carry, `[T, *B]`.

    Forward, those with a reset. In reverse, the valid step that comes before one: the reset of the
    next valid step after `t`, found by a running minimum from the right over `2t + (no reset)`, of
    which the parity tells whether there is one.
    """
    if mask is not None:
        resets = resets & mask
    if not reverse:
        return resets
    length = resets.shape[0]
    later = jnp.zeros_like(resets[:1])
    if mask is None:
        return jnp.concatenate([resets, later])[1:]
    step = lax.broadcasted_iota(jnp.int32, resets.shape, 0)
    coded = jnp.where(mask, 2 * step + (~resets).astype(step.dtype), 2 * length + 1)
    nearest = lax.cummin(coded, axis=0, reverse=True)
    return jnp.concatenate([nearest % 2 == 0, later])[1:]


class StepNumbers(NamedTuple):
    """The number of every step in its own row's episode, from 0."""

    of_steps: Array  # int32 [T, *B]
    after: Array  # int32 [*B], that of the step that would come next


@partial(jax.jit, static_argnames=("length", "reverse"), inline=True)
def step_numbers(
    first: Array, length: int, mask: Array | None, starts: Array | None, *, reverse: bool = False
) -> StepNumbers:
    """Number `length` steps in the order in which they run.

    A row counts its valid steps from `first [*B]`, and anew from 0 at each step that starts an
    episode (`starts [T, *B]`, as `episode_starts` returns them). So a row's numbers are those that
    it would have alone, and an episode's those that it would have alone.
    """
    valid = jnp.ones((length, *first.shape), jnp.int32) if mask is None else mask.astype(jnp.int32)
    if mask is None and starts is None:
        step = lax.broadcasted_iota(jnp.int32, valid.shape, 0)
        return StepNumbers(first[None] + (length - 1 - step if reverse else step), first + length)
    through = lax.cumsum(valid, axis=0, reverse=reverse)
    before, total = through - valid, jnp.sum(valid, axis=0, dtype=jnp.int32)
    if starts is None:
        return StepNumbers(first[None] + before, first + total)
    if mask is not None:
        starts = starts & mask  # in reverse, padding before a boundary is said to start too
    # −first: as if this episode had begun so many steps before
    since = jnp.where(starts, before, jnp.broadcast_to(-first, before.shape))
    since = lax.cummax(since, axis=0, reverse=reverse)
    last = jnp.max(since, axis=0, initial=jnp.iinfo(jnp.int32).min)
    return StepNumbers(before - since, total - jnp.maximum(last, -first))
