"""Layers around one other: residual, repeat.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features, `n` layers.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry, Cell, Params, is_shared
from gatedrnn._src.layers.base import Layer, run_layer, run_layer_final
from gatedrnn._src.layers.checks import check_layer, same_features
from gatedrnn._src.layers.context import Context, fold
from gatedrnn._src.layers.recurrent import as_layer, brief
from gatedrnn._src.pytree import vary_alike


class Around(Layer):
    """A layer around one other, whose parameters, carry and character are its own."""

    layer: Layer

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)

    @property
    def reads_tokens(self) -> bool:
        """True where the layer inside reads tokens."""
        return self.layer.reads_tokens

    @property
    def causal(self) -> bool:
        """True where the layer inside is causal."""
        return self.layer.causal

    @property
    def streams(self) -> bool:
        """True where the layer inside streams."""
        return self.layer.streams

    @property
    def why_not(self) -> str:
        """The reason of the layer inside."""
        return self.layer.why_not

    @property
    def flips(self) -> bool:
        """True where the layer inside flips."""
        return self.layer.flips

    @property
    def label(self) -> str:
        """The names of both."""
        return f"{type(self).__name__}_{self.layer.label}"

    def parts(self, in_features: int | None) -> list[tuple[str, Layer, int | None]]:
        """The layer inside."""
        return [("layer", self.layer, in_features)]

    def params_dtype(self, params: Params) -> DTypeLike:
        """The dtype of the layer inside."""
        return self.layer.params_dtype(params)

    def out_features(self, in_features: int | None) -> int | None:
        """Return as many as the layer inside makes."""
        return self.layer.out_features(in_features)

    def init(self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32) -> Params:
        """Make the parameters of the layer inside."""
        self.out_features(in_features)
        return self.layer.init(key, in_features, dtype)

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
        params: Params | None = None,
    ) -> Carry:
        """Make the initial carry of the layer inside."""
        return self.layer.carry(batch_shape, dtype, params)

    def run_step(
        self, params: Params, x: Array, carry: Carry, key: Array | None
    ) -> tuple[Carry, Array]:
        """Run one step of the layer inside."""
        return self.layer.run_step(params, x, carry, key)

    def __repr__(self) -> str:
        """The call that makes the layer."""
        return f"{type(self).__name__.lower()}({brief(self.layer)})"


@dataclasses.dataclass(frozen=True, repr=False)
class Residual(Around):
    """A layer `y = x + layer(x)`; made by `gr.residual`.

    Attributes:
      layer: one that makes as many features as it reads.

    Example:
      >>> gr.residual(gr.GRU(3)).layer.cell
      GRU(3)
    """

    layer: Layer

    masks_outputs = True
    knows_reverse = True

    @property
    def stepwise(self) -> bool:
        """True where the layer inside is stepwise."""
        return self.layer.stepwise

    def out_features(self, in_features: int | None) -> int:
        """Return as many as come in."""
        return same_features(self.layer, in_features)

    def run(self, params: Params, xs: Array, carry: Carry, context: Context) -> tuple[Carry, Array]:
        """Add the outputs of the layer inside to its inputs."""
        carry, ys = run_layer(self.layer, params, xs, carry, context)
        return carry, xs + ys

    def run_step(
        self, params: Params, x: Array, carry: Carry, key: Array | None
    ) -> tuple[Carry, Array]:
        """Add the output of one step to its input."""
        carry, y = self.layer.run_step(params, x, carry, key)
        return carry, x + y

    def run_last(
        self, params: Params, y: Array, carry: Carry, length: int, context: Context
    ) -> tuple[Carry, Array]:
        """Add the output of each row's last valid step to its input."""
        carry, out = self.layer.run_last(params, y, carry, length, context)
        return carry, y + out


def residual(layer: Layer | Cell) -> Residual:
    """Make a layer `y = x + layer(x)`.

    Args:
      layer: a layer (or a cell) that makes as many features as it reads.

    Raises:
      ValueError: (at `init`) a layer that changes the number of features.

    Example:
      >>> gr.residual(gr.GRU(3))
      residual(GRU(3))
    """
    return Residual(as_layer(layer))


