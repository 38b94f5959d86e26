"""Layers and cells in flax.linen: our numbers, flax's trees."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    assert_trees_close,
    assert_trees_equal,
    normal,
    outcome,
    random_params,
)

import gatedrnn as gr
from interop.flax_networks import (
    AT_LEAST_ONE,
    CELLS,
    DRAWING,
    IN,
    LAYERS,
    LENGTHS,
    OPTIONS,
    RESETS,
    B,
    H,
    T,
    V,
    features_of,
    inputs_of,
    ours,
    swapped,
    valid,
)

pytest.importorskip("flax")

import flax
import flax.linen as nn
from flax.training.train_state import TrainState

from gatedrnn.flax import from_tree, to_tree
from gatedrnn.flax.linen import Cell, Layer

KEY = jax.random.key(7)


def held(name, **options):
    """A module, its layer with random parameters, and inputs."""
    module = Layer(LAYERS[name], param_dtype=jnp.float64, **options)
    layer = module.layer
    return module, layer, random_params(layer, features_of(layer)), inputs_of(layer)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def run(module, params, *arguments, method=None, rngs=None, **options):
    """`module.apply` with these parameters, in our terms, compiled once for equal modules."""
    return module.apply(
        {"params": to_tree(params)}, *arguments, method=method, rngs=rngs, **options
    )


class Probe(nn.Module):
    """The key that a module at the top takes from its stream."""

    def __call__(self):
        return self.make_rng("dropout")


DROPOUT = Probe().apply({}, rngs={"dropout": KEY})


# A layer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_ours_does(name):
    """Outputs, final carries and gradients."""
    module, layer, params, xs = held(name, deterministic=True)

    def theirs(params, xs):
        return run(module, params, xs, **OPTIONS[name])

    def mine(params, xs):
        return ours(layer, params, xs, **OPTIONS[name])

    got = outcome(theirs, params, xs)
    assert_trees_close(got, outcome(mine, params, xs), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", DRAWING)
def test_dropout_takes_a_key_of_its_stream(name):
    module, layer, params, xs = held(name, deterministic=False)
    got = run(module, params, xs, rngs={"dropout": KEY})
    assert_trees_close(got, ours(layer, params, xs, key=DROPOUT))
    calm = run(module.clone(deterministic=True), params, xs)
    assert_trees_close(calm, ours(layer, params, xs))
    assert not np.array_equal(got[1], calm[1])
    tree = {"params": to_tree(params)}
    with pytest.raises(ValueError, match='"deterministic" must be passed'):
        module.clone(deterministic=None).apply(tree, xs)
    with pytest.raises(flax.errors.InvalidRngError, match='needs PRNG for "noise"'):
        module.clone(rng_collection="noise").apply(tree, xs, rngs={"dropout": KEY})


@pytest.mark.parametrize("name", ["learned", "repeat", "tokens", "zoneout"])
def test_windows_and_steps_are_the_whole_sequence(name):
    """With the same key, if it draws."""
    module, _, params, xs = held(name, deterministic=False)
    key = DROPOUT if name in DRAWING else None
    rngs = {"dropout": KEY}
    whole = run(module, params, xs, rngs=rngs)
    start = run(module, params, xs[:, 0], method="initial_carry")

    carry, first = run(module, params, xs[:, :2], start, rngs=rngs)
    carry, rest = run(module, params, xs[:, 2:], carry, rngs=rngs)
    assert_trees_close((carry, jnp.concatenate([first, rest], 1)), whole)

    carry, outputs = start, []
    for x in swapped(xs):
        carry, y = run(module, params, carry, x, key=key, method="step")
        outputs.append(y)
    assert_trees_close((carry, jnp.stack(outputs, 1)), whole)
    assert_trees_close(
        run(module, params, None, xs[:, 0], key=key, method="step"),
        run(module, params, start, xs[:, 0], key=key, method="step"),
    )


@pytest.mark.parametrize("name", ["tokens", "final"])
def test_any_batch_axes_in_either_layout(name):
    """None or two of them, and time first."""
    module, layer, params, xs = held(name)
    options = {"lengths": LENGTHS, "resets": RESETS}
    carry, ys = ours(layer, params, xs, **options)
    one = run(module, params, xs[1], lengths=LENGTHS[1], resets=RESETS[1])
    assert_trees_close(one[1], ys[1])
    two = run(module, params, xs[None], lengths=LENGTHS[None], resets=RESETS[None])
    assert_trees_close(two[1], ys[None])
    time_first = module.clone(time_major=True)
    first = run(time_first, params, swapped(xs), lengths=LENGTHS, resets=swapped(RESETS))
    assert_trees_close(first, (carry, ys if name == "final" else swapped(ys)))


def test_parameters_are_made_by_the_layer():
    """By its own `init`, from the one key that flax gives to the first of them."""
    layer = gr.stack(gr.embed(V, IN), gr.recurrent(gr.Elman(H), initial="learned"), gr.dense(2))

    class Key(nn.Module):
        @nn.compact
        def __call__(self):
            return self.param("key", lambda key: key)

    variables = Layer(layer, jnp.float64).init(KEY, inputs_of(layer))
    key = Key().init(KEY)["params"]["key"]
    assert_trees_equal(variables, {"params": to_tree(layer.init(key, None, jnp.float64))})


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_live_in_nested_dictionaries(name):
    """Of the dtype asked for, and of arrays alone."""
    module, _, params, xs = held(name, deterministic=True)
    tree = jax.eval_shape(module.init, KEY, xs).get("params", {})
    assert jax.tree.map(lambda a: (a.shape, a.dtype), tree) == jax.tree.map(
        lambda a: (a.shape, jnp.dtype(jnp.float64)), to_tree(params)
    )
    assert all(isinstance(k, str) for path in flax.traverse_util.flatten_dict(tree) for k in path)


@st.composite
def networks(draw, depth=2):
    """Layers within layers that make as many features as they read."""
    if depth == 0:
        cells = [
            gr.LSTM(IN, coupled=True),
            gr.GRU(IN, reset="after"),
            gr.Elman(IN),
            gr.Jordan(2, IN),
        ]
        cell, initial = draw(st.sampled_from(cells)), draw(st.sampled_from(["zeros", "learned"]))
        layer = gr.recurrent(cell, initial=initial)
        return draw(st.sampled_from([layer, gr.bidirectional(layer, merge="sum"), gr.dropout(0.1)]))
    inner = networks(depth - 1)
    several = st.lists(inner, min_size=1, max_size=12).map(lambda layers: gr.stack(*layers))
    repeated = st.builds(gr.repeat, inner, st.integers(1, 2))
    return draw(st.one_of(several, repeated, inner.map(gr.residual)))


@settings(max_examples=15, deadline=None)
@given(st.one_of(networks(), networks().map(gr.pool)))
def test_trees_go_back_and_forth(layer):
    """Of any network, the very arrays; flax makes the same tree."""
    shapes = jax.eval_shape(lambda: layer.init(KEY, IN))
    tree = to_tree(shapes)
    assert from_tree(layer, tree, IN) == shapes
    assert from_tree(layer, flax.core.freeze(tree), IN) == shapes
    xs = jnp.zeros((B, T, IN), jnp.float32)
    made = jax.eval_shape(Layer(layer, deterministic=True).init, KEY, xs)
    assert made.get("params", {}) == tree


def test_names_in_the_tree():
    layer = gr.stack(
        gr.bidirectional(gr.LSTM(H)), gr.dropout(0.1), gr.recurrent(gr.GRU(2), initial="learned")
    )
    init = Layer(layer, deterministic=True).init
    tree = jax.eval_shape(init, KEY, jnp.zeros((B, T, IN), jnp.float32))["params"]
    cell = {"kernel", "recurrent_kernel", "bias"}
    assert {"/".join(path) for path in flax.traverse_util.flatten_dict(tree)} == {
        *(f"0/{way}/cell/{name}" for way in ("forward", "backward") for name in cell),
        *(f"2/cell/{name}" for name in cell),
        "2/initial/h",
    }


# Inside flax models -----------------------------------------------------------------------------


class Tagger(nn.Module):
    """The example in the documentation of `Layer`."""

    @nn.compact
    def __call__(self, tokens, lengths, deterministic):
        layer = gr.stack(gr.embed(V, IN), gr.bidirectional(gr.LSTM(H)), gr.dropout(0.1))
        _, ys = Layer(layer)(tokens, lengths=lengths, deterministic=deterministic)
        return nn.Dense(5)(ys)


TOKENS = inputs_of(LAYERS["tokens"])


@functools.cache
def tagger_params():
    shapes = jax.eval_shape(
        lambda: Tagger().init({"params": KEY}, TOKENS, LENGTHS, deterministic=False)["params"]
    )
    return jax.tree.map(lambda a: normal(*a.shape, dtype=a.dtype) / 3, shapes)


def tagger_loss(params, rngs=None):
    logits = Tagger().apply(
        {"params": params}, TOKENS, LENGTHS, deterministic=rngs is None, rngs=rngs
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS % 5)
    return jnp.where(jnp.arange(T)[None] < LENGTHS[:, None], losses, 0).sum()


def test_training():
    """A `TrainState` learns, with dropout, and weight decay that a mask keeps to the kernels."""

    def kernels(params):
        flat = flax.traverse_util.flatten_dict(params)
        return flax.traverse_util.unflatten_dict({path: path[-1] == "kernel" for path in flat})

    params = tagger_params()
    decayed = kernels(params)
    assert decayed["Layer_0"]["1"]["forward"]["cell"] == {
        "kernel": True,
        "recurrent_kernel": False,
        "bias": False,
    }

    @jax.jit
    def train(state, keys):
        def update(state, key):
            loss, grads = jax.value_and_grad(tagger_loss)(state.params, {"dropout": key})
            return state.apply_gradients(grads=grads), loss

        return jax.lax.scan(update, state, keys)

    with jax.numpy_dtype_promotion("standard"):  # optax wants it
        tx = optax.adamw(0.05, mask=kernels)
        state = TrainState.create(apply_fn=Tagger().apply, params=params, tx=tx)
        state, losses = train(state, jax.random.split(KEY, 25))
    assert losses[-1] < 0.3 * losses[0]
    blank = jax.tree.map(jnp.zeros_like, state)
    restored = flax.serialization.from_bytes(blank, flax.serialization.to_bytes(state))
    assert_trees_equal(jax.tree.leaves(restored), jax.tree.leaves(state))


def test_gradients_of_a_model_come_back_in_our_terms():
    """Those of the branch of its module, against the same network written out."""
    layer = gr.stack(gr.embed(V, IN), gr.bidirectional(gr.LSTM(H)), gr.dropout(0.1))
    grads = jax.jit(jax.grad(tagger_loss))(tagger_params())
    params, dense = from_tree(layer, tagger_params()["Layer_0"], None), tagger_params()["Dense_0"]

    def loss(params):
        _, ys = ours(layer, params, TOKENS, lengths=LENGTHS)
        logits = ys @ dense["kernel"] + dense["bias"][None, None]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS % 5)
        return jnp.where(jnp.arange(T)[None] < LENGTHS[:, None], losses, 0).sum()

    want = jax.jit(jax.grad(loss))(params)
    assert_trees_close(from_tree(layer, grads["Layer_0"], None), want, rtol=1e-5, atol=1e-6)


def test_checkpoints_of_orbax(tmp_path):
    """To the bit."""
    ocp = pytest.importorskip("orbax.checkpoint")
    params = tagger_params()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "1", params)
        checkpointer.wait_until_finished()
        like = jax.tree.map(jnp.zeros_like, params)
        assert_trees_equal(checkpointer.restore(tmp_path / "1", like), params)


def test_a_decoder_with_attention():
    """`params` is where `gr.attend` binds a memory."""
    decoder = gr.stack(gr.Attention(gr.GRU(H), memory_features=2 * H, features=4), gr.dense(2))

    class Model(nn.Module):
        def setup(self):
            self.encoder = Layer(gr.bidirectional(gr.LSTM(H)), jnp.float64)
            self.decoder = Layer(decoder, jnp.float64)

        def __call__(self, sources, targets):
            _, memory = self.encoder(sources, lengths=LENGTHS)
            params = gr.attend(self.decoder.params(IN), swapped(memory), lengths=LENGTHS)
            return decoder.apply(params, swapped(targets))[1]

    xs = normal(B, T, IN)
    model = gr.seq2seq(gr.bidirectional(gr.LSTM(H)), decoder, bridge=None)
    params = gr.Seq2SeqParams(
        random_params(model.encoder, IN), random_params(decoder, IN), bridge=None
    )
    trees = {"encoder": to_tree(params.encoder), "decoder": to_tree(params.decoder)}
    _, want = jax.jit(model.apply)(params, swapped(xs), swapped(xs), source_lengths=LENGTHS)
    assert_trees_close(jax.jit(Model().apply)({"params": trees}, xs, xs), want)
    made = jax.eval_shape(Model().init, KEY, xs, xs)["params"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, trees)


def test_under_remat_vmap_and_scan():
    """Of flax: gradients through `nn.remat`, an ensemble by `nn.vmap`, streaming by `nn.scan`."""
    name = "learned"
    module, layer, params, xs = held(name)

    def of(layer_class):
        other = layer_class(LAYERS[name], param_dtype=jnp.float64)
        return lambda params, xs: run(other, params, xs, lengths=LENGTHS)

    want = outcome(of(Layer), params, xs)
    assert_trees_close(outcome(of(nn.remat(Layer)), params, xs), want)
    made = jax.eval_shape(nn.remat(Layer)(LAYERS[name], param_dtype=jnp.float64).init, KEY, xs)
    assert made == jax.eval_shape(module.init, KEY, xs)

    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, random_params(layer, IN, seed=1))
    ensemble = nn.vmap(
        Layer, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None
    )
    got = run(ensemble(LAYERS[name], jnp.float64), both, xs)
    assert_trees_close(got, jax.vmap(lambda p: ours(layer, p, xs))(both))

    class Stream(nn.Module):
        @nn.compact
        def __call__(self, xs):
            inner = Layer(LAYERS[name], jnp.float64)
            scan = nn.scan(
                Layer.step,
                variable_broadcast="params",
                split_rngs={"params": False},
                in_axes=1,
                out_axes=1,
            )
            return scan(inner, inner.initial_carry(xs[:, 0]), xs)

    tree = {"params": {"Layer_0": to_tree(params)}}
    assert jax.tree.map(jnp.shape, jax.eval_shape(Stream().init, KEY, xs)) == jax.tree.map(
        jnp.shape, tree
    )
    assert_trees_close(jax.jit(Stream().apply)(tree, xs), ours(layer, params, xs))


def test_16_bits():
    """Inputs of 16 bits with parameters of 16 or 32, in a layer and in flax's own loop."""
    xs = normal(B, T, IN, dtype=jnp.bfloat16)
    for dtype in (jnp.bfloat16, jnp.float32):
        module = Layer(gr.LSTM(H), dtype)
        made = jax.eval_shape(module.init, KEY, xs)
        assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(dtype)}
        params = random_params(module.layer, IN, dtype=dtype)
        want = ours(module.layer, params, xs)
        assert_trees_equal(run(module, params, xs), want)
        rnn = nn.RNN(Cell(gr.LSTM(H), dtype), return_carry=True)
        carry, ys = run(rnn, {"cell": params.cell}, xs)
        assert ys.dtype == jnp.bfloat16
        assert carry.c.dtype == jnp.float32
        np.testing.assert_allclose(ys.astype(float), want[1].astype(float), atol=0.03)


