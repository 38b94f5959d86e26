"""One kernel for all steps on a GPU, by Pallas and Triton.

Axes: `T` time, `B` rows, `b` rows of a block, `F` features of a leaf.

A program of the grid takes a block of rows through all steps: the loop over time runs inside, the
carry stays in registers, and the weights are loaded once, where they fit. The step itself is the
engine's, so masks, resets, truncation and clipping are in the kernel too, and the equations stand
in the rule alone. Triton computes on arrays whose sizes are powers of two. So features are padded
with zeros, which add nothing to a product; and what a step makes of them is cut off again.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src.kernels.columns import Columns, Matrix, on_columns, used
from gatedrnn._src.kernels.common import loop_of, pad, sizes, with_one_batch_axis
from gatedrnn._src.loops import Kernel, Step, Steps
from gatedrnn._src.pytree import first_leaf

ROWS = 8  # of a block: the fewest of a product on tensor cores
FEWEST = 16  # features, likewise
PROCESSORS = 132  # of an H100 and an H200, where it was measured; each has room for one block
MEASURED = ("NVIDIA H100", "NVIDIA H200")
MOST_BYTES = 208 * 1024  # of weights in shared memory, of 227 KiB: the rest is for the carry
# precisions of products in float32 that TF32 satisfies
TF32 = {None, "default", "high", "tensorfloat32", "TF32_TF32_F32", "bfloat16", "BF16_BF16_F32"}


def refusal(weights: Any, carry: Any) -> str | None:
    """Return why the kernel cannot run steps with these weights and this carry, or None."""
    leaves = jax.tree.leaves((weights, carry))
    dtypes = {leaf.dtype for leaf in leaves}
    if any(dtype.itemsize > 4 for dtype in dtypes):
        return f"it computes in at most float32, not in {max(dtypes, key=lambda d: d.itemsize)}"
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    matrices = [leaf for leaf in jax.tree.leaves(weights) if leaf.ndim > 1]
    if precision not in TF32 and any(leaf.dtype == jnp.float32 for leaf in matrices):
        return f"its float32 products are TF32, and jax_default_matmul_precision is {precision!r}"
    size = _padded_bytes(matrices)
    if size > MOST_BYTES:
        return f"its weights take {size} bytes, a block of the device holds {MOST_BYTES}"
    return None


def preferred(carry: Any, device_kind: str) -> bool:
    """Return True on devices where it was measured, for rows whose blocks all run at once there."""
    rows = math.prod(first_leaf(carry).shape[:-1])
    if not device_kind.startswith(MEASURED) or not isinstance(rows, int):  # a symbolic size
        return False
    return -(-rows // ROWS) <= PROCESSORS


def _warps(weights: Any, carry: Any) -> int:
    """Return the warps of a block: few wait for one another less, and have fewer registers in all.

    Microseconds of an LSTM's training step on an H200, by 4 and by 8 warps: 2.9 and 4.2 with 64
    features in float32, 7.6 and 6.4 with 128 in bfloat16. Twice the weights of the first spill.
    """
    widest = max(leaf.shape[-1] for leaf in jax.tree.leaves(carry))
    size = sum(w.size * w.dtype.itemsize for w in jax.tree.leaves(weights))
    return 4 if widest <= 64 and size <= 80 * 1024 else 8


def _padded(size: int) -> int:
    return max(FEWEST, 1 << (size - 1).bit_length())


def _padded_bytes(matrices: list[Any]) -> int:
    return sum(math.prod(map(_padded, m.shape)) * m.dtype.itemsize for m in matrices)


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
    """Pad arrays of one batch axis, run the kernel, and cut the padding off."""
    batch = sizes(inputs)[1]
    kept = jax.eval_shape(step, weights, rows, carry, jax.tree.map(lambda v: v[0], inputs))[1]

    def of_block(leaf: Any, leading: int) -> Any:
        return jax.ShapeDtypeStruct((ROWS, *leaf.shape[leading + 1 :]), leaf.dtype)

    at_once = jax.tree.map(lambda v: of_block(v, 1), inputs)
    shapes = (
        jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), weights),
        *jax.tree.map(lambda v: of_block(v, 0), (rows, carry)),
        at_once._replace(cuts=None if inputs.cuts is None else jax.ShapeDtypeStruct((), bool)),
    )

    def blocks(leaf: Array, axis: int) -> Array:
        """Pad the axis of rows to whole blocks."""
        return pad(leaf, axis, -batch % ROWS)

    def features(leaf: Array, first: int) -> Array:
        """Pad the axes from `first` on."""
        for axis in range(first, leaf.ndim):
            leaf = pad(leaf, axis, _padded(leaf.shape[axis]) - leaf.shape[axis])
        return leaf

    def flags(leaf: Array | None) -> Array | None:
        return None if leaf is None else blocks(leaf, 1).astype(jnp.int32)

    padded = (
        jax.tree.map(lambda v: features(v, 0), weights),
        jax.tree.map(lambda v: features(blocks(v, 0), 1), (rows, carry)),
        Steps(
            jax.tree.map(lambda v: features(blocks(v, 1), 2), inputs.xs),
            flags(inputs.skips),
            flags(inputs.resets),
            None if inputs.cuts is None else inputs.cuts.astype(jnp.int32),
        ),
    )
    carry_out, kept_out = _call(step, shapes, reverse, interpret, *padded)

    def cut(leaf: Array, like: Any, leading: int) -> Array:
        for axis, size in enumerate(like.shape, leading):
            leaf = lax.slice_in_dim(leaf, 0, size, axis=axis)
        return leaf

    return (
        jax.tree.map(lambda v, like: cut(v, like, 0), carry_out, carry),
        jax.tree.map(lambda v, like: cut(v, like, 1), kept_out, kept),
    )


def _call(
    step: Step,
    step_shapes: tuple[Any, Any, Any, Steps],
    reverse: bool,
    interpret: bool,
    weights: Any,
    of_rows: Any,
    inputs: Steps,
) -> tuple[Any, Any]:
    """Call the kernel, on leaves whose sizes are powers of two but for `T` and the rows.

    `step_shapes` are those of the arguments of `step` for one block of rows, without padding.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    length, batch = sizes(inputs)
    kept_shapes = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct((ROWS, *map(_padded, v.shape[1:])), v.dtype),
        jax.eval_shape(step, *step_shapes)[1],
    )
    shapes, structure = jax.tree.flatten(step_shapes)
    out_structure = jax.tree.structure((step_shapes[2], kept_shapes))

    def flat_step(*leaves: Array) -> list[Array]:
        return jax.tree.leaves(step(*jax.tree.unflatten(structure, leaves)))

    step_on_columns = on_columns(flat_step, shapes)
    # the kernels of the inputs are among the weights, and have done their work outside
    read = used(flat_step, shapes)
    weights = [w.T if r else None for w, r in zip(jax.tree.leaves(weights), read, strict=False)]
    mat = jax.typeof(first_leaf(inputs.xs)).mat
    shape_of = partial(jax.ShapeDtypeStruct, manual_axis_type=mat)
    out_shapes = (
        jax.tree.map(lambda v: shape_of(v.shape, v.dtype), of_rows[1]),
        jax.tree.map(lambda v: shape_of((length, batch, *v.shape[1:]), v.dtype), kept_shapes),
    )

    def whole(leaf: Any) -> Any:
        return pl.BlockSpec(leaf.shape, lambda j: (0,) * leaf.ndim)

    def part(leaf: Any, axis: int) -> Any:
        """The part of a leaf that is of one block of rows."""
        shape = (*leaf.shape[:axis], ROWS, *leaf.shape[axis + 1 :])
        return pl.BlockSpec(shape, lambda j: tuple(j if a == axis else 0 for a in range(leaf.ndim)))

    blocks = (
        jax.tree.map(whole, weights),
        jax.tree.map(lambda v: part(v, 0), of_rows),
        jax.tree.map(lambda v: part(v, 1) if v.ndim > 1 else whole(v), inputs),
    )
    out_blocks = (
        jax.tree.map(lambda v: part(v, 0), out_shapes[0]),
        jax.tree.map(lambda v: part(v, 1), out_shapes[1]),
    )

    def kernel(weights: Any, of_rows: Any, inputs: Any, carry_out: Any, kept_out: Any) -> None:
        matrices = [None if ref is None else _weight(ref[...]) for ref in weights]
        rows, carry = jax.tree.map(lambda ref: ref[...].T, of_rows)

        def time(s: Any) -> Any:
            return length - 1 - s if reverse else s

        def at(s: Array | int) -> Steps:
            return jax.tree.map(lambda ref: ref[time(s)], inputs)

        def body(s: Array, state: tuple[Any, Steps]) -> tuple[Any, Steps]:
            carry, now = state
            following = at(jnp.minimum(s + 1, length - 1))  # read before the products need it
            now = Steps(
                jax.tree.map(lambda v: Columns(v.T), now.xs),
                *(v if v is None else _flag(v) for v in now[1:]),
            )
            of_rows = jax.tree.map(Columns, (rows, carry))
            out = step_on_columns(*matrices, *jax.tree.leaves((*of_rows, now)))
            carry_of, kept = jax.tree.unflatten(out_structure, out)
            carry = jax.tree.map(_values, carry_of, carry)

            def write(ref: Any, value: Any, like: Any) -> None:
                ref[time(s)] = _values(value, jax.eval_shape(lambda v: v.T, like)).T

            jax.tree.map(write, kept_out, kept, kept_shapes)
            return carry, following

        carry, _ = lax.fori_loop(0, length, body, (carry, at(0)))

        def write_last(ref: Any, value: Array) -> None:
            ref[...] = value.T

        jax.tree.map(write_last, carry_out, carry)

    return pl.pallas_call(
        kernel,
        grid=(batch // ROWS,),
        in_specs=blocks,
        out_specs=out_blocks,
        out_shape=out_shapes,
        interpret=interpret,
        compiler_params=None
        if interpret
        else triton.CompilerParams(num_warps=_warps(weights, of_rows[1]), num_stages=1),
        name="reverse_steps" if reverse else "steps",
    )(weights, of_rows, inputs)


def _weight(values: Array) -> Any:
    return Matrix(values) if values.ndim > 1 else values


def _flag(values: Array) -> Any:
    return Columns(values != 0) if values.ndim else values != 0


def _values(value: Any, like: Any) -> Array:
    """Return the array of a result, which may be one value for all."""
    array = value.values if isinstance(value, Columns) else value
    return jnp.broadcast_to(array, like.shape).astype(like.dtype)


run = loop_of(with_one_batch_axis(_kernel), "cuda")
TRITON = Kernel("pallas", "gpu", refusal, preferred, run)
