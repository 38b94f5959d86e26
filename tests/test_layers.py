"""Layers equal their parts composed by hand: values, gradients, padding, resets and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    Leaky,
    apply,
    assert_trees_close,
    assert_trees_equal,
    normal,
    outcome,
    random_params,
)

import gatedrnn as gr

T, B, IN, H = 5, 4, 3, 3  # time, batch, input features, features
KEY = jax.random.key(7)
LENGTHS = jnp.array([3, 0, T, 3])
ANY_MASK = jnp.asarray(np.random.default_rng(3).random((T, B)) < 0.6).at[:, 1].set(False)
RESETS = jnp.asarray(np.random.default_rng(4).random((T, B)) < 0.4)


# Stack ------------------------------------------------------------------------------------------


def test_stack_is_one_layer_after_another():
    """Values, carries and gradients are those of the layers composed by hand."""
    cells = gr.LSTM(H), gr.Elman(H)
    net = gr.stack(cells[0], gr.dense(4), cells[1], gr.dense(2))
    params, xs = random_params(net, IN), normal(T, B, IN)

    def composed(params, xs):
        first, a = gr.unroll(cells[0], params[0].cell, xs)
        a = a @ params[1].kernel + params[1].bias[None, None]
        second, a = gr.unroll(cells[1], params[2].cell, a)
        return (first, (), second, ()), a @ params[3].kernel + params[3].bias[None, None]

    assert_trees_close(outcome(net.apply, params, xs), outcome(composed, params, xs))


def test_stack_of_stacks_is_the_flat_stack():
    """Nesting changes neither values nor carries, but for the structure."""
    a, b, c = gr.recurrent(gr.GRU(H)), gr.dense(H), gr.recurrent(gr.Elman(H))
    pa, pb, pc = random_params(gr.stack(a, b, c), IN)
    xs = normal(T, B, IN)
    (ca, cb, cc), flat = apply(gr.stack(a, b, c), (pa, pb, pc), xs)
    nested = apply(gr.stack(a, gr.stack(b, c)), (pa, (pb, pc)), xs)
    assert_trees_close(nested, ((ca, (cb, cc)), flat))


def test_equal_layers_of_a_stack_start_differently():
    """`init` gives every layer a key of its own, and the shapes that follow from one another."""
    net = gr.stack(gr.embed(6, 4), gr.dense(4), gr.dense(4), gr.dropout(0.5), gr.dense(2))
    _, one, other, _, last = net.init(KEY, None)
    assert last.kernel.shape == (4, 2)
    assert one.kernel.shape == other.kernel.shape == (4, 4)
    assert not np.allclose(one.kernel, other.kernel)
    assert net.out_features(None) == 2


# Recurrent --------------------------------------------------------------------------------------


def test_learned_initial_carry_is_where_steps_start_from():
    """Every row, an empty one too, and every reset start from it, and reach its gradient."""
    net = gr.recurrent(gr.LSTM(H), initial="learned")
    params, xs = random_params(net, IN), normal(T, B, IN)

    def explicit(params, xs, **options):
        start = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, H)), params.initial)
        return gr.unroll(net.cell, params.cell, xs, start, reset_carry=start, **options)

    options = {"lengths": LENGTHS, "resets": RESETS}
    got = outcome(net.apply, params, xs, **options)
    assert_trees_close(got, outcome(explicit, params, xs, **options))


def test_learned_initial_carry_gets_a_gradient_through_resets_alone():
    """With another carry passed in, only what comes after a reset depends on the learned one."""
    net = gr.recurrent(gr.GRU(H), initial="learned")
    params, xs = random_params(net, IN), normal(T, B, IN)
    carry = gr.GRUCarry(normal(B, H, seed=1))

    @jax.jit
    def gradient(resets):
        def loss(params):
            return jnp.sum(jnp.sin(net.apply(params, xs, carry, resets=resets)[1]))

        return jax.grad(loss)(params).initial.h

    np.testing.assert_array_equal(gradient(jnp.zeros((T, B), bool)), np.zeros(H))
    assert np.all(np.abs(gradient(RESETS)) > 1e-6)


def test_learned_initial_carry_starts_as_the_cells_own():
    """`init` gives the cell's own carry without batch axes, in the dtype of the parameters."""
    cell = gr.LSTM(H)
    initial = jax.jit(lambda: gr.recurrent(cell, initial="learned").init(KEY, IN).initial)()
    assert_trees_equal(initial, cell.carry(()))
    narrow = jax.eval_shape(
        lambda: gr.recurrent(cell, initial="learned").init(KEY, IN, dtype=jnp.bfloat16)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype(jnp.bfloat16)}
    assert jax.eval_shape(lambda: gr.recurrent(cell).init(KEY, IN)).initial is None


