"""A carry as one vector for each row: its floating-point leaves side by side.

Axes: `...` any leading axes (time, batch), `K` all elements of the chosen leaves of one row.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src.base import Carry, Cell
from gatedrnn._src.numerics import accumulator


def leaf_names(carry: Carry) -> list[str]:
    """The path of every leaf, as a reader would write it: `h`, `c`."""
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree.leaves_with_path(carry)
    ]


def check_leaf(cell: Cell, leaf: str | None) -> None:
    """Raise unless `leaf` is None or a floating-point leaf of the carry."""
    carry = jax.eval_shape(lambda: cell.carry((), jnp.float32))
    pairs = zip(leaf_names(carry), jax.tree.leaves(carry), strict=True)
    names = [name for name, v in pairs if _is_floating(v)]
    if leaf is not None and leaf not in names:
        expected = ", ".join(map(repr, names))
        raise ValueError(f"leaf: got {leaf!r}, expected None or one of {expected} for {cell!r}")


def row_size(cell: Cell) -> int:
    """`K`, over all floating-point leaves."""
    carry = jax.eval_shape(lambda: cell.carry((), jnp.float32))
    return sum(math.prod(v.shape) for v in jax.tree.leaves(carry) if _is_floating(v))


def flatten(carry: Carry, lead: int, leaf: str | None = None) -> Array:
    """`[..., K]` with `lead` leading axes, in at least float32."""
    leaves = zip(jax.tree.leaves(carry), _chosen(carry, leaf), strict=True)
    rows = [v.reshape(*v.shape[:lead], math.prod(v.shape[lead:])) for v, chosen in leaves if chosen]
    widest = max((accumulator(v.dtype) for v in rows), key=lambda dtype: dtype.itemsize)
    return jnp.concatenate([v.astype(widest) for v in rows], axis=-1)


def unflatten(flat: Array, like: Carry, leaf: str | None = None) -> Carry:
    """The inverse: `flat [..., K]` in the shapes and dtypes of `like`, of which the rest stays."""
    leaves, structure = jax.tree.flatten(like)
    lead, start, out = flat.ndim - 1, 0, []
    for v, chosen in zip(leaves, _chosen(like, leaf), strict=True):
        if chosen:
            size = math.prod(v.shape[lead:])
            v = flat[..., start : start + size].reshape(v.shape).astype(v.dtype)
            start += size
        out.append(v)
    return jax.tree.unflatten(structure, out)


def _chosen(carry: Carry, leaf: str | None) -> list[bool]:
    pairs = zip(leaf_names(carry), jax.tree.leaves(carry), strict=True)
    return [_is_floating(v) and leaf in (None, name) for name, v in pairs]


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))
