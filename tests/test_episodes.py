"""Which steps start an episode, and their numbers, against counting by hand."""

import itertools

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gatedrnn._src.episodes import episode_starts, step_numbers


def by_hand(first, mask, resets, reverse):
    """One row: the number of each valid step, and of the one that would come next.

    Forward, a valid step with a reset starts anew; in reverse, a valid step does whose next valid
    step (in time) has a reset.
    """
    order = [t for t in range(len(mask)) if mask[t]]
    boundaries = {t for t in order if resets[t]}
    if reverse:
        pairs = itertools.pairwise(order)
        boundaries = {before for before, t in pairs if resets[t]}
        order = order[::-1]
    numbers, number = {}, first
    for t in order:
        number = 0 if t in boundaries else number
        numbers[t] = number
        number += 1
    return numbers, number


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_numbers_are_those_of_counting(data):
    """Rows of any mask, resets and first number, in either direction; with and without each."""
    length, rows = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 3))
    flags = st.lists(
        st.lists(st.booleans(), min_size=rows, max_size=rows), min_size=length, max_size=length
    )
    mask = np.array(data.draw(flags), bool).reshape(length, rows)
    resets = np.array(data.draw(flags), bool).reshape(length, rows)
    first = np.array(data.draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows)), np.int32)
    padded, anew, reverse = (data.draw(st.booleans()) for _ in range(3))
    given_mask = jnp.asarray(mask) if padded else None
    starts = episode_starts(jnp.asarray(resets), given_mask, reverse) if anew else None
    got = step_numbers(jnp.asarray(first), length, given_mask, starts, reverse=reverse)
    assert got.of_steps.shape == (length, rows)
    assert got.of_steps.dtype == got.after.dtype == jnp.int32
    for row in range(rows):
        valid = mask[:, row] if padded else np.ones(length, bool)
        at = resets[:, row] if anew else np.zeros(length, bool)
        numbers, after = by_hand(int(first[row]), valid, at, reverse)
        assert {t: int(got.of_steps[t, row]) for t in numbers} == numbers
        assert got.after[row] == after
