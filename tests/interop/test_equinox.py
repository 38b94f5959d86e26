"""equinox's cells: the same numbers, there and back to the bit, and what cannot be converted."""

import re
import sys

import jax
import jax.numpy as jnp
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from networks import apply, assert_trees_close, assert_trees_equal, normal, random_params

import gatedrnn as gr

eqx = pytest.importorskip("equinox")

IN, H, B = 3, 4, 2  # input features, features, batch

LSTM, GRU = gr.LSTM(H), gr.GRU(H, reset="after", update="keeps")
OURS = {
    "LSTM": LSTM,
    "LSTM-nobias": gr.LSTM(H, use_bias=False),
    "GRU": GRU,
    "GRU-nobias": gr.GRU(H, reset="after", update="keeps", use_bias=False),
}
THEIRS = {"LSTM": eqx.nn.LSTMCell, "GRU": eqx.nn.GRUCell}


def theirs(name, in_features=IN, features=H, dtype=jnp.float64, seed=0):
    """A cell of theirs with biases that are not zero, as they start."""
    kind, use_bias = THEIRS[name.split("-")[0]], "nobias" not in name
    with jax.numpy_dtype_promotion("standard"):
        return kind(in_features, features, use_bias, dtype, key=jax.random.key(seed))


@pytest.mark.parametrize("name", OURS)
def test_there_and_back_to_the_bit(name):
    """From either side, and through the layer as well."""
    params = random_params(OURS[name], IN)
    back, recovered = gr.interop.from_equinox(gr.interop.to_equinox(OURS[name], params))
    assert back == OURS[name]
    assert_trees_equal(recovered, params)
    cell = theirs(name)
    again = gr.interop.to_equinox(*gr.interop.from_equinox(cell))
    assert_trees_equal(again, cell)
    layer, params = gr.recurrent(OURS[name]), gr.RecurrentParams(params, None)
    assert_trees_equal(gr.interop.to_equinox(layer, params), gr.interop.to_equinox(back, recovered))


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(
    name=st.sampled_from(["LSTM", "LSTM-nobias", "GRU", "GRU-nobias"]),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 100),
)
def test_their_cells_step_as_ours_do(name, sizes, seed):
    """Whatever their options, from states that are not zero."""
    source, x = theirs(name, *sizes, seed=seed), normal(B, sizes[0], seed=seed + 1)

    @jax.jit
    def both(source, states, x):
        cell, params = gr.interop.from_equinox(source)
        want, y = cell.step(params, gr.interop.from_equinox_carry(cell, states), x)
        with jax.numpy_dtype_promotion("standard"):
            states = jax.vmap(source)(x, states)
        h = jax.tree.leaves(states)[0]
        return (gr.interop.from_equinox_carry(cell, states), h), (want, y)

    h, c = (normal(B, sizes[1], seed=seed + k) for k in (2, 3))
    assert_trees_close(*both(source, (h, c) if "LSTM" in name else h, x))


def test_update_gate_that_writes_becomes_one_that_keeps():
    cell = gr.GRU(H, reset="after", update="writes")
    params = random_params(cell, IN)
    back, recovered = gr.interop.from_equinox(gr.interop.to_equinox(cell, params))
    assert back == GRU
    carry, x = gr.GRUCarry(normal(B, H)), normal(B, IN, seed=1)
    assert_trees_close(back.step(recovered, carry, x), cell.step(params, carry, x))


def test_stack_is_a_list_of_cells():
    """Also of one; a repeat comes back as the stack that it stands for."""
    net = gr.stack(LSTM, gr.stack(GRU), gr.LSTM(2))
    params = random_params(net, IN)
    cells = gr.interop.to_equinox(net, params)
    assert [type(cell).__name__ for cell in cells] == ["LSTMCell", "GRUCell", "LSTMCell"]
    back, recovered = gr.interop.from_equinox(cells)
    assert back == gr.stack(LSTM, GRU, gr.LSTM(2))
    assert_trees_equal(recovered, (params[0], params[1][0], params[2]))
    one = gr.stack(LSTM)
    assert gr.interop.from_equinox(gr.interop.to_equinox(one, params[:1]))[0] == one
    repeated = gr.repeat(gr.LSTM(IN), 3)
    params = random_params(repeated, IN)
    back, recovered = gr.interop.from_equinox(gr.interop.to_equinox(repeated, params))
    assert back == gr.stack(*[gr.LSTM(IN)] * 3)
    xs = normal(5, B, IN)
    assert_trees_close(apply(back, recovered, xs)[1], apply(repeated, params, xs)[1])


def test_states_there_and_back():
    """`(h, c)`, and a list of states for a stack or repeat."""
    net = gr.stack(LSTM, GRU, gr.repeat(LSTM, 2))
    carry = jax.tree.map(lambda leaf: normal(*leaf.shape), net.carry((B,)))
    states = gr.interop.to_equinox_carry(net, carry)
    assert_trees_equal(
        states,
        [
            (carry[0].h, carry[0].c),
            carry[1].h,
            (carry[2].h[:, 0], carry[2].c[:, 0]),
            (carry[2].h[:, 1], carry[2].c[:, 1]),
        ],
    )
    assert_trees_equal(gr.interop.from_equinox_carry(net, states), carry)


