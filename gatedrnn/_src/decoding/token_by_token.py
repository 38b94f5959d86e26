"""Greedy decoding and sampling: one hypothesis for each row, one token after another.

Axes: `T` tokens, `*B` any batch axes, `V` vocabulary, `v` the `top_k` tokens or all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry
from gatedrnn._src.decoding.checks import (
    as_partial,
    as_token,
    check_end,
    check_length,
    check_range,
    vocabulary,
)
from gatedrnn._src.decoding.rows import alike, loop, over_rows
from gatedrnn._src.decoding.rows import top_k as largest
from gatedrnn._src.describe import documented
from gatedrnn._src.masks import row_keys
from gatedrnn._src.numerics import accumulator
from gatedrnn._src.placement import ROWS, STEPS, Like
from gatedrnn._src.pytree import where


@documented
class Decoded(NamedTuple):
    """Decoded tokens, one hypothesis for each row; to go on, pass `carry` and the last token.

    A row ends where its logits define no probabilities: one is NaN or plus infinity, or all are
    minus infinity. Such a row is not valid, and keeps what it has until then.

    Attributes:
      tokens: int32 `[T, *B]`; after the end of a row, the end token again (0 without one).
      lengths: int32 `[*B]`, the number of tokens in each row, the end token included.
      log_probs: `[T, *B]`, `log softmax(logits)` of each token; 0 after the end. NaN, once, where a
        row ends that is not valid, so that its sum is NaN.
      carry: the carry of each row before its last token is fed, `[*B, ...]` in every leaf.
      valid: bool `[*B]`.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    carry: Carry
    valid: Array


def greedy(
    step: Callable, carry: Carry, token: Array, *, max_length: int, end: int | None = None
) -> Decoded:
    """Take the likeliest token at every step, the first among equals, until every row has ended.

    Compiled as one loop, which stops early. Arrays that `step` closes over are constants of the
    program: outside `jax.jit`, a new lambda is a new program at every call. Write
    `jax.tree_util.Partial(net.step, params)` for the step, or call `greedy` inside your own
    `jax.jit`; then equal shapes compile once. Reverse-mode derivatives do not go through.

    Args:
      step: `(carry, token [*B]) -> (carry, logits [*B, V])`, such as a network's `step` with
        its parameters.
      carry: the carry to start from, `[*B, ...]` in every leaf; rows that have ended keep their
        carry. A leaf that all rows share, such as a key, is a `gr.Shared`, and goes on.
      token: the first token to feed, integers `[*B]`: a start symbol, or the last of a prompt.
      max_length: `T`, at least 0; static.
      end: the token that ends a row; None: every row has `T` tokens. Static.

    Returns:
      The tokens that follow `token`, with their lengths, log-probabilities and the carry, and
      whether each row is valid: NaN in the logits of a row ends that row alone.

    Raises:
      TypeError: a step that is not a function or does not return a pair, floating-point logits and
        a carry of the same dtypes; a token that is not an integer.
      ValueError: shapes that do not fit; an end token outside the vocabulary; a length below 0.

    Example:
      >>> net = gr.stack(gr.embed(5, 3), gr.GRU(3), gr.dense(5))
      >>> params, start = net.init(jax.random.key(0), None), jnp.zeros(2, int)
      >>> step = jax.tree_util.Partial(net.step, params)
      >>> decoded = gr.greedy(step, net.carry((2,)), start, max_length=4)
      >>> decoded.tokens.shape, decoded.lengths.tolist()
      ((4, 2), [4, 4])
      >>> more = gr.greedy(step, decoded.carry, decoded.tokens[-1], max_length=4)  # go on
    """
    check_length(max_length)
    check_end(end)
    carry = validation.as_arrays("carry", carry)
    arrays = (as_partial(step), carry, as_token(token), ((), ()))
    return over_rows(_greedy, (max_length, end), *arrays, _PLACES)


# the places of the results, on a mesh
_PLACES: Any = Decoded(STEPS, ROWS, STEPS, Like(1), ROWS)


