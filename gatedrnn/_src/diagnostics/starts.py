"""What every step of a run started from, so that a diagnostic can look at it again.

Axes: `T` time, `*B` any batch axes (also none), `I` input features.
"""

from typing import NamedTuple

from jax import Array

from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell, Params
from gatedrnn._src.pytree import shift, where
from gatedrnn._src.time.unroll import as_sequence, carry_or_initial, steps_that_start, trajectory


class Replay(NamedTuple):
    """A run, step by step."""

    before: Carry  # what each step started from, [T, *B, ...]
    xs: Array  # [T, *B, I], zeros where masked
    mask: Array | None  # [T, *B], True where a step is valid
    starts: Array | None  # [T, *B], True where a step started from the reset carry


def replay(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
    reset_carry: Carry | None,
    reverse: bool,
) -> Replay:
    """Run `cell`; the arguments are those of `gr.unroll`."""
    validation.check_cell(cell)
    xs = as_sequence(cell, params, xs)
    carries, _ = trajectory(
        cell,
        params,
        xs,
        carry,
        lengths=lengths,
        mask=mask,
        resets=resets,
        reset_carry=reset_carry,
        reverse=reverse,
    )
    length, batch_shape = len(xs), xs.shape[1:-1]
    start = carry_or_initial("carry", cell, carry, xs)
    validation.check_batched("carry", start, batch_shape)
    before = shift(start, carries, reverse)
    mask = validation.as_mask(lengths, mask, length, batch_shape)
    starts = None
    if resets is not None:
        resets = validation.as_flags("resets", resets, length, batch_shape)
        starts = steps_that_start(resets, mask, reverse)
        before = where(starts, carry_or_initial("reset_carry", cell, reset_carry, xs), before)
    return Replay(before, validation.zero_masked(xs, mask), mask, starts)