# Bidirectional ----------------------------------------------------------------------------------

MERGE = {
    "concat": lambda a, b: jnp.concatenate([a, b], -1),
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: (a + b) / 2,
    "mul": lambda a, b: a * b,
}


def two_runs(net, params, xs, carry=None, **options):
    """A bidirectional layer as two explicit `unroll`s: `(carries, (forward, backward))`."""

    def run(layer, params, carry, reverse):
        if layer.initial == "learned":
            start = jax.tree.map(lambda v: jnp.broadcast_to(v, (B, *v.shape)), params.initial)
            carry = start if carry is None else carry
            with_reset = {"reset_carry": start} if "resets" in options else {}
        else:
            with_reset = {}
        how = {"reverse": reverse, "bptt": layer.bptt} | with_reset | options
        return gr.unroll(layer.cell, params.cell, xs, carry, **how)

    start = (None, None) if carry is None else carry
    forward, ahead = run(net.forward, params.forward, start[0], False)
    backward, back = run(net.backward, params.backward, start[1], True)
    return type(params)(forward, backward), (ahead, back)


BOTH = {"mask": ANY_MASK, "resets": RESETS}
BIDIRECTIONAL = {
    "concat": (gr.bidirectional(gr.LSTM(H)), {"lengths": LENGTHS}),
    "sum": (gr.bidirectional(gr.GRU(H), merge="sum"), {"resets": RESETS}),
    "mean": (gr.bidirectional(gr.Elman(H), merge="mean"), {}),
    "mul": (gr.bidirectional(gr.Elman(H), merge="mul"), BOTH),
    "no-rule": (gr.bidirectional(Leaky(4, H)), BOTH),
    "truncate": (gr.bidirectional(gr.recurrent(gr.Elman(H), gr.BPTT(truncate=2))), BOTH),
    "other": (gr.bidirectional(gr.LSTM(2), gr.Elman(H)), {"lengths": LENGTHS, "resets": RESETS}),
    "learned": (gr.bidirectional(gr.recurrent(gr.Elman(2), initial="learned")), BOTH),
    "learned-other": (
        gr.bidirectional(gr.Elman(H), gr.recurrent(gr.Elman(H), initial="learned"), "sum"),
        BOTH,
    ),
}


@pytest.mark.parametrize(("net", "options"), BIDIRECTIONAL.values(), ids=BIDIRECTIONAL)
def test_bidirectional_is_two_runs_merged(net, options):
    """Outputs, both final carries and all gradients are those of two explicit unrolls, merged."""
    params, xs = random_params(net, IN), normal(T, B, IN)

    def explicit(params, xs, **options):
        carries, ys = two_runs(net, params, xs, **options)
        return carries, MERGE[net.merge](*ys)

    got = outcome(net.apply, params, xs, **options)
    assert_trees_close(got, outcome(explicit, params, xs, **options))


def test_bidirectional_starts_from_the_carries_it_is_given():
    """Each direction from its own, at its own end, with gradients for both."""
    net = gr.bidirectional(gr.Elman(H))
    params, xs = random_params(net, IN), normal(T, B, IN)
    carry = type(net.carry((B,)))(*(gr.ElmanCarry(normal(B, H, seed=s)) for s in (5, 6)))

    def explicit(params, xs, carry, **options):
        carries, ys = two_runs(net, params, xs, carry, **options)
        return carries, jnp.concatenate(ys, -1)

    options = {"lengths": LENGTHS}
    got = outcome(net.apply, params, xs, carry, **options)
    assert_trees_close(got, outcome(explicit, params, xs, carry, **options))


# Repeat and residual ----------------------------------------------------------------------------


def test_repeat_is_a_loop_over_layers():
    """Values, carries and gradients, with a learned initial carry, padding and resets."""
    layer, n = gr.recurrent(gr.LSTM(H), initial="learned"), 3
    net = gr.repeat(layer, n)
    params, xs = random_params(net, H), normal(T, B, H)

    def loop(params, xs, **options):
        carries = []
        for index in range(n):
            carry, xs = layer.apply(jax.tree.map(lambda v, i=index: v[i], params), xs, **options)
            carries.append(carry)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *carries), xs

    options = {"lengths": LENGTHS, "resets": RESETS}
    got = outcome(net.apply, params, xs, **options)
    assert_trees_close(got, outcome(loop, params, xs, **options))


