"""Beam search: the most promising hypotheses of each row, side by side.

Axes: `T` tokens, `*B` any batch axes, `K` beams, `V` vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry, is_shared
from gatedrnn._src.decoding.checks import (
    as_partial,
    as_token,
    check_end,
    check_length,
    check_range,
    vocabulary,
)
from gatedrnn._src.decoding.rows import loop, over_rows, top_k
from gatedrnn._src.describe import documented
from gatedrnn._src.numerics import accumulator
from gatedrnn._src.placement import ROWS, STEPS
from gatedrnn._src.pytree import vary_alike


@documented
class Beams(NamedTuple):
    """The `K` best hypotheses of each row, the best first.

    Where there are fewer than `K` different hypotheses, the last beams have length 0, and a score
    and a log-probability of minus infinity.

    The search of a row ends where the logits of one of its hypotheses define no probabilities: one
    is NaN or plus infinity, or all are minus infinity. Such a row is not valid. Its tokens and
    lengths are those of the hypotheses until then, its log-probabilities and scores are NaN.

    Attributes:
      tokens: int32 `[T, *B, K]`; after the end of a hypothesis, the end token again (0 without
        one).
      lengths: int32 `[*B, K]`, the number of tokens, the end token included.
      log_probs: `[*B, K]`, the sum of `log softmax(logits)` over the tokens.
      scores: `[*B, K]`, the log-probabilities divided by the length penalty.
      valid: bool `[*B]`.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    scores: Array
    valid: Array


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
    """Search for the `beams` hypotheses with the highest score in each row.

    The score of a hypothesis with `n` tokens, the end token included, is its log-probability
    divided by `((5 + n) / 6)^α` (Wu et al. 2016, equation 14). At each step every token continues
    every hypothesis that has not ended; the `beams` best by score are kept, among these
    continuations and the hypotheses that have ended. So one beam is `greedy`, and the search is
    exact where `beams` is at least the number of all hypotheses. The search stops when all kept
    hypotheses have ended; a hypothesis that has not ended after `max_length` tokens counts as it
    is. Compiled in the same way as `greedy`.

    Args:
      step: as in `greedy`. `jax.vmap` runs the step over the beams, so that all beams read the
        arrays that the step closes over (parameters, and the memory that `gr.attend` binds to
        them), and none is copied.
      carry: as in `greedy`. Each beam has its own carry, which follows the hypotheses that are
        kept; a `gr.Shared` must come out of a step the same for every token.
      token: as in `greedy`.
      beams: `K`, at least 1; static.
      max_length: `T`, at least 0; static.
      end: the token that ends a hypothesis; None: every hypothesis has `T` tokens. Static.
      alpha: at least 0. At 0 scores are not normalised and favour short hypotheses; 0.6 to 1 are
        usual.

    Returns:
      The hypotheses, sorted by score, and whether each row is valid.

    Raises:
      TypeError: as `greedy`.
      ValueError: as `greedy`; fewer than 1 beam; a negative `alpha`.

    Example:
      >>> probs = jnp.array([[0.52, 0.48], [0.1, 0.9]])  # of the next token, after token 0 and 1
      >>> step = lambda carry, token: (carry, jnp.log(probs)[token])
      >>> start = jnp.zeros(1, int)
      >>> gr.greedy(step, (), start, max_length=2).tokens[:, 0].tolist()
      [0, 0]
      >>> found = gr.beam_search(step, (), start, beams=2, max_length=2)
      >>> found.tokens[:, 0, 0].tolist()  # the best beam of the only row
      [1, 1]
      >>> print(np.exp(found.log_probs).round(2))
      [[0.43 0.27]]
    """
    check_length(max_length)
    checks.size("beams", beams)
    if beams >= 2**31:
        raise ValueError(f"beams: got {beams}, expected an integer below 2**31")
    check_range("alpha", alpha, lambda v: 0 <= v < float("inf"), "at least 0")
    check_end(end)
    carry, others = validation.as_arrays("carry", carry), ((), validation.on_device(alpha))
    arrays = (as_partial(step), carry, as_token(token), others)
    return over_rows(_beam_search, (beams, max_length, end), *arrays, _PLACES)


# the places of the results, on a mesh
_PLACES: Any = Beams(STEPS, ROWS, ROWS, ROWS, ROWS)


class _State(NamedTuple):
    """The state of the loop between two tokens, beams in front."""

    t: Array
    carry: Carry  # leaves [K, *B, ...], or shared
    token: Array  # [K, *B], the last
    ended: Array  # [K, *B]
    lengths: Array  # [K, *B]
    log_probs: Array  # [K, *B]; −∞: there is no such hypothesis
    valid: Array  # [*B]; False: the search has ended, and all stays as it is
    tokens: Array  # [T, K, *B], in the order of the beams at their own step
    parents: Array  # [T, K, *B], the beam before the step that each token continues


