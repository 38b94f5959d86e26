"""Layers and cells in flax.linen: our numbers, flax's trees."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax_networks import (
    AT_LEAST_ONE,
    CELLS,
    DRAWING,
    IN,
    LAYERS,
    LENGTHS,
    OPTIONS,
    STREAMING,
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
from networks import (
    assert_trees_close,
    assert_trees_equal,
    normal,
    outcome,
    random_params,
    some_of_all,
)

import gatedrnn as gr

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


class Probe(nn.Module):
    """The key that a module at the top takes from its stream."""

    def __call__(self):
        return self.make_rng("dropout")


DROPOUT = Probe().apply({}, rngs={"dropout": KEY})


# A layer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_ours_does(name, options):
    """Outputs, final carries and gradients, to the bit."""
    module, layer, params, xs = held(name, deterministic=True)

    def run(params, xs):
        return module.apply({"params": to_tree(params)}, xs, **OPTIONS[options])

    def want(params, xs):
        return ours(layer, params, xs, **OPTIONS[options])

    assert_trees_equal(outcome(run, params, xs), outcome(want, params, xs))


@pytest.mark.parametrize("name", DRAWING)
def test_dropout_takes_a_key_of_its_stream(name):
    module, layer, params, xs = held(name)
    options = {"lengths": LENGTHS}

    def run(params, xs):
        variables, rngs = {"params": to_tree(params)}, {"dropout": KEY}
        return module.apply(variables, xs, deterministic=False, rngs=rngs, **options)

    def want(params, xs):
        return ours(layer, params, xs, key=DROPOUT, **options)

    got = outcome(run, params, xs)
    assert_trees_equal(got, outcome(want, params, xs))
    calm = module.apply({"params": to_tree(params)}, xs, deterministic=True, **options)
    assert_trees_close(calm, ours(layer, params, xs, **options))
    assert not np.array_equal(got[0][1], calm[1])


@pytest.mark.parametrize("name", DRAWING)
def test_dropout_without_a_word_about_it_is_refused(name):
    module, _, params, xs = held(name)
    with pytest.raises(ValueError, match='"deterministic" must be passed'):
        module.apply({"params": to_tree(params)}, xs)
    with pytest.raises(flax.errors.InvalidRngError, match='needs PRNG for "noise"'):
        module.clone(rng_collection="noise").apply(
            {"params": to_tree(params)}, xs, deterministic=False
        )


@pytest.mark.parametrize("name", STREAMING)
def test_windows_and_steps_are_the_whole_sequence(name):
    """With the same key, if it draws."""
    module, _, params, xs = held(name, deterministic=False)
    key = DROPOUT if name in DRAWING else None
    variables, rngs = {"params": to_tree(params)}, {"dropout": KEY}
    run = jax.jit(lambda xs, carry: module.apply(variables, xs, carry, rngs=rngs))
    step = jax.jit(lambda c, x: module.apply(variables, c, x, key=key, method="step"))
    whole = run(xs, None)

    carry, first = run(xs[:, :2], None)
    carry, rest = run(xs[:, 2:], carry)
    assert_trees_close((carry, jnp.concatenate([first, rest], 1)), whole)

    carry, outputs = None, []
    for x in swapped(xs):
        carry, y = step(carry, x)
        outputs.append(y)
    assert_trees_close((carry, jnp.stack(outputs, 1)), whole)
    start = module.apply(variables, xs[:, 0], method="initial_carry")
    assert_trees_close(step(start, xs[:, 0]), step(None, xs[:, 0]))


@pytest.mark.parametrize("name", ["stack", "tokens", "final"])
def test_any_batch_axes_in_either_layout(name):
    """None or two of them, and time first."""
    module, _, params, xs = held(name, deterministic=True)
    variables, resets = {"params": to_tree(params)}, OPTIONS["mask"]["resets"]
    carry, ys = module.apply(variables, xs, lengths=LENGTHS, resets=resets)
    one = module.apply(variables, xs[1], lengths=LENGTHS[1], resets=resets[1])
    assert_trees_close(one[1], ys[1])
    two = module.apply(variables, xs[None], lengths=LENGTHS[None], resets=resets[None])
    assert_trees_close(two[1], ys[None])
    first = module.clone(time_major=True).apply(
        variables, swapped(xs), lengths=LENGTHS, resets=swapped(resets)
    )
    assert_trees_close(first, (carry, ys if name == "final" else swapped(ys)))


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_are_made_by_the_layer(name):
    """In nested dictionaries of its arrays, of the dtype asked for; shapes alone as well."""
    module, layer, params, xs = held(name, deterministic=True)
    variables = module.init(KEY, xs)
    tree = variables.get("params", {})
    assert_trees_equal(jax.tree.map(jnp.shape, tree), jax.tree.map(jnp.shape, to_tree(params)))
    assert all(isinstance(key, str) for path in flax.traverse_util.flatten_dict(tree) for key in path)
    made = from_tree(layer, tree, features_of(layer))
    assert jax.tree.structure(made) == jax.tree.structure(params)

    class Key(nn.Module):  # flax gives the first parameter the key that makes them all
        @nn.compact
        def __call__(self):
            return self.param("key", lambda key: key)

    key = Key().init(KEY)["params"]["key"]
    assert_trees_equal(made, layer.init(key, features_of(layer), jnp.float64))
    shapes = jax.eval_shape(module.init, KEY, xs)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), shapes) == jax.tree.map(
        lambda a: (a.shape, a.dtype), variables
    )


@pytest.mark.parametrize("name", LAYERS)
def test_trees_go_back_and_forth(name):
    layer = Layer(LAYERS[name]).layer
    params = random_params(layer, features_of(layer))
    assert_trees_equal(from_tree(layer, to_tree(params), features_of(layer)), params)
    frozen = flax.core.freeze(to_tree(params))
    assert_trees_equal(from_tree(layer, frozen, features_of(layer)), params)


def test_names_in_the_tree():
    layer = gr.stack(gr.bidirectional(gr.LSTM(H)), gr.dropout(0.1), gr.recurrent(gr.GRU(2), initial="learned"))
    tree = jax.eval_shape(Layer(layer).init, KEY, jnp.zeros((B, T, IN), jnp.float32))["params"]
    cell = {"kernel", "recurrent_kernel", "bias"}
    assert {"/".join(path) for path in flax.traverse_util.flatten_dict(tree)} == {
        *(f"0/{way}/cell/{name}" for way in ("forward", "backward") for name in cell),
        *(f"2/cell/{name}" for name in cell),
        "2/initial/h",
    }


# Inside flax models -----------------------------------------------------------------------------


class Tagger(nn.Module):
    """As in the documentation of `Layer`."""

    @nn.compact
    def __call__(self, tokens, lengths, deterministic):
        layer = gr.stack(gr.embed(V, IN), gr.bidirectional(gr.LSTM(H)), gr.dropout(0.1))
        _, ys = Layer(layer)(tokens, lengths=lengths, deterministic=deterministic)
        return nn.Dense(5)(ys)


TOKENS = inputs_of(LAYERS["tokens"])


def tagger_state(tx):
    model = Tagger()
    variables = model.init({"params": KEY}, TOKENS, LENGTHS, deterministic=False)
    return TrainState.create(apply_fn=model.apply, params=variables["params"], tx=tx)


def tagger_loss(state, params, rngs=None):
    logits = state.apply_fn(
        {"params": params}, TOKENS, LENGTHS, deterministic=rngs is None, rngs=rngs
    )
    labels = TOKENS % 5
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.where(jnp.arange(T) < LENGTHS[:, None], losses, 0).sum()


def test_a_training_step():
    """A `TrainState` learns, with dropout, and weight decay that a mask keeps to the kernels."""

    def kernels(params):
        flat = flax.traverse_util.flatten_dict(params)
        return flax.traverse_util.unflatten_dict({path: path[-1] == "kernel" for path in flat})

    state = tagger_state(optax.adamw(0.05, mask=kernels))
    assert jax.tree.leaves(kernels(state.params)).count(True) == 3  # two directions, one read-out

    @jax.jit
    def train(state, key):
        def loss(params):
            return tagger_loss(state, params, {"dropout": key})

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    before = tagger_loss(state, state.params)
    for key in jax.random.split(KEY, 15):
        state = train(state, key)
    assert tagger_loss(state, state.params) < 0.3 * before


def test_gradients_of_a_model_come_back_in_our_terms():
    """Those of the branch of its module, against the same network written out."""
    state = tagger_state(optax.sgd(0.1))
    grads = jax.grad(lambda params: tagger_loss(state, params))(state.params)
    layer = gr.stack(gr.embed(V, IN), gr.bidirectional(gr.LSTM(H)), gr.dropout(0.1))
    params, dense = from_tree(layer, state.params["Layer_0"], None), state.params["Dense_0"]

    def loss(params):
        _, ys = ours(layer, params, TOKENS, lengths=LENGTHS)
        logits = ys @ dense["kernel"] + dense["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS % 5)
        return jnp.where(jnp.arange(T) < LENGTHS[:, None], losses, 0).sum()

    want = jax.grad(loss)(params)
    assert_trees_close(from_tree(layer, grads["Layer_0"], None), want, rtol=1e-5, atol=1e-6)


def test_checkpoints(tmp_path):
    """Of msgpack and of orbax, to the bit."""
    ocp = pytest.importorskip("orbax.checkpoint")
    state = tagger_state(optax.adam(0.1))
    blank = jax.tree.map(jnp.zeros_like, state)
    restored = flax.serialization.from_bytes(blank, flax.serialization.to_bytes(state))
    assert_trees_equal(restored.params, state.params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "1", state.params)
        checkpointer.wait_until_finished()
        assert_trees_equal(checkpointer.restore(tmp_path / "1", blank.params), state.params)


def test_our_parameters_go_in_as_they_are():
    """What `gr.interop` imports is the parameters of a module after `to_tree`."""
    layer = gr.stack(gr.LSTM(H), gr.LSTM(2))
    params = random_params(layer, IN, dtype=jnp.float32)
    xs = normal(B, T, IN, dtype=jnp.float32)
    _, got = Layer(layer).apply({"params": to_tree(params)}, xs)
    assert_trees_equal(got, ours(layer, params, xs)[1])


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
    variables = Model().init(KEY, xs, xs)
    trees = variables["params"]
    params = gr.Seq2SeqParams(
        from_tree(model.encoder, trees["encoder"], IN), from_tree(decoder, trees["decoder"], IN), None
    )
    _, want = model.apply(params, swapped(xs), swapped(xs), source_lengths=LENGTHS)
    assert_trees_close(Model().apply(variables, xs, xs), want)


def test_under_remat_vmap_scan_and_jit():
    """Of flax; gradients through `nn.remat`, an ensemble by `nn.vmap`, streaming by `nn.scan`."""
    module, layer, params, xs = held("learned")
    tree = {"params": to_tree(params)}

    def run(layer_class):
        other = layer_class(LAYERS["learned"], param_dtype=jnp.float64)
        return lambda params, xs: other.apply({"params": to_tree(params)}, xs, lengths=LENGTHS)

    want = outcome(run(Layer), params, xs)
    assert_trees_close(outcome(run(nn.remat(Layer)), params, xs), want)
    assert_trees_close(outcome(run(nn.jit(Layer)), params, xs), want)
    made = nn.remat(Layer)(LAYERS["learned"], param_dtype=jnp.float64).init(KEY, xs)
    assert_trees_equal(made, module.init(KEY, xs))

    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, random_params(layer, IN, seed=1))
    ensemble = nn.vmap(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None)
    got = ensemble(LAYERS["learned"], jnp.float64).apply({"params": to_tree(both)}, xs)
    assert_trees_close(got, jax.vmap(lambda p: ours(layer, p, xs))(both))

    class Stream(nn.Module):
        @nn.compact
        def __call__(self, xs):
            inner = Layer(LAYERS["learned"], jnp.float64)
            scan = nn.scan(
                Layer.step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
            )
            return scan(inner, inner.initial_carry(xs[:, 0]), xs)

    variables = Stream().init(KEY, xs)
    assert_trees_equal(jax.tree.map(jnp.shape, variables["params"]["Layer_0"]), jax.tree.map(jnp.shape, tree["params"]))
    got = Stream().apply({"params": {"Layer_0": tree["params"]}}, xs)
    assert_trees_close(got, module.apply(tree, xs))


def test_16_bits():
    """Inputs of 16 bits with parameters of 16 or 32, in a layer and in flax's own loop."""
    xs = normal(B, T, IN, dtype=jnp.bfloat16)
    for dtype in (jnp.bfloat16, jnp.float32):
        module = Layer(gr.LSTM(H), dtype)
        variables = module.init(KEY, xs)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(dtype)}
        params = from_tree(module.layer, variables["params"], IN)
        carry, ys = module.apply(variables, xs)
        assert_trees_equal((carry, ys), ours(module.layer, params, xs))
        rnn = nn.RNN(Cell(gr.LSTM(H), dtype), return_carry=True)
        got = rnn.apply({"params": {"cell": to_tree(params.cell)}}, xs)
        assert got[1].dtype == jnp.bfloat16
        assert got[0].c.dtype == jnp.float32
        np.testing.assert_allclose(got[1].astype(float), ys.astype(float), atol=0.03)


