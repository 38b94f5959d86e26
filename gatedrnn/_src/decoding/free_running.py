"""Free running: a sequence of outputs, each of which is the next input.

Axes: `T` steps, `*B` any batch axes, `F` features.
"""

from collections.abc import Callable
from functools import partial

import jax
from jax import Array, lax

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry
from gatedrnn._src.decoding.checks import as_pair, as_partial, check_step
from gatedrnn._src.placement import placed_as_returned


def generate(step: Callable, carry: Carry, first: Array, *, steps: int) -> tuple[Carry, Array]:
    """Feed a network its own outputs: forecasting, or a sequence from a single vector.

    `carry, y = step(carry, y)`, `steps` times, starting with `first`. The carry may come from a
    prefix (`apply`), or from a label or a vector (a layer of your own), and may hold a key for a
    step that draws its output. Differentiable; compiled in the same way as `gr.greedy`. An output
    that is NaN is fed back like any other: it shows among the outputs of its row, and in no other.

    Args:
      step: `(carry, y) -> (carry, y)`, the output of the same shape and dtype as the input: arrays
        `[*B, F]`, or any pytree.
      carry: the carry to start from.
      first: the first input, which is not among the outputs.
      steps: `T`, at least 0; static.

    Returns:
      `(carry, ys)`: the final carry, and the outputs `[T, *B, F]`. To go on, feed `ys[-1]`.

    Raises:
      TypeError: a step that is not a function, does not return a pair, or changes a dtype.
      ValueError: a step that changes a shape; a number of steps below 0.

    Example:
      >>> net = gr.stack(gr.GRU(3), gr.dense(1))  # predicts the next value of a series
      >>> params, series = net.init(jax.random.key(0), 1), jnp.ones((5, 2, 1))
      >>> carry, ys = net.apply(params, series)
      >>> step = jax.tree_util.Partial(net.step, params)
      >>> carry, forecast = gr.generate(step, carry, ys[-1], steps=4)
      >>> forecast.shape
      (4, 2, 1)
    """
    checks.count("steps", steps)
    carry = validation.as_arrays("carry", carry)
    first = validation.as_arrays("first", first)
    return _generate(as_partial(step), carry, first, steps=steps)


@partial(jax.jit, static_argnames="steps")
def _generate(step: Callable, carry: Carry, first: Array, *, steps: int) -> tuple[Carry, Array]:
    checks.function("step", step, ("carry", "y"), "(carry, y)")

    def feed_back(state: tuple, _: None) -> tuple[tuple, Array]:
        carry, y = as_pair(step(*state))
        return (carry, y), y

    check_step(lambda state, _: (feed_back(state, None)[0], ()), (carry, first), None)
    start = placed_as_returned(step, (carry, first), step)
    (carry, _), ys = lax.scan(feed_back, start, length=steps)
    return carry, ys
