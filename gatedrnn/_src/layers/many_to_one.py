"""Many to one: a single output for a whole sequence.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import Array

from gatedrnn._src import checks
from gatedrnn._src.base import Carry, Cell, Params
from gatedrnn._src.layers.base import Layer, run_layer, run_layer_final
from gatedrnn._src.layers.combinators import Around
from gatedrnn._src.layers.context import Context
from gatedrnn._src.layers.recurrent import as_layer, brief
from gatedrnn._src.numerics import accumulator


@dataclasses.dataclass(frozen=True, repr=False)
class Final(Around):
    """Many to one: the output that belongs to the final carry; made by `gr.final`.

    Attributes:
      layer: the layer whose final output it is.

    Example:
      >>> layer = gr.final(gr.GRU(4))
      >>> layer.apply(layer.init(jax.random.key(0), 3), jnp.ones((5, 2, 3)))[1].shape
      (2, 4)
    """

    layer: Layer

    drops_time = True
    knows_reverse = True

    def run(self, params: Params, xs: Array, carry: Carry, context: Context) -> tuple[Carry, Array]:
        """Return the final carry and its output `[*B, F]`, zeros for an empty row."""
        return run_layer_final(self.layer, params, xs, carry, context)

    def run_final(
        self, params: Params, xs: Array, carry: Carry, context: Context
    ) -> tuple[Carry, Array]:
        """Do the same as `run`."""
        return self.run(params, xs, carry, context)


def final(layer: Layer | Cell) -> Final:
    """Make a layer of the output that belongs to the final carry of `layer`, without a time axis.

    For a causal layer that is the output of each row's last valid step; for a bidirectional one,
    the forward direction's last and the backward direction's first, merged. Dense layers and
    dropout on top of a stack see that one output only. Outermost: a stack cannot go on after it.

    Args:
      layer: a layer or a cell.

    Raises:
      ValueError: (at `apply`) a layer that mixes both directions, so that no step holds its final
        output, such as `gr.residual(gr.bidirectional(...))`.

    Example:
      >>> gr.final(gr.bidirectional(gr.LSTM(4)))
      final(bidirectional(LSTM(4)))
    """
    return Final(as_layer(layer))


How = Literal["mean", "max"]


@dataclasses.dataclass(frozen=True, repr=False)
class Pool(Around):
    """Many to one: the outputs of all valid steps, pooled; made by `gr.pool`.

    Attributes:
      layer: the layer whose outputs are pooled.
      how: `"mean"` or `"max"`.

    Example:
      >>> layer = gr.pool(gr.bidirectional(gr.GRU(4)), "max")
      >>> layer.apply(layer.init(jax.random.key(0), 3), jnp.ones((5, 2, 3)))[1].shape
      (2, 8)
    """

    layer: Layer
    how: How = "mean"

    drops_time = True
    causal = False
    streams = False
    knows_reverse = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.option("how", self.how, How)

    @property
    def why_not(self) -> str:
        """The reason why the layer cannot stream."""
        return "its output is of the whole sequence; step the layer inside and pool its outputs"

    def run(self, params: Params, xs: Array, carry: Carry, context: Context) -> tuple[Carry, Array]:
        """Return the final carry and `[*B, F]`, zeros for an empty row."""
        carry, ys = run_layer(self.layer, params, xs, carry, context)
        mask = jnp.ones(ys.shape[:-1], bool) if context.mask is None else context.mask
        return carry, POOLS[self.how](ys, mask)

    def __repr__(self) -> str:
        """The call that makes the layer."""
        how = "" if self.how == "mean" else f", how={self.how!r}"
        return f"pool({brief(self.layer)}{how})"


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


def pool(layer: Layer | Cell, how: How = "mean") -> Pool:
    """Make a layer of the outputs of `layer` pooled over all valid steps, without a time axis.

    For any layer, also a bidirectional one and what mixes both directions. Outermost, as `final`:
    a stack cannot go on after it.

    Args:
      layer: a layer or a cell.
      how: `"mean"`, or `"max"`, each feature by itself (at equal steps its gradient is shared).

    Raises:
      TypeError: neither a layer nor a cell.
      ValueError: an unknown way to pool; a layer without a time axis.

    Example:
      >>> gr.pool(gr.GRU(4), "max")
      pool(GRU(4), how='max')
    """
    return Pool(as_layer(layer), how)