# A cell in flax's own loops ---------------------------------------------------------------------


def rnn_of(cell, **options):
    return nn.RNN(Cell(cell, jnp.float64), return_carry=True, **options)





@pytest.mark.parametrize("name", CELLS)
def test_a_cell_in_flax_rnn(name):
    """Equals `gr.unroll`: forward, with lengths, an initial carry and in reverse."""
    cell = CELLS[name]
    params, xs = random_params(cell, IN), normal(B, T, IN)
    carry = jax.tree.map(
        lambda leaf: normal(*leaf.shape, seed=1), jax.eval_shape(lambda: cell.carry((B,), jnp.float64))
    )

    def theirs(params, xs, carry, reverse=False):
        rnn = rnn_of(cell, reverse=reverse, keep_order=True)
        carry, ys = rnn.apply(
            {"params": {"cell": to_tree(params)}}, xs, initial_carry=carry, seq_lengths=AT_LEAST_ONE
        )
        return carry, valid(ys, AT_LEAST_ONE)

    def mine(params, xs, carry, reverse=False):
        options = {"lengths": AT_LEAST_ONE, "reverse": reverse}
        carry, ys = gr.unroll(cell, params, swapped(xs), carry, **options)
        return carry, swapped(ys)

    assert_trees_close(outcome(theirs, params, xs, carry), outcome(mine, params, xs, carry))

    def backward(function):
        return lambda *arguments: function(*arguments, reverse=True)

    got, want = (outcome(backward(f), params, xs, carry) for f in (theirs, mine))
    assert_trees_close(got, want)
    variables = rnn_of(cell).init(KEY, xs)
    plain = gr.unroll(cell, from_tree(cell, variables["params"]["cell"], IN), swapped(xs))
    assert_trees_close(rnn_of(cell).apply(variables, xs), (plain[0], swapped(plain[1])))