def test_repeat_drops_as_a_stack_does():
    """Each of the layers draws its own mask: the one of the same layers in a stack."""
    layer, n = gr.stack(gr.dropout(0.5), gr.dense(H)), 3
    params, xs = random_params(gr.repeat(layer, n), H), normal(T, B, H)
    each = tuple(jax.tree.map(lambda v, i=i: v[i], params) for i in range(n))
    _, repeated = apply(gr.repeat(layer, n), params, xs, key=KEY)
    _, stacked = apply(gr.stack(*[layer] * n), each, xs, key=KEY)
    np.testing.assert_allclose(repeated, stacked, rtol=1e-12)


def test_repeated_layers_start_differently():
    """`init` stacks parameters along a leading axis and gives each layer a key of its own."""
    params = gr.repeat(gr.dense(H), 2).init(KEY, H)
    assert params.kernel.shape == (2, H, H)
    assert not np.allclose(*params.kernel)


def test_residual_adds_the_input():
    """`y = x + layer(x)`, zero where masked; the carry and parameters are the layer's."""
    layer = gr.recurrent(gr.GRU(H))
    params, xs = random_params(layer, H), normal(T, B, H)

    def explicit(params, xs, *, lengths):
        carry, ys = layer.apply(params, xs, lengths=lengths)
        valid = (jnp.arange(T)[:, None] < lengths[None])[..., None]
        return carry, jnp.where(valid, xs + ys, jnp.zeros((), xs.dtype))

    got = outcome(gr.residual(layer).apply, params, xs, lengths=LENGTHS)
    assert_trees_close(got, outcome(explicit, params, xs, lengths=LENGTHS))


# Dense and embed --------------------------------------------------------------------------------


@pytest.mark.parametrize("use_bias", [True, False])
def test_dense_is_a_product_and_a_bias(use_bias):
    """`x W + b` at every step, and zeros, not `b`, where masked."""
    net = gr.dense(4, use_bias=use_bias)
    params, xs = random_params(net, IN), normal(T, B, IN)
    carry, ys = apply(net, params, xs, mask=ANY_MASK)
    bias = np.asarray(params.bias) if use_bias else 0.0
    want = np.asarray(xs) @ np.asarray(params.kernel) + bias
    assert carry == ()
    np.testing.assert_allclose(ys, np.where(ANY_MASK[..., None], want, 0.0), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.int64])
def test_embed_looks_tokens_up(dtype):
    """The row of each token; a row that no valid token names gets no gradient."""
    net = gr.embed(6, H)
    params = random_params(net, None)
    tokens = jnp.array([[5, 1], [1, 4], [0, 3]], dtype)
    lengths = jnp.array([2, 3])
    (carry, ys), (gradient,) = outcome(net.apply, params, tokens, lengths=lengths)
    assert carry == ()
    want = np.asarray(params.table)[np.asarray(tokens)]
    want[2, 0] = 0
    np.testing.assert_array_equal(ys, want)
    assert np.any(gradient != 0, axis=-1).tolist() == [False, True, False, True, True, True]


@pytest.mark.parametrize("token", [6, 100, -1, -6])
def test_token_out_of_range_shows_as_nan(token):
    """It is never taken for another token, and touches no other output."""
    net = gr.embed(6, H)
    ys = apply(net, random_params(net, None), jnp.array([[0, token, 5]]))[1]
    assert np.all(np.isnan(ys) == np.array([False, True, False])[None, :, None])


@pytest.mark.parametrize("token", [6, -1])
def test_masked_token_may_hold_anything(token):
    """Out of range or not, it gives zeros, and the gradient is what a valid token there gives."""
    net = gr.stack(gr.embed(6, H), gr.GRU(H))
    params, tokens = random_params(net, None), jnp.array([[1, 2], [3, 4], [5, 0]])
    padded = tokens.at[2, 0].set(token).at[1:, 1].set(token)
    got = outcome(net.apply, params, padded, lengths=jnp.array([2, 1]))
    assert_trees_equal(got, outcome(net.apply, params, tokens, lengths=jnp.array([2, 1])))


