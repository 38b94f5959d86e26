"""haiku's cores: the same numbers, there and back, paths of modules, what cannot be converted."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from networks import assert_trees_close, assert_trees_equal, normal, random_params

import gatedrnn as gr

hk = pytest.importorskip("haiku")

T, IN, H, B = 4, 3, 4, 2  # time, input features, features, batch

LSTM, GRU, ELMAN = gr.LSTM(H), gr.GRU(H), gr.Elman(H, activation="relu")
OURS = {"LSTM": LSTM, "GRU": GRU, "VanillaRNN": ELMAN}
CORES = {
    "LSTM": lambda features: hk.LSTM(features),
    "GRU": lambda features: hk.GRU(features),
    "VanillaRNN": lambda features: hk.VanillaRNN(features),
    "single-bias": lambda features: hk.VanillaRNN(features, double_bias=False),
}


def transformed(make):
    """`init` and `apply` of a network of theirs over time, from given states: `(ys, states)`."""

    def network(xs, states=None):
        core = make()
        if states is None:
            states = core.initial_state(xs.shape[1])
            states = jax.tree.map(lambda leaf: leaf.astype(xs.dtype), states)
        return hk.dynamic_unroll(core, xs, states)

    init, apply = hk.without_apply_rng(hk.transform(network))

    def standard(function):
        def call(*arguments):
            with jax.numpy_dtype_promotion("standard"):
                return function(*arguments)

        return call

    return standard(init), standard(apply)


def random_like(tree, seed=0):
    """Their biases start at zero, ours to compare do not."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(normal(*leaf.shape, seed=seed + k) for k, leaf in enumerate(leaves))


def theirs(make, in_features=IN, seed=0):
    """Random parameters of a network of theirs, and its `apply`."""
    init, apply = transformed(make)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, B, in_features), jnp.float64))
    return random_like(shapes, seed), apply


def random_carry(layer, seed=9):
    return random_like(jax.eval_shape(lambda: layer.carry((B,), jnp.float64)), seed)


def assert_same_network(layer, params, theirs, apply, in_features=IN):
    """Outputs and final states, from states that are not zero."""
    xs, carry = normal(T, B, in_features, seed=7), random_carry(layer)
    over_time = layer if hasattr(layer, "apply") else gr.recurrent(layer)

    @jax.jit
    def both(theirs, params, xs, carry):
        ys, states = apply(theirs, xs, gr.interop.to_haiku_carry(layer, carry))
        own = params if over_time is layer else gr.RecurrentParams(params, None)
        want, want_ys = over_time.apply(own, xs, carry)
        return (ys, gr.interop.from_haiku_carry(layer, states)), (want_ys, want)

    assert_trees_close(*both(theirs, params, xs, carry))


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(
    kind=st.sampled_from(sorted(CORES)),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 100),
)
def test_their_cores_compute_what_ours_do(kind, sizes, seed):
    in_features, features = sizes
    params, apply = theirs(lambda: CORES[kind](features), in_features, seed)
    cell, ours = gr.interop.from_haiku(params)
    assert cell == {
        "LSTM": gr.LSTM(features),
        "GRU": gr.GRU(features),
    }.get(kind, gr.Elman(features, activation="relu"))
    assert_same_network(cell, ours, params, apply, in_features)


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(
    kinds=st.lists(st.sampled_from(sorted(OURS)), min_size=1, max_size=3),
    use_bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_our_networks_run_as_theirs(kinds, use_bias, seed):
    """Under the names that haiku itself gives them, the very tree of its `init`."""
    cells = {
        "LSTM": gr.LSTM(H, use_bias=use_bias),
        "GRU": gr.GRU(H, use_bias=use_bias),
        "VanillaRNN": gr.Elman(H, activation="relu", use_bias=use_bias),
    }
    net = gr.stack(*[cells[kind] for kind in kinds])
    params = random_params(net, IN, seed)
    drawn, apply = theirs(lambda: hk.DeepRNN([CORES[kind](H) for kind in kinds]))
    found = gr.interop.to_haiku(net, params)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, drawn)
    assert_same_network(net, params, found, apply)


