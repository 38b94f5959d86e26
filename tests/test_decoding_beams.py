"""Beam search against exhaustive enumeration, and against greedy decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tables as tb
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import assert_trees_close, normal, random_params

import gatedrnn as gr

ROWS = 2
# vocabulary, length, end: each compiles once
SHAPES = [(3, 3, 1), (2, 4, 0), (3, 2, None), (1, 3, None), (1, 2, 0), (2, 0, 1), (4, 1, 3)]


def search(tables, beams, length, end, alpha=0.0, rows=range(ROWS)):
    carry, token = tb.start(np.asarray(rows))
    options = {"beams": beams, "max_length": length, "end": end, "alpha": alpha}
    return gr.beam_search(tb.step_of(tables), carry, token, **options)


@settings(max_examples=50, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 10**6),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 3.0]),
)
def test_wide_enough_it_is_exhaustive(shape, seed, alpha):
    """Every hypothesis, best first, with its score; then none."""
    vocabulary, length, end = shape
    tables = tb.tables(seed, ROWS, vocabulary)
    every = tb.hypotheses(vocabulary, length, end)
    out = search(tables, len(every) + 2, length, end, alpha)
    for row in range(ROWS):
        probs = np.array([tb.log_probs_of(tables, row, h).sum() for h in every])
        scores = probs / ((5 + np.array([len(h) for h in every])) / 6) ** alpha
        order = np.argsort(-scores)
        np.testing.assert_allclose(out.scores[row, :-2], scores[order], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(out.log_probs[row, :-2], probs[order], rtol=1e-10, atol=1e-12)
        for beam, index in enumerate(order):
            want = list(every[index])
            assert out.lengths[row, beam] == len(want)
            padded = want + [0 if end is None else end] * (length - len(want))
            assert out.tokens[:, row, beam].tolist() == padded
        assert np.all(out.lengths[row, -2:] == 0)
        assert np.all(out.scores[row, -2:] == -np.inf)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.0, 0.6, 2.0]))
def test_one_beam_is_greedy(seed, alpha):
    """With any normalisation."""
    tables = tb.tables(seed, ROWS, 4)
    carry, token = tb.start(np.arange(ROWS))
    one = search(tables, 1, 6, 2, alpha)
    want = gr.greedy(tb.step_of(tables), carry, token, max_length=6, end=2)
    assert_trees_close(one.tokens[..., 0], want.tokens)
    assert_trees_close(one.lengths[..., 0], want.lengths)
    np.testing.assert_allclose(one.log_probs[..., 0], want.log_probs.sum(axis=0), rtol=1e-10)


def by_hand(tables, row, beams, length, end, alpha):
    """The same search in NumPy, hypothesis by hypothesis."""

    def score(tokens):
        return tb.log_probs_of(tables, row, tokens).sum() / ((5 + len(tokens)) / 6) ** alpha

    kept = [()]
    for _ in range(length):
        ended = [h for h in kept if end in h]
        longer = [(*h, v) for h in kept if end not in h for v in range(tables.logits.shape[-1])]
        kept = sorted(ended + longer, key=score, reverse=True)[:beams]
    return kept


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.0, 1.0]))
def test_a_narrow_beam_keeps_the_best(seed, alpha):
    """Where it is not exact: the hypotheses that a plain search keeps, in its order."""
    tables = tb.tables(seed, ROWS, 4)
    out = search(tables, 3, 5, 2, alpha)
    for row in range(ROWS):
        for beam, want in enumerate(by_hand(tables, row, 3, 5, 2, alpha)):
            assert tuple(out.tokens[: out.lengths[row, beam], row, beam].tolist()) == want


def test_rows_do_not_depend_on_their_batch():
    """Nor on its axes."""
    tables = tb.tables(3, 6, 4)
    together = search(tables, 3, 5, 2, 0.6, np.arange(6).reshape(2, 3))
    for row in range(6):
        alone = search(tables, 3, 5, 2, 0.6, np.int64(row))
        at = np.unravel_index(row, (2, 3))
        assert_trees_close(together.tokens[(slice(None), *at)], alone.tokens)
        assert_trees_close(together.scores[at], alone.scores)


def test_scores_of_minus_infinity():
    """A token that the step forbids is in no hypothesis."""
    tables = tb.tables(0, ROWS, 3)
    tables.logits[..., 0] = -np.inf
    out = search(tables, 20, 3, None)
    assert np.all(out.lengths[:, :8] == 3)
    assert np.all(out.tokens[..., :8] != 0)
    assert np.all(out.scores[:, 8:] == -np.inf)
    assert not np.any(np.isnan(out.scores))


def test_it_stops_when_all_have_ended():
    """A step that lets only the end follow: one step is made."""
    steps = []

    def step(carry, token):
        jax.debug.callback(lambda: steps.append(1))
        return carry, jnp.full((*token.shape, 3), -jnp.inf).at[..., 1].set(0.0)

    out = gr.beam_search(step, (), jnp.zeros(2, int), beams=2, max_length=50, end=1)
    jax.effects_barrier()
    assert len(steps) <= 2  # one for each beam
    assert out.lengths.tolist() == [[1, 0], [1, 0]]


def test_a_network_with_attention():
    """Every beam of a network reads the memory of its row; the scores are those of its tokens."""
    vocabulary, batch, source = 4, 3, 5
    net = gr.stack(
        gr.embed(vocabulary, 2),
        gr.Attention(gr.LSTM(3), 2, 3),
        gr.dropout(0.5),
        gr.dense(vocabulary),
    )
    lengths = jnp.array([5, 0, 2])
    params = gr.attend(random_params(net, None), normal(source, batch, 2), lengths=lengths)
    carry, token = net.carry((batch,), jnp.float64), jnp.zeros(batch, jnp.int32)
    step = jax.tree_util.Partial(net.step, params)
    out = gr.beam_search(step, carry, token, beams=4, max_length=4, end=1, alpha=0.6)
    for beam in range(4):
        tokens = out.tokens[..., beam]
        fed = jnp.concatenate([token[None], tokens])[:-1]
        _, logits = net.apply(params, fed)
        each = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]
        valid = np.arange(4)[:, None] < np.asarray(out.lengths[:, beam])
        want = jnp.where(valid, each, 0).sum(axis=0)
        np.testing.assert_allclose(out.log_probs[:, beam], want, rtol=1e-10)


def test_the_memory_is_not_copied_for_each_beam():
    """The compiled search holds nothing of the size of a memory for every beam."""
    batch, source, features, beams = 2, 64, 64, 16
    cell = gr.Attention(gr.GRU(4), features, 4)
    net = gr.stack(gr.embed(8, 2), cell, gr.dense(8))
    params = net.init(jax.random.key(0), None)
    memory = jnp.ones((source, batch, features), jnp.float32)

    def run(params, memory):
        step = jax.tree_util.Partial(net.step, gr.attend(params, memory))
        carry, token = net.carry((batch,)), jnp.zeros(batch, jnp.int32)
        return gr.beam_search(step, carry, token, beams=beams, max_length=8, end=1)

    analysis = jax.jit(run).lower(params, memory).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < beams * memory.nbytes / 2


def test_errors():
    """Each names the argument, what it got and what it expected."""
    tables = tb.tables(0, ROWS, 3)
    with pytest.raises(ValueError, match="beams: got 0"):
        search(tables, 0, 3, 1)
    with pytest.raises(ValueError, match="max_length: got -1"):
        search(tables, 2, -1, 1)
    with pytest.raises(ValueError, match=r"alpha: got -0.5, expected a number, at least 0"):
        search(tables, 2, 3, 1, -0.5)
    with pytest.raises(ValueError, match="end: got 3, expected a token below 3"):
        search(tables, 2, 3, 3)
    with pytest.raises(ValueError, match=f"max_length: got {2**40}"):
        search(tables, 2, 2**40, 1)


def test_no_rows():
    """An empty batch has no hypotheses."""
    found = gr.beam_search(
        lambda carry, token: (carry, jnp.zeros((*token.shape, 3))),
        (),
        jnp.zeros(0, int),
        beams=2,
        max_length=3,
    )
    assert found.tokens.shape == (3, 0, 2)
