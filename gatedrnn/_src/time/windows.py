"""A long stream cut into windows of parallel streams, for truncated training.

Axes: `N` steps of the stream, `W` windows, `T` steps of a window, `B` parallel streams.
"""

import math
from typing import NamedTuple

import numpy as np

from gatedrnn._src import checks


class Windows(NamedTuple):
    """Which step of a stream stands where; every step stands in exactly one place."""

    steps: np.ndarray  # int64 [W, T, B], 0 where there is none
    mask: np.ndarray  # bool [W, T, B], False where a stream has run out


def windows(length: int, *, window: int, batch: int) -> Windows:
    """Cut a stream of `length` steps into `batch` parallel ones, and those into windows.

    Stream `b` is one stretch of the whole, as long as the others or, the last, shorter; window `w`
    of it goes on where window `w − 1` ended. So the carry of a window, with `jax.lax.stop_gradient`
    around it, is the initial carry of the next: truncated back-propagation (Williams & Peng 1990),
    whose gradient, summed over the windows at the same parameters, is that of `gr.BPTT(truncate=T)`
    on whole streams. On the host, in NumPy; nothing of the stream is dropped.

    For `xs [N, ...]`: `xs[cut.steps[w]]` are the inputs `[T, B, ...]` of window `w`, and
    `mask=cut.mask[w]` its mask. To predict the next token, cut `N − 1` steps and take the targets
    `xs[cut.steps[w] + 1]`.

    Args:
      length: `N`, at least 0.
      window: `T`, at least 1.
      batch: `B`, at least 1. Where the stream is short, some of them may be empty.

    Returns:
      The number of each step and the mask, for `W = ⌈⌈N / B⌉ / T⌉` windows.

    Raises:
      ValueError: sizes out of range.
    """
    checks.count("length", length)
    checks.size("window", window)
    checks.size("batch", batch)
    each = math.ceil(length / batch)
    count = math.ceil(each / window)
    step = np.arange(count * window)[:, None]
    index = step + np.arange(batch) * each
    mask = (step < each) & (index < length)
    shape = (count, window, batch)
    return Windows(np.where(mask, index, 0).reshape(shape), mask.reshape(shape))
