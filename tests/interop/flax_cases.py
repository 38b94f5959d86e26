"""Networks that flax has, and those that it does not have, for both of its interfaces."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from networks import normal, random_params

import gatedrnn as gr

T, B, IN, H = 5, 3, 3, 4
LENGTHS = jnp.array([2, T, 1])

LSTM, ELMAN = gr.LSTM(H), gr.Elman(H, activation="relu")
GRU = gr.GRU(H, reset="after", update="keeps")

# these come back as they were
NETWORKS = {
    "Elman tanh": gr.Elman(H),
    "Elman relu": ELMAN,
    "Elman sigmoid": gr.Elman(H, activation="sigmoid"),
    "Elman identity": gr.Elman(H, activation="identity"),
    "LSTM": LSTM,
    "GRU": GRU,
    "dense": gr.dense(2),
    "dense without bias": gr.dense(2, use_bias=False),
    "layer of Elman": gr.recurrent(ELMAN),
    "layer of LSTM": gr.recurrent(LSTM),
    "layer of GRU": gr.recurrent(GRU),
    "both directions": gr.bidirectional(LSTM),
    "different directions": gr.bidirectional(gr.LSTM(2), gr.GRU(3, "after", "keeps")),
    "layers": gr.stack(gr.bidirectional(GRU), gr.dense(3), LSTM, gr.Elman(2)),
}

# the network, and why flax has no such
REFUSED = {
    "peepholes": (gr.LSTM(H, peephole="diagonal"), "there are no diagonal peepholes"),
    "projection": (gr.recurrent(gr.LSTM(H, projection=2)), "there is no recurrent projection"),
    "coupled": (gr.LSTM(H, coupled=True), "its input and forget gates are never coupled"),
    "reset before": (gr.stack(gr.GRU(H)), "its GRU resets after the recurrent product, not before"),
    "Jordan": (gr.Jordan(H, out_features=2), "there is no Jordan cell"),
    "Zoneout": (gr.recurrent(gr.Zoneout(LSTM, h=0.1)), "there is no Zoneout cell"),
    "sum": (gr.bidirectional(LSTM, merge="sum"), "it concatenates both directions, no sum"),
    "learned": (gr.recurrent(GRU, initial="learned"), "its initial state is an input"),
    "dropout": (gr.stack(LSTM, gr.dropout(0.5), LSTM), r"it has no place for dropout\(0.5"),
    "residual": (gr.residual(gr.recurrent(gr.LSTM(IN))), "it has no place for residual"),
}

# options that the network has no use for, and what the error says
USELESS = {
    "optimized": (gr.recurrent(GRU), {"optimized": True}, "optimized: got True, expected False"),
    "time_major": (LSTM, {"time_major": False}, "time_major: got False, expected True"),
    "return_carry": (LSTM, {"return_carry": True}, "return_carry: got True, expected False"),
    "dense": (gr.dense(2), {"return_carry": True}, "return_carry: got True, expected False"),
    "stack": (gr.stack(LSTM, LSTM), {"return_carry": True}, "a Sequential has no carry"),
    "flag": (gr.recurrent(GRU), {"time_major": 1}, "time_major: got 1, expected True or False"),
}


def params_of(layer, dtype=jnp.float64, inside=True):
    """Noise in every leaf; without `inside`, no GRU adds anything inside its product."""
    params = random_params(layer, IN, dtype=dtype)
    return params if inside else without_inside(params)


def without_inside(params):
    """With a `recurrent_bias` of zeros in every GRU that has one."""

    def quiet(node):
        if getattr(node, "recurrent_bias", None) is None:
            return node
        return node._replace(recurrent_bias=jnp.zeros_like(node.recurrent_bias))

    return jax.tree.map(quiet, params, is_leaf=lambda node: hasattr(node, "recurrent_bias"))


def carry_of(layer, batch_shape=(B,), dtype=jnp.float64):
    """A carry whose leaves all differ."""
    shapes = jax.eval_shape(lambda: layer.carry(batch_shape, dtype))
    leaves, structure = jax.tree.flatten(shapes)
    noise = [normal(*leaf.shape, seed=k, dtype=leaf.dtype) for k, leaf in enumerate(leaves)]
    return structure.unflatten(noise)


def assert_close(got, want, tolerance=1e-12):
    """Every leaf, relative to its largest entry."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1))


def assert_same_in_flax(run, layer, params, xs, lengths):
    """Outputs and final carries of every layer, from carries that are not zero.

    `run(params, xs, carry) -> (carry, ys)` is flax's.
    """
    steps = jnp.full(B, T) if lengths is None else lengths
    valid = (jnp.arange(T)[:, None] < steps[None])[..., None]

    @jax.jit
    def both(params, xs, carry):
        got, ys = run(params, xs, carry)
        return (got, jnp.where(valid, ys, 0)), layer.apply(params, xs, carry, lengths=lengths)

    assert_close(*both(params, xs, carry_of(layer)))


def simple_layers(features, cells):
    """A layer of flax's of so many features: one direction, two, or a dense one."""
    cell = st.sampled_from(cells).map(lambda make: make(features))
    both = st.tuples(cell, cell).map(lambda pair: gr.bidirectional(*pair))
    return st.one_of(cell.map(gr.recurrent), both, st.just(gr.dense(features)))


@st.composite
def networks(draw, inside=True):
    """One or two layers that flax has, the last one recurrent."""
    cells = [
        lambda n: gr.Elman(n, activation="relu", use_bias=False),
        gr.Elman,
        gr.LSTM,
        lambda n: gr.LSTM(n, use_bias=False),
        lambda n: gr.GRU(n, "after", "writes", use_bias=inside),
        lambda n: gr.GRU(n, "after", "keeps", use_bias=False),
    ]
    layers = draw(st.lists(simple_layers(3, cells), max_size=1))
    last = draw(simple_layers(2, cells).filter(lambda layer: layer != gr.dense(2)))
    return gr.stack(*layers, last) if layers else last
