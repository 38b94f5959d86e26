"""The same layer several times, with parameters of its own each time.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features, `n` layers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, engine
from gatedrnn._src.layers.final import finish
from gatedrnn._src.layers.layer import (
    Layer,
    Stepwise,
    as_sequence,
    check_layer,
    is_causal,
    is_stepwise,
    key_of,
    same_features,
)
from gatedrnn._src.layers.recurrent import lift
from gatedrnn._src.rule import Carry, Params


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
