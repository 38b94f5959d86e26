"""A carry as one vector for each row: its floating-point leaves side by side.

Axes: `...` any leading axes (time, batch), `K` all elements of the chosen leaves of one row.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell, is_shared
from gatedrnn._src.describe import shown
from gatedrnn._src.numerics import accumulator


def leaf_names(carry: Carry) -> list[str]:
    """Return the path of every leaf in the form that a reader writes: `h`, `c`."""
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree.leaves_with_path(carry)
    ]


def check_leaf(cell: Cell, leaf: str | None) -> None:
    """Raise unless `leaf` is None or a floating-point leaf of the carry."""
    carry = jax.eval_shape(lambda: cell.carry((), jnp.float32))
    pairs = zip(leaf_names(carry), _are_state(carry), strict=True)
    names = [name for name, is_state in pairs if is_state]
    if leaf is not None and not (isinstance(leaf, str) and leaf in names):
        expected = ", ".join(map(repr, names))
        raise ValueError(
            f"leaf: got {shown(leaf)}, expected None or one of {expected} for {cell!r}"
        )


def as_scalar(value: Any) -> Array:
    """Return the value of a user's loss as a scalar; raise for anything else."""
    value = validation.as_array("loss", value, "a function that returns a scalar")
    if value.shape != ():
        raise ValueError(f"loss: got a value of shape {value.shape}, expected a scalar")
    validation.check_floating("loss", value)
    return value


def row_size(cell: Cell) -> int:
    """Return `K`, the number of elements of a row in all floating-point leaves."""
    carry = jax.eval_shape(lambda: cell.carry((), jnp.float32))
    leaves = zip(jax.tree.leaves(carry), _are_state(carry), strict=True)
    return sum(math.prod(v.shape) for v, is_state in leaves if is_state)


def flatten(carry: Carry, leading: int, leaf: str | None = None) -> Array:
    """Return the chosen leaves as vectors `[..., K]`, with `leading` axes before the last.

    `leaf` names one leaf; None: all floating-point leaves. In at least float32.
    """
    leaves = zip(jax.tree.leaves(carry), _are_chosen(carry, leaf), strict=True)
    vectors = [
        v.reshape(*v.shape[:leading], math.prod(v.shape[leading:]))
        for v, is_chosen in leaves
        if is_chosen
    ]
    widest = max((accumulator(v.dtype) for v in vectors), key=lambda dtype: dtype.itemsize)
    return jnp.concatenate([v.astype(widest) for v in vectors], axis=-1)


def unflatten(vectors: Array, like: Carry, leaf: str | None = None) -> Carry:
    """Return `like` with its chosen leaves made of `vectors [..., K]`: the inverse of `flatten`.

    Shapes and dtypes are those of `like`, and so are all leaves that are not chosen.
    """
    leaves, structure = jax.tree.flatten(like)
    leading, start, out = vectors.ndim - 1, 0, []
    for v, is_chosen in zip(leaves, _are_chosen(like, leaf), strict=True):
        if is_chosen:
            size = math.prod(v.shape[leading:])
            v = vectors[..., start : start + size].reshape(v.shape).astype(v.dtype)
            start += size
        out.append(v)
    return jax.tree.unflatten(structure, out)


def _are_chosen(carry: Carry, leaf: str | None) -> list[bool]:
    pairs = zip(leaf_names(carry), _are_state(carry), strict=True)
    return [is_state and leaf in (None, name) for name, is_state in pairs]


def _are_state(carry: Carry) -> list[bool]:
    """Return a flag for each leaf, True if the leaf holds floating-point numbers of each row."""
    flags = jax.tree.map(
        lambda node: jax.tree.map(lambda v: not is_shared(node) and _is_floating(v), node),
        carry,
        is_leaf=is_shared,
    )
    return jax.tree.leaves(flags)


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))
