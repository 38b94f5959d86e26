"""Pytrees of arrays over time: rows chosen, steps shifted, dtypes, and axes of a mesh.

Axes: `T` time, `*B` batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src.base import is_shared
from gatedrnn._src.numerics import accumulator


def first_leaf(carry: Any) -> Array:
    """Return the first leaf of a carry, which is the output of a cell with a rule."""
    return jax.tree.leaves(carry)[0]


def shift(start: Any, carries: Any, reverse: bool) -> Any:
    """Return the carry before each step, from the carry at the start and the carry after each."""
    if reverse:
        return jax.tree.map(lambda s, v: jnp.concatenate([v, s[None]])[1:], start, carries)
    return jax.tree.map(lambda s, v: jnp.concatenate([s[None], v])[:-1], start, carries)


def where(flag: Array | None, this: Any, other: Any) -> Any:
    """Choose rows: `this` where `flag [T, *B]` (or `[*B]`) is True, else `other`; None: `other`.

    Leaves that rows share are those of `other`.
    """
    if flag is None:
        return other

    def pick(a: Any, b: Any) -> Any:
        if is_shared(a):
            return b
        return jnp.where(flag.reshape(flag.shape + (1,) * (b.ndim - flag.ndim)), a, b)

    return jax.tree.map(pick, this, other, is_leaf=is_shared)


def zeros(tree: Any) -> Any:
    """Return zeros shaped as `tree`, in at least float32, to which gradients are added."""
    return jax.tree.map(lambda v: jnp.zeros(v.shape, accumulator(v.dtype)), tree)


def in_accumulator(tree: Any) -> Any:
    """`tree` in at least float32."""
    return jax.tree.map(lambda v: v.astype(accumulator(v.dtype)), tree)


def as_dtypes(tree: Any, like: Any) -> Any:
    """Return `tree` in the dtypes of `like`."""
    return jax.tree.map(lambda v, w: v.astype(w.dtype), tree, like)


def clipped(bound: float, tree: Any) -> Any:
    """Return `tree` with every element in `[-bound, bound]`; cotangents of integers unchanged."""

    def clip(d: Array) -> Array:
        return jnp.clip(d, -bound, bound) if jnp.issubdtype(d.dtype, jnp.floating) else d

    return jax.tree.map(clip, tree)


def as_real_dtypes(tree: Any, like: Any) -> Any:
    """Return `tree` with its floating-point leaves in the dtypes of `like`, others unchanged."""

    def cast(v: Array, w: Array) -> Array:
        floating = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in (v, w))
        return v.astype(w.dtype) if floating and v.dtype != w.dtype else v

    return jax.tree.map(cast, tree, like)


def vary_alike(tree: Any, like: Any = None) -> Any:
    """Make `tree` vary over every mesh axis over which `tree` or `like` varies, in `shard_map`.

    The transpose of this cast sums the gradients of replicated parameters once, outside every loop;
    and arrays that are created inside can go through a loop beside arrays from outside.
    """
    axes: frozenset = frozenset()
    for leaf in jax.tree.leaves((tree, like)):
        axes |= jax.typeof(leaf).mat.varying

    def vary(leaf: Array) -> Array:
        missing = axes - jax.typeof(leaf).mat.varying
        return lax.pcast(leaf, tuple(missing), to="varying") if missing else leaf

    return jax.tree.map(vary, tree)
