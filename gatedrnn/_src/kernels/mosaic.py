"""One kernel for all steps on a TPU, by Pallas and Mosaic.

Axes: `T` time, `B` rows, `b` rows of a block, `F` features of a leaf.

The grid runs over blocks of rows and, inside, over time. The weights are copied into VMEM once and
stay there for all steps; so does the carry, in the block of the final carry. The values of the next
steps are fetched, and those of the last steps are written, while the present ones are computed. The
step itself is the engine's, so masks, resets, truncation and clipping are in the kernel too, and
the equations stand in the rule alone.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src.kernels.columns import used
from gatedrnn._src.kernels.common import loop_of, sizes, with_one_batch_axis
from gatedrnn._src.loops import Kernel, Step, Steps
from gatedrnn._src.pytree import first_leaf

VMEM_BYTES = 100 * 2**20


def refusal(weights: Any, carry: Any) -> str | None:
    """Return why the kernel cannot run steps with these weights and this carry, or None."""
    return None


def _kernel(
    step: Step,
    weights: Any,
    rows: Any,
    carry: Any,
    inputs: Steps,
    *,
    reverse: bool,
    interpret: bool = False,
) -> tuple[Any, Any]:
    """Call the kernel on arrays of one batch axis."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    length, batch = sizes(inputs)
    block, count = batch, min(4, length)
    inputs = inputs._replace(
        skips=_flags(inputs.skips), resets=_flags(inputs.resets), cuts=_flags(inputs.cuts)
    )

    def of_step(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    at_once = jax.tree.map(of_step, inputs)
    kept_shapes = jax.eval_shape(step, weights, rows, carry, _as_flags(at_once))[1]
    leaves, structure = jax.tree.flatten(weights)

    def of_weights(*leaves: Any) -> Any:
        weights = jax.tree.unflatten(structure, leaves)
        return step(weights, *_zeros((rows, carry)), _as_flags(_zeros(at_once)))

    # the kernels of the inputs are among the weights, and have done their work outside
    read = used(lambda *leaves: jax.tree.leaves(of_weights(*leaves)), leaves)
    mat = jax.typeof(first_leaf(inputs.xs)).mat
    shape_of = partial(jax.ShapeDtypeStruct, manual_axis_type=mat)
    out_shapes = (
        jax.tree.map(lambda v: shape_of(v.shape, v.dtype), carry),
        jax.tree.map(lambda v: shape_of((length, *v.shape), v.dtype), kept_shapes),
    )
    passes = -(-length // count)

    def whole(leaf: Any) -> Any:
        return pl.BlockSpec(
            leaf.shape, lambda j, t: (0,) * leaf.ndim, pipeline_mode=pl.Buffered(1)
        )

    def of_rows(leaf: Any) -> Any:
        return pl.BlockSpec((block, *leaf.shape[1:]), lambda j, t: (j, *(0,) * (leaf.ndim - 1)))

    def of_steps(leaf: Any) -> Any:
        shape = (count, block if leaf.shape[1] == batch else 1, *leaf.shape[2:])

        def index(j: Any, t: Any) -> Any:
            return (passes - 1 - t if reverse else t, j, *(0,) * (leaf.ndim - 2))

        return pl.BlockSpec(shape, index)

    def kernel(weights: Any, rows: Any, carry: Any, inputs: Any, *outs: Any) -> None:
        carry_out, kept_out = outs
        index = pl.program_id(1)

        @pl.when(index == 0)
        def _() -> None:
            jax.tree.map(lambda to, ref: _write(to, ..., ref[...]), carry_out, carry)

        first = (passes - 1 - index if reverse else index) * count
        state = jax.tree.map(lambda ref: ref[...], carry_out)
        rows = jax.tree.map(lambda ref: ref[...], rows)
        for s in reversed(range(count)) if reverse else range(count):
            loaded = [
                jnp.zeros(leaf.shape, leaf.dtype)
                if ref is None
                else ref[0] if leaf.ndim == 1 else ref[...]
                for ref, leaf in zip(weights, leaves, strict=True)
            ]
            now = _as_flags(jax.tree.map(lambda ref: ref[s], inputs))
            new, kept = step(jax.tree.unflatten(structure, loaded), rows, state, now)
            jax.tree.map(lambda ref, v: _write(ref, s, v), kept_out, kept)
            if length % count:
                inside = first + s < length
                new = jax.tree.map(lambda a, b: jnp.where(inside, a, b), new, state)
            state = new
        jax.tree.map(lambda ref, v: _write(ref, ..., v), carry_out, state)

    weights = [
        (leaf[None] if leaf.ndim == 1 else leaf) if r else None
        for leaf, r in zip(leaves, read, strict=True)
    ]
    return pl.pallas_call(
        kernel,
        grid=(-(-batch // block), passes),
        in_specs=(
            jax.tree.map(whole, weights),
            jax.tree.map(of_rows, rows),
            jax.tree.map(of_rows, carry),
            jax.tree.map(of_steps, inputs),
        ),
        out_specs=(
            jax.tree.map(of_rows, out_shapes[0]),
            jax.tree.map(of_steps, out_shapes[1]),
        ),
        out_shape=out_shapes,
        interpret=interpret,
        compiler_params=None
        if interpret
        else pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        name="reverse_steps" if reverse else "steps",
    )(weights, rows, carry, inputs)


def _flags(flags: Array | None) -> Array | None:
    """Return flags `[T, B]` or `[T]` as numbers `[T, B, 1]` or `[T, 1, 1]`."""
    if flags is None:
        return None
    return flags.astype(jnp.int32).reshape(*flags.shape, *(1,) * (3 - flags.ndim))


def _as_flags(inputs: Steps) -> Steps:
    return Steps(
        inputs.xs,
        *(
            v if v is None else jax.ShapeDtypeStruct(v.shape, bool)
            if isinstance(v, jax.ShapeDtypeStruct) else v != 0
            for v in inputs[1:]
        ),
    )


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)


def _write(ref: Any, index: Any, value: Array) -> None:
    ref[index] = value


run = loop_of(with_one_batch_axis(_kernel), "tpu")
MOSAIC = Kernel("pallas", "tpu", refusal, run)
