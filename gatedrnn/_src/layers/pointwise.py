"""Layers that map every step alike: dense, embedding.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features, `V` vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.layers.base import as_sequence, features_of
from gatedrnn._src.numerics import affine, lecun_normal


class DenseParams(NamedTuple):
    """Parameters of a dense layer."""

    kernel: Array  # [I, F]
    bias: Array | None  # [F]


@dataclasses.dataclass(frozen=True)
class Dense:
    """`y = x W + b` at every step; see `dense`."""

    features: int
    use_bias: bool = True

    stepwise = True

    def __post_init__(self) -> None:
        checks.size("features", self.features)
        checks.flag("use_bias", self.use_bias)

    def out_features(self, in_features: int | None) -> int:
        """`F`."""
        features_of(self, in_features)
        return self.features

    def init(
        self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32
    ) -> DenseParams:
        """Kernel LeCun normal, bias zero."""
        in_features = features_of(self, in_features)
        checks.size("in_features", in_features)
        checks.floating("dtype", dtype)
        bias = jnp.zeros(self.features, dtype) if self.use_bias else None
        return DenseParams(lecun_normal(key, (in_features, self.features), dtype), bias)

    def carry(
        self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, params: Any = None
    ) -> tuple[()]:
        """Nothing."""
        return ()

    def apply(
        self,
        params: DenseParams,
        xs: Array,
        carry: Any = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[tuple[()], Array]:
        """`xs [T, *B, I]` -> `((), ys [T, *B, F])`."""
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        return (), validation.zero_masked(self._map(params, xs), mask)

    def step(
        self, params: DenseParams, carry: Any, x: Array, *, key: Array | None = None
    ) -> tuple[tuple[()], Array]:
        """`x [*B, I]` -> `((), y [*B, F])`."""
        return (), self._map(params, x)

    def apply_last(
        self, params: DenseParams, y: Array, carry: Any, length: int, *, key: Array | None = None
    ) -> tuple[tuple[()], Array]:
        """What `apply` does at the last of `length` steps, alone."""
        return self.step(params, carry, y)

    def _map(self, params: DenseParams, x: Array) -> Array:
        x = jnp.asarray(x)
        if x.ndim < 1:
            raise ValueError(f"x: got shape {x.shape}, expected [*B, I]")
        validation.check_floating("x", x)
        validation.check_params(self, params, x, "x")
        validation.check_dtypes(params, x, "x")
        return affine(x, params.kernel.astype(x.dtype), params.bias).astype(x.dtype)


def dense(features: int, use_bias: bool = True) -> Dense:
    """A layer `y = x W + b` at every step.

    Args:
      features: `F`.
      use_bias: whether there is a `b`.

    Raises:
      ValueError: features below 1.
    """
    return Dense(features, use_bias)


class EmbedParams(NamedTuple):
    """Parameters of an embedding."""

    table: Array  # [V, F]


@dataclasses.dataclass(frozen=True)
class Embed:
    """A row of a table for every token; see `embed`."""

    vocab: int
    features: int

    reads_tokens = True

    def __post_init__(self) -> None:
        checks.size("vocab", self.vocab)
        checks.size("features", self.features)

    def out_features(self, in_features: int | None) -> int:
        """`F`."""
        if in_features is not None:
            raise ValueError(
                f"in_features: got {in_features}, expected None: {self} reads tokens [T, *B]"
            )
        return self.features

    def init(
        self, key: Array, in_features: int | None = None, dtype: DTypeLike = jnp.float32
    ) -> EmbedParams:
        """Rows normal with variance `1 / F`."""
        self.out_features(in_features)
        checks.floating("dtype", dtype)
        # as a kernel [F, V] whose fan-in is F, transposed
        return EmbedParams(lecun_normal(key, (self.features, self.vocab), dtype).T)

    def carry(
        self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, params: Any = None
    ) -> tuple[()]:
        """Nothing."""
        return ()

    def apply(
        self,
        params: EmbedParams,
        xs: Array,
        carry: Any = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[tuple[()], Array]:
        """Tokens `xs [T, *B]` -> `((), ys [T, *B, F])`."""
        tokens, mask = as_sequence(self, xs, lengths, mask, resets)
        return (), validation.zero_masked(self._look_up(params, tokens), mask)

    def step(
        self, params: EmbedParams, carry: Any, x: Array, *, key: Array | None = None
    ) -> tuple[tuple[()], Array]:
        """Tokens `x [*B]` -> `((), y [*B, F])`."""
        return (), self._look_up(params, x)

    def _look_up(self, params: EmbedParams, tokens: Array) -> Array:
        tokens = jnp.asarray(tokens)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"tokens: got dtype {tokens.dtype.name}, expected integers")
        expected = (self.vocab, self.features)
        shape = getattr(getattr(params, "table", None), "shape", None)
        if shape != expected:
            raise ValueError(f"params.table: got shape {shape}, expected {expected} for {self}")
        # a token out of range shows as NaN, instead of another token's row; a negative one is one
        tokens = tokens.astype(jnp.int32)
        tokens = jnp.where(tokens < 0, self.vocab, tokens)
        return jnp.asarray(params.table).at[tokens].get(mode="fill", fill_value=jnp.nan)


def embed(vocab: int, features: int) -> Embed:
    """A layer that looks tokens `0 ... vocab-1` up in a table; the first layer of a stack.

    Tokens that are out of range give NaN, unless they are masked.

    Args:
      vocab: `V`.
      features: `F`.

    Raises:
      ValueError: sizes below 1.
    """
    return Embed(vocab, features)


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