# Dropout ----------------------------------------------------------------------------------------


def test_dropout_keeps_the_right_share_and_scale():
    """A feature is zero with probability `rate`, else scaled by `1 / (1 - rate)`; unbiased."""
    rate, xs = 0.3, jnp.ones((50, 20, 40))
    _, ys = apply(gr.dropout(rate), (), xs, key=KEY)
    kept = np.asarray(ys) != 0
    np.testing.assert_allclose(np.asarray(ys)[kept], 1 / (1 - rate), rtol=1e-6)
    error = 5 * np.sqrt(rate * (1 - rate) / kept.size)
    assert abs(kept.mean() - (1 - rate)) < error
    for axis in range(3):  # no step, row or feature is special
        other = tuple({0, 1, 2} - {axis})
        share = kept.mean(axis=other)
        assert np.abs(share - (1 - rate)).max() < 5 * np.sqrt(0.21 * kept.shape[axis] / kept.size)


def test_dropout_per_step_and_shared_in_time():
    """A new mask at every step, or one mask for all steps, different from row to row."""
    xs = jnp.ones((6, 5, 20))
    per_step = np.asarray(apply(gr.dropout(0.5), (), xs, key=KEY)[1])
    shared = np.asarray(apply(gr.dropout(0.5, shared_in_time=True), (), xs, key=KEY)[1])
    assert len(np.unique(per_step.reshape(6, -1), axis=0)) == 6
    assert len(np.unique(shared.reshape(6, -1), axis=0)) == 1
    assert len(np.unique(shared[0], axis=0)) == 5


