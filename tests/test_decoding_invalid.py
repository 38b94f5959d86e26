"""Logits that define no probabilities: the row ends there, says so, and disturbs no other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tables as tb

import gatedrnn as gr

ROWS, V, T, END = 3, 4, 4, 1
BAD = 1  # the row
TABLES = jax.tree.map(jnp.asarray, tb.tables(3, ROWS, V))
NAN, INF = np.nan, np.inf
BROKEN = {
    "NaN": [NAN] * V,
    "one NaN": [0.0, 1.0, NAN, 2.0],
    "infinity": [0.0, INF, 0.0, 0.0],
    "two infinities": [0.0, INF, INF, -INF],
    "no token": [-INF] * V,
}
broken = pytest.mark.parametrize("logits", BROKEN.values(), ids=BROKEN)

OPTIONS = {
    "greedy": {},
    "sample": {},
    "sample top_k": {"top_k": 2},
    "sample top_p": {"top_p": 0.8},
    "one beam": {"beams": 1},
    "beams": {"beams": 3, "alpha": 0.6},
}
methods = pytest.mark.parametrize("method", OPTIONS)
ends = pytest.mark.parametrize("end", [END, None])


def step(breaks_at, logits, carry, token):
    """That of the tables; at a step of its own, the bad row has other logits."""
    steps, carry = carry
    carry, usual = tb.step(TABLES, carry, token)
    bad = (steps == breaks_at) & (carry.row == BAD)
    return (steps + 1, carry), jnp.where(bad[..., None], logits, usual)


def decode(method, end, breaks_at=99, logits=(0.0,) * V, length=T):
    carry, token = tb.start(np.arange(ROWS))
    of_step = jax.tree_util.Partial(step, jnp.asarray(breaks_at), jnp.asarray(logits))
    arguments = (of_step, (jnp.zeros(ROWS, int), carry), token)
    options = {"max_length": length, "end": end} | OPTIONS[method]
    if method == "greedy":
        return gr.greedy(*arguments, **options)
    if method.startswith("sample"):
        return gr.sample(*arguments, jax.random.key(5), **options)
    return gr.beam_search(*arguments, **options)


def rows(out, index, batch_axes):
    """The results of some rows; those of `batch_axes` have time in front."""
    found = {
        name: np.asarray(value)[:, index] if name in batch_axes else np.asarray(value)[index]
        for name, value in out._asdict().items()
        if name != "carry"
    }
    return found


@ends
@methods
@broken
def test_the_row_ends_there(logits, method, end):
    usual = decode(method, end)
    assert usual.valid.all()
    is_beams = isinstance(usual, gr.Beams)
    in_time = ("tokens",) if is_beams else ("tokens", "log_probs")
    for breaks_at in (0, 2):
        out = decode(method, end, breaks_at, logits)
        others = [row for row in range(ROWS) if row != BAD]
        jax.tree.map(
            np.testing.assert_array_equal, rows(out, others, in_time), rows(usual, others, in_time)
        )
        got, was = rows(out, BAD, in_time), rows(usual, BAD, in_time)
        if np.all(was["lengths"] <= breaks_at):  # ended before
            jax.tree.map(np.testing.assert_array_equal, got, was)
            continue
        assert not got["valid"]
        filler = 0 if end is None else end
        assert np.all(got["tokens"][breaks_at:] == filler)
        if is_beams:
            until = rows(decode(method, end, length=breaks_at), BAD, in_time)
            np.testing.assert_array_equal(got["tokens"][:breaks_at], until["tokens"])
            np.testing.assert_array_equal(got["lengths"], until["lengths"])
            assert np.isnan([got["log_probs"], got["scores"]]).all()
        else:
            np.testing.assert_array_equal(got["tokens"][:breaks_at], was["tokens"][:breaks_at])
            assert got["lengths"] == breaks_at
            np.testing.assert_array_equal(np.isnan(got["log_probs"]), np.arange(T) == breaks_at)
            assert out.carry[0][BAD] == breaks_at  # before the step that went wrong


def test_one_beam_is_greedy():
    out, one = decode("greedy", END, 2, [NAN] * V), decode("one beam", END, 2, [NAN] * V)
    np.testing.assert_array_equal(one.tokens[..., 0], out.tokens)
    np.testing.assert_array_equal(one.lengths[..., 0], out.lengths)
    np.testing.assert_array_equal(one.valid, out.valid)
    np.testing.assert_allclose(one.log_probs[..., 0], out.log_probs.sum(0))


def after_token(carry, token, *, bad, forbidden):
    """Of the tables, but NaN after the token `bad`, and a token that never follows."""
    carry, logits = tb.step(TABLES, carry, token)
    logits = jnp.where((token == bad)[..., None], jnp.nan, logits)
    return carry, logits if forbidden is None else logits.at[..., forbidden].set(-jnp.inf)


@pytest.mark.parametrize(("token", "end"), [(END, END), (2, None)], ids=["ended", "forbidden"])
def test_hypotheses_that_do_not_go_on_may_be_broken(token, end):
    """Beams that have ended, and those that are none: the search is as it was."""
    forbidden = None if token == end else token
    carry, start = tb.start(np.arange(ROWS))
    found = [
        gr.beam_search(
            functools.partial(after_token, bad=bad, forbidden=forbidden),
            *(carry, start),
            **{"beams": 30, "max_length": 3, "end": end},
        )
        for bad in (token, 99)
    ]
    assert found[0].valid.all()
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_single_broken_hypothesis_makes_the_row_invalid():
    """It might have been the best."""
    carry, start = tb.start(np.arange(ROWS))
    of_step = functools.partial(after_token, bad=3, forbidden=None)
    out = gr.beam_search(of_step, carry, start, beams=V, max_length=3, end=None)
    assert not out.valid.any()  # all tokens are hypotheses after the first step
    np.testing.assert_array_equal(out.lengths, 1)
    assert sorted(np.asarray(out.tokens[0, 0])) == list(range(V))


def test_generate_shows_nan_in_its_row_alone():
    """NaN is fed back like any other output."""
    params = gr.ElmanParams(jnp.ones((1, 1)), jnp.ones((1, 1)), None)
    cell = gr.Elman(1, activation="identity", use_bias=False)

    def of_row(first):
        carry = cell.carry((2,), "float64")
        return gr.generate(functools.partial(cell.step, params), carry, first, steps=3)[1]

    ys = of_row(jnp.array([[NAN], [1.0]]))
    np.testing.assert_array_equal(np.isnan(ys[..., 0]), [[True, False]] * 3)