@pytest.mark.parametrize("name", OURS)
def test_there_and_back(name):
    """To the bit, but for the forget bias of an LSTM, and but for the second bias of theirs."""
    params = random_params(OURS[name], IN)
    back, recovered = gr.interop.from_haiku(gr.interop.to_haiku(OURS[name], params))
    assert back == OURS[name]
    if name == "LSTM":
        assert_trees_close(recovered, params, rtol=0, atol=1e-15)
        params, recovered = (
            p._replace(bias=p.bias.at[H : 2 * H].set(0)) for p in (params, recovered)
        )
    assert_trees_equal(recovered, params)
    layer, params = gr.recurrent(OURS[name]), gr.RecurrentParams(params, None)
    assert_trees_equal(
        gr.interop.to_haiku(layer, params), gr.interop.to_haiku(OURS[name], params.cell)
    )


def test_their_vanilla_network_loses_the_split_of_its_biases_alone():
    params, _ = theirs(lambda: hk.VanillaRNN(H))
    again = gr.interop.to_haiku(*gr.interop.from_haiku(params))
    linear, second = "vanilla_rnn/linear", "vanilla_rnn/linear_1"
    assert_trees_equal(again[linear]["b"], params[linear]["b"] + params[second]["b"])
    assert not again[second]["b"].any()
    for path in (linear, second):
        assert_trees_equal(again[path]["w"], params[path]["w"])
    params, _ = theirs(lambda: hk.VanillaRNN(H, double_bias=False))
    net = gr.interop.from_haiku(params)
    assert_trees_equal(gr.interop.to_haiku(*net, double_bias=False), params)


def test_the_one_that_they_add_to_the_forget_gate_is_in_our_bias():
    """All zeros: σ(1) of the memory stays with them, σ(0) with most others."""
    params, apply = theirs(lambda: hk.LSTM(H))
    params = jax.tree.map(jnp.zeros_like, params)
    states = hk.LSTMState(jnp.zeros((B, H)), jnp.ones((B, H)))
    _, states = apply(params, jnp.zeros((1, B, IN)), states)
    np.testing.assert_allclose(states.cell, jax.nn.sigmoid(1.0), rtol=1e-6)
    _, ours = gr.interop.from_haiku(params)
    assert_trees_equal(ours.bias, np.repeat([0.0, 1.0, 0.0, 0.0], H))


def test_update_gate_that_keeps_becomes_one_that_writes():
    cell = gr.GRU(H, reset="before", update="keeps")
    params = random_params(cell, IN)
    found = gr.interop.to_haiku(cell, params)
    assert gr.interop.from_haiku(found)[0] == GRU
    _, apply = theirs(lambda: hk.GRU(H))
    assert_same_network(cell, params, found, apply)


def test_cells_without_a_bias_get_one_of_zeros():
    """The forget gate's is -1, against the 1 that they add; it comes back as exactly 0."""
    for cell in (gr.LSTM(H, use_bias=False), gr.GRU(H, use_bias=False)):
        params = random_params(cell, IN)
        _, recovered = gr.interop.from_haiku(gr.interop.to_haiku(cell, params))
        assert not recovered.bias.any()
        assert_trees_equal(recovered._replace(bias=None), params)


def test_cores_inside_modules_among_others():
    """Paths are said, in the order in which cores run: not that of their names."""

    class Net(hk.Module):
        def __init__(self):
            super().__init__(name="net")
            self.last = hk.LSTM(2)
            self.first = hk.LSTM(H, name="encoder")

        def __call__(self, x):
            middle = hk.GRU(H)
            core = hk.DeepRNN([self.first, middle, self.last])
            states = jax.tree.map(lambda leaf: leaf.astype(x.dtype), core.initial_state(B))
            return hk.Linear(1)(hk.dynamic_unroll(core, x, states)[0])

    init, apply = hk.without_apply_rng(hk.transform(lambda x: Net()(x)))
    xs = normal(T, B, IN)
    with jax.numpy_dtype_promotion("standard"):
        params = random_like(jax.eval_shape(init, jax.random.key(0), xs))
        ys = jax.jit(apply)(params, xs)
    modules = ["net/~/encoder", "net/gru", "net/~/lstm"]
    net, ours = gr.interop.from_haiku(params, modules)
    assert net == gr.stack(LSTM, GRU, gr.LSTM(2))
    linear = params["net/linear"]
    assert_trees_close(net.apply(ours, xs)[1] @ linear["w"] + linear["b"][None, None], ys)
    merged = {**params, **gr.interop.to_haiku(net, ours, modules)}
    assert_trees_close(merged, params, rtol=0, atol=1e-15)
    one, ours = gr.interop.from_haiku(params, ["net/gru"])
    assert one == gr.stack(GRU)
    assert list(gr.interop.to_haiku(one, ours, ["net/gru"])) == ["net/gru"]
    assert list(gr.interop.to_haiku(GRU, ours[0].cell, "net/gru")) == ["net/gru"]


