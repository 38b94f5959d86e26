"""Rows of a batch never meet: in decoding, bridges, and where a program chooses rows of a carry."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from networks import Leaky, apply, assert_trees_close, normal, random_params, step

import gatedrnn as gr

V, F, T, END = 5, 3, 4, 1  # vocabulary, features, tokens, the token that ends a row
KEY = jax.random.key(3)
FEW = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # every example compiles: shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow],
)


@dataclasses.dataclass(frozen=True)
class Counting(Leaky):
    """A user's cell that also counts the steps of each row, and those of all."""

    def carry(self, batch_shape, dtype=jnp.float32):
        counts = jnp.zeros(batch_shape, jnp.int32), gr.Shared(jnp.zeros((), jnp.int32))
        return (super().carry(batch_shape, dtype), *counts)

    def step(self, params, carry, x):
        state, own, of_all = carry
        state, y = super().step(params, state, x)
        return (state, own + 1, gr.Shared(of_all.value + 1)), y


def layers():
    """Layers that keep the number of features."""
    cells = st.sampled_from(
        [
            gr.GRU(F),
            gr.LSTM(4, projection=F),
            gr.recurrent(gr.LSTM(F), initial="learned"),
            gr.recurrent(gr.Zoneout(gr.GRU(F), h=0.3)),
            Counting(4, F),
            gr.dropout(0.4),
        ]
    )
    wrapped = st.one_of(
        cells.map(gr.residual),
        st.builds(gr.repeat, cells.map(gr.residual), st.integers(1, 3)),
        st.builds(gr.repeat, st.builds(gr.repeat, cells, st.integers(1, 2)), st.just(2)),
    )
    return st.one_of(cells, wrapped)


def networks():
    """From tokens to logits, some recurrent layers between."""
    between = st.lists(layers(), min_size=1, max_size=2)
    return between.map(lambda inside: gr.stack(gr.embed(V, F), *inside, gr.dense(V)))


def big(params):
    """Parameters large enough that one token is clearly the likeliest."""
    return jax.tree.map(lambda leaf: 2 * leaf, params)


def step_of(net, params):
    return jax.tree_util.Partial(net.step, params)


def teacher_forced(net, params, start, tokens):
    """The log-probabilities of `tokens [n]` after `start`, and the carry before the last is fed."""
    read = jnp.concatenate([start[None], tokens[:-1]])[:, None]
    carry, logits = apply(net, params, read)
    log_probs = jax.nn.log_softmax(logits[:, 0])
    return log_probs[jnp.arange(len(tokens)), tokens], carry


# Decoding ---------------------------------------------------------------------------------------


@FEW
@given(networks(), st.integers(1, 4))
def test_hypotheses_have_the_probabilities_that_teacher_forcing_gives(net, rows):
    """Whatever the batch size, as many rows as layers included; greedy rows are as alone."""
    params, start = big(random_params(net, None)), jnp.arange(rows, dtype=jnp.int32) % V
    carry = net.carry((rows,), jnp.float64, params)
    found = gr.beam_search(step_of(net, params), carry, start, beams=2, max_length=T, end=END)
    out = gr.greedy(step_of(net, params), carry, start, max_length=T, end=END)
    for row in range(rows):
        for k in range(2):
            tokens = found.tokens[: int(found.lengths[row, k]), row, k]
            want, _ = teacher_forced(net, params, start[row], tokens)
            np.testing.assert_allclose(found.log_probs[row, k], jnp.sum(want), rtol=1e-10)
        tokens = out.tokens[: int(out.lengths[row]), row]
        want, carry_of_row = teacher_forced(net, params, start[row], tokens)
        np.testing.assert_allclose(out.log_probs[: len(tokens), row], want, rtol=1e-10)
        kept = own(gr.take_rows(out.carry, jnp.array([row])))
        assert_trees_close(kept, own(carry_of_row), rtol=1e-9)


def own(carry):
    """Without what rows share, which goes on while any row does."""
    return jax.tree.map(
        lambda node: None if isinstance(node, gr.Shared) else node,
        carry,
        is_leaf=lambda node: isinstance(node, gr.Shared),
    )


