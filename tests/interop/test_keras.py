"""keras' layers, cells and models, from and to ours.

Axes: `T` time, `B` batch, `I` input features.
"""

import os
import re
import sys
import warnings

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import has_gru_that_writes

import gatedrnn as gr
from gatedrnn._interop.keras import convert as converters
from gatedrnn._interop.keras.build import keras_weights
from interop.common import assert_equal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of its imports
    keras = pytest.importorskip("keras")
if keras.backend.backend() != "jax":
    pytest.skip("keras runs on another backend here", allow_module_level=True)

K = keras.layers
CELLS = K.SimpleRNNCell, K.LSTMCell, K.GRUCell
T, B, I, H, V = 5, 3, 2, 4, 6
LENGTHS = np.array([5, 1, 3])
MASK = np.arange(T) < LENGTHS[:, None]  # [B, T], as keras has it
EXACT = {"dtype": "float64"}


@pytest.fixture(autouse=True)
def standard_promotion():
    """Keras needs it, for dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def normal(seed, *shape, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 0.6, dtype)


XS = normal(0, T, B, I)
TOKENS = jnp.asarray(np.random.default_rng(1).integers(V, size=(T, B)))


def weighed(source, shape=(None, T, I)):
    """A layer or model, built, with random weights, and with a tanh that is one in float64."""
    for part in source._flatten_layers():
        if isinstance(part, CELLS) and part.activation is keras.activations.tanh:
            part.activation = jnp.tanh
    if not source.built:
        source.build(shape)
    source.set_weights([normal((7, k), *w.shape) for k, w in enumerate(source.weights)])
    return source


def randomised(layer, in_features=I, dtype="float64"):
    """Random parameters of a layer of ours."""
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), in_features))
    leaves, structure = jax.tree.flatten(shapes)
    return structure.unflatten(
        normal((8, k), *leaf.shape, dtype=dtype) for k, leaf in enumerate(leaves)
    )


def carry_of(layer, seed=9, dtype="float64"):
    """A random carry; counts stay as they are."""
    leaves, structure = jax.tree.flatten(layer.carry((B,), dtype))
    return structure.unflatten(
        normal((seed, k), *leaf.shape, dtype=leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else leaf
        for k, leaf in enumerate(leaves)
    )


def theirs(source, xs=XS, **options):
    """Keras' outputs for our time-major inputs, time-major again where there is time."""
    with warnings.catch_warnings():  # a model's mask does reach its layers
        warnings.filterwarnings("ignore", "Layer .* was passed an input with a mask attached to it")
        ys = source(jnp.swapaxes(xs, 0, 1), **options)
    return np.asarray(jnp.swapaxes(ys, 0, 1) if ys.ndim == 3 else ys)


def assert_close(got, want, tolerance=1e-12):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(want).max() > 1e-3, "compared with zeros"
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def assert_same(got, want):
    """The same layer, and every bit of the parameters."""
    assert got[0] == want[0]
    assert_equal(got[1], want[1])


# From keras -------------------------------------------------------------------------------------

GRU_AFTER = gr.GRU(H, reset="after", update="keeps")
GRU_BEFORE = gr.GRU(H, reset="before", update="keeps")


def bidirectional(layer, merge="concat", other=None, **options):
    other = other and other(H, go_backwards=True, **EXACT, **options)
    return K.Bidirectional(layer(H, **EXACT, **options), merge, backward_layer=other, **EXACT)


SOURCES = {
    "SimpleRNN": (lambda **o: K.SimpleRNN(H, **EXACT, **o), gr.Elman(H)),
    "relu": (
        lambda **o: K.SimpleRNN(H, activation="relu", dtype="float64", **o),
        gr.Elman(H, "relu"),
    ),
    "sigmoid, no bias": (
        lambda **o: K.SimpleRNN(H, activation="sigmoid", use_bias=False, dtype="float64", **o),
        gr.Elman(H, "sigmoid", use_bias=False),
    ),
    "linear": (
        lambda **o: K.SimpleRNN(H, activation=None, dtype="float64", **o),
        gr.Elman(H, "identity"),
    ),
    "LSTM": (lambda **o: K.LSTM(H, **EXACT, **o), gr.LSTM(H)),
    "LSTM, no bias, unrolled": (
        lambda **o: K.LSTM(H, use_bias=False, unroll=True, **EXACT, **o),
        gr.LSTM(H, use_bias=False),
    ),
    "GRU after": (lambda **o: K.GRU(H, **EXACT, **o), GRU_AFTER),
    "GRU after, no bias": (
        lambda **o: K.GRU(H, use_bias=False, **EXACT, **o),
        gr.GRU(H, reset="after", update="keeps", use_bias=False),
    ),
    "GRU before": (lambda **o: K.GRU(H, reset_after=False, **EXACT, **o), GRU_BEFORE),
    "GRU before, implementation 1": (
        lambda **o: K.GRU(H, reset_after=False, implementation=1, **EXACT, **o),
        GRU_BEFORE,
    ),
    "RNN": (
        lambda **o: K.RNN(K.LSTMCell(H, **EXACT), dtype="float64", **o),
        gr.LSTM(H),
    ),
    "RNN of several cells": (
        lambda **o: K.RNN(
            K.StackedRNNCells([K.GRUCell(3, **EXACT), K.LSTMCell(H, **EXACT)], dtype="float64"),
            dtype="float64",
            **o,
        ),
        gr.stack(gr.GRU(3, reset="after", update="keeps"), gr.LSTM(H)),
    ),
    **{
        f"Bidirectional, {merge}": (
            lambda merge=merge, **o: bidirectional(K.LSTM, merge, **o),
            gr.bidirectional(gr.LSTM(H), merge={"ave": "mean"}.get(merge, merge)),
        )
        for merge in ("concat", "sum", "ave", "mul")
    },
    "Bidirectional, two kinds": (
        lambda **o: bidirectional(K.GRU, other=K.LSTM, **o),
        gr.bidirectional(GRU_AFTER, gr.LSTM(H)),
    ),
}


