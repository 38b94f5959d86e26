"""A layer beside the identity.

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
    is_stepwise,
    same_features,
)
from gatedrnn._src.layers.recurrent import lift
from gatedrnn._src.rule import Carry, Params


@dataclasses.dataclass(frozen=True)
class Residual:
    """A layer beside the identity; see `residual`."""

    layer: Layer

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)

    @property
    def causal(self) -> bool:
        """Whether the layer is."""
        return is_causal(self.layer)

    @property
    def stepwise(self) -> bool:
        """Whether the layer is."""
        return is_stepwise(self.layer)

    def out_features(self, in_features: int | None) -> int | None:
        """As many as come in."""
        return same_features(self.layer, in_features)

    def init(self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32) -> Params:
        """The layer's parameters."""
        self.out_features(in_features)
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
        """`ys = xs + layer(xs)`, `[T, *B, F]`, with the layer's final carry."""
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        carry, ys = self.layer.apply(params, xs, carry, mask=mask, resets=resets, key=key)
        return carry, self._add(xs, ys)

    def apply_last(
        self, params: Params, y: Array, carry: Carry, length: int, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """What `apply` does at the last of `length` steps, alone, if the layer is stepwise."""
        assert is_stepwise(self.layer)
        carry, out = self.layer.apply_last(params, y, carry, length, key=key)
        return carry, self._add(y, out)

    def step(
        self, params: Params, carry: Carry, x: Array, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """`y = x + layer(x)` for one step."""
        carry, y = self.layer.step(params, carry, x, key=key)
        return carry, self._add(x, y)

    def _add(self, x: Array, y: Array) -> Array:
        if x.shape != y.shape:
            raise ValueError(
                f"x: got shape {x.shape} for {self.layer!r}, which makes {y.shape} of it, "
                "expected a layer that makes as many features as it reads"
            )
        return x + y


def residual(layer: Any) -> Residual:
    """A layer `y = x + layer(x)`.

    Args:
      layer: a layer (or a cell) that makes as many features as it reads.

    Raises:
      ValueError: (at `init`) a layer that changes the number of features.
    """
    return Residual(lift(layer))