def test_an_end_of_one_row_is_nothing_to_another():
    """The case that was found: a repeat of as many layers as there are rows."""
    net = gr.stack(gr.embed(7, 6), gr.repeat(gr.residual(gr.GRU(6)), 2), gr.dense(7))
    params = jax.tree.map(lambda a: 3 * a, net.init(jax.random.key(0), None, jnp.float64))
    draw = jax.random.split(KEY, 2)
    start = jnp.arange(2)

    def sampled(rows):
        carry = net.carry((len(rows),), jnp.float64)
        options = {"max_length": 8, "end": 1}
        return gr.sample(step_of(net, params), carry, start[rows], draw[rows], **options).tokens

    together = sampled(jnp.array([0, 1]))
    for row in (0, 1):
        np.testing.assert_array_equal(together[:, row], sampled(jnp.array([row]))[:, 0])


@pytest.mark.parametrize("decode", ["greedy", "sample", "beam_search"])
def test_a_carry_without_rows_is_refused(decode):
    """What is neither of rows nor declared shared, by its path."""
    carry, token = {"n": jnp.zeros((), int)}, jnp.zeros(2, int)
    options = {"beams": 2} if decode == "beam_search" else {}
    arguments = (KEY,) if decode == "sample" else ()

    def call(carry, token):
        return carry, jnp.zeros((*token.shape, V))

    with pytest.raises(ValueError, match=r"carry\['n'\] of shape \(\), .* goes into gr.Shared"):
        getattr(gr, decode)(call, carry, token, *arguments, max_length=2, **options)


# The bridge -------------------------------------------------------------------------------------


def tokens(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape))


@FEW
@given(layers(), st.integers(1, 4), st.sampled_from(["direct", "learned"]))
def test_a_decoder_starts_from_its_own_rows_source(layer, rows, bridge):
    """Changing one source moves that row's outputs, and not a bit of any other's."""
    half = gr.stack(gr.embed(V, F), gr.GRU(F), layer)
    model = gr.seq2seq(half, gr.stack(half, gr.dense(V)), bridge)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(leaf.size).normal(size=leaf.shape)),
        jax.eval_shape(lambda: model.init(jax.random.key(0), dtype=jnp.float64)),
    )
    run = jax.jit(model.apply)
    sources, targets = tokens(1, 5, rows), tokens(2, 3, rows)
    _, ys = run(params, sources, targets)
    _, other = run(params, sources.at[:, 0].set((sources[:, 0] + 1) % V), targets)
    assert np.abs(ys[:, 0] - other[:, 0]).max() > 1e-6
    np.testing.assert_array_equal(ys[:, 1:], other[:, 1:])
    for row in range(rows):
        _, alone = run(params, sources[:, row : row + 1], targets[:, row : row + 1])
        np.testing.assert_allclose(ys[:, row], alone[:, 0], rtol=1e-10, atol=1e-12)


# Rows, chosen and taken --------------------------------------------------------------------------


@FEW
@given(networks(), st.integers(1, 4), st.data())
def test_taken_rows_go_on_as_they_would_have(net, rows, data):
    """`take_rows` in any order, one twice; then the sequence goes on."""
    index = np.array(data.draw(st.lists(st.integers(-rows, rows - 1), min_size=1, max_size=3)))
    params, xs = random_params(net, None), tokens(0, 6, rows)
    carry, _ = apply(net, params, xs[:3])
    carry, taken = apply(net, params, xs[3:, index], gr.take_rows(carry, index))
    whole, ys = apply(net, params, xs)
    np.testing.assert_allclose(taken, ys[3:, index], rtol=1e-10, atol=1e-12)
    assert_trees_close(own(carry), own(gr.take_rows(whole, index)))
    one = gr.take_rows(own(whole), 0)
    assert_trees_close(one, jax.tree.map(lambda leaf: leaf[0], own(whole)))
    assert_trees_close(
        gr.take_rows(own(whole), slice(1)), jax.tree.map(lambda v: v[:1], own(whole))
    )


