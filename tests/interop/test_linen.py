"""flax linen: weights there and back, its options one by one, and what it does otherwise."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import apply, assert_trees_equal, normal

import gatedrnn as gr
from interop.flax_cases import (
    GRU,
    IN,
    LENGTHS,
    LSTM,
    NETWORKS,
    REFUSED,
    USELESS,
    B,
    H,
    T,
    assert_close,
    assert_same_in_flax,
    carry_of,
    networks,
    params_of,
)

nn = pytest.importorskip("flax.linen")
core = pytest.importorskip("flax.core")

XS = normal(T, B, IN)
F64 = {"param_dtype": jnp.float64}


@pytest.fixture(autouse=True)
def promotion():
    """Flax needs JAX's own."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def swapped(xs):
    """Batch first, or back."""
    return jnp.swapaxes(xs, 0, 1)


def variables_of(module, *args):
    """Noise in every leaf."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
    leaves, structure = jax.tree.flatten(shapes)
    noise = [normal(*leaf.shape, seed=k, dtype=leaf.dtype) for k, leaf in enumerate(leaves)]
    return structure.unflatten(noise)


def run(module, variables, xs, flags=None, **arrays):
    """The module's outputs, in one program."""
    return jax.jit(partial(module.apply, **flags or {}))(variables, xs, **arrays)


# There and back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_round_trip_is_exact(name):
    """Also for tracers, and whichever cell an LSTM becomes."""
    layer, params = NETWORKS[name], params_of(NETWORKS[name])
    module, variables = gr.interop.to_linen(layer, params)
    back, recovered = gr.interop.from_linen(module, variables)
    assert back == layer
    assert_trees_equal(recovered, params)

    def there_and_back(params):
        return gr.interop.from_linen(module, gr.interop.to_linen(layer, params)[1])[1]

    assert_trees_equal(jax.jit(there_and_back)(params), params)
    assert_trees_equal(gr.interop.from_linen(module, core.freeze(variables))[1], params)
    if "LSTM" in repr(layer):
        optimized, same = gr.interop.to_linen(layer, params, optimized=True)
        assert_trees_equal(same, variables)
        assert "OptimizedLSTMCell" in repr(optimized)
        assert "OptimizedLSTMCell" not in repr(module)
        assert gr.interop.from_linen(optimized, same)[0] == layer


def test_a_repeat_comes_back_as_a_stack():
    layer = gr.repeat(gr.recurrent(gr.Elman(IN)), 3)
    params = params_of(layer)
    back, recovered = gr.interop.from_linen(*gr.interop.to_linen(layer, params))
    assert back == gr.stack(*[gr.Elman(IN)] * 3)
    assert_trees_equal(recovered[1].cell.kernel, params.cell.kernel[1])


def test_a_cell_without_a_bias_gets_zeros():
    """The same function, with a bias that training may move."""
    for cell in (gr.Elman(H, use_bias=False), gr.LSTM(H, use_bias=False)):
        params = params_of(cell)
        back, recovered = gr.interop.from_linen(*gr.interop.to_linen(cell, params))
        assert back == type(cell)(H)
        assert not recovered.bias.any()
        assert_trees_equal(recovered.kernel, params.kernel)
    gru = gr.GRU(H, "after", "keeps", use_bias=False)
    back, recovered = gr.interop.from_linen(*gr.interop.to_linen(gru, params_of(gru)))
    assert back == GRU
    assert not recovered.bias.any()
    assert not recovered.recurrent_bias.any()


def test_an_update_gate_that_writes_comes_back_as_one_that_keeps():
    writes = gr.GRU(H, "after", "writes")
    params = params_of(writes)
    back, recovered = gr.interop.from_linen(*gr.interop.to_linen(writes, params))
    assert back == GRU
    h = carry_of(writes)
    assert_close(back.step(recovered, h, XS[0]), writes.step(params, h, XS[0]))


