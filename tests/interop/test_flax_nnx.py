"""Layers and cells in flax.nnx: our numbers, flax's state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import (
    assert_trees_close,
    assert_trees_equal,
    normal,
    outcome,
    random_params,
    some_of_all,
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

from flax import nnx

from gatedrnn.flax import from_tree, to_tree
from gatedrnn.flax.nnx import Cell, Layer

pytestmark = pytest.mark.long

KEY = jax.random.key(7)


def held(name, **options):
    """A module with random parameters, its layer, those parameters, and inputs."""
    layer = LAYERS[name]
    module = Layer(layer, features_of(layer), param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options)
    params = random_params(module.layer, features_of(layer))
    module.load(params)
    return module, module.layer, params, inputs_of(layer)


@nnx.jit
def call(module, *arguments, **options):
    return module(*arguments, **options)


def with_params(module, params):
    """A function's view of a module: another with these parameters, which may be tracers."""
    module = nnx.clone(module)
    module.load(params)
    return module


# A layer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own-cell", "learned", "repeat", "tokens", "final"])
def test_a_layer_computes_what_ours_does(name):
    """Outputs, final carries and gradients, by `nnx.grad` of a module under `nnx.jit`."""
    module, layer, params, xs = held(name, deterministic=True)

    @nnx.jit
    def run(module, xs):
        def loss(module):
            out = module(xs, **OPTIONS[name])
            return some_of_all(out), out

        return nnx.grad(loss, has_aux=True)(module)

    def want(params):
        out = ours(layer, params, xs, **OPTIONS[name])
        return some_of_all(out), out

    grads, out = run(module, xs)
    grads = nnx.to_pure_dict(grads).get("weights", {})
    got = from_tree(layer, grads, features_of(layer)), out
    tolerance = {"rtol": 1e-13, "atol": 1e-13}
    assert_trees_close(got, jax.jit(jax.grad(want, has_aux=True))(params), **tolerance)


@pytest.mark.parametrize("name", ["zoneout", "no-params"])
def test_dropout_takes_keys_of_its_stream(name):
    """One for each call, of its own stream or of what a call is given; `eval` turns it off."""
    module, layer, params, xs = held(name)
    stream = nnx.clone(module.rngs)
    for _ in range(2):
        assert_trees_close(module(xs), ours(layer, params, xs, key=stream()))
    for given in (KEY, nnx.RngStream(KEY, tag="any"), nnx.Rngs(dropout=KEY)):
        key = KEY if given is KEY else nnx.RngStream(KEY, tag="any")()
        want = ours(layer, params, xs, key=key)
        assert_trees_close(module(xs, rngs=given), want)
    calm = ours(layer, params, xs)
    assert not np.array_equal(calm[1], want[1])
    assert_trees_close(module(xs, deterministic=True), calm)
    module.eval()
    assert_trees_close(module(xs), calm)
    assert_trees_close(module(xs, deterministic=False, rngs=KEY), ours(layer, params, xs, key=KEY))
    module.train()
    assert_trees_close(module(xs), ours(layer, params, xs, key=stream()))


def test_a_stream_moves_on_under_jit():
    module, layer, params, xs = held("stack")
    stream = nnx.clone(module.rngs)
    for _ in range(2):
        assert_trees_close(call(module, xs), ours(layer, params, xs, key=stream()))


@pytest.mark.parametrize("name", ["learned", "zoneout"])
def test_windows_and_steps_are_the_whole_sequence(name):
    """With the same key, if it draws."""
    module, _, _, xs = held(name)
    step = nnx.jit(lambda module, carry, x: module.step(carry, x, key=KEY))
    whole = call(module, xs, rngs=KEY)
    start = module.initial_carry(xs[:, 0])

    carry, first = call(module, xs[:, :2], start, rngs=KEY)
    carry, rest = call(module, xs[:, 2:], carry, rngs=KEY)
    assert_trees_close((carry, jnp.concatenate([first, rest], 1)), whole)

    carry, outputs = start, []
    for x in swapped(xs):
        carry, y = step(module, carry, x)
        outputs.append(y)
    assert_trees_close((carry, jnp.stack(outputs, 1)), whole)
    assert_trees_close(step(module, start, xs[:, 0]), step(module, None, xs[:, 0]))