@pytest.mark.parametrize("shared", [False, True])
def test_dropout_follows_its_key(shared):
    """The same key gives the same mask, another key another, no key and rate 0 none."""
    net, xs = gr.dropout(0.5, shared_in_time=shared), normal(T, B, 8)
    once, again = (apply(net, (), xs, key=KEY)[1] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.any(once != apply(net, (), xs, key=jax.random.key(8))[1])
    np.testing.assert_array_equal(apply(net, (), xs)[1], xs)
    np.testing.assert_array_equal(apply(gr.dropout(0.0, shared), (), xs, key=KEY)[1], xs)


def test_dropout_layers_of_a_stack_draw_different_masks():
    """Two of them drop different features; their gradient is the mask itself."""
    net = gr.stack(gr.dropout(0.5), gr.dropout(0.5))
    xs = jnp.ones((T, B, 20), jnp.float64)
    (_, ys), (gradient,) = outcome(net.apply, ((), ()), xs, key=KEY)
    share = np.mean(np.asarray(ys) != 0)
    assert 0.15 < share < 0.35  # a quarter, not a half
    assert set(np.unique(ys)) == {0.0, 4.0}
    np.testing.assert_array_equal(np.asarray(gradient) != 0, np.asarray(ys) != 0)


# Final ------------------------------------------------------------------------------------------


def at_last_valid_step(ys, mask):
    """NumPy: the output of each row's last valid step, zeros where there is none."""
    ys, mask = np.asarray(ys), np.asarray(mask)
    out = np.zeros(ys.shape[1:])
    for row in np.ndindex(mask.shape[1:]):
        valid = np.flatnonzero(mask[:, *row])
        if valid.size:
            out[row] = ys[(valid[-1], *row)]
    return out


CAUSAL = {
    "recurrent": gr.recurrent(gr.LSTM(H)),
    "learned": gr.recurrent(gr.GRU(H), initial="learned"),
    "projected": gr.recurrent(gr.LSTM(4, projection=H)),
    "no-rule": gr.recurrent(Leaky(4, H)),
    "repeat": gr.repeat(gr.GRU(IN), 2),
    "residual": gr.residual(gr.GRU(IN)),
    "dense": gr.dense(2),
    "stack": gr.stack(gr.GRU(H), gr.dropout(0.5), gr.dense(2), gr.dropout(0.5)),
    "deep": gr.stack(gr.dense(H), gr.repeat(gr.stack(gr.Elman(H), gr.dropout(0.5)), 2)),
    "residual-top": gr.stack(gr.GRU(H), gr.residual(gr.dense(H))),
}


@pytest.mark.parametrize("mask", ["none", "lengths", "any"])
@pytest.mark.parametrize("net", CAUSAL.values(), ids=CAUSAL)
def test_final_of_a_causal_net_is_its_last_output(net, mask):
    """`apply`'s output at each row's last valid step, zeros for an empty row, the same carry."""
    params, xs = random_params(net, IN), normal(T, B, IN)
    flags = {
        "none": jnp.ones((T, B), bool),
        "lengths": jnp.arange(T)[:, None] < LENGTHS[None],
        "any": ANY_MASK,
    }[mask]
    options = {"none": {}, "lengths": {"lengths": LENGTHS}, "any": {"mask": ANY_MASK}}[mask]
    carry, y = apply(gr.final(net), params, xs, **options)
    want_carry, ys = apply(net, params, xs, **options)
    np.testing.assert_allclose(y, at_last_valid_step(ys, flags), rtol=1e-12, atol=1e-14)
    assert_trees_close(carry, want_carry)


@pytest.mark.parametrize("name", ["stack", "deep"])
def test_final_drops_what_apply_drops(name):
    """With a key and no padding, the last output has the mask that `apply` gives the last step."""
    net = CAUSAL[name]
    params, xs = random_params(net, IN), normal(T, B, IN)
    carry, y = apply(gr.final(net), params, xs, key=KEY)
    want_carry, ys = apply(net, params, xs, key=KEY)
    np.testing.assert_allclose(y, ys[-1], rtol=1e-12)
    assert_trees_close(carry, want_carry)


def test_final_of_an_empty_row_through_a_stack_is_zero():
    """Not the bias of the dense layer on top."""
    net = gr.final(gr.stack(gr.bidirectional(gr.GRU(H)), gr.dense(2)))
    _, y = apply(net, random_params(net, IN), normal(T, B, IN), lengths=LENGTHS)
    assert np.all(np.any(y != 0, axis=-1) == (LENGTHS > 0))


BPTTS = {
    "exact": gr.BPTT(),
    "truncate": gr.BPTT(truncate=2),
    "clip": gr.BPTT(clip=0.01),
    "autodiff": gr.BPTT("autodiff", truncate=2),
}


@pytest.mark.parametrize("bptt", BPTTS.values(), ids=BPTTS)
def test_gradient_of_final_is_that_of_the_last_output(bptt):
    """However the backward pass runs, padding after the last valid step takes nothing from it."""
    layer = gr.recurrent(gr.Elman(H), bptt)
    params, xs = random_params(layer, IN), normal(T, B, IN)

    def last_output(params, xs, **options):
        ys = layer.apply(params, xs, **options)[1]
        return jnp.where(
            LENGTHS[:, None] > 0, ys[LENGTHS - 1, np.arange(B)], jnp.zeros((), ys.dtype)
        )

    def final(params, xs, **options):
        return gr.final(layer).apply(params, xs, **options)[1]

    got = outcome(final, params, xs, lengths=LENGTHS)
    assert_trees_close(got, outcome(last_output, params, xs, lengths=LENGTHS))


FINAL_BIDIRECTIONAL = {
    **{merge: gr.bidirectional(gr.Elman(H), merge=merge) for merge in MERGE},
    "other": gr.bidirectional(gr.LSTM(H), gr.Elman(2)),
    "no-rule": gr.bidirectional(Leaky(4, H), merge="mul"),
    "no-rule-other": gr.bidirectional(gr.Elman(2), Leaky(4, H)),
    "truncate": gr.bidirectional(gr.recurrent(gr.Elman(H), gr.BPTT(truncate=2))),
}


@pytest.mark.parametrize("name", FINAL_BIDIRECTIONAL)
def test_final_of_a_bidirectional_layer_merges_both_ends(name):
    """The forward output of the last valid step with the backward output of the first one."""
    net = FINAL_BIDIRECTIONAL[name]
    params, xs = random_params(net, IN), normal(T, B, IN)

    def explicit(params, xs, **options):
        carries, (forward, backward) = two_runs(net, params, xs, **options)
        first, last = ANY_MASK.argmax(0), T - 1 - ANY_MASK[::-1].argmax(0)
        y = MERGE[net.merge](forward[last, np.arange(B)], backward[first, np.arange(B)])
        return carries, jnp.where(ANY_MASK.any(0)[:, None], y, jnp.zeros((), y.dtype))

    got = outcome(gr.final(net).apply, params, xs, **BOTH)
    assert_trees_close(got, outcome(explicit, params, xs, **BOTH))


def test_final_of_a_stack_over_a_bidirectional_layer():
    """Dense layers on top see both ends; a recurrent layer on top has a last output of its own."""
    layer, read_out = gr.bidirectional(gr.GRU(H)), gr.dense(2)
    params, xs = random_params(gr.stack(layer, read_out), IN), normal(T, B, IN)
    _, y = apply(gr.final(gr.stack(layer, read_out)), params, xs, lengths=LENGTHS)
    _, ends = apply(gr.final(layer), params[0], xs, lengths=LENGTHS)
    want = np.asarray(ends) @ np.asarray(params[1].kernel) + np.asarray(params[1].bias)
    np.testing.assert_allclose(y, np.where(LENGTHS[:, None] > 0, want, 0), rtol=1e-12)

    net = gr.stack(layer, gr.Elman(2))
    params = random_params(net, IN)
    carry, y = apply(gr.final(net), params, xs, lengths=LENGTHS)
    assert_trees_close(carry, apply(net, params, xs, lengths=LENGTHS)[0])
    np.testing.assert_allclose(y, np.where(LENGTHS[:, None] > 0, carry[1].h, 0), rtol=1e-12)


def test_final_of_repeated_bidirectional_layers():
    """The last of them is read at both ends, those below as sequences."""
    layer = gr.bidirectional(gr.Elman(H), merge="mean")
    params, xs = random_params(gr.repeat(layer, 2), H), normal(T, B, H)
    first, last = (jax.tree.map(lambda v, i=i: v[i], params) for i in range(2))
    _, y = apply(gr.final(gr.repeat(layer, 2)), params, xs, lengths=LENGTHS)
    _, below = apply(layer, first, xs, lengths=LENGTHS)
    np.testing.assert_allclose(
        y, apply(gr.final(layer), last, below, lengths=LENGTHS)[1], rtol=1e-12
    )


# Padding ----------------------------------------------------------------------------------------

WHOLE = gr.stack(
    gr.embed(6, H),
    gr.residual(gr.recurrent(gr.GRU(H), initial="learned")),
    gr.bidirectional(gr.Elman(2)),
    gr.dropout(0.4),
    gr.dense(H),
    gr.repeat(gr.residual(gr.stack(gr.Elman(H), gr.dropout(0.3, shared_in_time=True))), 2),
    gr.dense(2),
)
WITHOUT_EMBED = gr.stack(gr.dense(H), *WHOLE.layers[1:])


@pytest.mark.parametrize("final", [False, True], ids=["apply", "final"])
def test_nan_in_the_padding_changes_nothing(final):
    """No output, carry or gradient, through a whole stack with dropout; masked outputs are 0."""
    net = gr.final(WITHOUT_EMBED) if final else WITHOUT_EMBED
    params, xs = random_params(net, H), normal(T, B, H)
    padding = ~ANY_MASK[..., None]
    clean = jnp.where(padding, jnp.zeros((), xs.dtype), xs)
    dirty = jnp.where(padding, jnp.asarray(np.nan), xs)
    options = {"mask": ANY_MASK, "resets": RESETS, "key": KEY}
    got = outcome(net.apply, params, dirty, **options)
    assert_trees_equal(got, outcome(net.apply, params, clean, **options))
    (_, ys), gradients = got
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    assert np.all(gradients[-1][~ANY_MASK] == 0)
    assert np.all(ys[1] == 0) if final else np.all(ys[~ANY_MASK] == 0)


@pytest.mark.parametrize(
    "layer",
    [
        gr.dense(H),
        gr.dropout(0.5),
        gr.residual(gr.dense(H)),
        gr.repeat(gr.residual(gr.dense(H)), 2),
        gr.stack(gr.dropout(0.5), gr.dense(H)),
        gr.recurrent(Leaky(4, H)),
    ],
    ids=["dense", "dropout", "residual", "repeat", "stack", "no-rule"],
)
def test_layers_zero_what_is_masked(layer):
    """Each by itself: NaN on entry reaches no output and no gradient; zeros on exit."""
    params, xs = random_params(layer, H), normal(T, B, H)
    dirty = jnp.where(ANY_MASK[..., None], xs, jnp.asarray(np.nan))
    (_, ys), gradients = outcome(layer.apply, params, dirty, mask=ANY_MASK, key=KEY)
    assert np.all(ys[~ANY_MASK] == 0)
    assert np.all(gradients[-1][~ANY_MASK] == 0)
    assert all(np.all(np.isfinite(leaf)) for leaf in (ys, *gradients))


def test_padded_batch_is_each_sequence_alone():
    """Outputs, carries and the sum of the gradients, through a whole stack, tokens first."""
    params = random_params(WHOLE, None)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 6, (T, B)))
    weights = normal(T, B, 2)

    def loss(params, tokens, weights, **options):
        carry, ys = WHOLE.apply(params, tokens, **options)
        floats = [c for c in jax.tree.leaves(carry) if jnp.issubdtype(c.dtype, jnp.floating)]
        return jnp.sum(weights * ys) + sum(jnp.sum(c * c) for c in floats), ys

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, ys), gradient = run(params, tokens, weights, lengths=LENGTHS)
    values, gradients = [], []
    for row, n in enumerate(LENGTHS):
        (alone, y), g = run(params, tokens[:n, row], weights[:n, row])
        np.testing.assert_allclose(ys[:n, row], y, rtol=1e-11, atol=1e-13)
        values.append(alone)
        gradients.append(g)
    np.testing.assert_allclose(value, sum(values), rtol=1e-11)
    total = jax.tree.map(lambda *leaves: sum(leaves), *gradients)
    assert_trees_close(gradient, total)