def test_gradients_flow_through_both_conversions():
    cell, params = LSTM, random_params(LSTM, IN)
    carry, x = gr.LSTMCarry(normal(B, H), normal(B, H, seed=1)), normal(B, IN, seed=2)

    def loss(params):
        back, recovered = gr.interop.from_equinox(gr.interop.to_equinox(cell, params))
        return jnp.sum(back.step(recovered, carry, x)[1])

    want = jax.grad(lambda params: jnp.sum(cell.step(params, carry, x)[1]))(params)
    assert_trees_close(jax.jit(jax.grad(loss))(params), want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_stay(dtype):
    params = random_params(GRU, IN, dtype=dtype)
    cell = gr.interop.to_equinox(GRU, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(cell)} == {jnp.dtype(dtype)}
    assert_trees_equal(gr.interop.from_equinox(cell)[1], params)


def to(layer, params=None):
    return lambda: gr.interop.to_equinox(
        layer, random_params(layer, IN) if params is None else params
    )


def changed(name, **fields):
    cell = theirs(name)
    return eqx.tree_at(
        lambda cell: [getattr(cell, field) for field in fields], cell, list(fields.values())
    )


class Other(eqx.nn.GRUCell):
    """A cell that may compute something else."""


ERRORS = {
    "Elman": (to(gr.Elman(H)), ValueError, "an equinox cell: there is no Elman cell"),
    "reset-before": (
        to(gr.GRU(H)),
        ValueError,
        "layer: got GRU\\(.*an equinox cell: its GRU resets after .*, not before it",
    ),
    "peepholes": (to(gr.LSTM(H, peephole="diagonal")), ValueError, "no diagonal peepholes"),
    "projection": (to(gr.LSTM(H, projection=2)), ValueError, "no recurrent projection"),
    "coupled": (to(gr.LSTM(H, coupled=True)), ValueError, "never coupled"),
    "learned": (to(gr.recurrent(GRU, initial="learned")), ValueError, "an input, never learned"),
    "directions": (
        to(gr.bidirectional(GRU)),
        ValueError,
        "runs in one direction; convert each by itself",
    ),
    "dropout": (to(gr.stack(GRU, gr.dropout(0.1), GRU)), ValueError, "no place for dropout"),
    "params": (to(LSTM, random_params(GRU, IN)), ValueError, "params: got GRUParams"),
    "a-layers-params": (
        to(gr.recurrent(LSTM), random_params(LSTM, IN)),
        ValueError,
        "params: got LSTMParams.*, expected RecurrentParams",
    ),
    "no-cell": (
        lambda: gr.interop.from_equinox(eqx.nn.Linear(2, 2, key=jax.random.key(0))),
        TypeError,
        "source: got Linear, expected eqx.nn.LSTMCell, eqx.nn.GRUCell or a list of those",
    ),
    "no-cells": (lambda: gr.interop.from_equinox([]), ValueError, "source: got no cells"),
    "subclass": (
        lambda: gr.interop.from_equinox(Other(IN, H, key=jax.random.key(0))),
        TypeError,
        "source: got Other, expected eqx.nn.LSTMCell",
    ),
    "second-no-cell": (
        lambda: gr.interop.from_equinox([theirs("GRU"), 1]),
        TypeError,
        r"source\[1\]: got int",
    ),
    "second-reads-others": (
        lambda: gr.interop.from_equinox([theirs("GRU"), theirs("LSTM", H + 1)]),
        ValueError,
        r"source\[1\], 'weight_ih': got shape \(16, 5\), expected \(16, 4\)",
    ),
    "shape": (
        lambda: gr.interop.from_equinox(changed("LSTM", weight_hh=normal(4 * H, H + 1))),
        ValueError,
        r"source, 'weight_hh': got shape \(16, 5\), expected \(16, 4\)",
    ),
    "missing": (
        lambda: gr.interop.from_equinox(changed("GRU", bias_n=None)),
        ValueError,
        "source: 'bias_n' is missing",
    ),
    "dtype": (
        lambda: gr.interop.from_equinox(changed("LSTM", bias=jnp.zeros(4 * H, int))),
        TypeError,
        "source, 'bias': got dtype int64, expected a floating-point one",
    ),
    "states": (
        lambda: gr.interop.from_equinox_carry(LSTM, normal(B, H)),
        ValueError,
        "states: got 1, expected h, c",
    ),
    "states-of-a-stack": (
        lambda: gr.interop.from_equinox_carry(gr.stack(LSTM, GRU), [normal(B, H)]),
        ValueError,
        "states: got 1, expected 2, one for each cell",
    ),
    "state-shape": (
        lambda: gr.interop.from_equinox_carry(gr.stack(GRU), [normal(B, H + 1)]),
        ValueError,
        r"states, h: got shape \(2, 5\), expected \(2, 4\)",
    ),
    "carry": (
        lambda: gr.interop.to_equinox_carry(LSTM, GRU.carry((B,))),
        ValueError,
        r"carry: got GRUCarry\(.*\), expected LSTMCarry",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_stands_in_the_way(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()


def test_without_equinox_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "gatedrnn[equinox]"')):
        gr.interop.to_equinox(LSTM, random_params(LSTM, IN))