@pytest.mark.parametrize("name", ["tokens", "final"])
def test_any_batch_axes_in_either_layout(name):
    """None or two of them, and time first."""
    module, layer, params, xs = held(name)
    carry, ys = ours(layer, params, xs, lengths=LENGTHS, resets=RESETS)
    one = call(module, xs[1], lengths=LENGTHS[1], resets=RESETS[1])
    assert_trees_close(one[1], ys[1])
    two = call(module, xs[None], lengths=LENGTHS[None], resets=RESETS[None])
    assert_trees_close(two[1], ys[None])
    time_first = with_params(held(name, time_major=True)[0], params)
    first = call(time_first, swapped(xs), lengths=LENGTHS, resets=swapped(RESETS))
    assert_trees_close(first, (carry, ys if name == "final" else swapped(ys)))


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_are_made_by_the_layer(name):
    """From the stream `params`, each an `nnx.Param` under the name of its tree."""
    layer, features = LAYERS[name], features_of(LAYERS[name])

    def make():
        rngs = nnx.Rngs(params=3, dropout=4)
        return Layer(layer, features, param_dtype=jnp.float64, rngs=rngs)

    shapes = nnx.eval_shape(make)
    want = jax.eval_shape(lambda: shapes.layer.init(KEY, features, jnp.float64))
    assert shapes.params() == want
    state = nnx.to_pure_dict(nnx.state(shapes, nnx.Param))
    assert state.get("weights", {}) == to_tree(want)
    assert (shapes.rngs is None) == (name not in DRAWING)
    if name == "learned":
        made = shapes.layer.init(nnx.Rngs(params=3).params(), features, jnp.float64)
        assert_trees_equal(make().params(), made)


def test_names_in_the_state():
    layer = gr.stack(gr.bidirectional(gr.LSTM(H)), gr.dropout(0.1), gr.GRU(2))
    module = Layer(layer, IN, rngs=nnx.Rngs(0))
    cell = {"kernel", "recurrent_kernel", "bias"}
    assert {"/".join(path) for path, _ in nnx.to_flat_state(nnx.state(module.weights))} == {
        *(f"0/{way}/cell/{name}" for way in ("forward", "backward") for name in cell),
        *(f"2/cell/{name}" for name in cell),
    }
    assert module.weights["2"].cell.kernel.shape == (2 * H, 6)


# Inside flax models -----------------------------------------------------------------------------


class Tagger(nnx.Module):
    def __init__(self, rngs):
        layer = gr.stack(gr.embed(V, IN), gr.bidirectional(gr.LSTM(H)), gr.dropout(0.1))
        self.layer = Layer(layer, None, rngs=rngs)
        self.dense = nnx.Linear(2 * H, 5, rngs=rngs)

    def __call__(self, tokens, lengths):
        _, ys = self.layer(tokens, lengths=lengths)
        return self.dense(ys)


TOKENS = inputs_of(LAYERS["tokens"])


def tagger_loss(model):
    losses = optax.softmax_cross_entropy_with_integer_labels(model(TOKENS, LENGTHS), TOKENS % 5)
    return jnp.where(jnp.arange(T)[None] < LENGTHS[:, None], losses, 0).sum()


def test_training():
    """With dropout, whose stream moves on with the optimiser."""
    model = Tagger(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.05), wrt=nnx.Param)

    @nnx.jit
    def train(model, optimizer):
        loss, grads = nnx.value_and_grad(tagger_loss)(model)
        optimizer.update(model, grads)
        return loss

    with jax.numpy_dtype_promotion("standard"):  # optax wants it
        losses = [train(model, optimizer) for _ in range(25)]
    assert losses[-1] < 0.3 * losses[0]
    assert model.layer.rngs.count[...] == 25


def test_split_merge_and_checkpoints(tmp_path):
    """A module goes apart and together, through orbax and into a model of other values."""
    ocp = pytest.importorskip("orbax.checkpoint")
    model = Tagger(nnx.Rngs(0))
    model.eval()
    want = model(TOKENS, LENGTHS)
    graph, state = nnx.split(model)
    assert_trees_equal(nnx.merge(graph, state)(TOKENS, LENGTHS), want)

    other = Tagger(nnx.Rngs(1))
    other.eval()
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "1", params)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "1", params)
    assert_trees_equal(restored, params)
    assert not np.array_equal(other(TOKENS, LENGTHS), want)
    into = nnx.state(other, nnx.Param)
    nnx.replace_by_pure_dict(into, restored)
    nnx.update(other, into)
    assert_trees_equal(other(TOKENS, LENGTHS), want)