# Dtypes and shapes ------------------------------------------------------------------------------

PLAIN = gr.stack(
    gr.dense(H),
    gr.residual(gr.LSTM(H)),
    gr.bidirectional(gr.GRU(H), merge="mean"),
    gr.dropout(0.5),
    gr.repeat(gr.Elman(H), 2),
    gr.dense(2),
)


@pytest.mark.parametrize(
    ("dtype", "params_dtype"),
    [(jnp.float32, jnp.float32), (jnp.bfloat16, jnp.bfloat16), (jnp.bfloat16, jnp.float32)],
    ids=["float32", "bfloat16", "mixed"],
)
def test_outputs_keep_the_dtype_of_the_inputs(dtype, params_dtype):
    """Through a whole stack; the carry is the one of `net.carry`; gradients match parameters."""
    params = random_params(PLAIN, IN, dtype=params_dtype)
    xs = normal(T, B, IN, dtype=dtype)

    def loss(params):
        carry, ys = PLAIN.apply(params, xs, lengths=LENGTHS, key=KEY)
        return jnp.sum(ys.astype(jnp.float32)), (carry, ys)

    gradient, (carry, ys) = jax.eval_shape(jax.grad(loss, has_aux=True), params)
    assert ys.dtype == dtype
    assert all(leaf.dtype == params_dtype for leaf in jax.tree.leaves(gradient))
    expected = jax.eval_shape(lambda: PLAIN.carry((B,), dtype, params))
    assert jax.tree.map(jnp.result_type, carry) == jax.tree.map(jnp.result_type, expected)