@partial(jax.jit, static_argnames=("max_length", "end", "over"))
def _greedy(
    max_length: int,
    end: int | None,
    over: tuple[str, ...],
    step: Callable,
    carry: Carry,
    token: Array,
    _: tuple,
) -> Decoded:
    def choose(_: Array, logits: Array) -> Array:
        return jnp.argmax(logits, axis=-1)

    return _decode(step, carry, token, choose, max_length, end, over)


def sample(
    step: Callable,
    carry: Carry,
    token: Array,
    key: Array,
    *,
    max_length: int,
    end: int | None = None,
    temperature: float | Array = 1.0,
    top_k: int | None = None,
    top_p: float | Array | None = None,
) -> Decoded:
    """Draw a token from `softmax(logits / temperature)` at every step, until every row has ended.

    First the temperature is applied, then the `top_k` likeliest tokens are kept (Fan et al. 2018),
    then their nucleus: the fewest likeliest tokens whose probabilities, normalised to sum to 1,
    reach `top_p` (Holtzman et al. 2020). Among equal logits the first token counts as likelier.
    Compiled in the same way as `greedy`.

    Args:
      step: as in `greedy`. Logits of minus infinity are never drawn.
      carry: as in `greedy`.
      token: as in `greedy`.
      key: one key, which is folded with the number of each row, or a key for each row, `[*B]` (of
        `jax.random.key`). The draws of a row follow from the row's own key and the step alone. To
        go on after a call, use another key.
      max_length: `T`, at least 0; static.
      end: the token that ends a row, or None; static.
      temperature: at least 0; 0 is `greedy`. May be traced.
      top_k: at least 1, or None: all tokens. Static.
      top_p: above 0 and at most 1, or None. May be traced.

    Returns:
      As `greedy`; under all options the log-probabilities are those of the model, `log
      softmax(logits)`.

    Raises:
      TypeError: as `greedy`.
      ValueError: as `greedy`; an option out of range; keys of another shape.

    Example:
      >>> net = gr.stack(gr.embed(5, 3), gr.GRU(3), gr.dense(5))
      >>> params, prompt = net.init(jax.random.key(0), None), jnp.ones((3, 2), int)
      >>> carry, _ = net.apply(params, prompt[:-1])  # all of the prompt but its last token
      >>> step, key = jax.tree_util.Partial(net.step, params), jax.random.key(1)
      >>> drawn = gr.sample(step, carry, prompt[-1], key, max_length=4, temperature=0.8, top_p=0.9)
      >>> drawn.tokens.shape
      (4, 2)
    """
    check_length(max_length)
    check_end(end)
    if top_k is not None:
        checks.size("top_k", top_k)
    check_range("temperature", temperature, lambda v: 0 <= v < float("inf"), "at least 0")
    if top_p is not None:
        check_range("top_p", top_p, lambda v: 0 < v <= 1, "above 0 and at most 1")
    token, carry = as_token(token), validation.as_arrays("carry", carry)
    numbers = jax.tree.map(validation.on_device, (temperature, top_p))
    others = (_keys_of_rows(key, token.shape), numbers)
    arrays = (as_partial(step), carry, token, others)
    return over_rows(_sample, (max_length, end, top_k), *arrays, _PLACES)


def _keys_of_rows(key: Array, batch_shape: tuple[int, ...]) -> Array:
    """Return a key for each row, `[*B]`."""
    key = validation.as_keys("key", key)
    if key.shape == batch_shape:
        return key
    if key.shape != ():
        raise ValueError(f"key: got shape {key.shape}, expected () or {batch_shape}, one a row")
    return row_keys(key, batch_shape)