def as_layer(layer):
    return layer if hasattr(layer, "apply") else gr.recurrent(layer)


FULL = np.full(B, T)


@pytest.mark.parametrize("name", SOURCES)
def test_layers_become_ours(name):
    """The same outputs at every valid step, without a mask and with one."""
    make, expected = SOURCES[name]
    source = weighed(make(return_sequences=True))
    layer, params = gr.interop.from_keras(source)
    assert layer == (expected if hasattr(expected, "apply") else gr.recurrent(expected))
    assert_close(layer.apply(params, XS, lengths=FULL)[1], theirs(source))
    ys = layer.apply(params, XS, lengths=LENGTHS)[1]
    assert_close(ys, np.where(MASK.T[..., None], theirs(source, mask=MASK), 0))


@pytest.mark.parametrize(
    "name", ["LSTM", "GRU before", "RNN of several cells", "Bidirectional, mul"]
)
def test_one_output_becomes_final(name):
    """That of each row's last step, of the backward direction's first."""
    make, expected = SOURCES[name]
    source = weighed(make())
    layer, params = gr.interop.from_keras(source)
    assert layer == gr.final(expected)
    assert_close(layer.apply(params, XS, lengths=FULL)[1], theirs(source))
    assert_close(layer.apply(params, XS, lengths=LENGTHS)[1], theirs(source, mask=MASK))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: K.LSTMCell(H, **EXACT), gr.LSTM(H)),
        (lambda: K.GRUCell(H, **EXACT), GRU_AFTER),
        (lambda: K.GRUCell(H, reset_after=False, **EXACT), GRU_BEFORE),
        (lambda: K.SimpleRNNCell(H, **EXACT), gr.Elman(H)),
    ],
)
def test_cells_become_cells(make, expected):
    source = weighed(make(), (None, I))
    cell, params = gr.interop.from_keras(source)
    assert cell == expected
    carry = carry_of(cell)
    want, states = source(XS[0], gr.interop.to_keras_carry(cell, carry))
    after, y = cell.step(params, carry, XS[0])
    assert_close(y, want)
    for got, state in zip(after, gr.interop.from_keras_carry(cell, states), strict=True):
        assert_close(got, state)


def test_the_two_biases_of_a_gru_are_added_where_only_their_sum_acts():
    source = weighed(K.GRU(H))
    bias = np.asarray(source.cell.bias)
    _, params = gr.interop.from_keras(source)
    z, r, n = np.split(bias[0] + bias[1], 3)
    np.testing.assert_array_equal(params.cell.bias[: 2 * H], np.concatenate([r, z]))
    np.testing.assert_array_equal(params.cell.bias[2 * H :], bias[0, 2 * H :])
    np.testing.assert_array_equal(params.cell.recurrent_bias, bias[1, 2 * H :])
    assert not np.allclose(n, bias[0, 2 * H :])


def test_unchanged_weights_are_the_same_bits_and_dtype():
    for dtype in ("float32", "float64", "bfloat16"):
        source = K.LSTM(H, dtype=dtype, recurrent_initializer="glorot_uniform")
        source.build((None, T, I))
        _, params = gr.interop.from_keras(source)
        for got, want in zip(params.cell[:3], source.weights, strict=True):
            assert got.dtype == dtype
            assert jnp.array_equal(got, want.value)


def test_a_forget_bias_is_in_the_bias():
    source = K.LSTM(H)
    source.build((None, T, I))
    bias = gr.interop.from_keras(source)[1].cell.bias
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], H))


# Models -----------------------------------------------------------------------------------------

LAST = gr.final(
    gr.stack(
        gr.embed(V, 3),
        gr.dropout(0.25, shared_in_time=True),
        gr.bidirectional(GRU_BEFORE),
        gr.dropout(0.5),
        gr.LSTM(H),
        gr.dense(2),
    )
)


