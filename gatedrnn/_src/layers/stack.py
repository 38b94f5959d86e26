"""Layers one after another.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell, Params
from gatedrnn._src.describe import shown
from gatedrnn._src.layers.base import Layer, run_layer, run_layer_final
from gatedrnn._src.layers.checks import check_layer
from gatedrnn._src.layers.context import Context, fold
from gatedrnn._src.layers.recurrent import as_layer, brief


@dataclasses.dataclass(frozen=True, repr=False)
class Stack(Layer):
    """Layers one after another; made by `gr.stack`.

    Parameters and carries are tuples with one entry for each layer.

    Attributes:
      layers: at least one; each reads the whole output of the one before.

    Example:
      >>> net = gr.stack(gr.LSTM(8), gr.dense(2))
      >>> net.layers[1]
      dense(2)
    """

    layers: tuple[Layer, ...]

    masks_outputs = True
    knows_reverse = True

    def __post_init__(self) -> None:
        if not isinstance(self.layers, tuple):
            raise TypeError(f"layers: got {shown(self.layers)}, expected a tuple of layers")
        if not self.layers:
            raise ValueError("layers: got none, expected at least one")
        for layer in self.layers:
            check_layer("layers", layer)

    @property
    def reads_tokens(self) -> bool:
        """True where the first layer reads tokens."""
        return self.layers[0].reads_tokens

    @property
    def causal(self) -> bool:
        """True where every layer is causal."""
        return all(layer.causal for layer in self.layers)

    @property
    def streams(self) -> bool:
        """True where every layer streams."""
        return all(layer.streams for layer in self.layers)

    @property
    def stepwise(self) -> bool:
        """True where every layer is stepwise."""
        return all(layer.stepwise for layer in self.layers)

    @property
    def flips(self) -> bool:
        """True where every layer flips."""
        return all(layer.flips for layer in self.layers)

    @property
    def why_not(self) -> str:
        """The reason of the first layer that cannot stream."""
        return next(layer.why_not for layer in self.layers if not layer.streams)

    def parts(self, in_features: int | None) -> list[tuple[str, Layer, int | None]]:
        """The layers, by their numbers."""
        parts = []
        for index, layer in enumerate(self.layers):
            parts.append((str(index), layer, in_features))
            in_features = layer.out_features(in_features)
        return parts

    def params_dtype(self, params: Any) -> DTypeLike:
        """The dtype of the first layer."""
        return self.layers[0].params_dtype(params[0])

    def out_features(self, in_features: int | None) -> int | None:
        """Return the size of the last layer's output."""
        for layer in self.layers:
            in_features = layer.out_features(in_features)
        return in_features

    def init(
        self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32
    ) -> tuple[Params, ...]:
        """Make a tuple with the parameters of each layer."""
        key = validation.as_key(key)
        return tuple(
            layer.init(jax.random.fold_in(key, int(index)), features, dtype)
            for index, layer, features in self.parts(in_features)
        )

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
        params: tuple[Params, ...] | None = None,
    ) -> tuple[Carry, ...]:
        """Make a tuple with the initial carry of each layer."""
        count = len(self.layers)
        params = (None,) * count if params is None else params
        if not isinstance(params, tuple) or len(params) != count:
            got = f"{len(params)} entries" if isinstance(params, tuple) else shown(params)
            raise ValueError(f"params: got {got}, expected a tuple of {count}, one for each layer")
        pairs = zip(self.layers, params, strict=True)
        return tuple(layer.carry(batch_shape, dtype, p) for layer, p in pairs)

    def run(
        self, params: tuple, xs: Array, carry: tuple, context: Context
    ) -> tuple[tuple[Carry, ...], Array]:
        """Run each layer over the whole output of the one before."""
        carries = []
        for index, layer, p, c in self._each(params, carry):
            c, xs = run_layer(layer, p, xs, c, context.of_layer(index))
            carries.append(c)
        return tuple(carries), xs

    def run_final(
        self, params: tuple, xs: Array, carry: tuple, context: Context
    ) -> tuple[tuple[Carry, ...], Array]:
        """Run the stepwise layers on top at the last output of those below alone."""
        length, carries = xs.shape[0], []
        top = len(self.layers) - 1
        while top > 0 and self.layers[top].stepwise:
            top -= 1
        for index, layer, p, c in self._each(params, carry):
            own = context.of_layer(index)
            if index < top:
                c, xs = run_layer(layer, p, xs, c, own)
            elif index == top:
                c, xs = run_layer_final(layer, p, xs, c, own)
            else:
                c, xs = layer.run_last(p, xs, c, length, own)
            carries.append(c)
        valid = None if context.mask is None else jnp.any(context.mask, axis=0)
        y = jnp.zeros_like(xs) if length == 0 else validation.zero_masked(xs, valid)
        return tuple(carries), y

    def run_step(
        self, params: tuple, x: Array, carry: tuple, key: Array | None
    ) -> tuple[tuple[Carry, ...], Array]:
        """Run one step through all layers."""
        carries = []
        for index, layer, p, c in self._each(params, carry):
            c, x = layer.run_step(p, x, c, fold(key, index))
            carries.append(c)
        return tuple(carries), x

    def run_last(
        self, params: tuple, y: Array, carry: tuple, length: int, context: Context
    ) -> tuple[tuple[Carry, ...], Array]:
        """Run each row's last valid step alone through all layers, which are stepwise."""
        carries = []
        for index, layer, p, c in self._each(params, carry):
            c, y = layer.run_last(p, y, c, length, context.of_layer(index))
            carries.append(c)
        return tuple(carries), y

    def _each(self, params: tuple, carry: tuple) -> Iterator[tuple[int, Layer, Params, Carry]]:
        """Each layer with its number, parameters and carry, in a scope of its own in a profile."""
        for index, (layer, p, c) in enumerate(zip(self.layers, params, carry, strict=True)):
            with jax.named_scope(f"{index}_{layer.label}"):
                yield index, layer, p, c

    def __repr__(self) -> str:
        """The call that makes the layer."""
        return f"stack({', '.join(map(brief, self.layers))})"


def stack(*layers: Layer | Cell) -> Stack:
    """Make a layer of layers one after another: each reads the whole output of the one before.

    Args:
      layers: at least one; a bare cell becomes `gr.recurrent(cell)`.

    Raises:
      TypeError: something that is neither a layer nor a cell.
      ValueError: no layer, or `gr.final` inside.

    Example:
      >>> gr.stack(gr.LSTM(256), gr.dropout(0.2), gr.dense(10))
      stack(LSTM(256), dropout(0.2), dense(10))
    """
    return Stack(tuple(map(as_layer, layers)))
