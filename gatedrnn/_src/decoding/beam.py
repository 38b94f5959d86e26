"""Beam search: the most promising hypotheses of each row, side by side.

Axes: `T` tokens, `*B` any batch axes, `K` beams, `V` vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src import checks
from gatedrnn._src.base import Carry, is_shared
from gatedrnn._src.decoding.checks import as_partial, as_token, check_range, vocabulary
from gatedrnn._src.numerics import accumulator
from gatedrnn._src.pytree import vary_alike


class Beams(NamedTuple):
    """Hypotheses, of each row the best first.

    Where there are fewer than `K` different ones, the last have length 0 and a score and a
    log-probability of minus infinity.
    """

    tokens: Array  # int32 [T, *B, K]; after the end, the end token again
    lengths: Array  # int32 [*B, K], the end token included
    log_probs: Array  # [*B, K], Σ log softmax(logits) over the tokens
    scores: Array  # [*B, K], the log-probabilities divided by the length penalty


def beam_search(
    step: Callable,
    carry: Carry,
    token: Array,
    *,
    beams: int,
    max_length: int,
    end: int | None = None,
    alpha: float = 0.0,
) -> Beams:
    """The `beams` hypotheses of each row with the highest score, as far as the search sees.

    The score of a hypothesis of `n` tokens, the end token included, is its log-probability divided
    by `((5 + n) / 6)^α` (Wu et al. 2016, equation 14). At each step every hypothesis that has not
    ended is continued by every token, and of all continuations and all that have ended the `beams`
    best by score are kept. So one beam is `greedy`, and the search is exact where `beams` is at
    least the number of all hypotheses. It stops when all that are kept have ended; what has not
    ended after `max_length` tokens counts as it is. Compiled as `greedy` is.

    Args:
      step: as in `greedy`. It is vectorised by `jax.vmap` over the beams, so that what it closes
        over (parameters, and the memory that `gr.attend` binds to them) is read by all beams and
        never copied.
      carry: as in `greedy`. It is carried for each beam and follows the hypotheses that are kept;
        what is a `gr.Shared` must come out of a step the same whatever the token.
      token: as in `greedy`.
      beams: `K`, at least 1; static.
      max_length: `T`, at least 0; static.
      end: the token that ends a hypothesis; None: every one has `T` tokens. Static.
      alpha: at least 0. 0 does not normalise and favours the short; 0.6 to 1 are usual.

    Returns:
      The hypotheses, sorted by score.

    Raises:
      TypeError: as `greedy`.
      ValueError: as `greedy`; fewer than 1 beam; a negative `alpha`.
    """
    checks.count("max_length", max_length)
    checks.size("beams", beams)
    check_range("alpha", alpha, lambda v: 0 <= v < float("inf"), "at least 0")
    return _beam_search(
        as_partial(step),
        carry,
        as_token(token),
        alpha,
        beams=beams,
        max_length=max_length,
        end=end,
    )


class _State(NamedTuple):
    """Between two tokens, beams in front."""

    t: Array
    carry: Carry  # of rows [K, *B, ...], or shared
    token: Array  # [K, *B], the last
    ended: Array  # [K, *B]
    lengths: Array  # [K, *B]
    log_probs: Array  # [K, *B]; −∞: there is no such hypothesis
    tokens: Array  # [T, K, *B], as chosen
    parents: Array  # [T, K, *B], which beam each was chosen for


@partial(jax.jit, static_argnames=("beams", "max_length", "end"))
def _beam_search(
    step: Callable,
    carry: Carry,
    token: Array,
    alpha: Any,
    *,
    beams: int,
    max_length: int,
    end: int | None,
) -> Beams:
    batch_shape = token.shape
    carry = jax.tree.map(jnp.asarray, carry)
    size, dtype = vocabulary(step, carry, token, end)
    dtype = accumulator(dtype)
    alpha = jnp.asarray(alpha).astype(dtype)
    axes = jax.tree.map(lambda node: None if is_shared(node) else 0, carry, is_leaf=is_shared)
    step = jax.vmap(step, in_axes=(axes, 0), out_axes=(axes, 0))

    def each_row(function: Callable[[Array], Array], carry: Carry) -> Carry:
        keep = lambda node: node if is_shared(node) else function(node)  # noqa: E731
        return jax.tree.map(keep, carry, is_leaf=is_shared)

    def widen(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (beams, *leaf.shape))

    def score(log_probs: Array, lengths: Array) -> Array:
        return log_probs / ((5 + lengths.astype(dtype)) / 6) ** alpha

    def go_on(state: _State) -> Array:
        live = ~state.ended & (state.log_probs > -jnp.inf)
        return (state.t < max_length) & jnp.any(live)

    def body(state: _State) -> _State:
        t, ended = state.t, state.ended
        carry, logits = step(state.carry, state.token)
        log_probs = _continuations(state.log_probs, ended, logits.astype(dtype), end)
        lengths = state.lengths + (~ended).astype(jnp.int32)
        scores = score(log_probs, lengths[..., None])
        # [K, *B, V] -> [*B, K V]: of equal scores the first beam's first token
        _, best = lax.top_k(jnp.moveaxis(scores, 0, -2).reshape(*batch_shape, -1), beams)
        best = jnp.moveaxis(best, -1, 0).astype(jnp.int32)
        parent, token = best // size, best % size
        chosen = jnp.take_along_axis(log_probs, parent[..., None], axis=0)
        return _State(
            t + 1,
            each_row(partial(_of, parent), carry),
            token,
            _of(parent, ended) if end is None else token == end,
            _of(parent, lengths),
            jnp.take_along_axis(chosen, token[..., None], axis=-1)[..., 0],
            state.tokens.at[t].set(token),
            state.parents.at[t].set(parent),
        )

    shape = (beams, *batch_shape)
    itself = lax.broadcasted_iota(jnp.int32, shape, 0)
    state = _State(
        jnp.zeros((), jnp.int32),
        each_row(widen, carry),
        widen(token),
        jnp.zeros(shape, bool),
        jnp.zeros(shape, jnp.int32),
        jnp.where(itself == 0, jnp.zeros((), dtype), -jnp.inf),  # one hypothesis, without a token
        jnp.full((max_length, *shape), 0 if end is None else end, jnp.int32),
        jnp.broadcast_to(itself, (max_length, *shape)),
    )
    if max_length > 0:
        state = lax.while_loop(go_on, body, vary_alike(state))
    real = state.log_probs > -jnp.inf
    tokens = _traced_back(state.tokens, state.parents)
    return Beams(
        tokens=jnp.moveaxis(jnp.where(real, tokens, 0 if end is None else end), 1, -1),
        lengths=jnp.moveaxis(jnp.where(real, state.lengths, 0), 0, -1),
        log_probs=jnp.moveaxis(state.log_probs, 0, -1),
        scores=jnp.moveaxis(score(state.log_probs, state.lengths), 0, -1),
    )


def _continuations(log_probs: Array, ended: Array, logits: Array, end: int | None) -> Array:
    """The log-probability of each hypothesis with each token added, `[K, *B, V]`.

    One that has ended has a single continuation, itself, in the place of the end token.
    """
    added = log_probs[..., None] + jax.nn.log_softmax(logits, axis=-1)
    if end is None:
        return added
    place = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == end
    itself = jnp.where(place, log_probs[..., None], -jnp.inf)
    return jnp.where(ended[..., None], itself, added)


def _of(parent: Array, leaf: Array) -> Array:
    """Of each row of `leaf [K, *B, ...]`, the beams `parent [K, *B]`."""
    index = parent.reshape(parent.shape + (1,) * (leaf.ndim - parent.ndim))
    return jnp.take_along_axis(leaf, index, axis=0)


def _traced_back(tokens: Array, parents: Array) -> Array:
    """The tokens `[T, K, *B]` of the beams that are left after the last step."""

    def back(at: Array, each: tuple[Array, Array]) -> tuple[Array, Array]:
        token, parent = each
        return _of(at, parent), _of(at, token)

    last = lax.broadcasted_iota(jnp.int32, tokens.shape[1:], 0)
    return lax.scan(back, last, (tokens, parents), reverse=True)[1]