def layers_of_last():
    return [
        K.Embedding(V, 3),
        K.SpatialDropout1D(0.25),
        K.Bidirectional(K.GRU(H, reset_after=False, return_sequences=True)),
        K.Dropout(0.5),
        K.LSTM(H),
        K.Dense(2),
    ]


def functional(layers, start):
    x = start
    for layer in layers:
        x = layer(x)
    return keras.Model(start, x)


def nested():
    first, second = layers_of_last()[:3], layers_of_last()[3:]
    start = keras.Input((None,), dtype="int32")
    inner = keras.Sequential([keras.Input((None, 2 * H)), second[0], second[1]])
    return functional([keras.Sequential([start, *first]), inner, second[2]], start)


MODELS = {
    "Sequential": lambda: keras.Sequential(
        [keras.Input((None,), dtype="int32"), *layers_of_last()]
    ),
    "functional": lambda: functional(layers_of_last(), keras.Input((None,), dtype="int32")),
    "nested": nested,
}


def test_models_become_stacks():
    """However they are put together."""
    source = weighed(MODELS["Sequential"]())
    layer, params = gr.interop.from_keras(source)
    assert layer == LAST
    assert_close(layer.apply(params, TOKENS)[1], theirs(source, TOKENS), 1e-5)
    for name in ("functional", "nested"):
        assert_same(gr.interop.from_keras(weighed(MODELS[name]())), (layer, params))


def test_a_saved_model_is_read(tmp_path):
    source = MODELS["Sequential"]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's, of what keras does
        source.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(gr.interop.from_keras(loaded), gr.interop.from_keras(source))


def test_the_rest_of_a_functional_model_may_return_states():
    start = keras.Input((None, I))
    y, *_ = K.LSTM(H, return_sequences=True, return_state=True)(start)
    layer, _ = gr.interop.from_keras(keras.Model(start, K.Dense(2)(y)))
    assert layer == gr.stack(gr.LSTM(H), gr.dense(2))


# Dropout ----------------------------------------------------------------------------------------


def test_dropout_of_a_layer_is_one_mask_for_all_steps():
    """Shown by a layer whose outputs are its inputs: zero or twice as large, at all steps alike."""
    source = K.SimpleRNN(I, activation=None, dropout=0.5, return_sequences=True, dtype="float64")
    source.build((None, T, I))
    source.set_weights([np.eye(I), np.zeros((I, I)), np.zeros(I)])
    layer, params = gr.interop.from_keras(source)
    assert layer == gr.stack(gr.dropout(0.5, shared_in_time=True), gr.Elman(I, "identity"))
    xs = jnp.broadcast_to(XS[:, :1], (T, 20, I))
    for ys in (
        theirs(source, xs, training=True),
        layer.apply(params, xs, key=jax.random.key(3))[1],
    ):
        ratio = np.asarray(ys / xs).round(9)
        assert np.ptp(ratio, axis=0).max() == 0
        assert set(ratio.ravel()) == {0.0, 2.0}
    assert_close(theirs(source, xs), layer.apply(params, xs)[1])


def test_recurrent_dropout_of_a_simple_rnn_is_ours():
    """One mask on the state for all steps: shown by a layer that doubles or forgets its state."""
    source = K.SimpleRNN(
        I, activation=None, recurrent_dropout=0.5, return_sequences=True, dtype="float64"
    )
    source.build((None, T, I))
    source.set_weights([np.eye(I), np.eye(I), np.zeros(I)])
    layer, params = gr.interop.from_keras(source)
    assert layer == gr.recurrent(gr.RecurrentDropout(gr.Elman(I, "identity"), 0.5))
    ones = jnp.ones((T, 20, I))
    want = {1.0, 2.0 ** (T) - 1}
    for ys in (
        theirs(source, ones, training=True),
        layer.apply(params, ones, key=jax.random.key(3))[1],
    ):
        assert set(np.asarray(ys[-1]).ravel()) == want
    back = gr.interop.from_keras(gr.interop.to_keras(layer, params))
    assert_same(back, (layer, params))


def test_dropout_layers_keep_their_rates():
    source = weighed(
        keras.Sequential(
            [
                keras.Input((None, I)),
                K.RNN([K.LSTMCell(H, dropout=0.2), K.GRUCell(H, dropout=0.3)]),
                K.Dropout(0.4),
            ]
        )
    )
    dropped = (gr.dropout(rate, shared_in_time=True) for rate in (0.2, 0.3))
    layer, _ = gr.interop.from_keras(source)
    assert layer == gr.final(
        gr.stack(next(dropped), gr.LSTM(H), next(dropped), GRU_AFTER, gr.dropout(0.4))
    )


# What has no counterpart ------------------------------------------------------------------------


class OwnCell(K.LSTMCell):
    """A cell that may be anything."""


