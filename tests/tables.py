"""A step for tests of decoding: random scores from a table, and all hypotheses of it, in NumPy."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr


class Tables(NamedTuple):
    """An automaton for each of some rows: the scores follow from its state."""

    following: np.ndarray  # [rows, states, V], the state after a token
    logits: np.ndarray  # [rows, states, V]


class Carry(NamedTuple):
    row: jax.Array  # [*B], which tables
    state: jax.Array  # [*B]
    steps: gr.Shared  # of [], shared by all rows


def tables(seed, rows, vocabulary, states=1500):
    """A state of its own for every prefix of up to five tokens, so that there are no ties."""
    logits = 2 * np.random.default_rng(seed).normal(size=(rows, states, vocabulary))
    following = (1 + np.arange(states * vocabulary)).reshape(states, vocabulary) % states
    return Tables(np.broadcast_to(following, logits.shape), logits)


def step(tables, carry, token):
    state = tables.following[carry.row, carry.state, token]
    return Carry(carry.row, state, gr.Shared(carry.steps.value + 1)), tables.logits[
        carry.row, state
    ]


def start(rows):
    """The carry and the first tokens of `rows`, an array of numbers of tables."""
    rows = jnp.asarray(rows)
    return Carry(rows, jnp.zeros_like(rows), gr.Shared(jnp.zeros((), int))), jnp.zeros(
        rows.shape, int
    )


def step_of(tables):
    """Of the same function, so that equal shapes compile once."""
    return jax.tree_util.Partial(step, jax.tree.map(jnp.asarray, tables))


def log_probs_of(tables, row, tokens):
    """Of each of the tokens that follow token 0, in NumPy."""
    state, before, out = 0, 0, []
    for token in tokens:
        state = tables.following[row, state, before]
        logits = tables.logits[row, state]
        out.append(logits[token] - np.log(np.sum(np.exp(logits))))
        before = token
    return np.array(out)


def hypotheses(vocabulary, length, end):
    """Every sequence that ends with its only `end`, or has none and is `length` long."""
    out = []
    for n in range(length + 1):
        for tokens in itertools.product(range(vocabulary), repeat=n):
            ended = n > 0 and tokens[-1] == end and end not in tokens[:-1]
            if ended or (n == length and end not in tokens):
                out.append(tokens)
    return out
