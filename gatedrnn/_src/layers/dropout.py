"""Dropout whose masks follow from the key and the number of the step.

Axes: `T` time, `*B` any batch axes, `F` features.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.layers.layer import as_sequence, features_of


class DropoutCarry(NamedTuple):
    """How many steps have gone by."""

    step: Array  # int32, no axes


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Features set to zero at random; see `dropout`."""

    rate: float
    shared_in_time: bool = False

    stepwise = True

    def __post_init__(self) -> None:
        checks.rate("rate", self.rate)
        object.__setattr__(self, "rate", float(self.rate))  # NumPy's would promote
        checks.flag("shared_in_time", self.shared_in_time)

    def out_features(self, in_features: int | None) -> int:
        """As many as come in."""
        return features_of(self, in_features)

    def init(
        self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32
    ) -> tuple[()]:
        """Nothing."""
        features_of(self, in_features)
        return ()

    def carry(
        self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, params: Any = None
    ) -> DropoutCarry:
        """The step number 0."""
        return DropoutCarry(jnp.zeros((), jnp.int32))

    def apply(
        self,
        params: tuple[()],
        xs: Array,
        carry: DropoutCarry | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[DropoutCarry, Array]:
        """`xs [T, *B, F]` -> the steps so far, and `ys [T, *B, F]`; unchanged without a key."""
        xs, _ = as_sequence(self, xs, lengths, mask, resets)
        start = self._steps_so_far(carry)
        following = DropoutCarry(start + len(xs))
        if key is None or self.rate == 0:
            return following, xs
        if self.shared_in_time:
            return following, self._drop(xs, self._kept(key, xs.shape[1:]))
        steps = start + jnp.arange(len(xs), dtype=start.dtype)
        kept = jax.vmap(lambda step: self._kept(jax.random.fold_in(key, step), xs.shape[1:]))
        return following, self._drop(xs, kept(steps))

    def step(
        self, params: tuple[()], carry: DropoutCarry, x: Array, *, key: Array | None = None
    ) -> tuple[DropoutCarry, Array]:
        """`x [*B, F]` -> the steps so far, and `y [*B, F]`, as `apply` has it at that step."""
        carry, ys = self.apply(params, jnp.asarray(x)[None], carry, key=key)
        return carry, ys[0]

    def apply_last(
        self,
        params: tuple[()],
        y: Array,
        carry: DropoutCarry | None,
        length: int,
        *,
        key: Array | None = None,
    ) -> tuple[DropoutCarry, Array]:
        """What `apply` does at the last of `length` steps, alone."""
        before_last = DropoutCarry(self._steps_so_far(carry) + (length - 1))
        return self.step(params, before_last, y, key=key)

    def _steps_so_far(self, carry: DropoutCarry | None) -> Array:
        if carry is None:
            carry = self.carry(())
        if not isinstance(carry, DropoutCarry):
            raise ValueError(f"carry: got {carry!r}, expected DropoutCarry(step)")
        return jnp.asarray(carry.step)

    def _kept(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.bernoulli(key, 1 - self.rate, shape)

    def _drop(self, xs: Array, kept: Array) -> Array:
        return jnp.where(kept, xs / (1 - self.rate), jnp.zeros((), xs.dtype))


def dropout(rate: float, shared_in_time: bool = False) -> Dropout:
    """A layer that zeroes features with probability `rate` and scales the rest by `1/(1-rate)`.

    The mask follows from the key and the step's number since the initial carry, which the layer's
    carry counts, so that windows and streaming with the same key agree with the whole sequence.

    Args:
      rate: in `[0, 1)`.
      shared_in_time: one mask for all steps (Gal & Ghahramani 2016) instead of one per step.

    Raises:
      ValueError: a rate out of range.
    """
    return Dropout(rate, shared_in_time)
