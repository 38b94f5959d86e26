"""Layers one after another.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry, Params
from gatedrnn._src.layers.base import (
    Layer,
    Stepwise,
    as_sequence,
    check_layer,
    is_causal,
    is_stepwise,
    key_of,
    last_valid,
    reads_tokens,
    same_features,
)
from gatedrnn._src.layers.recurrent import lift
from gatedrnn._src.numerics import accumulator
from gatedrnn._src.time import engine


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
        y = jnp.zeros_like(xs) if length == 0 else validation.zero_masked(xs, any_step)
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

    @property
    def stepwise(self) -> bool:
        """Whether the layer is."""
        return is_stepwise(self.layer)

    def out_features(self, in_features: int | None) -> int | None:
        """As many as come in."""
        return same_features(self.layer, in_features)

    def init(self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32) -> Params:
        """The layer's parameters with a leading axis `n`."""
        self.out_features(in_features)
        keys = jax.random.split(key, self.n)
        # not by vmap: see `numerics.orthogonal_gates`
        layers = [self.layer.init(key, in_features, dtype) for key in keys]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
        params: Params | None = None,
    ) -> Carry:
        """The layer's initial carry with a leading axis `n`."""
        self.check("params", params)
        make = jax.vmap(lambda p: self.layer.carry(batch_shape, dtype, p), axis_size=self.n)
        return make(params)

    def check(self, name: str, tree: Any) -> None:
        """Raise unless every leaf has one entry for each layer."""
        for path, leaf in jax.tree.leaves_with_path(tree):
            if jnp.shape(leaf)[:1] != (self.n,):
                raise ValueError(
                    f"{name}{jax.tree_util.keystr(path)}: got shape {jnp.shape(leaf)}, "
                    f"expected a leading axis of {self.n}, the layers of gr.repeat"
                )

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
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        carry = self.carry(xs.shape[1:-1], xs.dtype, params) if carry is None else carry
        return self._through(_apply, params, carry, xs, (mask, resets, key))

    def step(
        self, params: Params, carry: Carry, x: Array, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """One step through all layers."""
        return self._through(_step, params, carry, x, key)

    def _through(
        self, call: Callable, params: Params, carry: Carry, xs: Array, shared: Any
    ) -> tuple[Carry, Array]:
        self.check("params", params)
        self.check("carry", carry)
        return engine.scan_layers(call, self.layer, self.n, params, carry, jnp.asarray(xs), shared)

    def apply_last(
        self, params: Params, y: Array, carry: Carry, length: int, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """What `apply` does at the last of `length` steps, alone, if the layer is stepwise."""
        if carry is None:
            carry = self.carry(y.shape[:-1], y.dtype, params)
        return self._through(_apply_last, params, carry, y, (length, key))

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
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        carry = self.carry(xs.shape[1:-1], xs.dtype, params) if carry is None else carry
        options = {"mask": mask, "resets": resets}
        below, last = self.n - 1, jax.tree.map(lambda v: v[-1], (params, carry))
        carries = []
        if below:
            rest = jax.tree.map(lambda v: v[:-1], (params, carry))
            c, xs = Repeat(self.layer, below).apply(rest[0], xs, rest[1], **options, key=key)
            carries.append(c)
        c, y = finish(self.layer, last[0], xs, last[1], **options, key=key_of(key, below))
        carries.append(jax.tree.map(lambda v: v[None], c))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *carries), y


def _apply(
    layer: Layer, params: Params, carry: Carry, xs: Array, shared: tuple, index: Array
) -> Any:
    mask, resets, key = shared
    return layer.apply(params, xs, carry, mask=mask, resets=resets, key=key_of(key, index))


def _step(layer: Layer, params: Params, carry: Carry, x: Array, key: Array, index: Array) -> Any:
    return layer.step(params, carry, x, key=key_of(key, index))


def _apply_last(
    layer: Stepwise, params: Params, carry: Carry, y: Array, shared: tuple, index: Array
) -> Any:
    length, key = shared
    return layer.apply_last(params, y, carry, length, key=key_of(key, index))


def repeat(layer: Any, n: int) -> Repeat:
    """`n` equal layers with parameters of their own, compiled as one: a scan over depth.

    Args:
      layer: a layer (or a cell) that makes as many features as it reads.
      n: how many.

    Raises:
      ValueError: `n` below 1, or (at `init`) a layer that changes the number of features.
    """
    return Repeat(lift(layer), n)


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