class OwnModel(keras.Model):
    """A model that may be anything."""


REFUSED = {
    "go_backwards": (lambda: K.LSTM(H, go_backwards=True), "go_backwards is True"),
    "stateful": (lambda: K.LSTM(H, stateful=True), "stateful; ours are given their carry"),
    "activation": (lambda: K.LSTM(H, activation="relu"), "its activation is relu, ours is tanh"),
    "hard sigmoid": (
        lambda: K.GRU(H, recurrent_activation="hard_sigmoid"),
        "its recurrent_activation is hard_sigmoid, ours is sigmoid",
    ),
    "other activation": (
        lambda: K.SimpleRNN(H, activation="gelu"),
        "its activation is gelu, ours is tanh or relu or sigmoid or linear",
    ),
    "recurrent_dropout": (lambda: K.LSTM(H, recurrent_dropout=0.2), "a mask for each gate"),
    "dropout by gate": (lambda: K.GRU(H, dropout=0.2, implementation=1), "a mask for each gate"),
    "all dropped": (lambda: K.LSTM(H, dropout=1.0), "its dropout is 1.0, ours is below 1"),
    "zeroed end": (
        lambda: K.LSTM(H, zero_output_for_mask=True),
        "a row that ends early gives zero",
    ),
    "own cell": (lambda: K.RNN(OwnCell(H)), "OwnCell 'own_cell.*there is no such cell"),
    "no merge": (lambda: K.Bidirectional(K.LSTM(H), None), "merge_mode is None"),
    "two stacks": (
        lambda: K.Bidirectional(K.RNN([K.LSTMCell(H), K.LSTMCell(H)])),
        "its directions are stacks",
    ),
    "dropout in both": (
        lambda: K.Bidirectional(K.LSTM(H, dropout=0.2)),
        "each direction drops out inputs of its own",
    ),
    "forward is backward": (
        lambda: K.Bidirectional(K.LSTM(H, go_backwards=True), backward_layer=K.LSTM(H)),
        "go_backwards is True",
    ),
    "softmax": (
        lambda: K.Dense(2, activation="softmax"),
        "its activation is softmax, ours is linear",
    ),
    "masking": (lambda: K.Masking(), "there is no such layer"),
    "noise_shape": (lambda: K.Dropout(0.2, noise_shape=(None, 1, None)), "SpatialDropout1D"),
    "Dropout(1)": (lambda: K.Dropout(1.0), "its rate is 1.0, ours is below 1"),
    "TimeDistributed": (lambda: K.TimeDistributed(K.Dense(2)), "there is no such layer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_we_do_not_have_is_refused(name):
    make, message = REFUSED[name]
    source = make()
    source.build((B, T, I))
    with pytest.raises(ValueError, match=message) as error:
        gr.interop.from_keras(source)
    assert "cannot become a network of ours" in str(error.value)


def model_of(build):
    start = keras.Input((None, I))
    return keras.Model(start, build(start))


def masked_model():
    start = keras.Input((None,), dtype="int32")
    return keras.Model(start, K.LSTM(H)(K.Embedding(V, 3, mask_zero=True)(start)))


def shared_model():
    one = K.LSTM(I, return_sequences=True)
    return model_of(lambda x: one(one(x)))


def two_inputs():
    starts = [keras.Input((None, I)), keras.Input((None, I))]
    return keras.Model(starts, K.LSTM(H)(K.Concatenate()(starts)))


MODELS_REFUSED = {
    "mask_zero": (
        lambda: keras.Sequential(
            [keras.Input((None,)), K.Embedding(V, 3, mask_zero=True), K.LSTM(H)]
        ),
        "its mask_zero makes a mask",
    ),
    "mask_zero, functional": (masked_model, "it is called with mask; masks, by Embedding"),
    "training": (
        lambda: model_of(lambda x: K.LSTM(H)(K.Dropout(0.2)(x, training=True))),
        "called with training",
    ),
    "initial state": (
        lambda: model_of(lambda x: K.SimpleRNN(H)(x, initial_state=K.SimpleRNN(H)(x))),
        "called with initial_state",
    ),
    "state as the output": (
        lambda: model_of(lambda x: K.LSTM(H, return_state=True)(x)[2]),
        "its state is read",
    ),
    "branches": (
        lambda: model_of(lambda x: K.Add()([K.LSTM(H)(x), K.GRU(H)(x)])),
        "more than the output of one layer",
    ),
    "an operation": (lambda: model_of(lambda x: keras.ops.tanh(K.LSTM(H)(x))), "no such layer"),
    "shared weights": (shared_model, "called twice, with the same weights"),
    "two inputs": (two_inputs, "ours have one input and one output"),
    "nothing": (lambda: keras.Sequential([keras.Input((None, I))]), "it has no layers"),
    "own model": (lambda: OwnModel(), "code of its own"),
}


@pytest.mark.parametrize("name", MODELS_REFUSED)
def test_models_that_are_no_row_are_refused(name):
    make, message = MODELS_REFUSED[name]
    with pytest.raises(ValueError, match=message):
        gr.interop.from_keras(make())


def test_sources_are_checked():
    with pytest.raises(
        ValueError, match=r"LSTMCell 'lstm_cell'.*it has no weights yet; build it or call"
    ):
        gr.interop.from_keras(K.LSTM(H))
    with pytest.raises(TypeError, match="source: got int, expected a layer, a cell or a model of"):
        gr.interop.from_keras(3)
    with pytest.raises(ValueError, match="ours has no dropout on its inputs"):
        gr.interop.from_keras(weighed(K.LSTMCell(H, dropout=0.1), (None, I)))


# To keras ---------------------------------------------------------------------------------------

DEEP = gr.stack(
    gr.LSTM(3),
    gr.repeat(gr.GRU(3, reset="after", update="keeps"), 2),
    gr.bidirectional(gr.Elman(2)),
)
OURS = {
    "LSTM": gr.recurrent(gr.LSTM(H)),
    "LSTM, no bias": gr.recurrent(gr.LSTM(H, use_bias=False)),
    "GRU after": gr.recurrent(GRU_AFTER),
    "GRU before": gr.recurrent(GRU_BEFORE),
    "Elman": gr.recurrent(gr.Elman(H, "relu")),
    "final": gr.final(GRU_AFTER),
    "bidirectional": gr.bidirectional(gr.LSTM(H), GRU_BEFORE, merge="mul"),
    "final, bidirectional": gr.final(gr.bidirectional(gr.Elman(H), merge="mean")),
    "dense": gr.dense(3, use_bias=False),
    "cell": gr.LSTM(H),
    "stack": gr.stack(
        gr.dropout(0.1), gr.LSTM(H), gr.dropout(0.2, shared_in_time=True), gr.dense(2)
    ),
    "dropped states": gr.stack(
        gr.bidirectional(gr.RecurrentDropout(gr.Elman(2, "relu"), 0.1), gr.Elman(2)), gr.dense(2)
    ),
    "tokens": LAST,
    "embedding": gr.embed(V, 3),
}


@pytest.mark.parametrize("name", OURS)
def test_parameters_come_back_to_the_bit(name):
    layer, dtype = OURS[name], "float32" if name == "stack" else "float64"
    reads = None if getattr(layer, "reads_tokens", False) else I
    params = randomised(layer, reads, dtype)
    model = gr.interop.to_keras(layer, params)
    assert model.built
    assert_same(gr.interop.from_keras(model), (layer, params))
    for got, want in zip(model.weights, keras_weights(layer, params), strict=True):
        assert got.dtype == want.dtype == dtype
        assert jnp.array_equal(got.value, want)


def test_bfloat16_comes_back():
    layer = gr.stack(gr.LSTM(H), gr.dense(2))
    params = randomised(layer, dtype="bfloat16")
    assert_same(gr.interop.from_keras(gr.interop.to_keras(layer, params)), (layer, params))


@pytest.mark.parametrize("name", ["stack", "deep", "tokens", "final", "final, bidirectional"])
def test_models_compute_what_ours_do(name):
    """Under a mask, too: zeros in the padding, and the last valid step's output."""
    layer = DEEP if name == "deep" else OURS[name]
    tokens = getattr(layer, "reads_tokens", False)
    xs = TOKENS if tokens else XS.astype(jnp.float32)
    params = randomised(layer, None if tokens else I, "float32")
    model = gr.interop.to_keras(layer, params)
    assert_close(theirs(model, xs), layer.apply(params, xs, lengths=FULL)[1], 1e-5)
    if tokens:  # an Embedding lets no mask through
        return
    got, want = theirs(model, xs, mask=MASK), layer.apply(params, xs, lengths=LENGTHS)[1]
    if name == "stack":  # whose dense layer adds its bias in the padding
        got = np.where(MASK.T[..., None], got, 0)
    assert_close(got, want, 1e-5)


def test_a_gru_that_writes_comes_back_as_one_that_keeps():
    layer = gr.recurrent(gr.GRU(H, reset="before", update="writes"))
    params = randomised(layer)
    back, turned = gr.interop.from_keras(gr.interop.to_keras(layer, params))
    assert back == gr.recurrent(GRU_BEFORE)
    assert_close(back.apply(turned, XS)[1], layer.apply(params, XS)[1])


def test_a_repeat_comes_back_as_its_layers():
    params = randomised(DEEP)
    layer, back = gr.interop.from_keras(gr.interop.to_keras(DEEP, params))
    assert [type(part).__name__ for part in layer.layers] == ["Recurrent"] * 3 + ["Bidirectional"]
    for got, want in zip(keras_weights(layer, back), keras_weights(DEEP, params), strict=True):
        assert jnp.array_equal(got, want)


def test_dropout_after_the_end_has_no_time_to_share():
    layer = gr.final(gr.stack(gr.LSTM(H), gr.dropout(0.5, shared_in_time=True)))
    model = gr.interop.to_keras(layer, randomised(layer))
    assert [type(part).__name__ for part in model.layers] == ["LSTM", "Dropout"]


def test_gradients_flow_through_the_conversion():
    """Both ways: for our parameters through keras' call, and for keras' variables through ours."""
    layer = gr.recurrent(GRU_AFTER)
    params = randomised(layer)
    model = gr.interop.to_keras(layer, params)
    model.cell.activation = jnp.tanh
    others = [variable.value for variable in model.non_trainable_variables]

    def loss_there(params):
        ys, _ = model.stateless_call(keras_weights(layer, params), others, XS.swapaxes(0, 1))
        return jnp.sum(jnp.sin(ys))

    def loss_here(params):
        return jnp.sum(jnp.sin(layer.apply(params, XS)[1]))

    there, here = jax.jit(jax.grad(loss_there))(params), jax.grad(loss_here)(params)
    for got, want in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
        assert_close(got, want)

    def loss_of_variables(values):
        with keras.StatelessScope(list(zip(model.trainable_variables, values, strict=True))):
            found, params = gr.interop.from_keras(model)
        return jnp.sum(jnp.sin(found.apply(params, XS)[1]))

    values = keras_weights(layer, params)
    got = jax.grad(loss_of_variables)(values)
    _, pull = jax.vjp(lambda p: keras_weights(layer, p), params)
    for a, b in zip(jax.tree.leaves(pull(got)[0]), jax.tree.leaves(here), strict=True):
        assert_close(a, b)


LEARNED = gr.recurrent(gr.LSTM(H), initial="learned")
NOT_IN_KERAS = {
    "peephole": (gr.LSTM(H, peephole="diagonal"), "there are no diagonal peepholes"),
    "projection": (gr.LSTM(H, projection=2), "there is no recurrent projection"),
    "coupled": (gr.LSTM(H, coupled=True), "never coupled"),
    "Jordan": (gr.Jordan(H, out_features=2), "there is no Jordan cell"),
    "learned": (LEARNED, "its initial state is an input, never learned"),
    "inside": (gr.bidirectional(LEARNED, gr.LSTM(H)), "never learned"),
    "residual": (gr.residual(gr.LSTM(I)), "it has no place for residual"),
    "pool": (gr.pool(gr.LSTM(H)), "it has no place for pool"),
    "zoneout": (gr.Zoneout(gr.LSTM(H), 0.1), "there is no Zoneout cell"),
    "gates dropped": (gr.RecurrentDropout(gr.LSTM(H), 0.1), "there is no RecurrentDropout cell"),
    "unequal": (
        gr.stack(gr.bidirectional(gr.LSTM(H), gr.LSTM(2)), gr.dense(2)),
        "below other layers its two directions are of one size",
    ),
    "nothing recurrent": (gr.final(gr.dense(2)), "only recurrent layers make one output"),
    "no features": (gr.dropout(0.5), "nothing in it says how many features"),
}


@pytest.mark.parametrize("name", NOT_IN_KERAS)
def test_what_keras_does_not_have_is_refused(name):
    layer, message = NOT_IN_KERAS[name]
    params = randomised(layer)
    with pytest.raises(ValueError, match=message) as error:
        gr.interop.to_keras(layer, params)
    assert "cannot become a keras model" in str(error.value)


def test_quantised_layers_are_refused():
    """In float8 the weights are stored as they were, and another product is computed."""
    dense = K.Dense(2)
    dense.build((None, None, 3))
    dense.quantize("float8")
    with pytest.raises(ValueError, match=r"source: got Dense .*: it is quantised, float8"):
        gr.interop.from_keras(dense)


def test_arguments_are_checked():
    layer = gr.stack(gr.LSTM(H), gr.dense(2))
    params = randomised(layer)
    mixed = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params[1])
    with pytest.raises(ValueError, match="params: got tuple, expected a tuple of 2"):
        gr.interop.to_keras(layer, params[:1])
    with pytest.raises(
        ValueError, match=re.escape("params[1].kernel: got shape (3, 2), expected (4")
    ):
        gr.interop.to_keras(layer, (params[0], gr.DenseParams(normal(0, 3, 2), normal(0, 2))))
    with pytest.raises(
        ValueError, match="params: got dtype float32 and float64, expected the same"
    ):
        gr.interop.to_keras(layer, (params[0], mixed))
    with pytest.raises(ValueError, match=r"return_state: got True .*, expected False: only a recu"):
        gr.interop.to_keras(layer, params, return_state=True)
    with pytest.raises(ValueError, match="return_state: got 'yes', expected True or False"):
        gr.interop.to_keras(layer, params, return_state="yes")


def test_keras_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    layer = gr.recurrent(gr.LSTM(H))
    with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "gatedrnn[keras]"')):
        gr.interop.to_keras(layer, randomised(layer))

    def without_backend(*names):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(converters, "require", without_backend)
    with pytest.raises(ModuleNotFoundError, match=r"tensorflow, which is not .* KERAS_BACKEND=jax"):
        gr.interop.to_keras(layer, randomised(layer))


# States -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LSTM", "GRU before", "SimpleRNN", "bidirectional", "cells"])
def test_states_go_both_ways(name):
    """Into a layer that starts from them, and out of it, at each row's own end."""
    layer = {
        "LSTM": gr.recurrent(gr.LSTM(H)),
        "GRU before": gr.recurrent(GRU_BEFORE),
        "SimpleRNN": gr.recurrent(gr.Elman(H)),
        "bidirectional": gr.bidirectional(gr.LSTM(H), gr.LSTM(2)),
        "cells": gr.stack(gr.GRU(3, reset="after", update="keeps"), gr.LSTM(H)),
    }[name]
    params, carry = randomised(layer, dtype="float32"), carry_of(layer, dtype="float32")
    states = gr.interop.to_keras_carry(layer, carry)
    if name == "cells":
        cells = [K.GRUCell(3), K.LSTMCell(H)]
        model = K.RNN(cells, return_sequences=True, return_state=True)
        model.build((None, T, I))
        model.set_weights([np.asarray(leaf) for leaf in keras_weights(layer, params)])
        states = [states[:1], states[1:]]
    else:
        model = gr.interop.to_keras(layer, params, return_state=True)
    xs = XS.astype(jnp.float32)
    ys, *final = model(xs.swapaxes(0, 1), initial_state=states, mask=MASK)
    want_carry, want = layer.apply(params, xs, carry, lengths=LENGTHS)
    assert_close(np.where(MASK.T[..., None], ys.swapaxes(0, 1), 0), want, 1e-5)
    got = gr.interop.from_keras_carry(layer, final)
    assert jax.tree.structure(got) == jax.tree.structure(want_carry)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want_carry), strict=True):
        assert_close(a, b, 1e-5)


