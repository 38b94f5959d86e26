"""The loop that a kernel makes: its derivatives, rows that are spread, and the choice of platform.

Axes: `T` time, `*B` batch, `F` features of a leaf.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src.kernels.sharding import over_rows
from gatedrnn._src.loops import Step, Steps, scan
from gatedrnn._src.pytree import first_leaf

# a loop by a kernel alone, with the option `interpret`: True to run it by Pallas's interpreter
Call = Callable[..., tuple[Any, Any]]


def loop_of(call: Call, platform: str) -> Call:
    """Return the loop that runs `call` where a program is lowered for `platform`, else a scan.

    Derivatives are those of the scan. The loop is a `gr.Loop` with the option `interpret`.
    """

    def run(step: Step, *arguments: Any, reverse: bool, interpret: bool = False) -> tuple[Any, Any]:
        by_scan = partial(scan, step, reverse=reverse)
        by_kernel = over_rows(partial(call, step, reverse=reverse, interpret=interpret), by_scan)

        @jax.custom_jvp
        def loop(*arguments: Any) -> Any:
            if interpret:
                return by_kernel(*arguments)
            return lax.platform_dependent(*arguments, **{platform: by_kernel}, default=by_scan)

        @loop.defjvp
        def _(primals: tuple, tangents: tuple) -> tuple:
            # the values are the kernel's: `vmap` before `jvp` takes the axes of the function itself
            # to hold for this rule too, and a scan has its own
            return loop(*primals), jax.jvp(by_scan, primals, tangents)[1]

        carry, inputs = arguments[-2:]
        empty = 0 in (*first_leaf(inputs.xs).shape, *first_leaf(carry).shape)
        return (by_scan if empty else loop)(*arguments)

    return run


def with_one_batch_axis(call: Call) -> Call:
    """Return `call`, which takes arrays of one batch axis, for arrays of any number of them."""

    def run(
        step: Step, weights: Any, rows: Any, carry: Any, inputs: Steps, **options: bool
    ) -> tuple[Any, Any]:
        batch = sizes(inputs)[1:]

        def merged(tree: Any, axis: int) -> Any:
            end = axis + len(batch)
            return jax.tree.map(
                lambda v: v.reshape(*v.shape[:axis], math.prod(batch), *v.shape[end:]), tree
            )

        def split(tree: Any, axis: int) -> Any:
            return jax.tree.map(
                lambda v: v.reshape(*v.shape[:axis], *batch, *v.shape[axis + 1 :]), tree
            )

        xs, skips, resets = merged(inputs[:3], 1)
        inputs = Steps(xs, skips, resets, inputs.cuts)
        rows, carry = merged((rows, carry), 0)
        carry, kept = call(step, weights, rows, carry, inputs, **options)
        return split(carry, 0), split(kept, 1)

    return run


def sizes(inputs: Steps) -> tuple[int, ...]:
    """Return `(T, *B)`."""
    return first_leaf(inputs.xs).shape[:-1]


def pad(leaf: Array, axis: int, more: int) -> Array:
    """Return `leaf` with `more` zeros at the end of an axis."""
    if not more:
        return leaf
    return jnp.pad(leaf, [(0, more if a == axis else 0) for a in range(leaf.ndim)])
