"""The rule of the fused read-out: losses and gradients, by blocks of the vocabulary.

Axes: `...` any leading axes (normally time and batch), `F` features, `V` vocabulary, `*G` none, or
one axis of groups in which the columns of the kernel are, `v` columns of a block in each group.

The loop runs over blocks of the vocabulary, each for all positions at once. So each block of the
kernel's gradient is written once, where blocks of positions would each add to the whole gradient;
and the leading axes stay as they are, sharded or not.

A kernel may be divided over devices along `V`, and blocks that are cut out of it would be gathered.
So the columns are taken as groups side by side, at least one for each device, and a block has some
of every group: each device cuts out of its own. Maximum and sum are kept for every group, and come
together behind the loop.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.export import is_symbolic_dim

from gatedrnn._src.layers.pointwise import DenseParams
from gatedrnn._src.numerics import accumulator, affine, dot_transposed, sum_of_outer
from gatedrnn._src.placement import divisible_over
from gatedrnn._src.pytree import as_dtypes, vary_alike, zeros

# A block has as many columns as keep its temporaries near this size (on a CPU larger ones are fresh
# memory, whose page faults cost more than the arithmetic), but enough for an efficient product.
BLOCK_BYTES = 2**22
BLOCK_COLUMNS = 512
LANES = 128  # a width that is a multiple of this suits every backend's registers and tiles

Axes = tuple[str, ...]  # of a mesh, inside `shard_map`

# The loss of a position with features h and label y, where [·] is 1 if true, else 0:
#
#   o = h W + b        z = log Σ_v exp o_v        ℓ = z − o_y
#
# Over blocks o_k of the logits, with the largest so far m and s = Σ exp(o − m) (Milakov and
# Gimelshein 2018),
#
#   m' = max(m, max o_k)        s' = s exp(m − m') + Σ exp(o_k − m')
#
# and z = m + log s whatever m is, so that no derivative goes through m. The two are kept apart: the
# sum would round log s to the precision of a large m. Groups, and devices, come together likewise,
# m' being the largest of all.


class _Columns(NamedTuple):
    """The columns of the kernel, and how many of them make a block."""

    groups: tuple[int, ...]  # `*G`: () or (G,)
    of_group: int  # V / G
    width: int  # v; the last block may be narrower


class _Normaliser(NamedTuple):
    """The log-normaliser `z` of the softmax, as maximum and log-sum, `[...]` each."""

    m: Array
    log_s: Array  # NaN where the label is −1, and so in the loss and all that follows from it


def _forward(
    params: DenseParams, hs: Array, labels: Array, over: Axes
) -> tuple[Array, _Normaliser]:
    """Return the losses `[...]` and the normaliser `z`; devices along `over` have parts of `V`."""
    columns = _columns(params, hs)
    own = _own_labels(labels, params, columns, over)

    def block(
        state: tuple[Array, Array, Array], start: Array | int, width: int
    ) -> tuple[Array, Array, Array]:
        before, s, o_y = state
        _, o = _logits(params, hs, columns, start, width)
        m = jnp.maximum(before, lax.stop_gradient(jnp.max(o, axis=-1)))
        s = s * jnp.exp(before - m) + jnp.sum(jnp.exp(o - m[..., None]), axis=-1)
        column = own - start
        index = jnp.clip(column, 0, width - 1)[..., None]
        at_index = jnp.take_along_axis(o, index, axis=-1, mode="promise_in_bounds")[..., 0]
        # the last block to start at y or before has its column
        return m, s, jnp.where(column >= 0, at_index, o_y)

    dtype = accumulator(hs.dtype)
    nothing = jnp.zeros(own.shape, dtype)
    lowest = jnp.full_like(nothing, jnp.finfo(dtype).min)  # −∞ − (−∞) would be NaN
    state = vary_alike((lowest, nothing, nothing), like=(params, hs, labels))
    m, s, o_y = _over_blocks(block, state, columns)
    if columns.groups or over:
        here = (own >= 0) & (own < columns.of_group)
        m, s, o_y = _together(m, s, jnp.where(here, o_y, jnp.zeros_like(o_y)), columns, over)
    log_s = jnp.where(labels < 0, jnp.asarray(jnp.nan, dtype), jnp.log(s))
    return (m - o_y) + log_s, _Normaliser(m, log_s)


def _own_labels(labels: Array, params: DenseParams, columns: _Columns, over: Axes) -> Array:
    """Return `labels [..., *G]` as columns of each group, out of its range for those of others."""
    if over:
        labels = labels - lax.axis_index(over).astype(jnp.int32) * params.kernel.shape[1]
    if not columns.groups:
        return labels
    first = columns.of_group * lax.iota(jnp.int32, *columns.groups)
    return labels[..., None] - lax.broadcast_to_rank(first, labels.ndim + 1)


def _together(
    m: Array, s: Array, o_y: Array, columns: _Columns, over: Axes
) -> tuple[Array, Array, Array]:
    """Return `m`, `s` and `o_y` of all groups, and of all devices along `over`."""
    largest = jnp.max(m, axis=-1) if columns.groups else m
    if over:
        largest = lax.pmax(lax.stop_gradient(largest), over)
    s = s * jnp.exp(m - (largest[..., None] if columns.groups else largest))
    if columns.groups:
        s, o_y = jnp.sum(s, axis=-1), jnp.sum(o_y, axis=-1)
    return largest, *(lax.psum((s, o_y), over) if over else (s, o_y))


# The rule, with ŷ = softmax(o) and δℓ the cotangent of the loss. From ∂z/∂o_v = exp(o_v − z) = ŷ_v
# and ∂o_y/∂o_v = [v = y]:
#
#   δo = δℓ (ŷ − [v = y])        δW = Σ hᵀ δo        δb = Σ δo        δh = δo Wᵀ
#
# Only z is saved: the logits of a block are made again, and one block of δo at a time exists.


@partial(jax.custom_vjp, nondiff_argnames=("over",))
def losses(params: DenseParams, hs: Array, labels: Array, over: Axes = ()) -> Array:
    """Return the loss of each position, `[...]`.

    Args:
      params: the dense layer; of the devices along `over` each has its own columns.
      hs: `[..., F]`.
      labels: int32 `[...]`, −1 where the loss is NaN.
      over: axes of the mesh, inside `shard_map`.
    """
    return _forward(params, hs, labels, over)[0]


def _losses_fwd(params: DenseParams, hs: Array, labels: Array, over: Axes) -> tuple[Array, tuple]:
    value, z = _forward(params, hs, labels, over)
    return value, (params, hs, labels, z)


def _losses_bwd(over: Axes, saved: tuple, dlosses: Array) -> tuple[DenseParams, Array, None]:
    params, hs, labels, z = saved
    columns = _columns(params, hs)
    own = _own_labels(labels, params, columns, over)
    ones = jnp.ones((*labels.shape, 1), z.m.dtype)  # Σ δo as a product: faster than the sum

    def beside(value: Array, o: Array) -> Array:
        """Return `value [...]` beside logits `o [..., *G, v]`."""
        return lax.expand_dims(value, range(value.ndim, o.ndim))

    def block(
        state: tuple[DenseParams, Array], start: Array | int, width: int
    ) -> tuple[DenseParams, Array]:
        dparams, dhs = state
        kernel, o = _logits(params, hs, columns, start, width)
        numbers = lax.broadcast_to_rank(start + lax.iota(jnp.int32, width), o.ndim)
        y = (own[..., None] == numbers).astype(o.dtype)
        do = beside(dlosses, o) * (jnp.exp(o - beside(z.m, o) - beside(z.log_s, o)) - y)
        new = DenseParams(
            sum_of_outer(hs, do), None if params.bias is None else sum_of_outer(ones, do)[0]
        )
        write = partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=-1)
        dparams = jax.tree.map(write, dparams, as_dtypes(new, dparams))
        return dparams, dhs + dot_transposed(do, kernel)

    state = (jax.tree.map(jnp.zeros_like, _grouped(params, columns)), zeros(hs))
    dparams, dhs = _over_blocks(block, vary_alike(state, like=saved), columns)
    dparams = jax.tree.map(partial(_side_by_side, columns=columns), dparams)
    return dparams, dhs.astype(hs.dtype), None


losses.defvjp(_losses_fwd, _losses_bwd)


# --------------------------------------------------------------------------------- blocks


def _logits(
    params: DenseParams, hs: Array, columns: _Columns, start: Array | int, width: int
) -> tuple[Array, Array]:
    """Return a block of the kernel, `[F, *G, v]` in the dtype of `hs`, and its logits."""
    cut = partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=width, axis=-1)
    kernel, bias = jax.tree.map(cut, _grouped(params, columns))
    kernel = kernel.astype(hs.dtype)
    return kernel, affine(hs, kernel, bias)


def _grouped(params: DenseParams, columns: _Columns) -> DenseParams:
    """Return `params` with the columns of each group apart, `[..., *G, V / G]`."""
    if not columns.groups:
        return params
    apart = (*columns.groups, columns.of_group)
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-1], *apart), params)


def _side_by_side(values: Array, columns: _Columns) -> Array:
    """Return `values [..., *G, V / G]` as `[..., V]`."""
    if not columns.groups:
        return values
    return values.reshape(*values.shape[:-2], values.shape[-2] * values.shape[-1])


def _columns(params: DenseParams, hs: Array) -> _Columns:
    """Return the whole vocabulary as one block where the logits are few, else smaller blocks.

    The temporaries stay near `BLOCK_BYTES`. Forward and backward hold at most four blocks: logits
    and `δo`, `[..., v]` each, and the kernel and its gradient, `[F, v]` each.
    """
    features, vocabulary = params.kernel.shape
    if any(map(is_symbolic_dim, hs.shape)):  # exported for any size: the narrowest blocks
        return _in_groups(vocabulary, min(BLOCK_COLUMNS, vocabulary))
    positions = int(np.prod(hs.shape[:-1]))
    values = BLOCK_BYTES // (2 * accumulator(hs.dtype).itemsize)
    if positions * vocabulary <= values:
        return _in_groups(vocabulary, vocabulary)
    width = values // (positions + features) // LANES * LANES
    return _in_groups(vocabulary, min(max(width, BLOCK_COLUMNS), vocabulary))


def _in_groups(vocabulary: int, width: int) -> _Columns:
    """Return blocks of about `width` columns, in groups where each device may have its own.

    A block that is all columns needs none, since nothing is cut out.
    """
    groups = 1 if width == vocabulary else math.gcd(vocabulary, divisible_over())
    if groups == 1:
        return _Columns((), vocabulary, width)
    return _Columns((groups,), vocabulary // groups, max(width // groups, 1))


def _over_blocks(body: Callable, state: Any, columns: _Columns) -> Any:
    """Run `body(state, start, width) -> state` over the blocks in turn, the remainder last.

    Differentiation makes a block again instead of saving it, so second derivatives keep no logits.
    """

    def block(width: int) -> Callable:
        # with `static_argnums` JAX would remember the function, and the tracers that it closes over
        return jax.checkpoint(partial(body, width=width), prevent_cse=False)

    remainder = columns.of_group % columns.width
    whole, of_width = columns.of_group - remainder, block(columns.width)
    if whole == columns.width:
        state = of_width(state, 0)
    else:
        starts = jnp.arange(0, whole, columns.width, dtype=jnp.int32)
        state, _ = lax.scan(lambda s, start: (of_width(s, start), None), state, starts)
    return block(remainder)(state, whole) if remainder else state
