"""Windows of a long stream, cut into parallel streams, for truncated training.

Axes: `N` steps of the stream, `W` windows, `T` steps of a window, `B` parallel streams.
"""

import math
from typing import NamedTuple

import numpy as np

from gatedrnn._src import checks
from gatedrnn._src.describe import documented


@documented
class Windows(NamedTuple):
    """The places of a stream's steps in windows: every step has exactly one place.

    Attributes:
      steps: int64 `[W, T, B]`, the number of the step in the stream; 0 in an empty place.
      mask: bool `[W, T, B]`, False in an empty place, where a parallel stream has run out.
    """

    steps: np.ndarray
    mask: np.ndarray


def windows(length: int, *, window: int, batch: int) -> Windows:
    """Cut a stream of `length` steps into `batch` parallel streams, and these into windows.

    The parallel streams are consecutive parts of the stream, equally long but for the last ones.
    In each of them window `w` goes on where window `w − 1` ended. So the final carry of a window,
    with `jax.lax.stop_gradient` around it, is the initial carry of the next window: truncated
    back-propagation (Williams & Peng 1990). The gradient, summed over the windows at the same
    parameters, equals the gradient by `gr.BPTT(truncate=T)` on whole streams. Runs on the host, in
    NumPy, and drops no step.

    For `xs [N, ...]`: `xs[cut.steps[w]]` are the inputs `[T, B, ...]` of window `w`, and
    `mask=cut.mask[w]` its mask. To predict the next token, cut `N − 1` steps and take the targets
    `xs[cut.steps[w] + 1]`.

    Args:
      length: `N`, at least 0.
      window: `T`, at least 1.
      batch: `B`, at least 1. If the stream is short, some parallel streams may be empty.

    Returns:
      The number of each step and the mask, for `W = ⌈⌈N / B⌉ / T⌉` windows.

    Raises:
      ValueError: sizes out of range.

    Example:
      >>> cut = gr.windows(7, window=2, batch=2)  # the streams are steps 0 to 3 and 4 to 6
      >>> cut.steps.tolist()
      [[[0, 4], [1, 5]], [[2, 6], [3, 0]]]
      >>> cut.mask[1].tolist()
      [[True, True], [True, False]]
      >>> xs, cell = jnp.ones((7, 3)), gr.GRU(4)
      >>> params, carry = cell.init(jax.random.key(0), 3), cell.carry((2,))
      >>> for steps, mask in zip(*cut):
      ...     carry, ys = gr.unroll(cell, params, xs[steps], carry, mask=mask)
      ...     carry = jax.lax.stop_gradient(carry)
    """
    checks.count("length", length)
    checks.size("window", window)
    checks.size("batch", batch)
    length, window, batch = map(int, (length, window, batch))  # NumPy's would wrap around
    stream_length = math.ceil(length / batch)
    count = math.ceil(stream_length / window)
    step = np.arange(count * window)[:, None]
    index = step + np.arange(batch) * stream_length
    mask = (step < stream_length) & (index < length)
    shape = (count, window, batch)
    return Windows(np.where(mask, index, 0).reshape(shape), mask.reshape(shape))
