"""The read-out: a dense layer, softmax and cross-entropy in one, without the logits.

Axes: `...` any leading axes (normally time and batch), `F` features, `V` vocabulary.

On a mesh with explicit axes each device computes the losses of its own positions, from its own
columns of the kernel where those are divided. Whatever devices add up, they add up once, behind the
loop over blocks.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from gatedrnn._src import validation
from gatedrnn._src.cross_entropy import Axes, losses
from gatedrnn._src.integers import as_int32, guarded
from gatedrnn._src.layers.pointwise import DenseParams, dense
from gatedrnn._src.placement import (
    ROWS,
    WHOLE,
    Rows,
    along,
    moved,
    names_of,
    on_mesh,
    rows_of,
    sharded,
    spec_of,
)
from gatedrnn._src.pytree import vary_alike


def softmax_cross_entropy(
    params: DenseParams, hs: Array, labels: Array, mask: Array | None = None
) -> Array:
    """Return the cross-entropy `−log softmax(h W + b)_y` of each position, by a dense layer.

    The values are those of `optax.softmax_cross_entropy_with_integer_labels` on the logits of
    `gr.dense(V)`, the gradients follow the rule `δo = ŷ − y`. Logits are made block by block,
    forward and again backward, in at least float32: no array `[..., V]` ever exists. Second
    derivatives and `jax.hessian` work; `jax.jvp` and `jax.jacfwd` straight through raise, because
    the rule is for reverse mode.

    Positions may be divided over devices, and so may the vocabulary: the kernel is not gathered,
    and its gradient lies as it does. On a mesh with explicit axes nothing is exchanged while blocks
    are computed; on one with automatic axes, for each block the sums of its gradients.

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
    labels = _checked_labels(labels, mask, hs, vocabulary)
    arguments, places = (params, hs, labels, mask), None
    rows = rows_of("hs", hs, 0, hs.ndim - 1, arguments)
    if rows is not None:
        places = _places(params, rows)
        arguments = moved((*params, hs, labels, mask), tuple(places), rows.mesh)
        arguments = (DenseParams(*arguments[:2]), *arguments[2:])
    arguments = _without_masked(*arguments, vocabulary)
    if rows is not None and rows.mesh.manual_axes:  # JAX does not lower a `shard_map` in another
        return on_mesh(_masked, (None,), arguments, (WHOLE, ROWS, ROWS, ROWS), ROWS, rows)
    return _masked(places, *arguments)


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


def _checked_labels(labels: Any, mask: Array | None, hs: Array, vocabulary: int) -> Array:
    """Return the labels `[...]`; raise for some that are out of range, where they are known."""
    labels, known = _as_leading("labels", labels, hs, jnp.integer, "integers")
    if known is not None and mask is not None:
        valid = validation.concrete(mask)
        known = None if valid is None else known[valid]
    if known is not None and known.size:
        least, most = int(known.min()), int(known.max())
        if least < 0 or most >= vocabulary:
            expected = _labels_of(vocabulary)
            raise ValueError(f"labels: got values from {least} to {most}, expected {expected}")
    return labels


def _labels_of(vocabulary: int) -> str:
    return f"them between 0 and {vocabulary - 1}, for {vocabulary} columns of params.kernel"


def _without_masked(
    params: DenseParams, hs: Array, labels: Array, mask: Array | None, vocabulary: int
) -> tuple[DenseParams, Array, Array, Array | None]:
    """Return all four, zeros where masked; labels as int32, −1 where out of range."""
    labels = validation.zero_masked(labels, mask)
    labels = guarded("labels", labels, 0, vocabulary - 1, _labels_of(vocabulary))
    return params, validation.zero_masked(hs, mask), _inside(labels, vocabulary), mask


@partial(jax.jit, static_argnames="vocabulary", inline=True)
def _inside(labels: Array, vocabulary: int) -> Array:
    """Return the labels as int32, −1 where out of range."""
    labels = as_int32(labels)
    inside = (labels >= 0) & (labels < vocabulary)
    return jnp.where(inside, labels, -1)


class _Places(NamedTuple):
    """The places of the arguments on a mesh with explicit axes."""

    kernel: PartitionSpec
    bias: PartitionSpec
    hs: PartitionSpec
    labels: PartitionSpec
    mask: PartitionSpec


def _places(params: DenseParams, rows: Rows) -> _Places:
    """Return the places: positions where `hs` has them, the vocabulary over other axes or whole."""
    of_columns = spec_of(params.kernel)[1]
    names = of_columns if isinstance(of_columns, tuple) else (of_columns,)
    used = jax.tree.leaves(rows.axes)
    over = tuple(name for name in names if name is not None and name not in used) or None
    leading = PartitionSpec(*rows.axes)
    return _Places(
        PartitionSpec(None, over),
        PartitionSpec(over),
        PartitionSpec(*rows.axes, None),
        leading,
        leading,
    )


@partial(jax.jit, static_argnames="places")
def _masked(
    places: _Places | None, params: DenseParams, hs: Array, labels: Array, mask: Array | None
) -> Array:
    """Return the losses, zeros where masked.

    Jitted, so that equal shapes compile once outside `jit` too.
    """
    if places is None:
        return _of_device(params, hs, labels, mask, ())
    mesh = jax.typeof(hs).sharding.mesh
    over = places.bias[0] or ()

    def by_device(
        kernel: Array, bias: Array | None, hs: Array, labels: Array, mask: Array | None
    ) -> Array:
        return _of_device(DenseParams(kernel, bias), hs, labels, mask, over)

    used = along(mesh, names_of(tuple(places.hs) + tuple(places.bias)))
    arguments = (*params, hs, labels, mask)
    return sharded(by_device, arguments, tuple(places), places.labels, mesh, used)


def _of_device(
    params: DenseParams, hs: Array, labels: Array, mask: Array | None, over: Axes
) -> Array:
    """Return the losses of one device, zeros where masked.

    Inside `shard_map`, `vary_alike` lets gradients be summed once, outside every loop.
    """
    if over:  # labels, and so the losses, are the same on all devices along these axes
        params, hs = vary_alike((params, hs), like=labels)
    else:
        params, hs, labels = vary_alike((params, hs, labels))
    return validation.zero_masked(losses(params, hs, labels, over), mask)