def test_carries_come_back():
    """Of several layers, and without what is no state: the steps that dropout counts."""
    layer = gr.final(gr.stack(gr.embed(V, I), DEEP, gr.dropout(0.1), gr.dense(2)))
    carry = carry_of(layer)
    states = gr.interop.to_keras_carry(layer, carry)
    assert [state.shape for state in states] == [(B, 3)] * 4 + [(B, 2)] * 2
    back = gr.interop.from_keras_carry(layer, states)
    assert jax.tree.structure(back) == jax.tree.structure(carry)
    assert all(map(jnp.array_equal, jax.tree.leaves(back), jax.tree.leaves(carry)))
    assert gr.interop.from_keras_carry(gr.GRU(H), normal(0, B, H)).h.shape == (B, H)


def test_states_are_checked():
    layer = gr.recurrent(gr.LSTM(H))
    with pytest.raises(ValueError, match="states: got 1, expected 2 for recurrent"):
        gr.interop.from_keras_carry(layer, [normal(0, B, H)])
    with pytest.raises(ValueError, match=re.escape("states, c: got shape (3, 2), expected (3, 4)")):
        gr.interop.from_keras_carry(layer, [normal(0, B, H), normal(0, B, 2)])
    with pytest.raises(TypeError, match=re.escape("states[0]: got dtype int")):
        gr.interop.from_keras_carry(layer, [np.zeros((B, H), int)] * 2)
    with pytest.raises(ValueError, match=r"carry: got GRUCarry\(.*, expected LSTMCarry\("):
        gr.interop.to_keras_carry(layer, gr.GRU(H).carry((B,)))