@dataclasses.dataclass(frozen=True, repr=False)
class Repeat(Around):
    """Equal layers one after another, compiled as one; made by `gr.repeat`.

    Parameters are those of the layer with a leading axis `n`; carries are `[*B, n, ...]`, rows
    first as all carries are.

    Attributes:
      layer: one that makes as many features as it reads.
      n: how many there are.

    Example:
      >>> gr.repeat(gr.GRU(3), 2).carry((5,)).h.shape
      (5, 2, 3)
    """

    layer: Layer
    n: int

    masks_outputs = True
    knows_reverse = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.sizes(self, "n")

    @property
    def stepwise(self) -> bool:
        """True where the layer inside is stepwise."""
        return self.layer.stepwise

    def out_features(self, in_features: int | None) -> int:
        """Return as many as come in."""
        return same_features(self.layer, in_features)

    def init(self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32) -> Params:
        """Make the parameters of every layer, stacked along a leading axis `n`."""
        self.out_features(in_features)
        keys = jax.random.split(validation.as_key(key), self.n)
        # not by vmap: see `numerics.orthogonal_gates`
        layers = [self.layer.init(k, in_features, dtype) for k in keys]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
        params: Params | None = None,
    ) -> Carry:
        """Make the initial carry of every layer, `[*B, n, ...]`.

        Raises:
          ValueError: parameters without the leading axis `n`.
        """
        checks.of_state(batch_shape, dtype)
        self.check(params)
        make = jax.vmap(lambda p: self.layer.carry(batch_shape, dtype, p), axis_size=self.n)
        return rows_first(make(params), len(batch_shape))

    def check(self, params: Params) -> None:
        """Raise unless every leaf of `params` has one entry for each layer."""
        for path, leaf in jax.tree.leaves_with_path(params):
            name = f"params{jax.tree_util.keystr(path)}"
            shape = validation.as_array(name, leaf).shape
            if shape[:1] != (self.n,):
                raise ValueError(
                    f"{name}: got shape {shape}, expected a "
                    f"leading axis of {self.n}, the layers of gr.repeat"
                )

    def run(self, params: Params, xs: Array, carry: Carry, context: Context) -> tuple[Carry, Array]:
        """Run the layers by one scan over depth."""
        carries = layers_first(carry, xs.ndim - 2)
        carries, ys = _scan(_run, self.layer, self.n, params, carries, xs, context)
        return rows_first(carries, xs.ndim - 2), ys

    def run_step(
        self, params: Params, x: Array, carry: Carry, key: Array | None
    ) -> tuple[Carry, Array]:
        """Run one step through all layers."""
        carries = layers_first(carry, x.ndim - 1)
        carries, y = _scan(_run_step, self.layer, self.n, params, carries, x, key)
        return rows_first(carries, x.ndim - 1), y

    def run_last(
        self, params: Params, y: Array, carry: Carry, length: int, context: Context
    ) -> tuple[Carry, Array]:
        """Run each row's last valid step alone through all layers, which are stepwise."""
        carries, call = layers_first(carry, y.ndim - 1), _LastStep(length)
        carries, y = _scan(call, self.layer, self.n, params, carries, y, context)
        return rows_first(carries, y.ndim - 1), y

    def run_final(
        self, params: Params, xs: Array, carry: Carry, context: Context
    ) -> tuple[Carry, Array]:
        """Run all layers but the last over the sequence, and the last for its final output."""
        below, batch_axes = self.n - 1, xs.ndim - 2
        carries = layers_first(carry, batch_axes)
        rest, last = (
            jax.tree.map(lambda v, i=i: v[i], (params, carries)) for i in (slice(below), below)
        )
        made = rest[1]
        if below:
            made, xs = _scan(_run, self.layer, below, rest[0], rest[1], xs, context)
        own = context.of_layer(below)
        c, y = run_layer_final(self.layer, last[0], xs, last[1], own)
        joined = jax.tree.map(lambda v, w: jnp.concatenate([v, w[None]]), made, c)
        return rows_first(joined, batch_axes), y

    def __repr__(self) -> str:
        """The call that makes the layer."""
        return f"repeat({brief(self.layer)}, {self.n})"


def rows_first(carries: Carry, batch_axes: int) -> Carry:
    """Return carries `[n, *B, ...]` as `[*B, n, ...]`; what rows share stays `[n, ...]`."""
    return _moved(carries, 0, batch_axes)


def layers_first(carries: Carry, batch_axes: int) -> Carry:
    """Return carries `[*B, n, ...]` as `[n, *B, ...]`, one entry for each layer of a repeat."""
    return _moved(carries, batch_axes, 0)


def _moved(carries: Carry, source: int, target: int) -> Carry:
    def move(leaf: Any) -> Any:
        return leaf if is_shared(leaf) else jnp.moveaxis(leaf, source, target)

    return jax.tree.map(move, carries, is_leaf=is_shared)


@partial(jax.jit, static_argnames=("call", "layer", "n"))
def _scan(
    call: Callable, layer: Layer, n: int, params: Params, carries: Carry, xs: Array, shared: Any
) -> tuple[Carry, Array]:
    """Scan over depth: `call(layer, params, xs, carry, shared, index)` for `n` layers in turn.

    `params` and `carries` have a leading axis over layers; `call` returns a carry and the `xs` of
    the next layer. Jitted, so that outside `jit` too equal layers and shapes compile once.
    """
    params, carries, xs, shared = vary_alike((params, carries, xs, shared))

    def body(xs: Array, each: tuple[Params, Carry, Array]) -> tuple[Array, Carry]:
        params, carry, index = each
        carry, xs = call(layer, params, xs, carry, shared, index)
        return xs, carry

    xs, carries = lax.scan(body, xs, (params, carries, jnp.arange(n)))
    return carries, xs


def _run(layer: Layer, p: Params, xs: Array, c: Carry, context: Context, index: Array) -> Any:
    return run_layer(layer, p, xs, c, context.of_layer(index))


def _run_step(layer: Layer, p: Params, x: Array, c: Carry, key: Array, index: Array) -> Any:
    return layer.run_step(p, x, c, fold(key, index))


@dataclasses.dataclass(frozen=True)
class _LastStep:
    """`run_last` of one layer among several, as `_scan` calls it."""

    length: int

    def __call__(
        self, layer: Layer, p: Params, y: Array, c: Carry, context: Context, index: Array
    ) -> Any:
        return layer.run_last(p, y, c, self.length, context.of_layer(index))


def repeat(layer: Layer | Cell, n: int) -> Repeat:
    """Make `n` equal layers with parameters of their own, compiled as one: a scan over depth.

    Args:
      layer: a layer (or a cell) that makes as many features as it reads.
      n: how many.

    Raises:
      ValueError: `n` below 1, or (at `init`) a layer that changes the number of features.

    Example:
      >>> gr.repeat(gr.residual(gr.GRU(3)), 2)
      repeat(residual(GRU(3)), 2)
    """
    return Repeat(as_layer(layer), n)