def test_cells_in_flax_bidirectional():
    layer = gr.bidirectional(gr.LSTM(H), gr.GRU(2))
    params, xs = random_params(layer, IN), normal(B, T, IN)
    module = nn.Bidirectional(rnn_of(gr.LSTM(H)), rnn_of(gr.GRU(2)), return_carry=True)

    def theirs(params, xs):
        tree = {
            f"{way}_rnn": {"cell": to_tree(p.cell)}
            for way, p in zip(params._fields, params, strict=True)
        }
        carries, ys = module.apply({"params": tree}, xs, seq_lengths=AT_LEAST_ONE)
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
    carry, ys = rnn_of(cell).apply(
        {"params": {"cell": to_tree(params)}}, xs, seq_lengths=LENGTHS
    )
    padded, _ = gr.unroll(cell, params, swapped(xs))
    assert LENGTHS[2] == 0
    assert_trees_close(carry.h[2], padded.h[2])
    assert (ys[1, 2:] != 0).all()
    tree = to_tree(gr.RecurrentParams(params, None))
    carry, ys = Layer(cell, jnp.float64).apply({"params": tree}, xs, lengths=LENGTHS)
    assert not carry.h[2].any()
    assert not ys[1, 2:].any()


def test_a_training_step_through_flax_rnn():
    """The gradient of flax's loop, back in our terms."""
    rnn, xs = nn.RNN(Cell(gr.GRU(H), jnp.float64)), normal(B, T, IN)
    variables = rnn.init(KEY, xs)
    grads = jax.grad(lambda v: some_of_all(rnn.apply(v, xs)))(variables)["params"]["cell"]
    params = from_tree(gr.GRU(H), variables["params"]["cell"], IN)
    want = jax.grad(
        lambda p: some_of_all(swapped(gr.unroll(gr.GRU(H), p, swapped(xs))[1]))
    )(params)
    assert_trees_close(from_tree(gr.GRU(H), grads, IN), want)


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Layer(gr.LSTM), TypeError, "cell: got <class .*a class, not a value"),
        (lambda: Layer(nn.Dense(3)), TypeError, "layer: got Dense.*expected a layer or a cell"),
        (
            lambda: Layer(gr.seq2seq(gr.LSTM(H), gr.LSTM(H))),
            TypeError,
            "layer: got Seq2Seq.*expected a layer or a cell",
        ),
        (lambda: Layer(gr.LSTM(H), jnp.int32), TypeError, "param_dtype: got int32"),
        (lambda: Layer(gr.LSTM(H), time_major=1), ValueError, "time_major: got 1, expected True"),
        (lambda: Cell(gr.recurrent(gr.LSTM(H))), TypeError, "cell: got Recurrent.*a layer, not"),
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
            r"mask: got shape \(5, 3\), expected \(3, 5\), the axes \[\*B, T\]",
        ),
        (
            lambda: apply_lstm(normal(B, T, IN), resets=jnp.ones(T, bool)),
            r"resets: got shape \(5,\), expected \(3, 5\)",
        ),
        (
            lambda: apply_lstm(normal(B, T, IN), lengths=jnp.array([6, 1, 1])),
            "lengths: got values from 1 to 6",
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
            "tree: got 'a/b' as well, expected no more for Dropout",
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
    with pytest.raises(TypeError, match="step: a bidirectional layer cannot stream"):
        Layer(gr.bidirectional(gr.LSTM(H))).init(
            KEY, None, jnp.zeros((B, IN), jnp.float32), method="step"
        )


@pytest.mark.parametrize("module", ["gatedrnn.flax", "gatedrnn.flax.linen", "gatedrnn.flax.nnx"])
def test_without_flax_the_import_says_what_to_install(module):
    program = f"""
import sys
sys.modules["flax"] = None  # an import of it raises
import gatedrnn
assert not [name for name in sys.modules if name.startswith("gatedrnn.flax")]
try:
    import {module}
except ModuleNotFoundError as error:
    assert str(error) == 'flax is not installed: pip install "gatedrnn[flax]"', error
    assert error.name == "flax"
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