# What keras does, shown -------------------------------------------------------------------------


def test_keras_repeats_outputs_in_the_padding():
    """Ours are zeros there, and so are those of the layers that we make."""
    source = weighed(K.LSTM(H, return_sequences=True))
    ys = theirs(source, mask=MASK)
    np.testing.assert_array_equal(ys[1:, 1], np.broadcast_to(ys[0, 1], (T - 1, H)))
    model = gr.interop.to_keras(*gr.interop.from_keras(source))
    assert (theirs(model, mask=MASK)[1:, 1] == 0).all()


def test_keras_ends_a_row_without_steps_in_its_initial_state():
    """It is what keras gives in place of the zeros of `gr.final`."""
    source = weighed(K.GRU(H))
    layer, params = gr.interop.from_keras(source)
    carry = carry_of(layer, dtype="float32")
    xs = XS.astype(jnp.float32)
    nothing = np.zeros((B, T), bool)
    ys = theirs(source, xs, mask=nothing, initial_state=gr.interop.to_keras_carry(layer, carry))
    np.testing.assert_array_equal(ys, carry.h)
    assert not layer.apply(params, xs, carry, lengths=np.zeros(B, int))[1].any()


def test_keras_zeroes_the_one_output_of_a_row_that_ends_early():
    """With `zero_output_for_mask`, which its documentation says is for sequences only."""
    source = weighed(K.LSTM(H, zero_output_for_mask=True))
    ys = theirs(source, mask=MASK)
    assert ys[0].all()
    assert not ys[1:].any()