@FEW
@given(networks(), st.integers(1, 4), st.booleans())
def test_an_actors_loop_is_the_whole_sequence_with_resets(net, rows, keyed):
    """Rows started anew by `where_rows`, by `step(resets=...)`, or leaf by leaf; masks too."""
    params, xs = random_params(net, None), tokens(0, T, rows)
    done = jnp.asarray(np.random.default_rng(1).random((T, rows)) < 0.4)
    key = KEY if keyed else None
    initial = net.carry((rows,), jnp.float64, params)
    last, ys = apply(net, params, xs, resets=done, key=key)
    by_hand = by_resets = initial
    reset_step = jax.jit(net.step)
    for t in range(T):
        by_hand = gr.where_rows(done[t], initial, by_hand)
        by_hand, y = step(net, params, by_hand, xs[t], key)
        np.testing.assert_allclose(y, ys[t], rtol=1e-10, atol=1e-12)
        by_resets, y = reset_step(params, by_resets, xs[t], resets=done[t], key=key)
        np.testing.assert_allclose(y, ys[t], rtol=1e-10, atol=1e-12)
    assert_trees_close(by_hand, last)
    assert_trees_close(by_resets, last)


def test_rows_are_chosen_leaf_by_leaf_in_a_scan():
    """As reinforcement learning does, with dropout, zoneout, repeats and learned carries."""
    cell = gr.Zoneout(gr.LSTM(4), h=0.2, c=0.2)
    net = gr.stack(cell, gr.dropout(0.5), gr.repeat(gr.recurrent(gr.GRU(4), initial="learned"), 2))
    params = random_params(net, 3)
    initial, done = net.carry((5,), jnp.float64, params), jnp.arange(5) % 2 == 0

    def once(carry, x):
        def choose(first, leaf):
            return jnp.where(done.reshape(-1, *(1,) * (leaf.ndim - 1)), first, leaf)

        return net.step(params, jax.tree.map(choose, initial, carry), x, key=KEY)

    carry, _ = jax.lax.scan(once, initial, normal(3, 5, 3))
    assert all(leaf[jnp.array([0, 2])].shape[0] == 2 for leaf in jax.tree.leaves(carry))
    assert carry[1].step.tolist() == [1, 3, 1, 3, 1]


def test_an_episodes_dropout_is_that_of_its_row_alone():
    """A reset starts its row's count anew, masked steps do not count; other rows see nothing."""
    net, xs = gr.dropout(0.5), jnp.ones((6, 2, 8))
    _, plain = apply(net, (), xs, key=KEY)
    resets = jnp.zeros((6, 2), bool).at[3, 1].set(True)
    carry, ys = apply(net, (), xs, resets=resets, key=KEY)
    np.testing.assert_array_equal(ys[3:, 1], plain[:3, 1])
    np.testing.assert_array_equal(ys[:, 0], plain[:, 0])
    assert carry.step.tolist() == [6, 3]
    mask = jnp.ones((6, 2), bool).at[jnp.array([0, 2]), 0].set(False)
    carry, ys = apply(net, (), xs, mask=mask, key=KEY)
    np.testing.assert_array_equal(ys[mask[:, 0], 0], plain[:4, 0])
    assert carry.step.tolist() == [4, 6]
    assert not np.array_equal(plain[:, 0], plain[:, 1])  # each row has masks of its own


@pytest.mark.parametrize("batch_shape", [(), (1,), (2,)])
def test_a_carry_is_no_parameters_buffer(batch_shape):
    """Donating it leaves the parameters as they are."""
    net = gr.stack(gr.recurrent(gr.LSTM(4), initial="learned"), gr.repeat(gr.GRU(4), 1))
    params = random_params(net, 3)
    carry = net.carry(batch_shape, jnp.float64, params)
    held = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)}
    assert not held & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(carry)}
    jax.jit(net.step, donate_argnums=1)(params, carry, jnp.ones((*batch_shape, 3)))
    apply(net, params, normal(4, 3))


# Errors -----------------------------------------------------------------------------------------