@partial(jax.jit, static_argnames=("beams", "max_length", "end", "over"))
def _beam_search(
    beams: int,
    max_length: int,
    end: int | None,
    over: tuple[str, ...],
    step: Callable,
    carry: Carry,
    token: Array,
    others: tuple,
) -> Beams:
    batch_shape, (_, alpha) = token.shape, others
    size, dtype = vocabulary(step, carry, token, end)
    dtype, filler = accumulator(dtype), 0 if end is None else end
    alpha = jnp.asarray(alpha).astype(dtype)
    axes = jax.tree.map(lambda node: None if is_shared(node) else 0, carry, is_leaf=is_shared)
    step = jax.vmap(step, in_axes=(axes, 0), out_axes=(axes, 0))

    def each_row(function: Callable[[Array], Array], carry: Carry) -> Carry:
        keep = lambda node: node if is_shared(node) else function(node)  # noqa: E731
        return jax.tree.map(keep, carry, is_leaf=is_shared)

    def to_beams(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (beams, *leaf.shape))

    def score(log_probs: Array, lengths: Array) -> Array:
        return log_probs / ((5 + lengths.astype(dtype)) / 6) ** alpha

    def unfinished(state: _State) -> Array:
        return (state.t < max_length) & jnp.any(_live(state) & state.valid[None])

    def body(state: _State) -> _State:
        t, ended = state.t, state.ended
        carry, logits = step(state.carry, state.token)
        of_tokens = jax.nn.log_softmax(logits.astype(dtype), axis=-1)
        broken = jnp.isnan(
            of_tokens[..., 0]
        )  # NaN for every token where there are no probabilities
        valid = state.valid & ~jnp.any(broken & _live(state), axis=0)
        of_tokens = jnp.where(broken[..., None], -jnp.inf, of_tokens)  # of what is not live
        log_probs = _continuations(state.log_probs, ended, of_tokens, end)
        lengths = state.lengths + (~ended).astype(jnp.int32)
        scores = score(log_probs, lengths[..., None])
        # [K, *B, V] -> [*B, K V]: of equal scores the first beam's first token
        _, best = top_k(jnp.moveaxis(scores, 0, -2).reshape(*batch_shape, beams * size), beams)
        best = jnp.moveaxis(best, -1, 0).astype(jnp.int32)
        parent, token = (
            jnp.where(valid[None], new, old)
            for new, old in ((best // size, beam), (best % size, filler))
        )
        chosen = jnp.take_along_axis(log_probs, parent[..., None], axis=0)
        of_chosen = jnp.take_along_axis(chosen, token[..., None], axis=-1)[..., 0]
        return _State(
            t + 1,
            each_row(partial(_take_beams, parent), carry),
            token,
            _take_beams(parent, ended) if end is None else token == end,
            jnp.where(valid[None], _take_beams(parent, lengths), state.lengths),
            jnp.where(valid[None], of_chosen, state.log_probs),
            valid,
            state.tokens.at[t].set(token),
            state.parents.at[t].set(parent),
        )

    shape = (beams, *batch_shape)
    beam = lax.broadcasted_iota(jnp.int32, shape, 0)
    state = _State(
        jnp.zeros((), jnp.int32),
        each_row(to_beams, carry),
        to_beams(token),
        jnp.zeros(shape, bool),
        jnp.zeros(shape, jnp.int32),
        jnp.where(beam == 0, jnp.zeros((), dtype), -jnp.inf),  # one hypothesis, without a token
        jnp.ones(batch_shape, bool),
        jnp.full((max_length, *shape), filler, jnp.int32),
        jnp.broadcast_to(beam, (max_length, *shape)),
    )
    if max_length > 0:
        state = loop(unfinished, body, state, ())  # no row reads what others share at their end
    exists = state.log_probs > -jnp.inf
    tokens = _backtracked(state.tokens, state.parents)
    log_probs = jnp.where(state.valid[None], state.log_probs, jnp.nan)
    return Beams(
        tokens=jnp.moveaxis(jnp.where(exists, tokens, filler), 1, -1),
        lengths=jnp.moveaxis(jnp.where(exists, state.lengths, 0), 0, -1),
        log_probs=jnp.moveaxis(log_probs, 0, -1),
        scores=jnp.moveaxis(score(log_probs, state.lengths), 0, -1),
        valid=state.valid,
    )


def _live(state: _State) -> Array:
    """Return the hypotheses `[K, *B]` that go on."""
    return ~state.ended & (state.log_probs > -jnp.inf)


def _continuations(log_probs: Array, ended: Array, of_tokens: Array, end: int | None) -> Array:
    """Return the log-probability of each hypothesis with each token added, `[K, *B, V]`.

    A hypothesis that has ended is its own only continuation, in the place of the end token.
    """
    continued = log_probs[..., None] + of_tokens
    if end is None:
        return continued
    is_end = lax.broadcasted_iota(jnp.int32, of_tokens.shape, of_tokens.ndim - 1) == end
    unchanged = jnp.where(is_end, log_probs[..., None], -jnp.inf)
    return jnp.where(ended[..., None], unchanged, continued)


def _take_beams(beams: Array, leaf: Array) -> Array:
    """Return the beams `beams [K, *B]` of each row, from `leaf [K, *B, ...]`."""
    index = beams.reshape(beams.shape + (1,) * (leaf.ndim - beams.ndim))
    return jnp.take_along_axis(leaf, index, axis=0)


def _backtracked(tokens: Array, parents: Array) -> Array:
    """Return the tokens `[T, K, *B]` of the beams that are left after the last step."""

    def back(beam: Array, choice: tuple[Array, Array]) -> tuple[Array, Array]:
        token, parent = choice
        return _take_beams(beam, parent), _take_beams(beam, token)

    last = lax.broadcasted_iota(jnp.int32, tokens.shape[1:], 0)
    last = vary_alike(last, like=(tokens, parents))
    return lax.scan(back, last, (tokens, parents), reverse=True)[1]
