"""Layers that map every step by itself: dense, embedding, dropout.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features, `V` vocabulary.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Params
from gatedrnn._src.describe import documented, shown
from gatedrnn._src.episodes import StepNumbers, episode_starts, step_numbers
from gatedrnn._src.integers import as_int32, guarded
from gatedrnn._src.layers.base import Layer
from gatedrnn._src.layers.checks import features_of
from gatedrnn._src.layers.context import Context
from gatedrnn._src.masks import kept, row_keys, step_keys
from gatedrnn._src.numerics import accumulator, affine, lecun_normal


@documented
class DenseParams(NamedTuple):
    """Parameters of a dense layer.

    Attributes:
      kernel: `W [I, F]`.
      bias: `b [F]`, or None.
    """

    kernel: Array
    bias: Array | None


@dataclasses.dataclass(frozen=True, repr=False)
class Dense(Layer):
    """A layer `y = x W + b` at every step; made by `gr.dense`.

    Attributes:
      features: `F`.
      use_bias: whether there is a `b`.

    Example:
      >>> layer = gr.dense(4)
      >>> layer.apply(layer.init(jax.random.key(0), 3), jnp.ones((5, 2, 3)))[1].shape
      (5, 2, 4)
    """

    features: int
    use_bias: bool = True

    stepwise = True
    knows_reverse = True

    def __post_init__(self) -> None:
        checks.sizes(self, "features")
        checks.flag("use_bias", self.use_bias)

    def out_features(self, in_features: int | None) -> int:
        """Return `F`."""
        features_of(self, in_features)
        return self.features

    def init(
        self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32
    ) -> DenseParams:
        """Make a LeCun normal kernel and a zero bias."""
        in_features = features_of(self, in_features)
        key = validation.as_init_key(key, in_features, dtype)
        bias = jnp.zeros(self.features, dtype) if self.use_bias else None
        return DenseParams(lecun_normal(key, (in_features, self.features), dtype), bias)

    def run(
        self, params: DenseParams, xs: Array, carry: Any, context: Context
    ) -> tuple[Any, Array]:
        """Map every step."""
        return carry, self._map(params, xs)

    def run_step(
        self, params: DenseParams, x: Array, carry: Any, key: Array | None
    ) -> tuple[Any, Array]:
        """Map one step."""
        return carry, self._map(params, x)

    def _map(self, params: DenseParams, x: Array) -> Array:
        return affine(x, params.kernel.astype(x.dtype), params.bias).astype(x.dtype)


def dense(features: int, use_bias: bool = True) -> Dense:
    """Make a layer `y = x W + b` at every step.

    Args:
      features: `F`.
      use_bias: whether there is a `b`.

    Raises:
      ValueError: features below 1.

    Example:
      >>> gr.dense(4).init(jax.random.key(0), 3).kernel.shape
      (3, 4)
    """
    return Dense(features, use_bias)


@documented
class EmbedParams(NamedTuple):
    """Parameters of an embedding.

    Attributes:
      table: `[V, F]`, a row for every token.
    """

    table: Array


@dataclasses.dataclass(frozen=True, repr=False)
class Embed(Layer):
    """A layer that looks tokens up in a table; made by `gr.embed`.

    Attributes:
      vocab: `V`.
      features: `F`.

    Example:
      >>> layer = gr.embed(7, 4)
      >>> params = layer.init(jax.random.key(0), None)
      >>> layer.apply(params, jnp.zeros((5, 2), jnp.int32))[1].shape
      (5, 2, 4)
    """

    vocab: int
    features: int

    reads_tokens = True
    stepwise = True
    knows_reverse = True

    def __post_init__(self) -> None:
        checks.sizes(self, "vocab", "features")

    def out_features(self, in_features: int | None) -> int:
        """Return `F`."""
        if in_features is not None:
            raise ValueError(
                f"in_features: got {shown(in_features)}, expected None: {self} reads tokens [T, *B]"
            )
        return self.features

    def init(
        self, key: Array, in_features: int | None = None, dtype: DTypeLike = jnp.float32
    ) -> EmbedParams:
        """Make a table with rows normal of variance `1 / F`."""
        self.out_features(in_features)
        checks.floating("dtype", dtype)
        key = validation.as_key(key)
        # as a kernel [F, V] whose fan-in is F, transposed
        return EmbedParams(lecun_normal(key, (self.features, self.vocab), dtype).T)

    def run(
        self, params: EmbedParams, xs: Array, carry: Any, context: Context
    ) -> tuple[Any, Array]:
        """Look every token up."""
        return carry, self._look_up(params, xs)

    def run_step(
        self, params: EmbedParams, x: Array, carry: Any, key: Array | None
    ) -> tuple[Any, Array]:
        """Look the tokens of one step up."""
        return carry, self._look_up(params, x)

    def _look_up(self, params: EmbedParams, tokens: Array) -> Array:
        expected = f"them between 0 and {self.vocab - 1} for {self!r}"
        tokens = guarded("tokens", tokens, 0, self.vocab - 1, expected)
        return _rows(jnp.asarray(params.table), tokens)


@partial(jax.jit, inline=True)
def _rows(table: Array, tokens: Array) -> Array:
    """Return the row of each token; NaN for one out of range, negative ones too."""
    tokens, vocab = as_int32(tokens), len(table)
    index = jnp.where((tokens >= 0) & (tokens < vocab), tokens, vocab)
    # in at least float32, so that the gradient of a row, a sum over its tokens, is one
    rows = table.astype(accumulator(table.dtype))
    return rows.at[index].get(mode="fill", fill_value=jnp.nan).astype(table.dtype)


def embed(vocab: int, features: int) -> Embed:
    """Make a layer that looks tokens `0 ... vocab-1` up in a table; the first layer of a stack.

    Tokens that are out of range, negative ones too, give NaN, unless they are masked. Under `jit`
    they raise under `checkify.checkify` (user checks) and with `jax_debug_nans`.

    Args:
      vocab: `V`.
      features: `F`.

    Raises:
      ValueError: sizes below 1.

    Example:
      >>> gr.stack(gr.embed(65, 64), gr.GRU(128))
      stack(embed(65, 64), GRU(128))
    """
    return Embed(vocab, features)


@documented
class DropoutCarry(NamedTuple):
    """The carry of dropout.

    Attributes:
      step: int32 `[*B]`, how many steps each row has had since its initial carry or last reset.
    """

    step: Array


@dataclasses.dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """A layer that sets features to zero at random; made by `gr.dropout`.

    Attributes:
      rate: the probability of a zero.
      shared_in_time: whether all steps of a row have one mask.

    Example:
      >>> ys = gr.dropout(0.5).apply((), jnp.ones((1, 1, 8)), key=jax.random.key(0))[1]
      >>> sorted(set(ys.ravel().tolist()))
      [0.0, 2.0]
    """

    rate: float
    shared_in_time: bool = False

    stepwise = True
    masks_outputs = True
    knows_reverse = True

    def __post_init__(self) -> None:
        checks.rate("rate", self.rate)
        object.__setattr__(self, "rate", float(self.rate))  # NumPy's would promote
        checks.flag("shared_in_time", self.shared_in_time)

    def out_features(self, in_features: int | None) -> int:
        """Return as many as come in."""
        return features_of(self, in_features)

    def init(
        self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32
    ) -> tuple[()]:
        """Make nothing: there are no parameters."""
        validation.as_init_key(key, features_of(self, in_features), dtype)
        return ()

    def carry(
        self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, params: Any = None
    ) -> DropoutCarry:
        """Make the number 0 for every row."""
        checks.of_state(batch_shape, dtype)
        return DropoutCarry(validation.counts(batch_shape))

    def run(
        self, params: Params, xs: Array, carry: DropoutCarry, context: Context
    ) -> tuple[DropoutCarry, Array]:
        """Drop features of every step; without a key none."""
        numbers = self._numbers(carry, xs.shape[0], context)
        ys = self._drop(xs, numbers.of_steps, carry.step.shape, context.key)
        return DropoutCarry(numbers.after), ys

    def run_step(
        self, params: Params, x: Array, carry: DropoutCarry, key: Array | None
    ) -> tuple[DropoutCarry, Array]:
        """Drop features of one step as within a sequence."""
        step = carry.step
        return DropoutCarry(step + 1), self._drop(x, step, step.shape, key)

    def run_last(
        self, params: Params, y: Array, carry: DropoutCarry, length: int, context: Context
    ) -> tuple[DropoutCarry, Array]:
        """Drop features of each row's last valid step alone."""
        after = self._numbers(carry, length, context).after
        return DropoutCarry(after), self._drop(y, after - 1, after.shape, context.key)

    def _numbers(self, carry: DropoutCarry, length: int, context: Context) -> StepNumbers:
        mask, resets, reverse = context.mask, context.resets, context.reverse
        starts = None if resets is None else episode_starts(resets, mask, reverse)
        return step_numbers(carry.step, length, mask, starts, reverse=reverse)

    def _drop(
        self, xs: Array, steps: Array, batch_shape: tuple[int, ...], key: Array | None
    ) -> Array:
        """Drop features of `xs [T, *B, F]`, or `[*B, F]`, whose steps have these numbers."""
        if key is None or self.rate == 0:
            return xs
        keys = row_keys(key, batch_shape)
        if not self.shared_in_time:
            keys = step_keys(keys, steps)
        keep = kept(keys, self.rate, xs.shape[-1:])
        return jnp.where(keep, xs / (1 - self.rate), jnp.zeros((), xs.dtype))


def dropout(rate: float, shared_in_time: bool = False) -> Dropout:
    """Make a layer that zeroes features with probability `rate` and scales the rest by 1/(1-rate).

    The mask follows from the key, the row and the number of the row's step since its initial carry
    or its last reset, which the layer's carry counts (masked steps do not count). So windows and
    streaming with the same key agree with the whole sequence, padding changes no mask, and an
    episode sees the masks that it would see in its row alone.

    Args:
      rate: in `[0, 1)`.
      shared_in_time: one mask for all steps of a row (Gal & Ghahramani 2016) instead of one for
        each.

    Raises:
      ValueError: a rate out of range.

    Example:
      >>> gr.stack(gr.LSTM(8), gr.dropout(0.2), gr.dense(2))
      stack(LSTM(8), dropout(0.2), dense(2))
    """
    return Dropout(rate, shared_in_time)
