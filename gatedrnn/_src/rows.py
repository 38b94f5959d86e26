"""Rows of a carry: chosen, replaced and taken, leaf by leaf.

Axes: `*B` batch axes, which every leaf of every carry has in front; `N` rows that are taken.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gatedrnn._src import integers, placement, pytree, validation
from gatedrnn._src.base import Carry, is_shared
from gatedrnn._src.placement import ROWS, WHOLE


def where_rows(flags: ArrayLike, carry: Carry, other: Carry) -> Carry:
    """Return `carry` in the rows whose flag is True, and `other` in those whose flag is False.

    As `jnp.where(flags, carry, other)` for a whole carry: `gr.where_rows(done, initial, carry)`
    starts the rows anew whose episode is done. What rows share (`gr.Shared`) is that of `other`.

    Args:
      flags: booleans `[*B]`, or for the first of the batch axes only.
      carry: of any cell, layer or network, with leaves `[*B, ...]`.
      other: another of the same shapes and dtypes.

    Returns:
      A carry of the same shapes and dtypes.

    Raises:
      TypeError: flags that are not booleans, leaves of another dtype.
      ValueError: leaves of another shape, or without the axes of `flags` in front.

    Example:
      >>> cell = gr.LSTM(3)
      >>> ones = jax.tree.map(jnp.ones_like, cell.carry((2,)))
      >>> gr.where_rows(jnp.array([True, False]), cell.carry((2,)), ones).h[:, 0].tolist()
      [0.0, 1.0]
    """
    flags = validation.as_array("flags", flags, "booleans [*B]")
    if flags.dtype != jnp.bool_:
        raise TypeError(f"flags: got dtype {flags.dtype.name}, expected bool")
    carry, other = validation.as_arrays("carry", carry), validation.as_arrays("other", other)
    validation.check_rows("other", other, flags.shape, "flags")
    validation.check_shapes("carry", carry, jax.eval_shape(lambda: other), "other")
    for (path, leaf), like in zip(
        jax.tree.leaves_with_path(carry), jax.tree.leaves(other), strict=True
    ):
        if leaf.dtype != like.dtype:
            raise TypeError(
                f"carry{jax.tree_util.keystr(path)}: got dtype {leaf.dtype.name}, expected "
                f"{like.dtype.name}, as in other"
            )
    rows = _rows("other", (flags, other, carry), flags.ndim)
    return placement.on_mesh(pytree.where, (), (flags, carry, other), (ROWS,) * 3, ROWS, rows)


def take_rows(carry: Carry, index: Any) -> Carry:
    """Return the rows `index` of a carry, as `leaf[index]` on the first batch axis of each leaf.

    Args:
      carry: of any cell, layer or network, with leaves `[B, ...]`.
      index: an integer, a slice, or integers `[N]`. Negative ones count from the end.

    Returns:
      A carry with leaves `[N, ...]` (without that axis for a single integer); what rows share
      (`gr.Shared`) is as it was. On a mesh with explicit axes the rows are divided as those of
      `carry` are where their number allows that, else whole on every device.

    Raises:
      TypeError: an index of another type.
      ValueError: leaves without a batch axis or of different numbers of rows; an index out of
        range, where it is known. Under `jit`, numbers of rows out of range are NaN, and raise
        under `checkify.checkify` (user checks) and with `jax_debug_nans`.

    Example:
      >>> gr.take_rows(gr.GRU(4).carry((5,)), jnp.array([3, 0])).h.shape
      (2, 4)
    """
    carry = validation.as_arrays("carry", carry)
    leaves = [leaf for leaf in jax.tree.leaves(carry, is_leaf=is_shared) if not is_shared(leaf)]
    rows = {leaf.shape[:1] for leaf in leaves}
    if () in rows or len(rows) > 1:
        raise ValueError(
            f"carry: got leaves of shapes {sorted({leaf.shape for leaf in leaves})}, expected the "
            "same batch axis in front of each"
        )
    size = next((size for (size,) in rows), None)
    if not isinstance(index, slice):
        index = _as_index(index, size)
    divided = _rows("carry", leaves, 1)
    if divided is None:
        return _taken(carry, index)
    if isinstance(index, slice):
        index = jnp.asarray(np.arange(size or 0)[index])
    places = math.prod(divided.mesh.shape[name] for name in divided.names)
    role = ROWS if index.ndim and index.shape[0] % places == 0 else WHOLE
    return placement.on_mesh(_taken, (), (carry, index), (ROWS, WHOLE), role, divided)


def _taken(carry: Carry, index: Any) -> Carry:
    """Do what `take_rows` does, of arguments that are checked."""

    def take(leaf: Any) -> Any:
        if is_shared(leaf):
            return leaf
        if isinstance(index, slice):
            return leaf[index]
        return leaf.at[index].get(mode="fill")

    return jax.tree.map(take, carry, is_leaf=is_shared)


def _rows(name: str, tree: Any, batch_axes: int) -> placement.Rows | None:
    """Return how rows are divided in the first array of `tree` in which they are."""
    found = None
    for leaf in jax.tree.leaves(tree):
        if leaf.ndim >= batch_axes:
            found = placement.rows_of(name, leaf, 0, batch_axes, tree)
        if found is None or found.names:
            return found
    return found


def _as_index(index: Any, size: int | None) -> Array:
    """Return `index` as integers; raise for one that is out of `size` rows (None: no row known)."""
    index, known = validation.as_known("index", index, "an integer, a slice or integers [N]")
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"index: got dtype {index.dtype.name}, expected integers or a slice")
    if size is None:
        return index
    expected = f"them below the {size} rows of carry"
    if known is not None and known.size and not (-size <= known.min() and known.max() < size):
        raise ValueError(
            f"index: got values from {known.min()} to {known.max()}, expected {expected}"
        )
    return integers.as_int32(integers.guarded("index", index, -size, size - 1, expected))
