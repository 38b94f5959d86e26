"""Greedy decoding and sampling: chosen tokens, their frequencies, ends, rows, and free running."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tables as tb
from networks import assert_trees_close, normal, random_params

import gatedrnn as gr

ROWS, V, T, END = 3, 5, 6, 1
TABLES = tb.tables(0, ROWS, V)
KEY = jax.random.key(7)


def decode(rows=range(ROWS), key=None, tables=TABLES, **options):
    """The tables of `rows`, decoded greedily, or sampled with a key."""
    carry, token = tb.start(np.asarray(rows))
    options = {"max_length": T, "end": END} | options
    if key is None:
        return gr.greedy(tb.step_of(tables), carry, token, **options)
    return gr.sample(tb.step_of(tables), carry, token, key, **options)


def by_hand(tables, row, length=T, end=END):
    """The likeliest tokens, one after another, in NumPy."""
    state, token, out = 0, 0, []
    while len(out) < length and (not out or token != end):
        state = tables.following[row, state, token]
        token = int(np.argmax(tables.logits[row, state]))
        out.append(token)
    return out


# Greedy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [END, None])
def test_greedy_takes_the_likeliest(end):
    """Tokens, lengths, log-probabilities and what follows the end, row by row."""
    out = decode(end=end)
    for row in range(ROWS):
        want = by_hand(TABLES, row, end=end)
        assert out.lengths[row] == len(want)
        assert out.tokens[: len(want), row].tolist() == want
        assert out.tokens[len(want) :, row].tolist() == [end] * (T - len(want))
        probs = tb.log_probs_of(TABLES, row, want)
        np.testing.assert_allclose(out.log_probs[: len(want), row], probs, rtol=1e-12)
        assert np.all(out.log_probs[len(want) :, row] == 0)
    lengths = {len(by_hand(TABLES, row)) for row in range(ROWS)}
    assert len(lengths) > 1  # else this would show little
    assert min(lengths) < T


def test_ties_go_to_the_first():
    """As `argmax`."""
    equal = tb.Tables(TABLES.following, np.zeros_like(TABLES.logits))
    assert not np.any(decode(tables=equal).tokens)


def test_it_stops_when_every_row_has_ended():
    """The shared counter of the carry counts the steps that were made."""
    longest = max(len(by_hand(TABLES, row, 50)) for row in range(2))
    assert longest < 50
    assert decode(range(2), max_length=50).carry.steps.value == longest


def test_a_row_that_has_ended_keeps_its_carry():
    """So that a batch hands on what each row alone would."""
    together = decode()
    for row in range(ROWS):
        alone = decode([row])
        assert together.carry.state[row] == alone.carry.state[0]


def test_going_on():
    """From the carry and the last token: as if it had not stopped."""
    first = decode(end=None, max_length=2)
    step = tb.step_of(TABLES)
    rest = gr.greedy(step, first.carry, first.tokens[-1], max_length=T - 2)
    whole = decode(end=None)
    assert_trees_close(jnp.concatenate([first.tokens, rest.tokens]), whole.tokens)
    assert_trees_close(rest.carry, whole.carry)


@pytest.mark.parametrize("key", [None, KEY], ids=["greedy", "sample"])
@pytest.mark.parametrize("length", [0, 1])
def test_short(length, key):
    """No token at all: the carry as it was; one token."""
    out = decode(max_length=length, key=key)
    assert out.tokens.shape == out.log_probs.shape == (length, ROWS)
    assert np.all(out.lengths == length)
    assert out.carry.steps.value == length


@pytest.mark.parametrize("key", [None, KEY], ids=["greedy", "sample"])
def test_a_vocabulary_of_one(key):
    """The end at once, with certainty."""
    out = decode(tables=tb.tables(0, ROWS, 1), end=0, key=key)
    assert np.all(out.lengths == 1)
    assert np.all(out.tokens == 0)
    np.testing.assert_allclose(out.log_probs, 0, atol=1e-12)


@pytest.mark.parametrize(
    "rows", [np.int64(2), np.array([[0, 1], [2, 0], [1, 1]]), np.zeros(0, int)]
)
def test_any_batch_axes(rows):
    """None, two, and an empty one."""
    out, sampled = decode(rows), decode(rows, KEY)
    assert out.tokens.shape == sampled.tokens.shape == (T, *rows.shape)
    for at in np.ndindex(*rows.shape):
        want = by_hand(TABLES, rows[at])
        assert out.tokens[(slice(len(want)), *at)].tolist() == want


# Sampling ---------------------------------------------------------------------------------------

MANY = 4000


def drawn(logits, key=KEY, **options):
    """How often each token is drawn from `logits` [V], of `MANY`."""
    table = tb.Tables(np.zeros((1, 1, len(logits)), int), np.array(logits, float)[None, None])
    tokens = decode(np.zeros(MANY, int), key, table, end=None, max_length=1, **options).tokens
    return np.bincount(tokens.ravel(), minlength=len(logits))


def expected(logits, temperature=1.0, top_k=None, top_p=None):
    """The probabilities to draw from, in NumPy."""
    z = np.array(logits) / temperature
    order = np.argsort(-z, kind="stable")[:top_k]
    p = np.exp(z[order] - z.max())
    p /= p.sum()
    if top_p is not None:
        kept = [i for i in range(len(p)) if p[:i].sum() < top_p]
        p = p[kept] / p[kept].sum()
        order = order[kept]
    out = np.zeros(len(z))
    out[order] = p
    return out


LOGITS = [0.3, -1.0, 1.5, 0.3, -np.inf, 0.9]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"temperature": 1e308},
        {"top_k": 1},
        {"top_k": 3},
        {"top_k": 100},
        {"top_p": 1e-9},
        {"top_p": 0.6},
        {"top_p": 0.95},
        {"top_p": 1.0},
        {"top_k": 4, "top_p": 0.8, "temperature": 2.0},
    ],
    ids=str,
)
def test_frequencies(options):
    """Tokens outside the set are never drawn; the others within 5 standard deviations."""
    p, counts = expected(LOGITS, **options), drawn(LOGITS, **options)
    assert np.all(counts[p == 0] == 0)
    assert np.all(np.abs(counts - MANY * p) <= 5 * np.sqrt(MANY * p * (1 - p)) + 1e-9)
    assert np.all(counts[p > 0] > 0)


def test_low_temperatures_are_greedy():
    """In the limit, and at 0; whatever the size of the logits."""
    for temperature in (0.0, 1e-30, 1e-3, jnp.zeros((), jnp.float32)):
        out = decode(key=KEY, temperature=temperature)
        assert_trees_close(out, decode())
    assert drawn([1e30, -1e30, 0.0], temperature=1e-30)[0] == MANY
    assert drawn(LOGITS, temperature=0, top_k=3, top_p=0.9)[2] == MANY


def test_log_probabilities_are_those_of_the_model():
    """Whatever the temperature and the truncation."""
    out = decode(key=KEY, temperature=2.0, top_k=3)
    for row in range(ROWS):
        tokens = np.asarray(out.tokens[: out.lengths[row], row])
        probs = tb.log_probs_of(TABLES, row, tokens)
        np.testing.assert_allclose(out.log_probs[: len(tokens), row], probs, rtol=1e-12)


def test_rows_do_not_depend_on_their_batch():
    """With a key for each row, every row is drawn as alone, in a batch of any shape."""
    keys = jax.random.split(KEY, ROWS)
    together = decode(key=keys, top_p=0.9)
    for row in range(ROWS):
        alone = decode(np.int64(row), keys[row], top_p=0.9)
        assert together.tokens[:, row].tolist() == alone.tokens.tolist()
        assert together.lengths[row] == alone.lengths
    # and with one key, on the number of rows beside it
    same = np.zeros(40, int)
    many = decode(same, KEY, end=None).tokens
    assert_trees_close(many[:, :10], decode(same[:10], KEY, end=None).tokens)
    assert len(np.unique(many, axis=1).T) > 20
    assert np.any(many[1:] != many[:-1])
    legacy = jax.random.key_data(KEY)
    assert_trees_close(decode(same, legacy, end=None).tokens, many)


def test_a_carry_with_a_key():
    """One that all rows share goes along as it is, in every function."""

    def step(carry, token):
        key, seen = carry[0].value, carry[1]
        key, of_step = jax.random.split(key)
        logits = jax.random.normal(of_step, (V,))
        return (gr.Shared(key), seen + 1), jnp.broadcast_to(logits, (*token.shape, V))

    carry, token = (gr.Shared(KEY), jnp.zeros(ROWS)), jnp.zeros(ROWS, int)
    key, want = KEY, []
    for _ in range(T):
        key, of_step = jax.random.split(key)
        want.append(int(jnp.argmax(jax.random.normal(of_step, (V,)))))
    out = gr.greedy(step, carry, token, max_length=T)
    assert out.tokens.tolist() == [[token] * ROWS for token in want]
    assert jnp.all(out.carry[0].value == key)
    beams = gr.beam_search(step, carry, token, beams=2, max_length=T)
    assert beams.tokens[..., 0].tolist() == out.tokens.tolist()


# Compilation ------------------------------------------------------------------------------------


def test_no_retracing():
    """Of a partial application of one function, outside `jit`; of anything, inside."""
    traces = []

    def counted(tables, carry, token):
        traces.append(1)
        return tb.step(tables, carry, token)

    carry, token = tb.start(np.arange(ROWS))

    def run(tables, key, temperature, top_p):
        step = jax.tree_util.Partial(counted, jax.tree.map(jnp.asarray, tables))
        gr.greedy(step, carry, token, max_length=T, end=END)
        options = {"temperature": temperature, "top_p": top_p}
        gr.sample(step, carry, token, key, max_length=T, end=END, **options)
        gr.beam_search(step, carry, token, beams=2, max_length=T, end=END, alpha=temperature)
        gr.generate(jax.tree_util.Partial(lambda c, y: (c, y)), carry, token, steps=2)

    run(TABLES, KEY, 1.0, 0.9)
    count = len(traces)
    run(tb.tables(1, ROWS, V), jax.random.key(1), 0.5, 0.8)
    assert len(traces) == count

    @jax.jit
    def inside(tables, carry, token):
        return gr.greedy(lambda c, x: counted(tables, c, x), carry, token, max_length=T, end=END)

    same = jax.tree.map(jnp.asarray, TABLES)
    assert_trees_close(inside(same, carry, token), decode())
    count = len(traces)
    inside(jax.tree.map(jnp.asarray, tb.tables(1, ROWS, V)), carry, token)
    assert len(traces) == count


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=lambda d: d.__name__)
def test_a_network(dtype):
    """Prompt by `apply`, then tokens: as feeding each chosen token back by hand."""
    net = gr.stack(gr.embed(V, 3), gr.dropout(0.5), gr.LSTM(4), gr.dense(V))
    params = random_params(net, None, dtype=dtype)
    prompt = jnp.array([[2, 0], [3, 4]])
    before, _ = net.apply(params, prompt[:-1])
    step = jax.tree_util.Partial(net.step, params)
    out = gr.greedy(step, before, prompt[-1], max_length=4)
    assert out.log_probs.dtype == jnp.float32
    tokens = prompt
    for _ in range(4):
        _, logits = net.apply(params, tokens)
        tokens = jnp.concatenate([tokens, jnp.argmax(logits[-1:], axis=-1)])
    assert out.tokens.tolist() == tokens[2:].tolist()
    drawn = gr.sample(step, before, prompt[-1], KEY, max_length=4, top_p=0.9, temperature=0.7)
    assert drawn.log_probs.dtype == jnp.float32


def test_vmap_over_parameters():
    """Every member of an ensemble as alone."""
    members = [tb.tables(seed, ROWS, V) for seed in range(2)]
    carry, token = tb.start(np.arange(ROWS))

    def run(tables):
        step = jax.tree_util.Partial(tb.step, tables)
        return gr.greedy(step, carry, token, max_length=T, end=END).tokens

    both = jax.vmap(run)(jax.tree.map(lambda *v: jnp.stack(v), *members))
    assert_trees_close(both, jnp.stack([decode(tables=m).tokens for m in members]))


# Free running -----------------------------------------------------------------------------------


def test_free_running():
    """Each output is the next input; the gradient goes through, and it can go on."""
    cell = gr.GRU(3)
    params = random_params(cell, 3)
    start, first = cell.carry((2,), jnp.float64), normal(2, 3)

    def by_loop(params, first):
        carry, y, ys = start, first, []
        for _ in range(4):
            carry, y = cell.step(params, carry, y)
            ys.append(y)
        return carry, jnp.stack(ys)

    def run(params, first):
        return gr.generate(jax.tree_util.Partial(cell.step, params), start, first, steps=4)

    want = by_loop(params, first)
    assert_trees_close(run(params, first), want)
    grads = [
        jax.jit(jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a)[1])), argnums=(0, 1)))(params, first)
        for f in (run, by_loop)
    ]
    assert_trees_close(*grads)
    step = jax.tree_util.Partial(cell.step, params)
    carry, ys = gr.generate(step, start, first, steps=1)
    carry, rest = gr.generate(step, carry, ys[-1], steps=3)
    assert_trees_close((carry, jnp.concatenate([ys, rest])), want)
    carry, none = gr.generate(step, start, first, steps=0)
    assert none.shape == (0, 2, 3)
    assert_trees_close(carry, start)


# Errors -----------------------------------------------------------------------------------------


def test_errors():
    """Each names the argument, what it got and what it expected."""
    step, (carry, token) = tb.step_of(TABLES), tb.start(np.arange(ROWS))
    for options, match in [
        ({"max_length": -1}, "max_length: got -1"),
        ({"max_length": 2.0}, "max_length: got 2.0"),
        ({"end": V}, f"end: got {V}, expected a token below {V}"),
        ({"end": -1}, "end: got -1"),
    ]:
        for key in (None, KEY):
            with pytest.raises(ValueError, match=match):
                decode(key=key, **options)
    for options, match in [
        ({"temperature": -1.0}, "temperature: got -1.0, expected a number, at least 0"),
        ({"temperature": jnp.ones(2)}, "temperature: got"),
        ({"top_k": 0}, "top_k: got 0"),
        ({"top_p": 0.0}, "top_p: got 0.0, expected a number, above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p: got 1.5"),
        ({"key": jax.random.split(KEY, 2)}, r"key: got shape \(2,\), expected \(\) or \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            decode(**({"key": KEY} | options))
    with pytest.raises(TypeError, match="token: got dtype float64, expected integers"):
        gr.greedy(step, carry, jnp.zeros(3), max_length=1)
    with pytest.raises(TypeError, match="step: got 3, expected a function"):
        gr.greedy(3, carry, token, max_length=1)
    with pytest.raises(ValueError, match=r"step: got logits of shape \(3,\), expected \(3, 'V'\)"):
        gr.greedy(lambda c, x: (c, jnp.zeros(3)), carry, token, max_length=1)
    with pytest.raises(TypeError, match="logits of step: got dtype int"):
        gr.greedy(lambda c, x: (c, jnp.zeros((3, 2), int)), carry, token, max_length=1)
    with pytest.raises(TypeError, match=r"step: got .*, expected a pair"):
        gr.greedy(lambda c, x: jnp.zeros(3), carry, token, max_length=1)
    grown = lambda c, y: (jnp.concatenate([c, c]), y)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"carry that step returns: got shape \(4,\), expected \(2"
    ):
        gr.greedy(grown, jnp.zeros(2), jnp.zeros(2, int), max_length=1)
    with pytest.raises(
        TypeError, match=r"carry that step returns.*: got dtype float32, expected fl"
    ):
        gr.generate(lambda c, y: (c, y.astype(jnp.float32)), (), jnp.zeros(2), steps=1)
    with pytest.raises(ValueError, match="steps: got -1"):
        gr.generate(lambda c, y: (c, y), (), jnp.zeros(2), steps=-1)
