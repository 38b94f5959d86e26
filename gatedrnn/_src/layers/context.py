"""All that accompanies a sequence through the layers of a network, in either direction of time.

Axes: `T` time, `*B` any batch axes, `F` output features.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src import placement
from gatedrnn._src.episodes import episode_starts


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["mask", "lengths", "resets", "key"],
    meta_fields=["reverse", "rows"],
)
@dataclasses.dataclass(frozen=True)
class Context:
    """All that accompanies a sequence through the layers of a network, checked.

    Attributes:
      mask: `[T, *B]`, False where a step is padding; None: all steps are valid.
      lengths: int32 `[*B]`, where the mask follows from lengths, else None; not clipped.
      resets: `[T, *B]`, True where an episode starts; None: nowhere.
      key: for random masks, one key; None: there are none.
      reverse: whether time runs from the end; static.
      rows: how `*B` is divided over the devices of a mesh with explicit axes; static, None without
        one.

    Example:
      >>> gr.Context(mask=jnp.ones((5, 2), bool)).mask.shape
      (5, 2)
    """

    mask: Array | None = None
    lengths: Array | None = None
    resets: Array | None = None
    key: Array | None = None
    reverse: bool = False
    rows: placement.Rows | None = None

    def of_layer(self, index: int | Array) -> "Context":
        """Return the same with the key of one layer among several."""
        return dataclasses.replace(self, key=fold(self.key, index))


def flip(tree: Any) -> Any:
    """Reverse the leading axis, time, of every leaf."""
    return jax.tree.map(lambda v: jnp.flip(v, 0), tree)


def flip_context(context: Context) -> Context:
    """Return what accompanies the same sequence where it is read from its end."""
    resets = context.resets
    if resets is not None:
        resets = flip(episode_starts(resets, context.mask, reverse=True))
    return Context(flip(context.mask), None, resets, context.key, rows=context.rows)


def fold(key: Array | None, index: int | Array) -> Array | None:
    """Return the key of one layer among several."""
    return None if key is None else jax.random.fold_in(key, index)


@functools.partial(jax.jit, static_argnames="first", inline=True)
def last_valid(ys: Array, mask: Array | None, *, first: bool = False) -> Array:
    """Take the output of each row's last (or first) valid step, zeros where there is none.

    `ys [T, *B, F]`, `mask [T, *B]` -> `[*B, F]`. A sum over one selected step, not a gather, so
    that a batch axis may be sharded.
    """
    length = ys.shape[0]
    if length == 0:
        return jnp.zeros(ys.shape[1:], ys.dtype)
    if mask is None:
        return ys[0 if first else -1]
    step = lax.broadcasted_iota(jnp.int32, mask.shape, 0)
    if first:
        wanted = jnp.min(jnp.where(mask, step, length), axis=0)
    else:
        wanted = jnp.max(jnp.where(mask, step, -1), axis=0)
    chosen = (step == wanted[None])[..., None]
    return jnp.sum(jnp.where(chosen, ys, jnp.zeros((), ys.dtype)), axis=0, dtype=ys.dtype)
