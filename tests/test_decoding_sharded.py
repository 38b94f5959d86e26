"""Decoding of rows divided over devices: the tokens of one device, and what devices exchange."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.tree_util import Partial
from meshes import collectives, mesh_of, of_both_kinds, places, put
from networks import assert_trees_close, random_params

import gatedrnn as gr

V, B, T, END = 6, 8, 7, 2
NET = gr.stack(gr.embed(V, 4), gr.LSTM(5), gr.dense(V))
PARAMS = jax.tree.map(lambda leaf: 3 * leaf, random_params(NET, None))


def greedy(params, carry, token, keys):
    return gr.greedy(Partial(NET.step, params), carry, token, max_length=T, end=END)


def sample(params, carry, token, keys):
    options = {"max_length": T, "end": END, "temperature": 0.8, "top_k": 4, "top_p": 0.9}
    return gr.sample(Partial(NET.step, params), carry, token, keys, **options)


def one_key(params, carry, token, keys):
    return gr.sample(Partial(NET.step, params), carry, token, jax.random.key(1), max_length=T)


def beam_search(params, carry, token, keys):
    options = {"max_length": T, "end": END, "beams": 3, "alpha": 0.6}
    return gr.beam_search(Partial(NET.step, params), carry, token, **options)


def arguments():
    keys = jax.random.split(jax.random.key(3), B)
    return PARAMS, NET.carry((B,), jnp.float64), jnp.arange(B) % V, keys


ROW = P("data")
SPECS = (P(), ROW, ROW, ROW)
FUNCTIONS = {f.__name__: f for f in (greedy, sample, one_key, beam_search)}


def assert_equal(got, expected):
    assert_trees_close(jax.device_get(got), jax.device_get(expected))


@of_both_kinds
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_rows_of_devices(kind, function):
    """The tokens of one device, at the devices of their rows; with and without the mesh set.

    Devices exchange nothing with explicit axes; with automatic ones whether to go on.
    """
    mesh, expected = mesh_of(kind), jax.jit(function)(*arguments())
    assert np.asarray(expected.lengths).min() > 1 or function is not one_key
    moved = put(mesh, arguments(), SPECS)
    for context in (jax.set_mesh(mesh), contextlib.nullcontext()):
        with context:
            compiled = jax.jit(function).lower(*moved).compile()
            got = compiled(*moved)
        assert_equal(got, expected)
        exchanged = [] if kind == "explicit" else [(1, "all-reduce")]
        assert collectives(compiled.as_text()) == exchanged
        assert places(got.tokens) == (None, "data")
        assert places(got.lengths) == places(got.valid) == ("data",)
    got = function(*moved)  # outside jit
    assert_equal(got, expected)
    assert places(got.tokens) == (None, "data")


@of_both_kinds
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_parameters_divided(kind, function):
    """Over the rows' axis, and over another."""
    expected = jax.jit(function)(*arguments())
    for shape, names in (((4,), ("data",)), ((2, 2), ("data", "model"))):
        mesh, (params, *rest) = mesh_of(kind, shape, names), arguments()
        axis, size = names[-1], shape[-1]
        specs = [P(axis) if len(leaf) % size == 0 else P() for leaf in jax.tree.leaves(params)]
        specs = jax.tree.unflatten(jax.tree.structure(params), specs)
        moved = (put(mesh, params, specs), *put(mesh, tuple(rest), SPECS[1:]))
        assert_equal(jax.jit(function)(*moved), expected)


@of_both_kinds
@pytest.mark.parametrize("leaf", ["count", "flag", "key"])
def test_what_rows_share_goes_on(kind, leaf):
    """Until the last row of all devices has ended, on each device alike."""
    start = {"count": jnp.zeros((), int), "flag": jnp.zeros((), bool), "key": jax.random.key(0)}

    def advanced(shared):
        if leaf == "key":
            return jax.random.fold_in(shared, 1)
        return ~shared if leaf == "flag" else shared + 1

    def step(carry, token):  # a row counts down to the end token, 0
        shared, left = carry
        left = left - 1
        logits = jax.nn.one_hot((left > 0).astype(jnp.int32), 2, dtype=jnp.float64)
        return (gr.Shared(advanced(shared.value)), left), logits

    def run(shared, left, token):
        decoded = gr.greedy(step, (gr.Shared(shared), left), token, max_length=20, end=0)
        shared, left = decoded.carry
        value = jax.random.key_data(shared.value) if leaf == "key" else shared.value
        return decoded.tokens, left, value

    given = start[leaf], jnp.arange(1, B + 1), jnp.ones(B, int)
    moved = put(mesh_of(kind), given, (P(), P("data"), P("data")))
    assert_equal(jax.jit(run)(*moved), run(*given))


