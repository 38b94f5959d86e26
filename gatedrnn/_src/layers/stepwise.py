"""Layers that map every step alike: dense, embedding.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features, `V` vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, inputs
from gatedrnn._src.layers.layer import as_sequence, features_of
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
        return (), inputs.zero_masked(self._map(params, xs), mask)

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
        inputs.check_floating("x", x)
        inputs.check_params(self, params, x, "x")
        inputs.check_dtypes(params, x, "x")
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
        return (), inputs.zero_masked(self._look_up(params, tokens), mask)

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