# A cell in flax's own loops ---------------------------------------------------------------------


def rnn_of(cell, **options):
    return nn.RNN(Cell(cell, jnp.float64), return_carry=True, **options)


@pytest.mark.parametrize(("name", "reverse"), [(name, k % 2 == 0) for k, name in enumerate(CELLS)])
def test_a_cell_in_flax_rnn(name, reverse):
    """Equals `gr.unroll`, with lengths and an initial carry, forward or in reverse."""
    cell = CELLS[name]
    params, xs = random_params(cell, IN), normal(B, T, IN)
    carry = jax.tree.map(
        lambda leaf: normal(*leaf.shape, seed=1),
        jax.eval_shape(lambda: cell.carry((B,), jnp.float64)),
    )

    def theirs(params, xs, carry):
        rnn = rnn_of(cell, reverse=reverse, keep_order=True)
        options = {"initial_carry": carry, "seq_lengths": AT_LEAST_ONE}
        carry, ys = run(rnn, {"cell": params}, xs, **options)
        return carry, valid(ys, AT_LEAST_ONE)

    def mine(params, xs, carry):
        options = {"lengths": AT_LEAST_ONE, "reverse": reverse}
        carry, ys = gr.unroll(cell, params, swapped(xs), carry, **options)
        return carry, swapped(ys)

    assert_trees_close(outcome(theirs, params, xs, carry), outcome(mine, params, xs, carry))

    carry, ys = gr.unroll(cell, params, swapped(xs))
    assert_trees_close(run(rnn_of(cell), {"cell": params}, xs), (carry, swapped(ys)))


