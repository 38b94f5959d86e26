"""Layers made of layers: one after another, the same several times, beside the identity.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features, `n` layers.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, engine, inputs
from gatedrnn._src.layers.final import finish
from gatedrnn._src.layers.layer import (
    Layer,
    as_sequence,
    check_layer,
    is_causal,
    no_features,
    reads_tokens,
)
from gatedrnn._src.layers.recurrent import lift
from gatedrnn._src.rule import Carry, Params


def _key_of(key: Array | None, index: Any) -> Array | None:
    """The key of one layer among several."""
    return None if key is None else jax.random.fold_in(key, index)


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
        return tuple(
            layer.carry(batch_shape, dtype, p) for layer, p, _ in self._each(params, None)
        )

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
        """Each layer over the whole output of the one before: a tuple of final carries, and `ys`."""
        xs, mask = as_sequence(self, xs, lengths, mask)
        carries = []
        for index, (layer, p, c) in enumerate(self._each(params, carry)):
            c, xs = layer.apply(p, xs, c, mask=mask, resets=resets, key=_key_of(key, index))
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
            c, x = layer.step(p, c, x, key=_key_of(key, index))
            carries.append(c)
        return tuple(carries), x

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
        xs, mask = as_sequence(self, xs, lengths, mask)
        length, any_step = len(xs), None if mask is None else jnp.any(mask, axis=0)
        top = len(self.layers) - 1
        while top > 0 and hasattr(self.layers[top], "apply_last"):
            top -= 1
        carries = []
        for index, (layer, p, c) in enumerate(self._each(params, carry)):
            options = {"mask": mask, "resets": resets, "key": _key_of(key, index)}
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
                got = f"{len(values)} entries" if isinstance(values, tuple) else repr(values)
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


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Equal layers one after another; see `repeat`."""

    layer: Layer
    n: int

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)
        checks.size("n", self.n)

    @property
    def causal(self) -> bool:
        """Whether the layer is."""
        return is_causal(self.layer)

    def out_features(self, in_features: int | None) -> int | None:
        """As many as come in."""
        no_features(self, in_features)
        out = self.layer.out_features(in_features)
        if out != in_features:
            raise ValueError(
                f"in_features: got {in_features} for {self.layer}, which makes {out} of them; "
                "expected as many, for equal layers to follow one another"
            )
        return out

    def init(self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32) -> Params:
        """The layer's parameters with a leading axis `n`."""
        self.out_features(in_features)
        keys = jax.random.split(key, self.n)
        return jax.vmap(lambda key: self.layer.init(key, in_features, dtype))(keys)

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
        params: Params | None = None,
    ) -> Carry:
        """The layer's initial carry with a leading axis `n`."""
        make = jax.vmap(
            lambda p: self.layer.carry(batch_shape, dtype, p), axis_size=self.n, out_axes=0
        )
        return make(params)

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
        """One scan over depth: final carries with a leading axis `n`, and `ys [T, *B, F]`."""
        xs, mask = as_sequence(self, xs, lengths, mask)
        carry = self.carry(xs.shape[1:-1], xs.dtype, params) if carry is None else carry

        def one(xs: Array, layer: tuple[Params, Carry, Array]) -> tuple[Array, Carry]:
            p, c, index = layer
            c, ys = self.layer.apply(
                p, xs, c, mask=mask, resets=resets, key=_key_of(key, index)
            )
            return ys, c

        ys, carry = engine.scan_layers(one, xs, (params, carry, jnp.arange(self.n)))
        return carry, ys

    def step(
        self, params: Params, carry: Carry, x: Array, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """One step through all layers."""

        def one(x: Array, layer: tuple[Params, Carry, Array]) -> tuple[Array, Carry]:
            p, c, index = layer
            c, y = self.layer.step(p, c, x, key=_key_of(key, index))
            return y, c

        y, carry = engine.scan_layers(one, x, (params, carry, jnp.arange(self.n)))
        return carry, y

    def final(
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
        """The final carries, and the output `[*B, F]` that belongs to the last one."""
        xs, mask = as_sequence(self, xs, lengths, mask)
        carry = self.carry(xs.shape[1:-1], xs.dtype, params) if carry is None else carry
        options = {"mask": mask, "resets": resets}
        below, last = self.n - 1, jax.tree.map(lambda v: v[-1], (params, carry))
        carries = []
        if below:
            rest = jax.tree.map(lambda v: v[:-1], (params, carry))
            c, xs = Repeat(self.layer, below).apply(rest[0], xs, rest[1], **options, key=key)
            carries.append(c)
        c, y = finish(self.layer, last[0], xs, last[1], **options, key=_key_of(key, below))
        carries.append(jax.tree.map(lambda v: v[None], c))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *carries), y


def repeat(layer: Any, n: int) -> Repeat:
    """`n` equal layers with parameters of their own, compiled as one: a scan over depth.

    Args:
      layer: a layer (or a cell) that makes as many features as it reads.
      n: how many.

    Raises:
      ValueError: `n` below 1, or (at `init`) a layer that changes the number of features.
    """
    return Repeat(lift(layer), n)


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

    def out_features(self, in_features: int | None) -> int | None:
        """As many as come in."""
        no_features(self, in_features)
        out = self.layer.out_features(in_features)
        if out != in_features:
            raise ValueError(
                f"in_features: got {in_features} for {self.layer}, which makes {out} of them; "
                "expected as many, to be added to the input"
            )
        return out

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
        xs, mask = as_sequence(self, xs, lengths, mask)
        carry, ys = self.layer.apply(params, xs, carry, mask=mask, resets=resets, key=key)
        return carry, xs + ys

    def step(
        self, params: Params, carry: Carry, x: Array, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """`y = x + layer(x)` for one step."""
        carry, y = self.layer.step(params, carry, x, key=key)
        return carry, x + y


def residual(layer: Any) -> Residual:
    """A layer `y = x + layer(x)`.

    Args:
      layer: a layer (or a cell) that makes as many features as it reads.

    Raises:
      ValueError: (at `init`) a layer that changes the number of features.
    """
    return Residual(lift(layer))
