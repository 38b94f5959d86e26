"""One kernel for all steps on a TPU, by Pallas and Mosaic.

Axes: `T` time, `B` rows, `b` rows of a block, `F` features of a leaf.

The grid runs over blocks of rows and, inside, over time. The weights are copied into VMEM once and
stay there for all steps; so does the carry, in the block of the final carry. The values of the next
steps are fetched, and those of the last steps are written, while the present ones are computed. The
step itself is the engine's, so masks, resets, truncation and clipping are in the kernel too, and
the equations stand in the rule alone. Nothing is padded: Mosaic masks what is not a whole tile.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gatedrnn._src.kernels.columns import used
from gatedrnn._src.kernels.common import loop_of, sizes, with_one_batch_axis
from gatedrnn._src.loops import Kernel, Step, Steps
from gatedrnn._src.pytree import first_leaf

# Compiled for a TPU v5e (jax 0.10.2), not measured on one. Training step, T=100, B=32, I=40, H=256:
# operations of the whole program, of which two are kernels, and of the scans in passes of 10 steps.
# In bfloat16 they differ by 3 at most.
#
#                       kernel   scan
#   LSTM                    25    611
#   GRU, reset after        22    559
#   GRU, reset before       22    559
#   Elman                   13    299
#
# Largest H (of multiples of 64) that is taken, and compiles, forward and backward:
#
#                      float32   bfloat16
#   LSTM                  2560       3584
#   LSTM, full peephole   1920
#   GRU                   3072       4224
#   Elman                 5184
#
# The step reads one kernel for each gate. A stacked one would be cut along lanes in every step, at
# no whole tiles where H is no multiple of 128; and products of either are the same tiles.

VMEM = 128 * 2**20  # bytes, of a v5e and a v6e; others have less, and their compiler refuses more
MOST = 116 * 2**20  # of them, for the arrays of a kernel
# A pass of the grid is said to cost 0.35 us beside its work; the steps in it are unrolled, which
# takes time to compile. So a pass has a few small steps, or a single large one.
STEPS = 8
BYTES_OF_PASS = 3 * 2**20
ROWS = 128  # of a block: they fill a matrix unit, and more rows compile for longer
FEWEST = 16  # rows of a tile in bfloat16
VALUES = 8  # that a step reads and keeps for each value of the carry: most have 4 to 8
LOW = {None, "default", "bfloat16", "BF16_BF16_F32"}  # precisions of one pass in bfloat16


class Blocks(NamedTuple):
    """The work of one pass of the grid."""

    rows: int
    steps: int
    bytes: int  # in VMEM


def blocks_of(weights: Any, carry: Any) -> Blocks:
    """Return the largest blocks that fit VMEM, or the smallest if none does."""
    of_weights = sum(_bytes(leaf) for leaf in jax.tree.leaves(weights))
    leaves = jax.tree.leaves(carry)
    batch = max(math.prod(leaf.shape[:-1]) for leaf in leaves)
    of_row = sum(4 * _up(leaf.shape[-1], 128) for leaf in leaves)

    def blocks(rows: int) -> Blocks:
        of_rows = _up(rows, FEWEST) * of_row
        steps = BYTES_OF_PASS // (of_weights + VALUES * of_rows)
        steps = min(max(steps, 1), STEPS)
        # inputs and outputs have two buffers each, and a step makes as many values; three carries
        return Blocks(rows, steps, of_weights + of_rows * (2 * VALUES * (steps + 1) + 6))

    found = blocks(batch if batch <= ROWS else _up(-(-batch // -(-batch // ROWS)), FEWEST))
    while found.bytes > MOST and found.rows > FEWEST:
        found = blocks(_up(found.rows // 2, FEWEST))
    return found


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _bytes(leaf: Any) -> int:
    """Return the bytes of an array whose last two axes are padded to whole tiles."""
    *leading, i, o = (1, *leaf.shape) if leaf.ndim < 2 else leaf.shape
    size = leaf.dtype.itemsize
    return math.prod(leading) * _up(i, 32 // size) * _up(o, 128) * size


def refusal(weights: Any, carry: Any) -> str | None:
    """Return why the kernel cannot run steps with these weights and this carry, or None."""
    for leaf in jax.tree.leaves((weights, carry)):
        if leaf.dtype not in (jnp.float32, jnp.bfloat16):
            return f"it computes in float32 and bfloat16, not in {leaf.dtype}"
    size = blocks_of(weights, carry).bytes
    if size > MOST:
        return f"its weights and rows take {size} bytes in VMEM, of which there are {MOST}"
    return None


def _precision(weights: list[Any]) -> str:
    """Return how products are computed: by one pass in bfloat16, or exactly.

    Mosaic knows no precision between the two, and none but the first of values in bfloat16, whose
    products float32 holds exactly.
    """
    asked = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    in_float32 = any(leaf.dtype == jnp.float32 for leaf in weights if leaf.ndim > 1)
    return "highest" if in_float32 and asked not in LOW else "default"


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

    ranks = {leaf.ndim for leaf in jax.tree.leaves(weights)} - {1, 2}
    ranks |= {leaf.ndim for leaf in jax.tree.leaves((rows, carry))} - {2}
    ranks |= {leaf.ndim for leaf in jax.tree.leaves(inputs.xs)} - {3}
    if ranks:
        raise NotImplementedError("an array of other axes than [*B, F], or than [I, O] of a weight")
    length, batch = sizes(inputs)
    leaves, structure = jax.tree.flatten(weights)
    inputs = inputs._replace(
        skips=_numbers(inputs.skips), resets=_numbers(inputs.resets), cuts=_numbers(inputs.cuts)
    )

    def step_of(leaves: Any, rows: Any, carry: Any, inputs: Steps) -> tuple[Any, Any]:
        xs, *flags = inputs
        skips, resets, cuts = (None if v is None else v != 0 for v in flags)
        now = Steps(xs, skips, resets, cuts)
        return step(jax.tree.unflatten(structure, leaves), rows, carry, now)

    one = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), inputs)
    kept_shapes = jax.eval_shape(step_of, leaves, rows, carry, one)[1]
    # the kernels of the inputs are among the weights, and have done their work outside
    read = used(
        lambda *leaves: jax.tree.leaves(step_of(leaves, *_zeros((rows, carry, one)))), leaves
    )
    precision = _precision([leaf for leaf, is_read in zip(leaves, read, strict=True) if is_read])
    weights = [
        _matrix(leaf) if is_read else None for leaf, is_read in zip(leaves, read, strict=True)
    ]
    blocks = blocks_of(weights, carry)
    steps = min(blocks.steps, length)
    passes = -(-length // steps)
    zero = np.int32(0)  # Mosaic knows no int64

    def whole(leaf: Any) -> Any:
        return pl.BlockSpec(leaf.shape, lambda j, t: (zero, zero), pipeline_mode=pl.Buffered(1))

    def of_rows(leaf: Any) -> Any:
        return pl.BlockSpec((blocks.rows, leaf.shape[1]), lambda j, t: (j, zero))

    def of_steps(leaf: Any) -> Any:
        def index(j: Any, t: Any) -> Any:
            return passes - 1 - t if reverse else t, j if leaf.shape[1] > 1 else zero, zero

        return pl.BlockSpec((steps, min(blocks.rows, leaf.shape[1]), leaf.shape[2]), index)

    def kernel(weights: Any, rows: Any, start: Any, inputs: Any, final: Any, kept: Any) -> None:
        present = pl.program_id(1)

        @pl.when(present == 0)
        def _() -> None:
            jax.tree.map(lambda ref, value: _write(ref, ..., value[...]), final, start)

        def weight(ref: Any, like: Any) -> Array:
            if ref is None:
                return jnp.zeros(like.shape, like.dtype)
            return ref[0] if like.ndim == 1 else ref[...]

        def advance(s: int, carry: Any) -> Any:
            now = jax.tree.map(lambda ref: ref[s], inputs)
            loaded = [weight(ref, like) for ref, like in zip(weights, leaves, strict=True)]
            new, values = step_of(loaded, jax.tree.map(lambda ref: ref[...], rows), carry, now)
            jax.tree.map(lambda ref, value: _write(ref, s, value), kept, values)
            if length % steps == 0:
                return new
            time = (passes - 1 - present if reverse else present) * steps + s
            return jax.tree.map(partial(jnp.where, time < length), new, carry)

        carry = jax.tree.map(lambda ref: ref[...], final)
        with jax.default_matmul_precision(precision):
            for s in reversed(range(steps)) if reverse else range(steps):
                carry = advance(s, carry)
        jax.tree.map(lambda ref, value: _write(ref, ..., value), final, carry)

    shape_of = partial(jax.ShapeDtypeStruct, manual_axis_type=jax.typeof(first_leaf(inputs.xs)).mat)
    out_shapes = (
        jax.tree.map(lambda v: shape_of(v.shape, v.dtype), carry),
        jax.tree.map(lambda v: shape_of((length, *v.shape), v.dtype), kept_shapes),
    )
    return pl.pallas_call(
        kernel,
        grid=(-(-batch // blocks.rows), passes),
        in_specs=(
            jax.tree.map(whole, weights),
            *jax.tree.map(of_rows, (rows, carry)),
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
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=min(blocks.bytes * 5 // 4 + 2**22, VMEM),
        ),
        name="reverse_steps" if reverse else "steps",
    )(weights, rows, carry, inputs)


def _numbers(flags: Array | None) -> Array | None:
    """Return flags `[T, B]` or `[T]` as numbers `[T, B, 1]` or `[T, 1, 1]`, beside features."""
    if flags is None:
        return None
    return flags.astype(jnp.int32).reshape(*flags.shape, *(1,) * (3 - flags.ndim))


def _matrix(leaf: Array) -> Array:
    return leaf[None] if leaf.ndim == 1 else leaf


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)


def _write(ref: Any, index: Any, value: Array) -> None:
    ref[index] = value


def preferred(carry: Any, device_kind: str) -> bool:
    """Return False: it has been measured on no device yet."""
    return False


run = loop_of(with_one_batch_axis(_kernel), "tpu")
MOSAIC = Kernel("pallas", "tpu", refusal, preferred, run)