def test_cells_in_flax_bidirectional():
    layer = gr.bidirectional(gr.LSTM(H), gr.GRU(2))
    params, xs = random_params(layer, IN), normal(B, T, IN)
    module = nn.Bidirectional(rnn_of(gr.LSTM(H)), rnn_of(gr.GRU(2)), return_carry=True)

    def theirs(params, xs):
        both = {f"{way}_rnn": {"cell": p.cell} for way, p in params._asdict().items()}
        carries, ys = run(module, both, xs, seq_lengths=AT_LEAST_ONE)
        return gr.Directions(*carries), valid(ys, AT_LEAST_ONE)

    def mine(params, xs):
        return ours(layer, params, xs, lengths=AT_LEAST_ONE)

    assert_trees_close(outcome(theirs, params, xs), outcome(mine, params, xs))


def test_what_flax_rnn_does_with_padding():
    """It returns the carry after all padding for a row of length 0, and outputs in the padding.

    `Layer` does neither.
    """
    cell = gr.LSTM(H)
    params, xs = random_params(cell, IN), normal(B, T, IN)
    carry, ys = run(rnn_of(cell), {"cell": params}, xs, seq_lengths=LENGTHS)
    padded, _ = gr.unroll(cell, params, swapped(xs))
    assert LENGTHS[2] == 0
    assert_trees_close(carry.h[2], padded.h[2])
    assert (ys[1, 2:] != 0).all()
    params = gr.RecurrentParams(params, None)
    carry, ys = run(Layer(cell, jnp.float64), params, xs, lengths=LENGTHS)
    assert not carry.h[2].any()
    assert not ys[1, 2:].any()


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Layer(gr.LSTM), TypeError, "layer: got <class .*expected a layer or a cell"),
        (lambda: Layer(nn.Dense(3)), TypeError, "(?s)layer: got Dense.*expected a layer or a cell"),
        (
            lambda: Layer(gr.seq2seq(gr.LSTM(H), gr.LSTM(H))),
            TypeError,
            "layer: got Seq2Seq.*expected a layer or a cell",
        ),
        (lambda: Layer(gr.LSTM(H), jnp.int32), TypeError, "param_dtype: got int32"),
        (lambda: Layer(gr.LSTM(H), time_major=1), ValueError, "time_major: got 1, expected True"),
        (lambda: Cell(gr.recurrent(gr.LSTM(H))), TypeError, "cell: got recurrent.*a layer, not"),
        (lambda: Cell(gr.LSTM(H), "int8"), TypeError, "param_dtype: got int8"),
        (
            lambda: Cell(gr.Zoneout(gr.LSTM(H), h=0.1)),
            TypeError,
            r"cell: got Zoneout.*draws no masks.*use Layer\(cell\)",
        ),
        (lambda: Cell(gr.RecurrentDropout(gr.LSTM(H), 0.1)), TypeError, "cell: got RecurrentDrop"),
    ],
)
def test_what_cannot_be_held_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def apply_lstm(xs, tree=None, **options):
    module = Layer(gr.LSTM(H), jnp.float64)
    tree = to_tree(random_params(module.layer, IN)) if tree is None else tree
    return module.apply({"params": tree}, xs, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: apply_lstm(normal(IN)), r"xs: got shape \(4,\), expected \[\*B, T, I\]"),
        (
            lambda: apply_lstm(normal(B, T, IN), mask=jnp.ones((T, B), bool)),
            r"mask: got shape \(4, 3\), expected \(3, 4\), the axes \[\*B, T\]",
        ),
        (
            lambda: apply_lstm(normal(B, T, IN), resets=jnp.ones(T, bool)),
            r"resets: got shape \(4,\), expected \(3, 4\)",
        ),
        (
            lambda: apply_lstm(normal(B, T, IN), lengths=jnp.array([5, 1, 1])),
            "lengths: got values from 1 to 5",
        ),
        (
            lambda: from_tree(gr.GRU(H), {"kernel": normal(IN, 3 * H)}, IN),
            "tree: 'recurrent_kernel' is missing for GRU.*got 'kernel'",
        ),
        (
            lambda: from_tree(gr.LSTM(H), to_tree(random_params(gr.LSTM(H), 2)), IN),
            r"tree, 'kernel': got shape \(2, 12\), expected \(4, 12\) for LSTM.*reads 4 features",
        ),
        (
            lambda: from_tree(gr.dropout(0.1), {"a": {"b": normal(2)}}, IN),
            "tree: got 'a/b' as well, expected no more for dropout",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_inputs_of_another_size_and_parameters_that_are_missing():
    """Are flax's own errors."""
    with pytest.raises(flax.errors.ScopeParamShapeError, match="cell"):
        apply_lstm(normal(B, T, IN + 1))
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match="cell"):
        apply_lstm(normal(B, T, IN), tree={"other": normal(2)})
    with pytest.raises(TypeError, match=r"step: bidirectional.* cannot stream"):
        Layer(gr.bidirectional(gr.LSTM(H))).init(
            KEY, None, jnp.zeros((B, IN), jnp.float32), method="step"
        )


def test_without_flax_the_import_says_what_to_install():
    program = """
import sys
sys.modules["flax"] = None  # an import of it raises
import gatedrnn
assert not [name for name in sys.modules if name.startswith("gatedrnn.flax")]
for module in ("gatedrnn.flax", "gatedrnn.flax.linen", "gatedrnn.flax.nnx"):
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        assert str(error) == 'flax is not installed: pip install "gatedrnn[flax]"', error
        assert error.name == "flax"
    else:
        raise AssertionError(module)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
