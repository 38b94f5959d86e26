"""Networks written as ONNX graphs and read again: the same network, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gatedrnn as gr

pytest.importorskip("onnx")

I, H, V, T, B = 3, 4, 5, 6, 3

CELLS = [
    *(gr.Elman(H, activation) for activation in ("tanh", "relu", "sigmoid", "identity")),
    gr.Elman(H, use_bias=False),
    gr.LSTM(H),
    gr.LSTM(H, use_bias=False),
    gr.LSTM(H, peephole="diagonal"),
    gr.LSTM(H, coupled=True),
    gr.LSTM(H, coupled=True, peephole="diagonal", use_bias=False),
    gr.GRU(H, "before", "keeps"),
    gr.GRU(H, "after", "keeps"),
    gr.GRU(H, "after", "keeps", use_bias=False),
]
cells = st.sampled_from(CELLS)
merges = st.sampled_from(["concat", "sum", "mean", "mul"])


@st.composite
def recurrent(draw):
    """A recurrent or a bidirectional layer, of equal cells or of two."""
    one = gr.recurrent(draw(cells), initial=draw(st.sampled_from(["zeros", "learned"])))
    if draw(st.booleans()):
        return one
    other = draw(st.sampled_from([None, gr.recurrent(draw(cells))]))
    return gr.bidirectional(one, other, draw(merges))


def stack(layers):
    return layers[0] if len(layers) == 1 else gr.stack(*layers)


@st.composite
def networks(draw):
    """Layers one after another, some of them beside what they read, as one output or as many."""
    layers = [gr.embed(V, I)] if draw(st.booleans()) else []
    layers += draw(st.lists(recurrent(), min_size=1, max_size=3))
    if draw(st.booleans()):
        size = H
        layers.append(gr.dense(H))
        inner = draw(
            st.lists(st.sampled_from([gr.GRU(H, "after", "keeps"), gr.dense(size)]), max_size=2)
        )
        if inner:
            layers.append(
                gr.residual(stack([gr.recurrent(c) if isinstance(c, gr.GRU) else c for c in inner]))
            )
    if draw(st.booleans()):
        layers.append(gr.dense(2, use_bias=draw(st.booleans())))
    network = stack(layers)
    end = draw(st.sampled_from(["", "final", "mean", "max"]))
    if end == "final":
        return gr.final(network)
    return gr.pool(network, end) if end else network


def random_params(layer, dtype=jnp.float32):
    reads = None if getattr(layer, "reads_tokens", False) else I
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), reads))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.6, dtype), shapes)


def assert_same(got, want):
    assert got[0] == want[0]
    assert jax.tree.structure(got[1]) == jax.tree.structure(want[1])
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@given(networks(), st.booleans(), st.booleans(), st.sampled_from([13, 17, 18, 21]))
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read(layer, lengths, carry, opset):
    """With lengths, which mask every layer, and with initial states as inputs."""
    params = random_params(layer)
    model = gr.interop.to_onnx(layer, params, lengths=lengths, carry=carry, opset=opset)
    if carry:  # then the learned ones are not in the graph
        layer, params = unlearned(layer, params)
    assert_same(gr.interop.from_onnx(model), (layer, params))


def unlearned(layer, params):
    """The same network that starts from zeros."""
    if hasattr(layer, "layers"):
        pairs = [unlearned(*both) for both in zip(layer.layers, params, strict=True)]
        return gr.stack(*(one for one, _ in pairs)), tuple(p for _, p in pairs)
    if hasattr(layer, "forward"):
        pairs = [
            unlearned(*both) for both in zip((layer.forward, layer.backward), params, strict=True)
        ]
        (one, p), (other, q) = pairs
        return gr.bidirectional(one, other, layer.merge), gr.Directions(p, q)
    if hasattr(layer, "cell"):
        return gr.recurrent(layer.cell), params._replace(initial=None)
    if hasattr(layer, "layer"):
        inner, params = unlearned(layer.layer, params)
        if hasattr(layer, "how"):
            return gr.pool(inner, layer.how), params
        return (gr.final if layer.drops_time else gr.residual)(inner), params
    return layer, params


def test_float64_is_kept():
    layer = gr.bidirectional(gr.LSTM(H, peephole="diagonal"))
    params = random_params(layer, jnp.float64)
    assert_same(gr.interop.from_onnx(gr.interop.to_onnx(layer, params)), (layer, params))


def test_repeats_are_stacks_and_dropout_is_left_out():
    """And a GRU that writes keeps; the same function."""
    layer = gr.final(
        gr.stack(gr.repeat(gr.GRU(I), 2), gr.dropout(0.5), gr.residual(gr.repeat(gr.LSTM(I), 2)))
    )
    params = random_params(layer)
    back, recovered = gr.interop.from_onnx(gr.interop.to_onnx(layer, params, lengths=True))
    gru = gr.recurrent(gr.GRU(I, "before", "keeps"))
    assert back == gr.final(gr.stack(gru, gru, gr.residual(gr.stack(gr.LSTM(I), gr.LSTM(I)))))
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(T, B, I)), jnp.float32)
    lengths = jnp.array([6, 0, 3])
    got, want = (
        net.apply(p, xs, lengths=lengths)[1] for net, p in ((back, recovered), (layer, params))
    )
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("final", [False, True])
def test_two_directions_of_one_feature_each(final):
    layer = gr.stack(
        gr.bidirectional(gr.LSTM(1)), gr.bidirectional(gr.GRU(1, "after", "keeps"), merge="sum")
    )
    layer = gr.final(layer) if final else layer
    params = random_params(layer)
    for lengths in (False, True):
        got = gr.interop.from_onnx(gr.interop.to_onnx(layer, params, lengths=lengths))
        assert jax.tree.structure(got[1]) == jax.tree.structure(params)
        xs = jnp.asarray(np.random.default_rng(1).normal(size=(T, B, I)), jnp.float32)
        given = jnp.asarray([T, 0, 2]) if lengths else None
        for a, b in zip(
            *(n.apply(p, xs, lengths=given) for n, p in (got, (layer, params))), strict=True
        ):
            jax.tree.map(np.testing.assert_array_equal, a, b)
