"""Streaming: `step` over time, and windows with the carry handed on, equal the whole sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Leaky, apply, assert_trees_close, normal, random_params, step

import gatedrnn as gr

T, IN, H = 5, 3, 3  # time, input features, features
KEY = jax.random.key(3)

NETWORKS = {
    "recurrent": gr.recurrent(gr.LSTM(H)),
    "learned": gr.recurrent(gr.LSTM(4, projection=H), initial="learned"),
    "no-rule": gr.recurrent(Leaky(4, 2), initial="learned"),
    "dropout": gr.dropout(0.5),
    "dropout-shared": gr.dropout(0.5, shared_in_time=True),
    "repeat": gr.repeat(gr.stack(gr.recurrent(gr.GRU(IN), initial="learned"), gr.dropout(0.4)), 3),
    "residual": gr.residual(gr.stack(gr.Jordan(4, IN), gr.dropout(0.4, shared_in_time=True))),
    "regularised": gr.stack(
        gr.dropout(0.3, shared_in_time=True),
        gr.recurrent(
            gr.Zoneout(gr.RecurrentDropout(gr.LSTM(IN), 0.4), 0.3, 0.4), initial="learned"
        ),
        gr.repeat(gr.RecurrentDropout(gr.LayerNormGRU(IN), 0.4), 2),
    ),
    "stack": gr.stack(
        gr.embed(7, H),
        gr.dropout(0.3, shared_in_time=True),
        gr.residual(gr.recurrent(gr.LSTM(H), initial="learned")),
        gr.dropout(0.3),
        gr.stack(gr.GRU(H), gr.dropout(0.3)),
        gr.dense(2),
    ),
}


def inputs_of(net, length, batch, seed=0):
    """Tokens or features, whichever the network reads, and its parameters."""
    tokens = getattr(net, "reads_tokens", False)
    if tokens:
        xs = jnp.asarray(np.random.default_rng(seed).integers(0, 7, (length, *batch)))
    else:
        xs = normal(length, *batch, IN, seed=seed)
    return random_params(net, None if tokens else IN, seed), xs


def streamed(net, params, xs, batch, key):
    """The network step by step from `net.carry`: the last carry and the outputs, stacked."""
    carry, ys = net.carry(batch, jnp.float64, params), []
    for x in xs:
        carry, y = step(net, params, carry, x, key)
        ys.append(y)
    return carry, jnp.stack(ys)


@pytest.mark.parametrize("key", [None, KEY], ids=["no-key", "key"])
@pytest.mark.parametrize("name", NETWORKS)
def test_streaming_is_the_whole_sequence(name, key):
    """Outputs and the last carry, learned initial carries and dropout masks included."""
    net, batch = NETWORKS[name], (2,)
    params, xs = inputs_of(net, T, batch)
    want = apply(net, params, xs, key=key)
    assert_trees_close(streamed(net, params, xs, batch, key), want)


@pytest.mark.parametrize("name", ["dropout", "dropout-shared", "repeat", "regularised", "stack"])
def test_windows_are_the_whole_sequence(name):
    """With the carry handed on and the same key, cut anywhere, an empty window too."""
    net = NETWORKS[name]
    params, xs = inputs_of(net, T, (2,))
    carry, ys = None, []
    for window in (xs[:2], xs[2:2], xs[2:]):
        carry, y = apply(net, params, window, carry, key=KEY)
        ys.append(y)
    assert_trees_close((carry, jnp.concatenate(ys)), apply(net, params, xs, key=KEY))


def test_streaming_goes_on_from_a_window():
    """`apply` for a prompt, then `step`, with the same key: the whole sequence."""
    net = NETWORKS["stack"]
    params, xs = inputs_of(net, T, (2,))
    carry, _ = apply(net, params, xs[:-1], key=KEY)
    carry, y = step(net, params, carry, xs[-1], KEY)
    want, ys = apply(net, params, xs, key=KEY)
    assert_trees_close((carry, y), (want, ys[-1]))


@pytest.mark.parametrize("name", ["recurrent", "regularised", "stack", "repeat"])
def test_final_streams_to_the_last_output(name):
    """The output of `gr.final` after the last step is that of its `apply`."""
    net = gr.final(NETWORKS[name])
    params, xs = inputs_of(net, T, (2,))
    carry, ys = streamed(net, params, xs, (2,), None)
    assert_trees_close((carry, ys[-1]), apply(net, params, xs))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
def test_streaming_keeps_dtypes(dtype):
    """A step keeps the dtypes of the carry that `net.carry` made, and of the input."""
    net = NETWORKS["repeat"]
    params = random_params(net, IN, dtype=jnp.float32)
    carry = net.carry((2,), dtype, params)
    x = jax.ShapeDtypeStruct((2, IN), dtype)
    following, y = jax.eval_shape(lambda x: net.step(params, carry, x, key=KEY), x)
    assert y.dtype == dtype
    assert jax.tree.map(jnp.result_type, following) == jax.tree.map(jnp.result_type, carry)


@pytest.mark.parametrize("name", ["recurrent", "stack"])
def test_jitted_step_does_not_retrace(name):
    """One trace for all steps, and for a network that was built anew with the same values."""
    net = NETWORKS[name]
    params, xs = inputs_of(net, T, (2,))
    traces = []

    def one(net, params, carry, x):
        traces.append(net)
        return net.step(params, carry, x, key=KEY)

    jitted = jax.jit(one, static_argnums=0)
    again = gr.stack(*net.layers) if name == "stack" else gr.recurrent(gr.LSTM(H))
    assert again is not net
    carry = net.carry((2,), jnp.float64, params)
    for index, x in enumerate(xs):
        carry, _ = jitted(net if index % 2 else again, params, carry, x)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "net",
    [
        gr.bidirectional(gr.GRU(IN)),
        gr.stack(gr.dense(IN), gr.bidirectional(gr.GRU(IN)), gr.dense(2)),
        gr.residual(gr.bidirectional(gr.GRU(IN), merge="sum")),
        gr.repeat(gr.bidirectional(gr.GRU(IN), merge="sum"), 2),
        gr.final(gr.bidirectional(gr.GRU(IN))),
    ],
    ids=["alone", "stack", "residual", "repeat", "final"],
)
def test_bidirectional_says_that_it_cannot_stream(net):
    """And what to use instead, wherever in a network it is."""
    params = random_params(net, IN)
    carry = net.carry((2,), jnp.float64, params)
    with pytest.raises(TypeError, match=r"step: .*bidirectional.*cannot stream.*use apply"):
        net.step(params, carry, normal(2, IN))


# Any causal network -----------------------------------------------------------------------------

cells = st.sampled_from([gr.Elman(IN), gr.Jordan(2, IN), gr.LSTM(IN), gr.GRU(IN), Leaky(2, IN)])
simple_layers = st.one_of(
    cells,
    st.builds(gr.recurrent, cells, initial=st.sampled_from(["zeros", "learned"])),
    st.just(gr.dense(IN)),
    st.builds(gr.dropout, st.sampled_from([0.2, 0.6]), st.booleans()),
)
layers = st.recursive(
    simple_layers,
    lambda inner: st.one_of(
        st.builds(gr.residual, inner),
        st.builds(gr.repeat, inner, st.integers(1, 3)),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: gr.stack(*parts)),
    ),
    max_leaves=4,
)
networks = st.lists(layers, min_size=1, max_size=2).map(lambda parts: gr.stack(*parts))


@settings(deadline=None, max_examples=15, derandomize=True, database=None)
@given(
    net=networks,
    length=st.integers(1, 4),
    batch=st.sampled_from([(), (2,), (2, 1)]),
    cut=st.integers(0, 4),
    key=st.sampled_from([None, KEY]),
)
def test_any_causal_network_streams(net, length, batch, cut, key):
    """A network of any layers, whole, in two windows and step by step: one and the same."""
    params, xs = inputs_of(net, length, batch)
    want = apply(net, params, xs, key=key)
    assert_trees_close(streamed(net, params, xs, batch, key), want)
    cut = min(cut, length)
    carry, before = apply(net, params, xs[:cut], key=key)
    carry, after = apply(net, params, xs[cut:], carry, key=key)
    assert_trees_close((carry, jnp.concatenate([before, after])), want)
