"""The number of steps in a chunk of time.

Axes: `T` time, `*B` batch, `I` input features.
"""

import dataclasses
from typing import Any

import jax

from gatedrnn._src.base import Carry, Params
from gatedrnn._src.pytree import first_leaf
from gatedrnn._src.time.recurrence import Recurrence, Steps, step_function, weights_of

# A chunk makes fresh memory beside the values that are saved for every step: a twentieth of the
# sequence keeps the first a small part of the second. Fewer steps than make the first size are not
# worth a pass over the weights; more than make the second leave the caches, and on a CPU the page
# faults of larger temporaries cost more than the arithmetic on them.
CHUNK_SHARE = 20
CHUNK_BYTES = (2**20, 2**24)


def with_chunk_size(
    recurrence: Recurrence, params: Params, carry: Carry, steps: Steps
) -> Recurrence:
    """Return `recurrence` with a chunk size: `bptt.chunk`, or one from the bytes of a step."""
    length = len(first_leaf(steps.xs))
    if recurrence.bptt.chunk is None:
        size = _automatic_size(recurrence, params, carry, steps.xs)
    else:
        size = max(1, min(recurrence.bptt.chunk, length))
    return dataclasses.replace(recurrence, chunk_size=size)


def _automatic_size(recurrence: Recurrence, params: Params, carry: Carry, xs: Any) -> int:
    def one_step(params: Params, carry: Carry, x: Any) -> Any:
        a, step = step_function(recurrence, weights_of(recurrence, params, x), x)
        return a, step(carry, a)

    x = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), xs)
    made = jax.eval_shape(one_step, params, carry, x)
    bytes_of_step = max(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made)), 1)
    least, most = (size // bytes_of_step for size in CHUNK_BYTES)
    length = max(len(first_leaf(xs)), 1)
    size = min(max(length // CHUNK_SHARE, least, 1), max(most, 1), length)
    # a remainder costs a copy of all that is saved: prefer a size that leaves none
    return next((n for n in range(size, size // 2, -1) if length % n == 0), size)