@partial(jax.jit, static_argnames=("max_length", "end", "top_k", "over"))
def _sample(
    max_length: int,
    end: int | None,
    top_k: int | None,
    over: tuple[str, ...],
    step: Callable,
    carry: Carry,
    token: Array,
    others: tuple,
) -> Decoded:
    keys, (temperature, top_p) = others

    def noise(key: Array, t: Array, size: int, dtype: Any) -> Array:
        return jax.random.gumbel(jax.random.fold_in(key, t), (size,), dtype)

    def choose(t: Array, logits: Array) -> Array:
        ranked, tokens = logits, None
        if top_k is not None or top_p is not None:
            size = logits.shape[-1]
            ranked, tokens = largest(logits, size if top_k is None else min(top_k, size))
        draw = partial(noise, t=t, size=ranked.shape[-1], dtype=ranked.dtype)
        for _ in token.shape:
            draw = jax.vmap(draw)
        index = _draw(ranked, draw(keys), temperature, top_p)
        if tokens is None:
            return index
        return jnp.take_along_axis(tokens, index[..., None], axis=-1)[..., 0]

    return _decode(step, carry, token, choose, max_length, end, over)


def _draw(logits: Array, gumbel: Array, temperature: Any, top_p: Any) -> Array:
    """Draw an index `[*B]` into `logits [*B, v]`, which are in descending order with `top_p`."""
    temperature = jnp.asarray(temperature).astype(logits.dtype)
    least = jnp.finfo(logits.dtype).tiny
    # the greatest becomes 0, which no temperature, however low, makes infinite; and none is so high
    # that its reciprocal is 0, which would make minus infinity NaN
    scaled = logits - logits.max(axis=-1, keepdims=True)
    scaled /= jnp.clip(temperature, least, 1 / least)
    if top_p is not None:
        top_p = jnp.asarray(top_p).astype(logits.dtype)
        probs = jax.nn.softmax(scaled, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs
        scaled = jnp.where((before < top_p) | (top_p >= 1), scaled, -jnp.inf)
    drawn = jnp.argmax(scaled + gumbel, axis=-1)
    return jnp.where(temperature < least, jnp.argmax(logits, axis=-1), drawn)


class _State(NamedTuple):
    """The state of the loop between two tokens."""

    t: Array
    carry: Carry
    token: Array  # [*B], the last
    ended: Array  # [*B]
    tokens: Array  # [T, *B]
    lengths: Array  # [*B]
    log_probs: Array  # [T, *B]


def _decode(
    step: Callable,
    carry: Carry,
    token: Array,
    choose: Callable,
    max_length: int,
    end: int | None,
    over: tuple[str, ...],
) -> Decoded:
    """Run the loop, in which `choose(t, logits [*B, V])` returns the tokens `[*B]` of step `t`."""
    _, dtype = vocabulary(step, carry, token, end)
    dtype, filler = accumulator(dtype), 0 if end is None else end
    shape = (max_length, *token.shape)

    def unfinished(state: _State) -> Array:
        return (state.t < max_length) & ~jnp.all(state.ended)

    def body(state: _State) -> _State:
        t, ended = state.t, state.ended
        carry, logits = step(state.carry, state.token)
        logits = logits.astype(dtype)
        token = choose(t, logits).astype(jnp.int32)
        probs = jax.nn.log_softmax(logits, axis=-1)
        log_prob = jnp.take_along_axis(probs, token[..., None], axis=-1)[..., 0]
        over = ended | jnp.isnan(log_prob)  # NaN for every token where there are no probabilities
        token = jnp.where(over, filler, token)
        return _State(
            t + 1,
            where(over, state.carry, carry),
            token,
            over if end is None else over | (token == end),
            state.tokens.at[t].set(token),
            state.lengths + (~over).astype(jnp.int32),
            state.log_probs.at[t].set(jnp.where(ended, 0, log_prob)),
        )

    state = _State(
        jnp.zeros((), jnp.int32),
        carry,
        token,
        jnp.zeros(token.shape, bool),
        jnp.full(shape, filler, jnp.int32),
        jnp.zeros(token.shape, jnp.int32),
        jnp.zeros(shape, dtype),
    )
    if max_length > 0:
        state = loop(unfinished, body, state, over)
    valid = ~jnp.any(jnp.isnan(state.log_probs), axis=0)
    carry = alike(state.carry, over)
    return Decoded(state.tokens, state.lengths, state.log_probs, carry, valid)