def test_paths_that_begin_alike_are_not_taken_for_one_another():
    """Neither `lstm_1` for `lstm`, nor the tenth before the second."""
    modules = ["gru", *[f"gru_{k}" for k in range(1, 11)]]
    found = {}
    for k, path in enumerate(modules):
        shapes = {"w_i": (max(k, 1), 3 * k + 3), "w_h": (k + 1, 3 * k + 3), "b": (3 * k + 3,)}
        found[path] = {name: np.zeros(shape) for name, shape in shapes.items()}
    net = gr.stack(*[gr.GRU(k + 1) for k in range(11)])
    assert gr.interop.from_haiku(found, modules)[0] == net
    assert gr.interop.from_haiku(found, "gru")[0] == gr.GRU(1)
    assert gr.interop.from_haiku(found, "gru_1")[0] == gr.GRU(2)


def test_states_there_and_back():
    """`hk.LSTMState`, and a tuple of states for `hk.DeepRNN`."""
    net = gr.stack(LSTM, GRU, gr.repeat(ELMAN, 2))
    carry = random_carry(net)
    states = gr.interop.to_haiku_carry(net, carry)
    want = (hk.LSTMState(*carry[0]), carry[1].h, carry[2].h[:, 0], carry[2].h[:, 1])
    assert_trees_equal(states, want)
    assert_trees_equal(gr.interop.from_haiku_carry(net, states), carry)
    assert isinstance(gr.interop.to_haiku_carry(LSTM, carry[0]), hk.LSTMState)


def test_gradients_flow_through_both_conversions():
    params = random_params(LSTM, IN)
    carry, x = random_carry(LSTM), normal(B, IN)

    def loss(params):
        back, recovered = gr.interop.from_haiku(gr.interop.to_haiku(LSTM, params))
        return jnp.sum(back.step(recovered, carry, x)[1])

    want = jax.grad(lambda params: jnp.sum(LSTM.step(params, carry, x)[1]))(params)
    assert_trees_close(jax.jit(jax.grad(loss))(params), want)


def to(layer, *arguments, params=None, **options):
    return lambda: gr.interop.to_haiku(
        layer, random_params(layer, IN) if params is None else params, *arguments, **options
    )


def take(params, *arguments):
    return lambda: gr.interop.from_haiku(params, *arguments)


def linear(rows, columns):
    return {"w": jnp.zeros((rows, columns)), "b": jnp.zeros(columns)}


STACK = gr.stack(LSTM, LSTM)
ONE, TWO = (
    {"lstm/linear": linear(IN + H, 4 * H)},
    {
        "lstm/linear": linear(IN + H, 4 * H),
        "lstm_1/linear": linear(IN + 2 * H, 4 * H),  # as by skip connections
    },
)