MODULES = {
    "SimpleCell": nn.RNN(nn.SimpleCell(H, activation_fn=nn.relu, **F64), time_major=True),
    "LSTMCell": nn.RNN(nn.LSTMCell(H, **F64)),
    "OptimizedLSTMCell": nn.RNN(nn.OptimizedLSTMCell(H, **F64)),
    "GRUCell": nn.RNN(nn.GRUCell(H, **F64), time_major=True),
    "Bidirectional": nn.Bidirectional(
        nn.RNN(nn.LSTMCell(2, **F64)), nn.RNN(nn.GRUCell(3, **F64)), time_major=True
    ),
    "Sequential": nn.Sequential(
        [
            nn.RNN(nn.GRUCell(2, **F64)),
            nn.Dense(3, **F64),
            nn.Sequential([nn.RNN(nn.SimpleCell(2, **F64)), nn.Dense(4, use_bias=False, **F64)]),
        ]
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_flax_compute_the_same_here(name):
    module = MODULES[name]
    batch_first = "time_major=True" not in repr(module).replace(" ", "")
    xs = swapped(XS) if batch_first else XS
    variables = variables_of(module, xs)
    want = run(module, variables, xs)
    layer, params = gr.interop.from_linen(module, variables)
    assert_close(apply(layer, params, XS)[1], swapped(want) if batch_first else want)


@given(
    layer=networks(),
    optimized=st.booleans(),
    time_major=st.booleans(),
    ragged=st.booleans(),
)
@settings(max_examples=10, deadline=None, derandomize=True, database=None)
def test_any_network_computes_the_same_in_flax(layer, optimized, time_major, ragged):
    """Outputs and final carries of every layer, from carries that are not zero."""
    lengths = LENGTHS if ragged else None
    options = {"optimized": optimized and "LSTM" in repr(layer), "time_major": time_major}

    def flax(params, xs, carry):
        module, variables = gr.interop.to_linen(layer, params, **options)
        states = gr.interop.to_linen_carry(layer, carry)
        bound = module.bind(variables)
        several = isinstance(module, nn.Sequential)
        final, ys = [], xs if time_major else swapped(xs)
        for part, state in zip(bound.layers, states, strict=True) if several else [(bound, states)]:
            if isinstance(part, nn.Dense):
                ys = part(ys)
            else:
                given = {"initial_carry": state, "seq_lengths": lengths}
                state, ys = part(ys, return_carry=True, **given)
            final.append(state)
        final = gr.interop.from_linen_carry(layer, tuple(final) if several else final[0])
        return final, ys if time_major else swapped(ys)

    with jax.numpy_dtype_promotion("standard"):
        assert_same_in_flax(flax, layer, params_of(layer), XS, lengths)


def test_gradients_flow_through_the_conversion():
    layer = gr.recurrent(LSTM)
    params = params_of(layer)

    def flax(params):
        module, variables = gr.interop.to_linen(layer, params)
        return jnp.sum(jnp.sin(module.apply(variables, XS)))

    def ours(params):
        return jnp.sum(jnp.sin(layer.apply(params, XS)[1]))

    assert_close(jax.jit(jax.grad(flax))(params), jax.jit(jax.grad(ours))(params))


# Flax's options ---------------------------------------------------------------------------------

CELL = nn.LSTMCell(H)
ACCEPTED = {
    "time_major": (nn.RNN(CELL, time_major=True), False),
    "return_carry": (nn.RNN(CELL, return_carry=True), False),
    "keep_order": (nn.RNN(CELL, keep_order=True), False),
    "unroll": (nn.RNN(CELL, unroll=2), False),
    "both": (nn.Bidirectional(nn.RNN(CELL), nn.RNN(nn.LSTMCell(H))), True),
    "both, overridden": (
        nn.Bidirectional(
            nn.RNN(CELL, reverse=True, time_major=True), nn.RNN(nn.LSTMCell(H), return_carry=True)
        ),
        True,
    ),
    "initialisers": (nn.RNN(nn.LSTMCell(H, kernel_init=nn.initializers.ones)), False),
    "dtype": (nn.RNN(nn.LSTMCell(H, dtype=jnp.float32)), False),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_options_that_do_not_change_the_function_are_taken(name):
    """With the same outputs, wherever flax would put them."""
    module, both = ACCEPTED[name]
    xs = XS.astype(jnp.float32)
    variables = variables_of(module, xs)
    layer, params = gr.interop.from_linen(module, variables)
    assert layer == (gr.bidirectional(LSTM) if both else gr.recurrent(LSTM))
    got = run(module, variables, xs, {"time_major": True, "return_carry": False})
    assert_close(apply(layer, params, xs)[1], got, 1e-6)


def rnn(**options):
    return nn.RNN(nn.LSTMCell(H, **options))


def other(value):
    return value


SHARED = nn.GRUCell(H)
CHANGED = {
    "reverse": (nn.RNN(CELL, reverse=True), r"got RNN\(reverse=True\)"),
    "gate_fn": (rnn(gate_fn=nn.hard_sigmoid), r"got LSTMCell\(gate_fn=hard_sigmoid\)"),
    "activation_fn": (rnn(activation_fn=nn.relu), r"got LSTMCell\(activation_fn=relu\)"),
    "activation": (nn.SimpleCell(H, activation_fn=other), r"fn=other\), expected jnp.tanh"),
    "residual": (nn.SimpleCell(H, residual=True), r"got SimpleCell\(residual=True\)"),
    "carry_init": (rnn(carry_init=nn.initializers.ones), r"\(carry_init=ones\), expected zeros"),
    "dtype": (rnn(dtype=jnp.bfloat16), r"\(dtype=bfloat16\) with parameters in float32"),
    "dense": (nn.Dense(2, dot_general=other), r"got Dense\(dot_general=other\)"),
    "precision": (nn.Dense(2, precision="highest"), r"got Dense\(precision='highest'\)"),
    "dense, dtype": (nn.Dense(2, dtype=jnp.float16), r"got Dense\(dtype=float16\)"),
    "merge_fn": (
        nn.Bidirectional(rnn(), rnn(), merge_fn=jnp.add),
        r"got Bidirectional\(merge_fn=add\), expected the default, _concatenate",
    ),
    "time_major": (
        nn.Sequential([rnn(), nn.RNN(nn.LSTMCell(IN), time_major=True)]),
        "got time_major=True and False",
    ),
    "return_carry": (
        nn.Sequential([nn.RNN(nn.LSTMCell(H), return_carry=True), nn.Dense(2)]),
        "got return_carry=True",
    ),
    "shared": (nn.Bidirectional(nn.RNN(SHARED), nn.RNN(SHARED)), "share their parameters"),
    "empty": (nn.Sequential([]), "got an empty Sequential"),
    "MGUCell": (nn.MGUCell(H), "got MGUCell, which has no counterpart: no cell of ours has one"),
    "ConvLSTMCell": (nn.RNN(nn.ConvLSTMCell(H, (2,))), "got ConvLSTMCell, which has no counterpa"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_options_that_change_the_function_are_refused(name):
    module, message = CHANGED[name]
    tree = {f"h{g}": {"kernel": jnp.zeros((H, H)), "bias": jnp.zeros(H)} for g in "ifgo"}
    tree |= {f"i{g}": {"kernel": jnp.zeros((IN, H))} for g in "ifgo"}
    dense = {"kernel": jnp.zeros((IN, 2)), "bias": jnp.zeros(2)}
    tree = jax.tree.map(lambda a: a.astype(jnp.float32), {"cell": tree, **dense})
    with pytest.raises(ValueError, match=f"^module: .*{message}"):
        gr.interop.from_linen(module, {"params": tree})


class Mine(nn.LSTMCell):
    """Anything might be in here."""


UNKNOWN = {
    "a class": (nn.LSTMCell, "got the class LSTMCell, expected SimpleCell"),
    "a subclass": (Mine(H), "got a Mine of .*, expected SimpleCell"),
    "a namesake": (type("LSTMCell", (Mine,), {})(H), "got a LSTMCell of .*, expected SimpleCell"),
    "a cell of a user": (nn.RNN(Mine(H)), "got a Mine of .*, expected SimpleCell"),
    "a function": (nn.Sequential([nn.Dense(2), nn.relu]), "got relu, expected RNN"),
    "a cell in a Sequential": (nn.Sequential([CELL]), "got a LSTMCell of .*, expected RNN"),
    "a direction": (
        nn.Bidirectional(rnn(), nn.Dense(2)),
        "got a Dense of .*, expected RNN for either",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_modules_are_refused(name):
    module, message = UNKNOWN[name]
    with pytest.raises(TypeError, match=f"^module: {message}"):
        gr.interop.from_linen(module, {"params": {}})


# Names and shapes -------------------------------------------------------------------------------


def test_names_and_shapes_that_do_not_fit_are_named():
    layer = gr.stack(LSTM, GRU)
    module, variables = gr.interop.to_linen(layer, params_of(layer))
    zeros = jnp.zeros

    def refused(name, leaf, value, message, kind=ValueError):
        tree = jax.tree.map(lambda a: a, variables["params"])
        branch = tree["layers_1"]["cell"].setdefault(name, {})
        branch.pop(leaf, None)
        branch |= {} if value is None else {leaf: value}
        with pytest.raises(kind, match=message):
            gr.interop.from_linen(module, {"params": tree})

    refused("hn", "bias", None, "^params: 'layers_1/cell/hn/bias' is missing")
    refused(
        "hr", "bias", zeros(H), "^params: got layers_1/cell/hr/bias: not part of such a network"
    )
    refused("iz", "kernel", zeros((H, 2)), r"iz/kernel': got shape \(4, 2\), expected \(4, 4\)")
    refused("ir", "kernel", zeros((3, H)), r"ir/kernel': got shape \(3, 4\), expected \(4, 4\)")
    refused(
        "hr", "kernel", zeros((H, H), jnp.float32), "got dtype float64, expected float32", TypeError
    )
    refused("hr", "kernel", zeros((H, H), int), "got dtype int64, expected a float", TypeError)


def test_variables_are_one_collection():
    module, variables = gr.interop.to_linen(LSTM, params_of(LSTM))
    for wrong, got in (
        (variables["params"], "'hf', 'hg'"),
        (variables | {"batch_stats": {}}, "'params', 'batch_stats'"),
        ({}, "none"),
        (None, "NoneType"),
    ):
        with pytest.raises(ValueError, match=f"^variables: got .*{got}.*, expected one collection"):
            gr.interop.from_linen(module, wrong)


# Ours that flax does not have -------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_flax_does_not_have_are_refused(name):
    layer, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^layer: got .*cannot become a linen module: {message}"):
        gr.interop.to_linen(layer, params_of(layer))


@pytest.mark.parametrize("name", USELESS)
def test_options_without_a_use_are_refused(name):
    layer, options, message = USELESS[name]
    with pytest.raises(ValueError, match=message):
        gr.interop.to_linen(layer, params_of(layer), **options)


def test_parameters_of_another_network_are_refused():
    to_linen = gr.interop.to_linen
    with pytest.raises(ValueError, match=r"^params: got ElmanParams"):
        to_linen(LSTM, params_of(gr.Elman(H)))
    with pytest.raises(ValueError, match=r"^params: got tuple, expected a tuple of 2"):
        to_linen(gr.stack(LSTM, LSTM), params_of(gr.stack(LSTM)))
    one, two = params_of(gr.stack(LSTM, gr.dense(2)))
    with pytest.raises(ValueError, match=r"^params: got a kernel of shape \(3, 2\) for 4 features"):
        to_linen(gr.stack(LSTM, gr.dense(2)), (one, two._replace(kernel=two.kernel[:3])))
    with pytest.raises(TypeError, match=r"^params: got dtype float32 and float64 with"):
        to_linen(gr.dense(2), two._replace(bias=two.bias.astype(jnp.float32)))
    two = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), two)
    with pytest.raises(TypeError, match=r"^params: got dtype float32 and float64, expected one"):
        to_linen(gr.stack(LSTM, gr.dense(2)), (one, two))


def test_options_are_the_modules():
    module, _ = gr.interop.to_linen(gr.recurrent(GRU), params_of(gr.recurrent(GRU)))
    assert (module.time_major, module.return_carry) == (True, False)
    both = gr.bidirectional(GRU)
    options = {"time_major": False, "return_carry": True}
    module, variables = gr.interop.to_linen(both, params_of(both), **options)
    (forward, _), ys = run(module, variables, swapped(XS))
    assert_close(ys[:, -1, :H], forward)


# Carries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_carries_there_and_back(name):
    layer = NETWORKS[name]
    if isinstance(layer, type(gr.dense(2))):
        assert gr.interop.to_linen_carry(layer, ()) == ()
        assert gr.interop.from_linen_carry(layer, ()) == ()
        return
    carry = carry_of(layer)
    states = gr.interop.to_linen_carry(layer, carry)
    assert_trees_equal(gr.interop.from_linen_carry(layer, states), carry)


def test_the_memory_comes_first():
    carry = carry_of(LSTM)
    assert_trees_equal(gr.interop.to_linen_carry(LSTM, carry), (carry.c, carry.h))
    layer = gr.stack(gr.bidirectional(LSTM), gr.dense(2), gr.repeat(gr.recurrent(gr.Elman(2)), 2))
    carry = carry_of(layer)
    (ahead, back), nothing, h, last = gr.interop.to_linen_carry(layer, carry)
    assert_trees_equal(ahead, (carry[0].forward.c, carry[0].forward.h))
    assert_trees_equal(back, (carry[0].backward.c, carry[0].backward.h))
    assert nothing == ()
    assert_trees_equal((h, last), (carry[2].h[:, 0], carry[2].h[:, 1]))


def test_carries_of_another_network_are_refused():
    back, there = gr.interop.from_linen_carry, gr.interop.to_linen_carry
    h = jnp.zeros((B, H))
    for layer, states, message in (
        (LSTM, h, "^states: got .*, expected a tuple of 2"),
        (LSTM, (h, h, h), "^states: got 3 of them, expected a tuple of 2"),
        (gr.stack(LSTM, GRU), ((h, h),), "^states: got 1 of them, expected a tuple of 2"),
        (gr.bidirectional(GRU), h, "^states: got .*, expected a tuple of 2"),
        (gr.stack(GRU, gr.dense(2)), (h, h), r"^states\[1\]: got .*, expected a tuple of 0"),
        (GRU, h[:, :2], r"^states, h: got shape \(3, 2\), expected \(3, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            back(layer, states)
    with pytest.raises(TypeError, match=r"^states: got tuple, expected an array"):
        back(GRU, (h, h))
    with pytest.raises(ValueError, match=r"^carry: got GRUCarry.*, expected LSTMCarry"):
        there(LSTM, carry_of(GRU))
    with pytest.raises(ValueError, match=r"^carry: got .*, expected a tuple of 2"):
        there(gr.bidirectional(GRU), carry_of(GRU))


# Precisions -------------------------------------------------------------------------------------


def needs_initial_values(dtype):
    """Flax traces its initialisers even where the values are there; some JAX lack 16-bit QR."""
    try:
        jax.eval_shape(
            lambda key: nn.initializers.orthogonal()(key, (2, 2), dtype), jax.random.key(0)
        )
    except TypeError as error:
        pytest.skip(f"flax cannot initialise in {dtype}: {error}")


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_parameters_keep_their_precision(dtype):
    """And the module computes in it."""
    layer = gr.stack(gr.Elman(2), LSTM, GRU, gr.dense(2))
    params, xs = params_of(layer, dtype), XS.astype(dtype)
    module, variables = gr.interop.to_linen(layer, params)
    assert_trees_equal(gr.interop.from_linen(module, variables)[1], params)
    needs_initial_values(dtype)
    assert jax.eval_shape(module.apply, variables, xs).dtype == dtype


def test_a_carry_of_16_bits_has_one_dtype_in_flax():
    """Our memory of an LSTM has more bits than the rest; flax's scan needs all alike."""
    layer, dtype = gr.recurrent(LSTM), jnp.bfloat16
    params, xs, carry = params_of(layer, dtype), XS.astype(dtype), carry_of(layer, dtype=dtype)
    module, variables = gr.interop.to_linen(layer, params, return_carry=True)
    states = gr.interop.to_linen_carry(layer, carry)
    assert [state.dtype for state in states] == [dtype, dtype]
    needs_initial_values(dtype)
    final, _ = run(module, variables, xs, initial_carry=states)
    final = gr.interop.from_linen_carry(layer, final)
    assert [state.dtype for state in final] == [dtype, jnp.float32]
    assert_close(final, apply(layer, params, xs, carry)[0], 4e-2)


# What flax does otherwise -----------------------------------------------------------------------


def test_flax_does_not_hold_the_carry_of_an_empty_row_nor_zero_the_padding():
    """A length of 0 indexes step -1 of its history. Our empty row ends where it started."""
    layer = gr.recurrent(GRU)
    params, carry, lengths = params_of(layer), carry_of(layer), jnp.array([0, 2, T])
    module, variables = gr.interop.to_linen(layer, params, return_carry=True)
    states = gr.interop.to_linen_carry(layer, carry)
    got, ys = run(module, variables, XS, initial_carry=states, seq_lengths=lengths)
    ours, wanted = apply(layer, params, XS, carry, lengths=lengths)
    assert_close(ours.h[0], carry.h[0])
    assert_close(got[0], ys[-1, 0])  # the carry of the last step, where its output is too
    assert jnp.abs(got[0] - ours.h[0]).max() > 1e-3
    assert_close(got[1:], ours.h[1:])
    assert not wanted[2:, 1].any()
    assert jnp.abs(ys[2:, 1]).min() > 0
    assert_close(ys[:2, 1:], wanted[:2, 1:])


def test_flax_takes_lengths_of_one_batch_axis_only():
    """With two, the carry that it picks has another shape."""
    layer = gr.recurrent(GRU)
    params, xs = params_of(layer), normal(T, 2, 2, IN)
    module, variables = gr.interop.to_linen(layer, params, return_carry=True)
    lengths = jnp.array([[1, 2], [3, 4]])
    got, _ = run(module, variables, xs, seq_lengths=lengths)
    ours, _ = apply(layer, params, xs, lengths=lengths)
    assert got.shape == (2, 2, 2, H)
    assert ours.h.shape == (2, 2, H)


def test_a_sequential_of_flax_keeps_lengths_to_its_first_layer():
    """Its second layer runs backward through the padding."""
    layer = gr.stack(gr.bidirectional(GRU), gr.bidirectional(GRU))
    params = params_of(layer)
    module, variables = gr.interop.to_linen(layer, params)
    ours = apply(layer, params, XS, lengths=LENGTHS)[1]
    got = run(module, variables, XS, seq_lengths=LENGTHS)
    assert jnp.abs(got[:2, 0] - ours[:2, 0]).max() > 1e-3
    assert_close(got[:, 1], ours[:, 1])  # as long as the batch


def test_a_simple_cell_of_flax_cannot_compute_in_bfloat16_from_float32():
    """Its carry changes its dtype in the first step; ours is the dtype of the inputs."""
    module = nn.RNN(nn.SimpleCell(H, dtype=jnp.bfloat16))
    with pytest.raises(TypeError, match="bfloat16"):
        module.init(jax.random.key(0), swapped(XS).astype(jnp.bfloat16))


def test_flax_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax.linen", None)
    with pytest.raises(ModuleNotFoundError, match=r'^flax is not installed: pip install "gatedr'):
        gr.interop.to_linen(LSTM, params_of(LSTM))