def test_equal_modules_share_a_program():
    """Their layers compare by value, as ours do everywhere."""
    traces = []

    @nnx.jit
    def call(module, xs):
        traces.append(1)
        return module(xs)

    for seed in range(2):
        module = Layer(gr.LSTM(H), IN, rngs=nnx.Rngs(seed))
        call(module, normal(B, T, IN, dtype=jnp.float32))
    assert len(traces) == 1


def test_an_ensemble_by_vmap():
    module, layer, params, xs = held("learned")
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, random_params(layer, IN, seed=1))
    graph, state = nnx.split(module)
    nnx.replace_by_pure_dict(state, {"weights": to_tree(both)})
    ensemble = nnx.merge(graph, state)
    got = nnx.vmap(lambda module, xs: module(xs), in_axes=(0, None))(ensemble, xs)
    assert_trees_close(got, jax.vmap(lambda p: ours(layer, p, xs))(both))


def test_a_decoder_with_attention():
    """`params` is what `gr.attend` binds a memory to."""
    decoder = gr.stack(gr.Attention(gr.GRU(H), memory_features=2 * H, features=4), gr.dense(2))
    encoder = Layer(gr.bidirectional(gr.LSTM(H)), IN, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    module = Layer(decoder, IN, param_dtype=jnp.float64, rngs=nnx.Rngs(1))
    xs = normal(B, T, IN)
    _, memory = encoder(xs, lengths=LENGTHS)
    bound = gr.attend(module.params(), swapped(memory), lengths=LENGTHS)
    _, got = decoder.apply(bound, swapped(xs))
    model = gr.seq2seq(gr.bidirectional(gr.LSTM(H)), decoder, bridge=None)
    params = gr.Seq2SeqParams(encoder.params(), module.params(), None)
    _, want = model.apply(params, swapped(xs), swapped(xs), source_lengths=LENGTHS)
    assert_trees_close(got, want)


def test_16_bits():
    """Inputs of 16 bits with parameters of 16 or 32, in a layer and in flax's own loop."""
    xs = normal(B, T, IN, dtype=jnp.bfloat16)
    for dtype in (jnp.bfloat16, jnp.float32):
        module = Layer(gr.LSTM(H), IN, param_dtype=dtype, rngs=nnx.Rngs(0))
        carry, ys = module(xs)
        assert_trees_equal((carry, ys), ours(module.layer, module.params(), xs))
        cell = Cell(gr.LSTM(H), IN, param_dtype=dtype, rngs=nnx.Rngs(0))
        cell.load(module.params().cell)
        carry, got = nnx.RNN(cell, return_carry=True)(xs)
        assert got.dtype == jnp.bfloat16
        assert carry.c.dtype == jnp.float32
        np.testing.assert_allclose(got.astype(float), ys.astype(float), atol=0.03)


# A cell in flax's own loops ---------------------------------------------------------------------


def rnn_of(cell, params=None, **options):
    held = Cell(cell, IN, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    if params is not None:
        held.load(params)
    return nnx.RNN(held, return_carry=True, **options)


@pytest.mark.parametrize(("name", "reverse"), [("LSTM", False), ("GRU", True), ("Leaky", False)])
def test_a_cell_in_flax_rnn(name, reverse):
    """Equals `gr.unroll`, with lengths and an initial carry."""
    cell = CELLS[name]
    params, xs = random_params(cell, IN), normal(B, T, IN)
    shapes = jax.eval_shape(lambda: cell.carry((B,), jnp.float64))
    carry = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=1), shapes)

    def theirs(params, xs, carry):
        rnn = rnn_of(cell, params, reverse=reverse, keep_order=True)
        carry, ys = rnn(xs, initial_carry=carry, seq_lengths=AT_LEAST_ONE)
        return carry, valid(ys, AT_LEAST_ONE)

    def mine(params, xs, carry):
        options = {"lengths": AT_LEAST_ONE, "reverse": reverse}
        carry, ys = gr.unroll(cell, params, swapped(xs), carry, **options)
        return carry, swapped(ys)

    assert_trees_close(outcome(theirs, params, xs, carry), outcome(mine, params, xs, carry))
    carry, ys = gr.unroll(cell, params, swapped(xs))
    assert_trees_close(rnn_of(cell, params)(xs), (carry, swapped(ys)))