def test_keras_cannot_run_a_list_of_one_cell():
    """On JAX, its states change their structure; ours is the layer of the cell."""
    source = weighed(K.RNN([K.LSTMCell(H)]))
    with pytest.raises(TypeError, match="scan body function carry"):
        theirs(source)
    assert gr.interop.from_keras(source)[0] == gr.final(gr.LSTM(H))


def test_keras_takes_both_directions_to_be_of_one_size():
    """So that a layer above them is built for the wrong number of inputs; alone, they work."""
    source = K.Bidirectional(
        K.LSTM(H, return_sequences=True),
        backward_layer=K.LSTM(2, return_sequences=True, go_backwards=True),
    )
    assert source.compute_output_shape((B, T, I)) == (B, T, 2 * H)
    assert theirs(source).shape == (T, B, H + 2)


def test_keras_rounds_tanh_to_float32():
    source = weighed(K.LSTM(H, return_sequences=True, dtype="float64"))
    source.cell.activation = keras.activations.tanh
    layer, params = gr.interop.from_keras(source)
    error = np.abs(theirs(source) - layer.apply(params, XS)[1]).max()
    assert 1e-10 < error < 1e-6


# Any network ------------------------------------------------------------------------------------


def cells(draw, features=None):
    features = features or draw(st.integers(1, 4))
    use_bias = draw(st.booleans())
    return draw(
        st.sampled_from(
            [
                gr.LSTM(features, use_bias=use_bias),
                gr.Elman(features, draw(st.sampled_from(["tanh", "relu", "sigmoid", "identity"]))),
                *[
                    gr.GRU(features, reset, update, use_bias)
                    for reset in ("before", "after")
                    for update in ("keeps", "writes")
                ],
            ]
        )
    )