def test_bfloat16_stays_close_to_float64():
    """A whole stack in bfloat16, with float32 parameters, computes the same function."""
    params, xs = random_params(PLAIN, IN), normal(T, B, IN, dtype=jnp.bfloat16)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    _, ys = apply(PLAIN, params, xs.astype(jnp.float64), lengths=LENGTHS, resets=RESETS)
    _, rough = apply(PLAIN, narrow, xs, lengths=LENGTHS, resets=RESETS)
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(jnp.float64), ys, atol=0.05)


@pytest.mark.parametrize("batch", [(), (2, 2)], ids=str)
def test_any_number_of_batch_axes(batch):
    """None or two, with lengths and resets: row by row what one batch axis gives."""
    rows = slice(0, max(1, int(np.prod(batch))))
    params, xs = random_params(PLAIN, IN), normal(T, B, IN)
    _, flat = apply(PLAIN, params, xs, lengths=LENGTHS, resets=RESETS)
    carry, ys = apply(
        PLAIN,
        params,
        xs[:, rows].reshape(T, *batch, IN),
        lengths=LENGTHS[rows].reshape(batch),
        resets=RESETS[:, rows].reshape(T, *batch),
    )
    want = flat[:, rows].reshape(ys.shape)
    np.testing.assert_allclose(ys, want, rtol=1e-12, atol=1e-14)
    expected = jax.eval_shape(lambda: PLAIN.carry(batch, jnp.float64, params))
    assert jax.tree.map(jnp.shape, carry) == jax.tree.map(jnp.shape, expected)