def test_cells_in_flax_bidirectional():
    layer = gr.bidirectional(gr.LSTM(H), gr.GRU(2))
    params, xs = random_params(layer, IN), normal(B, T, IN)

    def theirs(params, xs):
        runs = zip((gr.LSTM(H), gr.GRU(2)), params, strict=True)
        module = nnx.Bidirectional(*(rnn_of(c, p.cell) for c, p in runs), return_carry=True)
        carries, ys = module(xs, seq_lengths=AT_LEAST_ONE)
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
    carry, ys = rnn_of(cell, params)(xs, seq_lengths=LENGTHS)
    padded, _ = gr.unroll(cell, params, swapped(xs))
    assert LENGTHS[2] == 0
    assert_trees_close(carry.h[2], padded.h[2])
    assert (ys[1, 2:] != 0).all()
    module = Layer(cell, IN, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    carry, ys = call(module, xs, lengths=LENGTHS)
    assert not carry.h[2].any()
    assert not ys[1, 2:].any()


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda rngs: Layer(gr.LSTM, IN, rngs=rngs),
            TypeError,
            "layer: got <class",
        ),
        (
            lambda rngs: Layer(nnx.Linear(2, 2, rngs=rngs), IN, rngs=rngs),
            TypeError,
            "(?s)layer: got Linear.*expected a layer or a cell",
        ),
        (
            lambda rngs: Layer(gr.seq2seq(gr.LSTM(H), gr.LSTM(H)), IN, rngs=rngs),
            TypeError,
            "layer: got Seq2Seq.*expected a layer or a cell",
        ),
        (lambda rngs: Layer(gr.LSTM(H), None, rngs=rngs), ValueError, "in_features: got None"),
        (lambda rngs: Layer(gr.embed(V, 2), IN, rngs=rngs), ValueError, "in_features: got 4"),
        (
            lambda rngs: Layer(gr.LSTM(H), IN, param_dtype=jnp.int32, rngs=rngs),
            TypeError,
            "param_dtype: got int32",
        ),
        (
            lambda rngs: Layer(gr.LSTM(H), IN, time_major=1, rngs=rngs),
            ValueError,
            "time_major: got 1, expected True",
        ),
        (
            lambda rngs: Layer(gr.dropout(0.1), IN, rngs=nnx.Rngs(params=0)),
            KeyError,
            "No RngStream named 'dropout'",
        ),
        (
            lambda rngs: Cell(gr.Zoneout(gr.LSTM(H), h=0.1), IN, rngs=rngs),
            TypeError,
            r"cell: got Zoneout.*draws no masks.*use Layer\(cell\)",
        ),
        (
            lambda rngs: Cell(gr.recurrent(gr.LSTM(H)), IN, rngs=rngs),
            TypeError,
            "cell: got recurrent.*a layer, not",
        ),
        (
            lambda rngs: Cell(gr.LSTM(H), IN, rngs=rngs).load(random_params(gr.LSTM(H), 2)),
            ValueError,
            r"params.kernel: got shape \(2, 12\), expected \(4, 12\)",
        ),
        (
            lambda rngs: Layer(gr.LSTM(H), IN, rngs=rngs).load(random_params(gr.LSTM(H), IN)),
            ValueError,
            r"params: got LSTMParams.*expected RecurrentParams",
        ),
        (
            lambda rngs: Cell(gr.LSTM(H), IN, rngs=rngs).initialize_carry(
                (B, IN), carry_init=nnx.initializers.ones
            ),
            ValueError,
            "carry_init: got .*expected None.*pass another one as initial_carry",
        ),
        (
            lambda rngs: Layer(gr.dropout(0.1), IN, rngs=rngs)(normal(B, T, IN), rngs=3),
            TypeError,
            "rngs: got 3, expected nnx.Rngs, an nnx.RngStream or a key",
        ),
        (
            lambda rngs: Layer(gr.bidirectional(gr.LSTM(H)), IN, rngs=rngs).step(
                None, normal(B, IN, dtype=jnp.float32)
            ),
            TypeError,
            "step: bidirectional.* cannot stream",
        ),
        (
            lambda rngs: Layer(gr.LSTM(H), IN, rngs=rngs)(normal(B, T, IN + 1, dtype=jnp.float32)),
            ValueError,
            r"params.cell.kernel: got shape \(4, 12\), expected \(5, 12\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make(nnx.Rngs(0))
