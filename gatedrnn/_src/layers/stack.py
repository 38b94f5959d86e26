"""Layers one after another.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import inputs
from gatedrnn._src.layers.final import finish
from gatedrnn._src.layers.layer import (
    Layer,
    as_sequence,
    check_layer,
    is_causal,
    is_stepwise,
    key_of,
    reads_tokens,
)
from gatedrnn._src.layers.recurrent import lift
from gatedrnn._src.rule import Carry, Params


@dataclasses.dataclass(frozen=True)
class Stack:
    """Layers one after another; see `stack`."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers: got none, expected at least one")
        for layer in self.layers:
            check_layer("layers", layer)

    @property
    def reads_tokens(self) -> bool:
        """Whether the first layer reads tokens."""
        return reads_tokens(self.layers[0])

    @property
    def causal(self) -> bool:
        """Whether every layer is."""
        return all(is_causal(layer) for layer in self.layers)

    @property
    def stepwise(self) -> bool:
        """Whether every layer is."""
        return all(is_stepwise(layer) for layer in self.layers)

    def out_features(self, in_features: int | None) -> int | None:
        """The size of the last layer's output."""
        for layer in self.layers:
            in_features = layer.out_features(in_features)
        return in_features

    def init(
        self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32
    ) -> tuple[Params, ...]:
        """A tuple with the parameters of each layer."""
        params = []
        for index, layer in enumerate(self.layers):
            params.append(layer.init(jax.random.fold_in(key, index), in_features, dtype))
            in_features = layer.out_features(in_features)
        return tuple(params)

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
        params: tuple[Params, ...] | None = None,
    ) -> tuple[Carry, ...]:
        """A tuple with the initial carry of each layer."""
        params = (None,) * len(self.layers) if params is None else params
        return tuple(layer.carry(batch_shape, dtype, p) for layer, p, _ in self._each(params, None))

    def apply(
        self,
        params: tuple[Params, ...],
        xs: Array,
        carry: tuple[Carry, ...] | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[tuple[Carry, ...], Array]:
        """Each layer over the whole output of the one before: the final carries, and `ys`."""
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        carries = []
        for index, (layer, p, c) in enumerate(self._each(params, carry)):
            c, xs = layer.apply(p, xs, c, mask=mask, resets=resets, key=key_of(key, index))
            carries.append(c)
        return tuple(carries), xs

    def step(
        self,
        params: tuple[Params, ...],
        carry: tuple[Carry, ...],
        x: Array,
        *,
        key: Array | None = None,
    ) -> tuple[tuple[Carry, ...], Array]:
        """One step through all layers."""
        carries = []
        for index, (layer, p, c) in enumerate(self._each(params, carry)):
            c, x = layer.step(p, c, x, key=key_of(key, index))
            carries.append(c)
        return tuple(carries), x

    def apply_last(
        self,
        params: tuple[Params, ...],
        y: Array,
        carry: tuple[Carry, ...] | None,
        length: int,
        *,
        key: Array | None = None,
    ) -> tuple[tuple[Carry, ...], Array]:
        """What `apply` does at the last of `length` steps, alone, if every layer is stepwise."""
        carries = []
        for index, (layer, p, c) in enumerate(self._each(params, carry)):
            c, y = layer.apply_last(p, y, c, length, key=key_of(key, index))
            carries.append(c)
        return tuple(carries), y

    def final(
        self,
        params: tuple[Params, ...],
        xs: Array,
        carry: tuple[Carry, ...] | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[tuple[Carry, ...], Array]:
        """The final carries, and the output `[*B, F]` that belongs to them.

        The layers on top that treat every step alike see the last output of those below only.
        """
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        length, any_step = len(xs), None if mask is None else jnp.any(mask, axis=0)
        top = len(self.layers) - 1
        while top > 0 and is_stepwise(self.layers[top]):
            top -= 1
        carries = []
        for index, (layer, p, c) in enumerate(self._each(params, carry)):
            options = {"mask": mask, "resets": resets, "key": key_of(key, index)}
            if index < top:
                c, xs = layer.apply(p, xs, c, **options)
            elif index == top:
                c, xs = finish(layer, p, xs, c, **options)
            else:
                c, xs = layer.apply_last(p, xs, c, length, key=options["key"])
            carries.append(c)
        y = jnp.zeros_like(xs) if length == 0 else inputs.zero_masked(xs, any_step)
        return tuple(carries), y

    def _each(self, params: tuple[Params, ...], carry: tuple[Carry, ...] | None) -> zip:
        """Each layer with its parameters and its carry or None."""
        count = len(self.layers)
        carry = (None,) * count if carry is None else carry
        for name, values in (("params", params), ("carry", carry)):
            if not isinstance(values, tuple) or len(values) != count:
                got = (
                    f"{len(values)} entries" if isinstance(values, tuple) else type(values).__name__
                )
                raise ValueError(
                    f"{name}: got {got}, expected a tuple of {count}, one for each layer"
                )
        return zip(self.layers, params, carry, strict=True)


def stack(*layers: Any) -> Stack:
    """Layers one after another: each reads the whole output of the one before.

    Args:
      layers: at least one; a bare cell is lifted to `gr.recurrent(cell)`.

    Raises:
      TypeError: something that is neither a layer nor a cell.
      ValueError: no layer, or `gr.final` inside.
    """
    return Stack(tuple(lift(layer) for layer in layers))
