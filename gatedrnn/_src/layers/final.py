"""Many to one: the output that belongs to a layer's final carry.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src.layers.layer import (
    Layer,
    as_sequence,
    check_layer,
    is_causal,
    last_valid,
    reads_tokens,
)
from gatedrnn._src.layers.recurrent import lift
from gatedrnn._src.rule import Carry, Params


def finish(
    layer: Layer,
    params: Params,
    xs: Array,
    carry: Carry | None,
    *,
    mask: Array | None,
    resets: Array | None,
    key: Array | None,
) -> tuple[Carry, Array]:
    """The final carry of `layer` and the output `[*B, F]` that belongs to it.

    A layer that knows a better way than to compute every output has a method `final`.
    """
    options = {"mask": mask, "resets": resets, "key": key}
    if hasattr(layer, "final"):
        return layer.final(params, xs, carry, **options)
    if not is_causal(layer):
        raise ValueError(
            f"final: got {layer!r}, expected a causal layer, a bidirectional one, or a stack or "
            "repeat of those: its outputs mix both directions, and none belongs to its final carry"
        )
    carry, ys = layer.apply(params, xs, carry, **options)
    return carry, last_valid(ys, mask)


@dataclasses.dataclass(frozen=True)
class Final:
    """One output for the whole sequence; see `final`."""

    layer: Layer

    drops_time = True

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)

    @property
    def reads_tokens(self) -> bool:
        """Whether the layer reads tokens."""
        return reads_tokens(self.layer)

    @property
    def causal(self) -> bool:
        """Whether the layer is."""
        return is_causal(self.layer)

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
        """`xs [T, *B, I]` -> the final carry and its output `[*B, F]`, zeros for an empty row."""
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        return finish(self.layer, params, xs, carry, mask=mask, resets=resets, key=key)

    def step(
        self, params: Params, carry: Carry, x: Array, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """One step: the output so far, which after the last step is that of `apply`."""
        return self.layer.step(params, carry, x, key=key)


def final(layer: Any) -> Final:
    """Many to one: the output that belongs to the final carry of `layer`, without a time axis.

    For a causal layer that is the output of each row's last valid step; for a bidirectional one,
    the forward direction's last and the backward direction's first, merged. Dense layers and
    dropout on top of a stack see that one output only. Outermost: a stack cannot go on after it.

    Args:
      layer: a layer or a cell.

    Raises:
      ValueError: (at `apply`) a layer that mixes both directions, so that no step holds its final
        output, such as `gr.residual(gr.bidirectional(...))`.
    """
    return Final(lift(layer))