ERRORS = {
    "tanh": (
        to(gr.Elman(H)),
        ValueError,
        "layer: got Elman.*a haiku core: its activation is relu, not tanh",
    ),
    "reset-after": (to(gr.GRU(H, reset="after")), ValueError, "resets before .*, not after it"),
    "peepholes": (to(gr.LSTM(H, peephole="full")), ValueError, "no full peepholes"),
    "Jordan": (to(gr.Jordan(H, 2)), ValueError, "no Jordan cell"),
    "learned": (to(gr.recurrent(GRU, initial="learned")), ValueError, "an input, never learned"),
    "directions": (
        to(gr.bidirectional(GRU)),
        ValueError,
        "runs in one direction; convert each by itself",
    ),
    "dropout": (to(gr.stack(GRU, gr.dropout(0.1))), ValueError, "no place for dropout"),
    "params": (to(LSTM, params=random_params(GRU, IN)), ValueError, "params: got GRUParams"),
    "one-path-for-two": (to(STACK, "lstm"), ValueError, "modules: got 'lstm', .*paths of 2 cores"),
    "paths-for-one": (
        to(LSTM, ["lstm"]),
        ValueError,
        r"modules: got \['lstm'\], expected one path",
    ),
    "few-paths": (to(STACK, ["lstm"]), ValueError, "modules: got lstm, expected 2 paths"),
    "equal-paths": (to(STACK, ["a", "a"]), ValueError, "modules: got a, a, expected 2 paths"),
    "no-text": (to(STACK, ["a", 1]), ValueError, r"modules: got \['a', 1\]"),
    "double-bias": (to(LSTM, double_bias=False), ValueError, "there is no hk.VanillaRNN"),
    "double-bias-flag": (to(ELMAN, double_bias=1), ValueError, "double_bias: got 1"),
    "several": (
        take(TWO),
        ValueError,
        "modules: got None for params of lstm/linear, lstm_1/linear",
    ),
    "nothing": (take({}), ValueError, "modules: got None for params of nothing"),
    "no-path": (take(ONE, "gru"), ValueError, "modules: got 'gru', .* in params of lstm/linear"),
    "no-paths": (take(ONE, []), ValueError, r"modules: got \[\], expected the paths of the cores"),
    "twice": (take(ONE, ["lstm", "lstm"]), ValueError, "got lstm, lstm, expected different paths"),
    "of-a-linear": (take(ONE, "lstm/linear"), ValueError, "modules: got 'lstm/linear'"),
    "skips": (
        take(TWO, ["lstm", "lstm_1"]),
        ValueError,
        r"params, 'lstm_1', 'linear/w': got shape \(11, 16\), expected \(8, 16\)",
    ),
    "kernel": (
        take({"lstm/linear": linear(3, 10)}),
        ValueError,
        r"'linear/w': got shape \(3, 10\), expected \(I \+ H, 4H\)",
    ),
    "too-few-rows": (take({"lstm/linear": linear(4, 16)}), ValueError, r"got shape \(4, 16\)"),
    "missing": (
        take({"lstm/linear": {"w": jnp.zeros((IN + H, 4 * H))}}),
        ValueError,
        "params, 'lstm': 'linear/b' is missing",
    ),
    "more": (
        take(ONE | {"lstm/norm": {"scale": jnp.zeros(3)}}, "lstm"),
        ValueError,
        "params, 'lstm': got norm/scale: not part of such a network",
    ),
    "gru-axes": (
        take({"gru": {"w_i": jnp.zeros((IN, 9)), "w_h": jnp.zeros(()), "b": jnp.zeros(9)}}),
        ValueError,
        r"params, 'gru', 'w_h': got shape \(\), expected 2 axes",
    ),
    "gru-shape": (
        take({"gru": {"w_i": jnp.zeros((IN, 9)), "w_h": jnp.zeros((3, 8)), "b": jnp.zeros(9)}}),
        ValueError,
        r"params, 'gru', 'w_h': got shape \(3, 8\), expected \(3, 9\)",
    ),
    "dtype": (
        take(jax.tree.map(lambda leaf: leaf.astype(int), ONE)),
        TypeError,
        "params, 'lstm', 'linear/w': got dtype int64",
    ),
    "states": (
        lambda: gr.interop.from_haiku_carry(STACK, normal(B, H)),
        ValueError,
        "states: got ArrayImpl, expected 2, one for each cell",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_stands_in_the_way(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()


def test_haiku_is_needed_for_the_states_of_an_lstm_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "haiku", None)
    net = gr.stack(LSTM, GRU)
    gr.interop.from_haiku(gr.interop.to_haiku(net, random_params(net, IN)), ["lstm", "gru"])
    gr.interop.to_haiku_carry(GRU, random_carry(GRU))
    with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "gatedrnn[haiku]"')):
        gr.interop.to_haiku_carry(net, random_carry(net))