def test_errors_of_where_rows():
    """Each names the argument, what it got and what it expected."""
    carry = gr.GRU(4).carry((3,))
    with pytest.raises(TypeError, match="flags: got dtype int64, expected bool"):
        gr.where_rows(jnp.ones(3, int), carry, carry)
    with pytest.raises(ValueError, match=r"other.h: got shape \(3, 4\), expected the axes"):
        gr.where_rows(jnp.ones(4, bool), carry, carry)
    with pytest.raises(ValueError, match=r"carry.h: got shape \(2, 4\), expected \(3, 4\)"):
        gr.where_rows(jnp.ones(3, bool), gr.GRU(4).carry((2,)), carry)
    with pytest.raises(ValueError, match=r"carry: got .*, expected GRUCarry"):
        gr.where_rows(jnp.ones(3, bool), gr.LSTM(4).carry((3,)), carry)
    with pytest.raises(TypeError, match=r"carry.h: got dtype float64, expected float32, as in"):
        gr.where_rows(jnp.ones(3, bool), gr.GRU(4).carry((3,), jnp.float64), carry)


def test_what_rows_share_is_not_learned():
    """It is no parameter."""
    with pytest.raises(ValueError, match=r"initial: got 'learned' .*: its carry has a gr.Shared"):
        gr.recurrent(Counting(4, F), initial="learned")


def test_errors_of_take_rows():
    """Each names the argument, what it got and what it expected; out of range shows under jit."""
    carry = gr.GRU(4).carry((3,))
    with pytest.raises(TypeError, match="index: got dtype float64, expected integers or a slice"):
        gr.take_rows(carry, 1.0)
    for index in (3, jnp.array([0, -4])):
        with pytest.raises(ValueError, match=r"index: got values from .* the 3 rows of carry"):
            gr.take_rows(carry, index)
    with pytest.raises(ValueError, match=r"carry: got leaves of shapes .* the same batch axis"):
        gr.take_rows((carry, jnp.zeros(2)), 0)
    with pytest.raises(ValueError, match=r"carry: got leaves of shapes .* the same batch axis"):
        gr.take_rows(gr.GRU(4).carry(()).h[0], 0)
    assert np.isnan(jax.jit(gr.take_rows)(carry, jnp.array([3])).h).all()


def test_rows_of_a_carry_without_leaves():
    assert gr.take_rows(gr.dense(3).carry((5,)), jnp.array([3, 0])) == ()


@dataclasses.dataclass(frozen=True)
class Trace:
    """A cell with a trace of its inputs, a leaf of each row or (of a single row) shared."""

    shared: bool

    def init(self, key, in_features, dtype=jnp.float32):
        return jnp.full((in_features, 2), 0.5, dtype)

    def carry(self, batch_shape, dtype=jnp.float32):
        trace = jnp.zeros((*([] if self.shared else batch_shape), 2), dtype)
        return jnp.zeros((*batch_shape, 2), dtype), gr.Shared(trace) if self.shared else trace

    def step(self, params, carry, x):
        u, trace = x @ params, carry[1]
        trace = (trace.value if self.shared else trace) / 2
        trace = trace + (jnp.sum(u, tuple(range(u.ndim - 1))) if self.shared else u)
        scaled = u * jnp.broadcast_to(trace, u.shape)
        return (scaled, gr.Shared(trace) if self.shared else trace), scaled


def test_truncation_cuts_what_rows_share():
    xs = jax.random.normal(jax.random.key(0), (6, 1, 3), jnp.float64)

    def gradient(shared, **options):
        cell, bptt = Trace(shared), gr.BPTT(**options)
        params = cell.init(None, 3, jnp.float64)
        return jax.grad(lambda p: jnp.sum(gr.unroll(cell, p, xs, bptt=bptt)[1][-1]))(params)

    np.testing.assert_allclose(gradient(True, truncate=2), gradient(False, truncate=2), rtol=1e-12)
    assert not np.allclose(gradient(True, truncate=2), gradient(True))


def test_jacobians_of_a_cell_with_what_rows_share():
    cell, xs = Trace(shared=True), jnp.ones((4, 3, 3), jnp.float64)
    params = cell.init(None, 3, jnp.float64)
    assert gr.diagnostics.step_jacobians(cell, params, xs).shape == (4, 3, 2, 2)
