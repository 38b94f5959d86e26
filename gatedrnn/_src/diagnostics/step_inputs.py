"""The inputs of every step of a run, from which a diagnostic computes the steps again.

Axes: `T` time, `*B` any batch axes (also none), `I` input features.
"""

from typing import NamedTuple

from jax import Array

from gatedrnn._src.base import Carry, Cell, Params
from gatedrnn._src.episodes import episode_starts
from gatedrnn._src.placement import ROWS, STEPS, placed, rows_of
from gatedrnn._src.pytree import shift, where
from gatedrnn._src.time.unroll import Options, checked, run


class StepInputs(NamedTuple):
    """The carry before each step and the input of each step, with the flags of mask and resets."""

    before: Carry  # [T, *B, ...], the reset carry where a step started from it
    xs: Array  # [T, *B, I], zeros where masked
    mask: Array | None  # [T, *B], True where a step is valid
    starts: Array | None  # [T, *B], True where a step started from the reset carry


def step_inputs(
    cell: Cell, params: Params, xs: Array, carry: Carry | None, options: Options
) -> StepInputs:
    """Run `cell` and return the inputs of its steps; the arguments are those of `gr.unroll`."""
    unrolled = checked(cell, params, xs, carry, options)
    _, _, carries = run(unrolled, every_carry=True)
    rows = rows_of("xs", unrolled.xs, 1, unrolled.xs.ndim - 2, (params, carries))
    first, reset_carry = placed(ROWS, (unrolled.carry, unrolled.reset_carry), rows, carries)
    mask, resets = placed(STEPS, (unrolled.mask, unrolled.resets), rows, carries)
    before, starts = shift(first, carries, unrolled.reverse), None
    if resets is not None:
        starts = episode_starts(resets, mask, unrolled.reverse)
        before = where(starts, reset_carry, before)
    return StepInputs(before, unrolled.xs, mask, starts)
