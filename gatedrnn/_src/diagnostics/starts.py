"""What every step of a run started from, so that a diagnostic can look at it again.

Axes: `T` time, `*B` any batch axes (also none), `I` input features.
"""

from typing import NamedTuple

from jax import Array

from gatedrnn._src.base import Carry, Cell, Params
from gatedrnn._src.episodes import episode_starts
from gatedrnn._src.pytree import shift, where
from gatedrnn._src.time.unroll import Options, checked, run


class Replay(NamedTuple):
    """A run, step by step."""

    before: Carry  # what each step started from, [T, *B, ...]
    xs: Array  # [T, *B, I], zeros where masked
    mask: Array | None  # [T, *B], True where a step is valid
    starts: Array | None  # [T, *B], True where a step started from the reset carry


def replay(cell: Cell, params: Params, xs: Array, carry: Carry | None, options: Options) -> Replay:
    """Run `cell`; the arguments are those of `gr.unroll`."""
    of = checked(cell, params, xs, carry, options)
    _, _, carries = run(of, every_carry=True)
    before, starts = shift(of.carry, carries, of.reverse), None
    if of.resets is not None:
        starts = episode_starts(of.resets, of.mask, of.reverse)
        before = where(starts, of.reset_carry, before)
    return Replay(before, of.xs, of.mask, starts)
