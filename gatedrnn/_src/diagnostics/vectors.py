"""A carry as one vector for each row: its floating-point leaves side by side.

Axes: `...` any leading axes (time, batch), `K` all elements of the chosen leaves of one row.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src.base import Carry, Cell, is_shared
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
    names = [n for n, own in zip(leaf_names(carry), _of_rows(carry), strict=True) if own]
    if leaf is not None and leaf not in names:
        expected = ", ".join(map(repr, names))
        raise ValueError(f"leaf: got {leaf!r}, expected None or one of {expected} for {cell!r}")


def row_size(cell: Cell) -> int:
    """`K`, over all floating-point leaves."""
    carry = jax.eval_shape(lambda: cell.carry((), jnp.float32))
    leaves = zip(jax.tree.leaves(carry), _of_rows(carry), strict=True)
    return sum(math.prod(v.shape) for v, own in leaves if own)


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
    pairs = zip(leaf_names(carry), _of_rows(carry), strict=True)
    return [own and leaf in (None, name) for name, own in pairs]


def _of_rows(carry: Carry) -> list[bool]:
    """For each leaf, True if it holds real numbers of a row."""
    own = jax.tree.map(
        lambda node: jax.tree.map(lambda v: not is_shared(node) and _is_floating(v), node),
        carry,
        is_leaf=is_shared,
    )
    return jax.tree.leaves(own)


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))