def test_rows_that_are_not_valid():
    """NaN in the logits of a row ends that row alone, on whichever device it is."""
    params, carry, token, keys = arguments()
    carry = jax.tree.map(lambda leaf: leaf.at[5].set(jnp.nan), carry)
    given = params, carry, token, keys
    moved = put(mesh_of("explicit"), given, SPECS)
    for function in (greedy, sample, beam_search):
        got = function(*moved)
        assert_equal(got, function(*given))
        assert np.argwhere(~np.asarray(got.valid)).tolist() == [[5]]


@of_both_kinds
@pytest.mark.parametrize("search", [True, False], ids=["beam search", "greedy"])
def test_memories_of_rows(kind, search):
    """Arrays that are bound to parameters lie on the devices of their rows."""
    attention = gr.Attention(gr.GRU(4), memory_features=3, features=4)
    net = gr.stack(gr.embed(V, 4), attention, gr.dense(V))
    params = jax.tree.map(lambda leaf: 3 * leaf, random_params(net, None))
    memory = jnp.asarray(np.random.default_rng(0).normal(size=(5, B, 3)))

    def run(params, memory, token):
        bound = gr.attend(params, memory)
        step, carry = Partial(net.step, bound), net.carry((B,), jnp.float64, bound)
        if search:
            return gr.beam_search(step, carry, token, beams=2, max_length=4, end=END)[:3]
        return gr.greedy(step, carry, token, max_length=4, end=END)[:3]

    given = params, memory, jnp.arange(B) % V
    moved = put(mesh_of(kind), given, (P(), P(None, "data"), P("data")))
    compiled = jax.jit(run).lower(*moved).compile()
    assert_equal(compiled(*moved), jax.jit(run)(*given))
    if kind == "explicit":
        assert collectives(compiled.as_text()) == []


@of_both_kinds
@pytest.mark.parametrize("specs", [(ROW, ROW), (P(), ROW), (ROW, P())], ids=str)
@pytest.mark.parametrize("shape", [(4,), (2, 2)], ids=str)
def test_free_running(kind, specs, shape):
    """Outputs lie where the first input does, wherever the carry comes from."""
    net = gr.stack(gr.GRU(3), gr.Zoneout(gr.GRU(3), 0.2), gr.dense(4))
    mesh = mesh_of(kind, shape, ("data", "model")[: len(shape)])

    def run(params, carry, first):
        return gr.generate(Partial(net.step, params), carry, first, steps=3)

    def gradient(params, carry, first):
        return jax.grad(lambda params: jnp.sum(jnp.sin(run(params, carry, first)[1])))(params)

    first = jnp.asarray(np.random.default_rng(0).normal(size=(B, 4)))
    given = random_params(net, 4), net.carry((B,), jnp.float64), first
    moved = put(mesh, given, (P(), *specs))
    for call in (run, jax.jit(run)):
        carry, ys = call(*moved)
        assert_equal((carry, ys), jax.jit(run)(*given))
        if kind == "explicit":
            assert places(ys) == ((None, "data") if specs[1] == ROW else ())
    assert_equal(jax.jit(gradient)(*moved), jax.jit(gradient)(*given))
    if kind == "explicit" and specs[1] == ROW:
        assert collectives(jax.jit(run).lower(*moved).compile().as_text()) == []


def test_a_step_that_closes_over_arrays_on_the_mesh():
    """It is told how to hold them."""
    params, carry, token, _ = put(mesh_of("explicit"), arguments(), SPECS)
    message = (
        "step: got a function that closes over arrays on the mesh (data=4), expected one that "
        "holds them, like jax.tree_util.Partial(net.step, params)"
    )

    def run(params, carry, token):
        return gr.greedy(lambda *given: NET.step(params, *given), carry, token, max_length=T)

    for call in (run, jax.jit(run)):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(params, carry, token)
