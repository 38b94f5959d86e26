"""Many to one: the outputs of all valid steps, pooled.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import dataclasses
from typing import Any, NoReturn

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.layers.layer import Layer, as_sequence, check_layer, reads_tokens
from gatedrnn._src.layers.recurrent import lift
from gatedrnn._src.numerics import accumulator
from gatedrnn._src.rule import Carry, Params


@dataclasses.dataclass(frozen=True)
class Pool:
    """One output for the whole sequence, of all its steps; see `pool`."""

    layer: Layer
    how: str = "mean"

    drops_time = True
    causal = False

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)
        checks.option("how", self.how, ("mean", "max"))

    @property
    def reads_tokens(self) -> bool:
        """Whether the layer reads tokens."""
        return reads_tokens(self.layer)

    def out_features(self, in_features: int | None) -> int | None:
        """As many as the layer makes."""
        return self.layer.out_features(in_features)

    def init(self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32) -> Params:
        """The layer's parameters."""
        return self.layer.init(key, in_features, dtype)

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
        params: Params | None = None,
    ) -> Carry:
        """The layer's initial carry."""
        return self.layer.carry(batch_shape, dtype, params)

    def apply(
        self,
        params: Params,
        xs: Array,
        carry: Carry | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Array]:
        """`xs [T, *B, I]` -> the final carry and `[*B, F]`, zeros for an empty row."""
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        carry, ys = self.layer.apply(params, xs, carry, mask=mask, resets=resets, key=key)
        return carry, POOLS[self.how](ys, jnp.ones(ys.shape[:-1], bool) if mask is None else mask)

    def step(self, params: Params, carry: Carry, x: Array, *, key: Array | None = None) -> NoReturn:
        """Raise: what is pooled so far is not in the layer's carry."""
        raise TypeError(
            "step: a pooled layer cannot stream, its output is of the whole sequence; use apply, "
            "or step the layer inside and pool its outputs"
        )


def _mean(ys: Array, mask: Array) -> Array:
    """`ys [T, *B, F]` -> `[*B, F]`; outputs that are masked are zeros already."""
    dtype = accumulator(ys.dtype)
    count = jnp.sum(mask, axis=0, dtype=dtype)[..., None]
    return (jnp.sum(ys, axis=0, dtype=dtype) / jnp.maximum(count, 1)).astype(ys.dtype)


def _max(ys: Array, mask: Array) -> Array:
    """`ys [T, *B, F]` -> `[*B, F]`."""
    lowest = jnp.finfo(ys.dtype).min
    greatest = jnp.max(jnp.where(mask[..., None], ys, lowest), axis=0, initial=lowest)
    return jnp.where(jnp.any(mask, axis=0)[..., None], greatest, 0)


POOLS = {"mean": _mean, "max": _max}


def pool(layer: Any, how: str = "mean") -> Pool:
    """Many to one: the outputs of `layer` over all valid steps, without a time axis.

    For any layer, also a bidirectional one and what mixes both directions. Outermost, as `final`:
    a stack cannot go on after it.

    Args:
      layer: a layer or a cell.
      how: `"mean"`, or `"max"`, each feature by itself (at equal steps its gradient is shared).

    Raises:
      TypeError: neither a layer nor a cell.
      ValueError: an unknown way to pool; a layer without a time axis.
    """
    return Pool(lift(layer), how)