@pytest.mark.parametrize("final", [False, True], ids=["apply", "final"])
@pytest.mark.parametrize(("length", "batch"), [(0, 2), (T, 0)], ids=["T=0", "B=0"])
def test_nothing_gives_nothing(length, batch, final):
    """T = 0 or an empty batch: empty outputs (final: zeros), initial carries, zero gradients."""
    net = gr.stack(
        gr.residual(gr.recurrent(gr.GRU(H), initial="learned")),
        gr.repeat(gr.bidirectional(gr.Elman(H), merge="mean"), 2),
        gr.dropout(0.4),
        gr.dense(2),
    )
    net = gr.final(net) if final else net
    params, xs = random_params(net, H), jnp.zeros((length, batch, H), jnp.float64)
    options = {"lengths": jnp.full(batch, length), "resets": jnp.zeros((length, batch), bool)}

    def total(params):
        carry, ys = net.apply(params, xs, **options, key=KEY)
        return jnp.sum(ys), (carry, ys)

    gradient, (carry, ys) = jax.jit(jax.grad(total, has_aux=True))(params)
    assert ys.shape == ((batch, 2) if final else (length, batch, 2))
    assert np.all(ys == 0)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))
    initial = net.carry((batch,), jnp.float64, params)
    if length == 0:
        assert_trees_equal(carry, initial)
    assert jax.tree.map(jnp.shape, carry) == jax.tree.map(jnp.shape, initial)


@pytest.mark.parametrize(
    "nest",
    [
        lambda dense: gr.stack(gr.dropout(0.0), dense),
        gr.residual,
        lambda dense: gr.repeat(gr.stack(dense), 2),
    ],
    ids=["stack", "residual", "repeat"],
)
def test_what_is_on_top_of_both_ends_may_be_nested(nest):
    """Stepwise layers see the one output of the layers below, however they are put together."""
    below, top = gr.bidirectional(gr.GRU(2)), nest(gr.dense(4))
    net = gr.stack(below, top)
    params, xs = random_params(net, IN), normal(T, B, IN)
    lengths = jnp.array([T, 2, 1, 0])
    _, ends = gr.final(below).apply(params[0], xs, lengths=lengths)
    _, expected = top.apply(params[1], ends[None])
    _, got = gr.final(net).apply(params, xs, lengths=lengths)
    np.testing.assert_allclose(got[:3], expected[0, :3], rtol=1e-12)
    assert not got[3].any()  # an empty row


def test_lengths_in_a_small_dtype():
    """Steps are counted beyond what the dtype of `lengths` can hold."""
    cell, xs = gr.Elman(2), normal(300, 1, IN)
    _, ys = gr.unroll(cell, random_params(cell, IN), xs, lengths=jnp.array([100], jnp.int8))
    assert not ys[100:].any()


def test_tokens_in_a_small_dtype():
    """A vocabulary may be larger than what the dtype of the tokens can hold."""
    layer = gr.embed(200, 2)
    params = random_params(layer, None)
    _, ys = layer.apply(params, jnp.array([[3], [-1]], jnp.int8))
    np.testing.assert_array_equal(ys[0, 0], params.table[3])
    assert jnp.isnan(ys[1]).all()


def test_numpy_parameters_and_scalars():
    """Parameters from a file may be NumPy's, and so may a rate: neither changes a dtype."""
    net = gr.stack(gr.embed(5, H), gr.dropout(np.float64(0.5)), gr.GRU(H), gr.dense(2))
    params = random_params(net, None, dtype=jnp.float32)
    tokens, key = jnp.array([[1], [4]]), jax.random.key(0)
    _, expected = net.apply(params, tokens, key=key)
    _, got = net.apply(jax.tree.map(np.asarray, params), tokens, key=key)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, expected)


def test_numpy_numbers_in_bptt():
    """A bound of NumPy's does not promote, and a truncation may be longer than any sequence."""
    cell, xs = gr.Elman(H), normal(T, B, IN, dtype=np.float32)
    params = random_params(cell, IN, dtype=jnp.float32)
    for rule in ("hand", "autodiff"):
        bptt = gr.BPTT(rule=rule, clip=np.float64(1.0), truncate=2**40)
        gradient = jax.grad(lambda p, b=bptt: jnp.sum(gr.unroll(cell, p, xs, bptt=b)[1]))(params)
        assert gradient.kernel.dtype == jnp.float32
