"""Sequences of different lengths in one array.

Axes: T steps of the longest sequence, B sequences.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Ragged(NamedTuple):
    """A batch of sequences; what lies at and after a sequence's length is padding."""

    values: np.ndarray  # [T, B, ...]
    lengths: np.ndarray  # int32 [B]


def pad(sequences: Sequence[np.ndarray], *, length: int | None = None, fill: float = 0) -> Ragged:
    """Stack arrays [Tᵢ, ...] of one dtype, time first, with `fill` after the end of each.

    `length` sets T, so that every batch has one shape; by default T is the longest Tᵢ. Raises
    `ValueError` where there is no sequence, or one that is longer than `length`.
    """
    if not sequences:
        raise ValueError("sequences: got none, expected at least one")
    longest = max(len(sequence) for sequence in sequences)
    steps = longest if length is None else length
    if longest > steps:
        raise ValueError(f"sequences: got one of {longest} steps, expected at most {steps}")
    first = sequences[0]
    values = np.full((steps, len(sequences), *first.shape[1:]), fill, first.dtype)
    for place, sequence in enumerate(sequences):
        values[: len(sequence), place] = sequence
    return Ragged(values, np.array([len(sequence) for sequence in sequences], np.int32))
