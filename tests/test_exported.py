"""Programs of `jax.export` with symbols for sizes, read back, give what the function gives."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import gatedrnn as gr
from gatedrnn._registry.cells import over_time
from gatedrnn._src.exported import register

PLATFORMS = ("cpu", "cuda", "tpu")
T, B, I = 7, 4, 3
SIZES = ("7, b", "t, 4", "t, b")


def exported(function, params, *shapes):
    """The program, serialised and read back: `function(params, *arrays)` of these shapes."""
    program = export.export(jax.jit(function), platforms=PLATFORMS)(params, *shapes)
    return export.deserialize(program.serialize()).call


def agree(function, params, shapes, *examples):
    """The program is exported once and run at the sizes of each example."""
    program = exported(function, params, *shapes)
    for arrays in examples:
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
            program(params, *arrays),
            jax.jit(function)(params, *arrays),
        )


def sequences(length, batch):
    """Inputs, lengths from none to all, and resets, of these sizes."""
    draw = np.random.default_rng(0)
    xs = jnp.asarray(draw.normal(size=(length, batch, I)))
    lengths = jnp.asarray(draw.integers(0, length + 1, batch), jnp.int32)
    return xs, lengths, jnp.asarray(draw.random((length, batch)) < 0.2)


def shaped(sizes):
    """Their shapes, with symbols."""
    arrays = sequences(T, B)
    t, b = export.symbolic_shape(sizes)
    dims = ((t, b, I), (b,), (t, b))
    return [jax.ShapeDtypeStruct(d, a.dtype) for d, a in zip(dims, arrays, strict=True)]


CELLS = {name: make(4) for row in over_time() for name, make in row.timed().items()}
QUICK = {
    "learned": gr.recurrent(gr.LSTM(4), initial="learned"),
    "stack": gr.stack(gr.bidirectional(gr.GRU(2)), gr.repeat(gr.GRU(4), 2), gr.dense(2)),
}
LONG = {name: gr.recurrent(cell) for name, cell in CELLS.items()} | {
    "residual": gr.residual(gr.GRU(I)),
    "final": gr.final(gr.bidirectional(gr.LSTM(4))),
    "zoneout": gr.recurrent(gr.Zoneout(gr.LSTM(4), 0.1, 0.1)),
    "dropout": gr.stack(gr.recurrent(gr.RecurrentDropout(gr.GRU(4), 0.2)), gr.dropout(0.1)),
}
NETWORKS = [
    *(pytest.param(net, sizes, id=f"{name}-{sizes}") for name, net in QUICK.items()
      for sizes in SIZES),
    *(pytest.param(net, sizes, id=f"{name}-{sizes}", marks=pytest.mark.long)
      for name, net in LONG.items() for sizes in SIZES),
]  # fmt: skip


@pytest.mark.parametrize(("net", "sizes"), NETWORKS)
def test_layers(net, sizes):
    """Outputs and gradients, with lengths and resets, at two sizes where both are symbols."""
    params = net.init(jax.random.key(0), I, jnp.float64)

    def outcome(params, xs, lengths, resets):
        def loss(params, xs):
            ys = net.apply(params, xs, lengths=lengths, resets=resets)[1]
            return jnp.sum(ys**2), ys

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, xs)

    others = [sequences(2, 9)] if sizes == "t, b" else []
    agree(outcome, params, shaped(sizes), sequences(T, B), *others)


def gradient(options):
    """The gradient of an LSTM by a way back, with truncation and clipping, and its parameters."""
    cell, bptt = gr.LSTM(3), gr.BPTT(truncate=3, **options)

    def gradient(params, xs, lengths, resets):
        def loss(params):
            return jnp.sum(gr.unroll(cell, params, xs, lengths=lengths, bptt=bptt)[1] ** 2)

        return jax.grad(loss)(params)

    return gradient, cell.init(jax.random.key(0), I, jnp.float64)


WAYS = [
    {"save": "gates", "clip": 0.1},
    {"save": "boundaries"},
    {"target": "gpu"},
    {"rule": "autodiff"},
]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_ways_back(options, sizes):
    others = [sequences(T + 2, B), sequences(2, B)] if sizes.startswith("t") else []
    agree(*gradient(options), shaped(sizes), sequences(T, B), *others)


@pytest.mark.parametrize("save", ["gates", "boundaries"])
def test_a_chunk_of_ones_own(save):
    """It holds where the length is a number, and is refused where that is a symbol."""
    options = {"save": save, "chunk": 3}
    agree(*gradient(options), shaped("7, b"), sequences(T, B), sequences(T, 1))
    with pytest.raises(ValueError, match=r"^chunk: got 3, expected None where .* is a symbol, t"):
        exported(*gradient(options), *shaped("t, b"))


# Steps, decoding, two sequences -------------------------------------------------------------------

VOCABULARY = 11
SPEAKER = gr.stack(gr.embed(VOCABULARY, 3), gr.GRU(4), gr.dense(VOCABULARY))


def tokens(*shape):
    return jnp.asarray(np.random.default_rng(1).integers(0, VOCABULARY, shape), jnp.int32)


def of_tokens(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.int32)


def greedy(params, token):
    step = partial(SPEAKER.step, params)
    return gr.greedy(
        step, SPEAKER.carry(token.shape, jnp.float64, params=params), token, max_length=5, end=2
    )


def beams(params, token):
    step, carry = (
        partial(SPEAKER.step, params),
        SPEAKER.carry(token.shape, jnp.float64, params=params),
    )
    return gr.beam_search(step, carry, token, beams=3, max_length=5, end=2)


def one_step(params, token):
    return SPEAKER.step(params, SPEAKER.carry(token.shape, jnp.float64, params=params), token)


@pytest.mark.parametrize("decode", [one_step, greedy, beams])
def test_decoding(decode):
    (b,) = export.symbolic_shape("b")
    params = SPEAKER.init(jax.random.key(0), None, jnp.float64)
    agree(decode, params, [of_tokens(b)], [tokens(4)], [tokens(1)])


def test_the_read_out():
    t, b = export.symbolic_shape("t, b")
    params = SPEAKER.init(jax.random.key(0), None, jnp.float64)

    def losses(params, words, labels):
        hs = gr.stack(*SPEAKER.layers[:-1]).apply(params[:-1], words)[1]
        return gr.softmax_cross_entropy(params[-1], hs, labels)

    agree(losses, params, [of_tokens(t, b)] * 2, [tokens(5, 3), tokens(5, 3)])


def test_seq2seq_with_attention():
    """Two times, the source's and the target's, and the batch."""
    s, t, b = export.symbolic_shape("s, t, b")
    encoder = gr.stack(gr.embed(VOCABULARY, 3), gr.bidirectional(gr.GRU(2)))
    attention = gr.recurrent(gr.Attention(gr.GRU(4), 4, 3))
    net = gr.seq2seq(encoder, gr.stack(gr.embed(VOCABULARY, 3), attention))
    params = net.init(jax.random.key(0), dtype=jnp.float64)

    def outputs(params, sources, targets, lengths):
        return net.apply(params, sources, targets, source_lengths=lengths)

    shapes = [of_tokens(s, b), of_tokens(t, b), of_tokens(b)]
    lengths = jnp.array([6, 0, 3], jnp.int32)
    agree(outputs, params, shapes, [tokens(6, 3), tokens(4, 3), lengths])


@pytest.mark.parametrize("sizes", ["s, 3", "s, b"])
def test_a_symbol_in_the_memory(sizes):
    """With the time of the decoder a number; bound parameters are written, too."""
    s, b = export.symbolic_shape(sizes)
    attention = gr.Attention(gr.GRU(4), 5, 3)
    params = attention.init(jax.random.key(0), I, jnp.float64)
    memory = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3, 5)))
    xs = jnp.ones((T, 3, I))

    def outputs(params, memory, xs):
        bound = gr.attend(params, memory)
        return gr.unroll(attention, bound, xs)[1], bound, gr.Shared(xs)

    shapes = [
        jax.ShapeDtypeStruct((s, b, 5), memory.dtype),
        jax.ShapeDtypeStruct((T, b, I), xs.dtype),
    ]
    agree(outputs, params, shapes, [memory, xs])


def test_every_named_tuple_has_a_name():
    """That stays, so that a program of today is read by a version of tomorrow."""
    public = [getattr(gr, name) for name in gr.__all__]
    tuples = [v for v in public if isinstance(v, type) and issubclass(v, tuple)]
    assert gr.LSTMParams in tuples
    for kind in tuples:
        value = kind(*(jnp.zeros(()),) * len(kind._fields))
        written = export.export(jax.jit(lambda v: v))(value).serialize()
        assert f"gatedrnn.{kind.__name__}".encode() in written
        assert type(export.deserialize(written).call(value)) is kind


def test_names_may_be_registered_again():
    """As they are where the package is imported a second time, with other classes."""
    register([gr.LSTMParams], [gr.Shared])
    register([NamedTuple("LSTMParams", [("kernel", jax.Array)])])
    test_every_named_tuple_has_a_name()