@st.composite
def networks(draw):
    """Rows of layers, in one direction or two, with a read-out or not, final or not."""
    layers = []
    for _ in range(draw(st.integers(1, 2))):
        cell = cells(draw)
        kind = draw(st.sampled_from(["forward", "both", "two"]))
        merge = draw(st.sampled_from(["concat", "sum", "mean", "mul"]))
        if kind == "forward":
            layers.append(gr.recurrent(cell))
        elif kind == "both":
            layers.append(gr.bidirectional(cell, merge=merge))
        else:
            other = cells(draw, cell.features)  # of one size, for keras below other layers
            layers.append(gr.bidirectional(cell, other))
        if draw(st.booleans()):
            layers.append(gr.dropout(0.5, draw(st.booleans())))
    if draw(st.booleans()):
        layers.append(gr.dense(draw(st.integers(1, 3)), draw(st.booleans())))
    layer = gr.stack(*layers) if len(layers) > 1 else layers[0]
    return gr.final(layer) if draw(st.booleans()) else layer


@settings(max_examples=10, deadline=None)
@given(layer=networks())
def test_any_network_comes_back(layer):
    """To the bit; one with a GRU that writes by the second round trip."""
    params = randomised(layer, dtype="float32")
    back = gr.interop.from_keras(gr.interop.to_keras(layer, params))
    if not has_gru_that_writes(layer):
        assert_same(back, (as_exported(layer), params))
    assert_same(gr.interop.from_keras(gr.interop.to_keras(*back)), back)


@settings(max_examples=4, deadline=None)
@given(layer=networks(), lengths=st.lists(st.integers(1, T), min_size=B, max_size=B))
def test_any_network_is_the_same_function(layer, lengths):
    """Under any mask."""
    params = randomised(layer, dtype="float32")
    xs, lengths = XS.astype(jnp.float32), np.array(lengths)
    mask = np.arange(T) < lengths[:, None]
    got = theirs(gr.interop.to_keras(layer, params), xs, mask=mask)
    want = layer.apply(params, xs, lengths=lengths)[1]
    valid = np.ones(B, bool) if want.ndim == 2 else mask.T
    np.testing.assert_allclose(
        np.where(valid[..., None], got, 0), want, rtol=0, atol=1e-5 * max(1, np.abs(want).max())
    )


def as_exported(layer):
    """Dropout after the end shares nothing in time."""
    if not isinstance(layer, type(gr.final(gr.LSTM(1)))) or not hasattr(layer.layer, "layers"):
        return layer
    layers = list(layer.layer.layers)
    for k in reversed(range(len(layers))):
        if hasattr(layers[k], "rate"):
            layers[k] = gr.dropout(layers[k].rate)
        elif not isinstance(layers[k], type(gr.dense(1))):
            break
    return gr.final(gr.stack(*layers))
