"""The read-out: a dense layer, softmax and cross-entropy in one, without the logits.

Axes: `...` any leading axes (normally time and batch), `F` features, `V` vocabulary, `v` columns of
one block of it.

The loop runs over blocks of the vocabulary, each for all positions at once. So each block of the
kernel's gradient is written once, where blocks of positions would each add to the whole gradient;
and the leading axes stay as they are, sharded or not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.export import is_symbolic_dim

from gatedrnn._src import validation
from gatedrnn._src.integers import as_int32, guarded
from gatedrnn._src.layers.pointwise import DenseParams, dense
from gatedrnn._src.numerics import accumulator, affine, dot_transposed, sum_of_outer
from gatedrnn._src.pytree import as_dtypes, vary_alike, zeros

# A block has as many columns as keep its temporaries near this size (on a CPU larger ones are fresh
# memory, whose page faults cost more than the arithmetic), but enough for an efficient product.
BLOCK_BYTES = 2**22
BLOCK_COLUMNS = 512
LANES = 128  # a width that is a multiple of this suits every backend's registers and tiles


def softmax_cross_entropy(
    params: DenseParams, hs: Array, labels: Array, mask: Array | None = None
) -> Array:
    """Return the cross-entropy `−log softmax(h W + b)_y` of each position, by a dense layer.

    The values are those of `optax.softmax_cross_entropy_with_integer_labels` on the logits of
    `gr.dense(V)`, the gradients follow the rule `δo = ŷ − y`. Logits are made block by block,
    forward and again backward, in at least float32: no array `[..., V]` ever exists. Second
    derivatives and `jax.hessian` work; `jax.jvp` and `jax.jacfwd` straight through raise, because
    the rule is for reverse mode.

    Args:
      params: parameters of `gr.dense(V)`, with a bias or without.
      hs: the inputs of the dense layer, `[..., F]`.
      labels: integers `[...]` from 0 to `V − 1`. Others raise where their values are known. Under
        `jit` the loss of such a position is NaN, and so is every gradient to which it contributes;
        they raise under `checkify.checkify` (user checks) and with `jax_debug_nans`.
      mask: booleans `[...]`. Where the mask is False the loss is 0, and nothing that stands in `hs`
        and `labels`, NaN included, reaches a loss or a gradient.

    Returns:
      The losses `[...]` in nats, in the dtype of `hs`, at least float32.

    Raises:
      TypeError: `params` that are not those of a dense layer, or not in the dtype of `hs` (or
        float32 beside a 16-bit `hs`); `hs` that are not floating-point; labels that are not
        integers; a mask that is not boolean.
      ValueError: shapes that do not go together, labels out of range.

    Example:
      >>> params = gr.DenseParams(kernel=jnp.zeros((4, 8)), bias=None)  # every logit is 0
      >>> hs, labels = jnp.ones((3, 2, 4)), jnp.ones((3, 2), int)
      >>> mask = jnp.arange(3)[:, None] < jnp.array([[3, 1]])  # a row of 3 steps, a row of 1
      >>> losses = gr.softmax_cross_entropy(params, hs, labels, mask)
      >>> print(np.asarray(losses).round(3))  # log 8
      [[2.079 2.079]
       [2.079 0.   ]
       [2.079 0.   ]]
    """
    hs = validation.as_array("hs", hs, "an array [..., F]")
    vocabulary = _checked_vocabulary(params, hs)
    mask = None if mask is None else _as_leading("mask", mask, hs, jnp.bool_, "bool")[0]
    labels = _as_labels(labels, mask, hs, vocabulary)
    return _masked(params, validation.zero_masked(hs, mask), labels, mask)


def _checked_vocabulary(params: Any, hs: Array) -> int:
    """Return `V`; raise unless `params` are those of a dense layer over `hs [..., F]`."""
    if not isinstance(params, DenseParams):
        raise TypeError(f"params: got {type(params).__name__}, expected a gr.DenseParams")
    if hs.ndim < 1:
        raise ValueError(f"hs: got shape {hs.shape}, expected [..., F]")
    validation.check_floating("hs", hs)
    shape = validation.as_array("params.kernel", params.kernel, "an array [F, V]").shape
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"params.kernel: got shape {shape}, expected [F, V]")
    layer = dense(shape[1], use_bias=params.bias is not None)
    validation.check_params(layer, params, hs, "hs")
    return layer.features


def _as_leading(
    name: str, values: Any, hs: Array, dtype: Any, expected: str
) -> tuple[Array, np.ndarray | None]:
    """Return `values` as an array, and where they are known as they were given.

    Raise for another dtype or other axes than the leading ones.
    """
    values, known = validation.as_known(name, values, f"{expected} [...]")
    if not jnp.issubdtype(values.dtype, dtype):
        raise TypeError(f"{name}: got dtype {values.dtype.name}, expected {expected}")
    if values.shape != hs.shape[:-1]:
        raise ValueError(
            f"{name}: got shape {values.shape}, expected {hs.shape[:-1]}, the leading axes of hs"
        )
    return values, known


def _as_labels(labels: Any, mask: Array | None, hs: Array, vocabulary: int) -> Array:
    """Return the checked labels, int32 `[...]`: 0 where masked, −1 where out of range."""
    labels, known = _as_leading("labels", labels, hs, jnp.integer, "integers")
    if known is not None and mask is not None:
        valid = validation.concrete(mask)
        known = None if valid is None else known[valid]
    expected = f"them between 0 and {vocabulary - 1}, for {vocabulary} columns of params.kernel"
    if known is not None and known.size:
        least, most = int(known.min()), int(known.max())
        if least < 0 or most >= vocabulary:
            raise ValueError(f"labels: got values from {least} to {most}, expected {expected}")
    labels = validation.zero_masked(labels, mask)
    return _inside(guarded("labels", labels, 0, vocabulary - 1, expected), vocabulary)


@partial(jax.jit, static_argnames="vocabulary", inline=True)
def _inside(labels: Array, vocabulary: int) -> Array:
    """Return the labels as int32, −1 where out of range."""
    labels = as_int32(labels)
    inside = (labels >= 0) & (labels < vocabulary)
    return jnp.where(inside, labels, -1)


@jax.jit
def _masked(params: DenseParams, hs: Array, labels: Array, mask: Array | None) -> Array:
    """Return the losses, zeros where masked.

    Jitted, so that equal shapes compile once outside `jit` too. Inside `shard_map`, `vary_alike`
    lets the gradients of `params` be summed once, outside every loop.
    """
    losses = _losses(*vary_alike((params, hs, labels)))
    return validation.zero_masked(losses, mask)


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
# sum would round log s to the precision of a large m.


class _Normaliser(NamedTuple):
    """The log-normaliser `z` of the softmax, as maximum and log-sum, `[...]` each."""

    m: Array
    log_s: Array  # NaN where the label is −1, and so in the loss and all that follows from it


def _forward(params: DenseParams, hs: Array, labels: Array) -> tuple[Array, _Normaliser]:
    """Return the losses `[...]` and the normaliser `z`."""

    def block(
        state: tuple[Array, Array, Array], start: Array | int, width: int
    ) -> tuple[Array, Array, Array]:
        before, s, o_y = state
        _, o = _logits(params, hs, start, width)
        m = jnp.maximum(before, lax.stop_gradient(jnp.max(o, axis=-1)))
        s = s * jnp.exp(before - m) + jnp.sum(jnp.exp(o - m[..., None]), axis=-1)
        column = labels - start
        index = jnp.clip(column, 0, width - 1)[..., None]
        at_index = jnp.take_along_axis(o, index, axis=-1, mode="promise_in_bounds")[..., 0]
        # the last block to start at y or before has its column
        return m, s, jnp.where(column >= 0, at_index, o_y)

    dtype = accumulator(hs.dtype)
    nothing = jnp.zeros(labels.shape, dtype)
    lowest = jnp.full_like(nothing, jnp.finfo(dtype).min)  # −∞ − (−∞) would be NaN
    state = vary_alike((lowest, nothing, nothing), like=(params, hs, labels))
    m, s, o_y = _over_blocks(block, state, _columns(params, hs))
    log_s = jnp.where(labels < 0, jnp.asarray(jnp.nan, dtype), jnp.log(s))
    return (m - o_y) + log_s, _Normaliser(m, log_s)


# The rule, with ŷ = softmax(o) and δℓ the cotangent of the loss. From ∂z/∂o_v = exp(o_v − z) = ŷ_v
# and ∂o_y/∂o_v = [v = y]:
#
#   δo = δℓ (ŷ − [v = y])        δW = Σ hᵀ δo        δb = Σ δo        δh = δo Wᵀ
#
# Only z is saved: the logits of a block are made again, and one block of δo at a time exists.


@jax.custom_vjp
def _losses(params: DenseParams, hs: Array, labels: Array) -> Array:
    return _forward(params, hs, labels)[0]


def _losses_fwd(params: DenseParams, hs: Array, labels: Array) -> tuple[Array, tuple]:
    losses, z = _forward(params, hs, labels)
    return losses, (params, hs, labels, z)


def _losses_bwd(saved: tuple, dlosses: Array) -> tuple[DenseParams, Array, None]:
    params, hs, labels, z = saved
    ones = jnp.ones((*labels.shape, 1), z.m.dtype)  # Σ δo as a product: faster than the sum

    def block(
        state: tuple[DenseParams, Array], start: Array | int, width: int
    ) -> tuple[DenseParams, Array]:
        dparams, dhs = state
        kernel, o = _logits(params, hs, start, width)
        columns = lax.broadcast_to_rank(start + lax.iota(jnp.int32, width), o.ndim)
        y = (labels[..., None] == columns).astype(o.dtype)
        do = dlosses[..., None] * (jnp.exp(o - z.m[..., None] - z.log_s[..., None]) - y)
        new = DenseParams(
            sum_of_outer(hs, do), None if params.bias is None else sum_of_outer(ones, do)[0]
        )
        write = partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=-1)
        dparams = jax.tree.map(write, dparams, as_dtypes(new, dparams))
        return dparams, dhs + dot_transposed(do, kernel)

    state = (jax.tree.map(jnp.zeros_like, params), zeros(hs))
    dparams, dhs = _over_blocks(block, vary_alike(state, like=saved), _columns(params, hs))
    return dparams, dhs.astype(hs.dtype), None


_losses.defvjp(_losses_fwd, _losses_bwd)


# --------------------------------------------------------------------------------- blocks


def _logits(params: DenseParams, hs: Array, start: Array | int, width: int) -> tuple[Array, Array]:
    """Return a block of the kernel, `[F, v]` in the dtype of `hs`, and its logits `[..., v]`."""
    columns = partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=width, axis=-1)
    kernel, bias = jax.tree.map(columns, params)
    kernel = kernel.astype(hs.dtype)
    return kernel, affine(hs, kernel, bias)


class _Columns(NamedTuple):
    """The columns of the kernel, and how many of them make a block."""

    vocabulary: int  # V
    width: int  # v; the last block may be narrower


def _columns(params: DenseParams, hs: Array) -> _Columns:
    """Return the whole vocabulary as one block where the logits are few, else smaller blocks.

    The temporaries stay near `BLOCK_BYTES`. Forward and backward hold at most four blocks: logits
    and `δo`, `[..., v]` each, and the kernel and its gradient, `[F, v]` each.
    """
    features, vocabulary = params.kernel.shape
    if any(map(is_symbolic_dim, hs.shape)):  # exported for any size: the narrowest blocks
        return _Columns(vocabulary, min(BLOCK_COLUMNS, vocabulary))
    positions = int(np.prod(hs.shape[:-1]))
    values = BLOCK_BYTES // (2 * accumulator(hs.dtype).itemsize)
    if positions * vocabulary <= values:
        return _Columns(vocabulary, vocabulary)
    width = values // (positions + features) // LANES * LANES
    return _Columns(vocabulary, min(max(width, BLOCK_COLUMNS), vocabulary))


def _over_blocks(body: Callable, state: Any, columns: _Columns) -> Any:
    """Run `body(state, start, width) -> state` over the blocks in turn, the remainder last.

    Differentiation makes a block again instead of saving it, so second derivatives keep no logits.
    """

    def block(width: int) -> Callable:
        # with `static_argnums` JAX would remember the function, and the tracers that it closes over
        return jax.checkpoint(partial(body, width=width), prevent_cse=False)

    remainder = columns.vocabulary % columns.width
    whole, of_width = columns.vocabulary - remainder, block(columns.width)
    if whole == columns.width:
        state = of_width(state, 0)
    else:
        starts = jnp.arange(0, whole, columns.width, dtype=jnp.int32)
        state, _ = lax.scan(lambda s, start: (of_width(s, start), None), state, starts)
    return block(remainder)(state, whole) if remainder else state
