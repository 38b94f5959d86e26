"""flax nnx: weights there and back, its options one by one, and what it does otherwise."""

import sys

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import apply, assert_trees_equal, normal

import gatedrnn as gr
from interop.flax_cases import (
    ELMAN,
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
    without_inside,
)

pytestmark = pytest.mark.long

nnx = pytest.importorskip("flax.nnx")

XS = normal(T, B, IN)


@pytest.fixture(autouse=True)
def promotion():
    """Flax needs JAX's own."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def swapped(xs):
    """Batch first, or back."""
    return jnp.swapaxes(xs, 0, 1)


def noisy(module):
    """The module with noise in every parameter."""
    params = nnx.state(module, nnx.Param)
    leaves, structure = jax.tree.flatten(params)
    noise = [normal(*leaf.shape, seed=k, dtype=leaf.dtype) for k, leaf in enumerate(leaves)]
    nnx.update(module, structure.unflatten(noise))
    return module


def run(module, xs, flags=None, **arrays):
    """The module's outputs, in one program."""
    graph, state = nnx.split(module)
    flags = flags or {}
    return jax.jit(lambda s, xs, arrays: nnx.merge(graph, s)(xs, **flags, **arrays))(
        state, xs, arrays
    )


def cell(kind, in_features=IN, features=H, **options):
    """A cell of nnx."""
    options = {"param_dtype": jnp.float64, "dtype": None, "rngs": nnx.Rngs(0)} | options
    options["recurrent_kernel_init"] = nnx.initializers.zeros  # orthogonal is slow to compile
    return getattr(nnx, kind)(in_features, features, **options)


def linear(*sizes, **options):
    return nnx.Linear(*sizes, **{"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)} | options)


def quiet(layer, dtype=jnp.float64):
    """Parameters with nothing inside the product of a GRU."""
    return params_of(layer, dtype, inside=False)


# There and back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_round_trip_is_exact(name):
    """Whichever cell an LSTM becomes."""
    layer, params = NETWORKS[name], quiet(NETWORKS[name])
    module = gr.interop.to_nnx(layer, params)
    back, recovered = gr.interop.from_nnx(module)
    assert back == layer
    assert_trees_equal(recovered, params)
    if "LSTM" in repr(layer):
        optimized = gr.interop.to_nnx(layer, params, optimized=True)
        assert "OptimizedLSTMCell" in repr(nnx.graphdef(optimized))
        assert "OptimizedLSTMCell" not in repr(nnx.graphdef(module))
        back, recovered = gr.interop.from_nnx(optimized)
        assert back == layer
        assert_trees_equal(recovered, params)


def test_tracers_go_there_and_back():
    layer = gr.stack(LSTM, gr.bidirectional(ELMAN), gr.dense(2))
    params = params_of(layer)
    back = jax.jit(lambda p: gr.interop.from_nnx(gr.interop.to_nnx(layer, p))[1])(params)
    assert_trees_equal(back, params)


def test_a_cell_without_a_bias_gets_zeros():
    """The same function, with a bias that training may move."""
    for ours in (gr.Elman(H, use_bias=False), gr.LSTM(H, use_bias=False)):
        params = params_of(ours)
        back, recovered = gr.interop.from_nnx(gr.interop.to_nnx(ours, params))
        assert back == type(ours)(H)
        assert not recovered.bias.any()
        assert_trees_equal(recovered.kernel, params.kernel)


def test_a_gru_of_nnx_adds_nothing_inside_the_product():
    """Ours must be zero there, and known to be."""
    params = params_of(GRU)
    refused = "^layer: got GRU.*cannot become an nnx module: its GRU adds no bias inside"
    with pytest.raises(ValueError, match=f"{refused}.* and recurrent_bias is not 0$"):
        gr.interop.to_nnx(GRU, params)
    with pytest.raises(ValueError, match=f"{refused}.* and recurrent_bias is traced"):
        jax.jit(lambda p: gr.interop.from_nnx(gr.interop.to_nnx(GRU, p))[1])(params)
    tiny = without_inside(params)
    tiny = tiny._replace(recurrent_bias=tiny.recurrent_bias.at[1].set(1e-300))
    with pytest.raises(ValueError, match=refused):
        gr.interop.to_nnx(gr.stack(GRU), (gr.RecurrentParams(tiny, None),))
    plain = gr.GRU(H, "after", "keeps", use_bias=False)
    there_and_back = jax.jit(lambda p: gr.interop.from_nnx(gr.interop.to_nnx(plain, p))[1])
    recovered = there_and_back(params_of(plain))
    assert not recovered.bias.any()
    assert not recovered.recurrent_bias.any()


def test_an_update_gate_that_writes_comes_back_as_one_that_keeps():
    writes = gr.GRU(H, "after", "writes")
    params = quiet(writes)
    back, recovered = gr.interop.from_nnx(gr.interop.to_nnx(writes, params))
    assert back == GRU
    h = carry_of(writes)
    assert_close(back.step(recovered, h, XS[0]), writes.step(params, h, XS[0]))


MODULES = {
    "SimpleCell": (lambda: nnx.RNN(cell("SimpleCell", activation_fn=nnx.relu)), True),
    "LSTMCell": (lambda: nnx.RNN(cell("LSTMCell")), True),
    "OptimizedLSTMCell": (lambda: nnx.RNN(cell("OptimizedLSTMCell"), time_major=True), False),
    "GRUCell": (lambda: nnx.RNN(cell("GRUCell"), time_major=True, rngs=nnx.Rngs(1)), False),
    "Bidirectional": (
        lambda: nnx.Bidirectional(
            nnx.RNN(cell("LSTMCell", IN, 2)), nnx.RNN(cell("GRUCell", IN, 3)), time_major=True
        ),
        False,
    ),
    "Sequential": (
        lambda: nnx.Sequential(
            nnx.RNN(cell("GRUCell", IN, 2)),
            linear(2, 3),
            nnx.Sequential(nnx.RNN(cell("SimpleCell", 3, 2)), linear(2, 4, use_bias=False)),
        ),
        True,
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_flax_compute_the_same_here(name):
    make, batch_first = MODULES[name]
    module = noisy(make())
    want = run(module, swapped(XS) if batch_first else XS)
    layer, params = gr.interop.from_nnx(module)
    assert_close(apply(layer, params, XS)[1], swapped(want) if batch_first else want)


@given(
    layer=networks(inside=False),
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
        module = gr.interop.to_nnx(layer, params, **options)
        states = gr.interop.to_nnx_carry(layer, carry)
        several = isinstance(module, nnx.Sequential)
        final, ys = [], xs if time_major else swapped(xs)
        parts = zip(module.layers, states, strict=True) if several else [(module, states)]
        for part, state in parts:
            if isinstance(part, nnx.Linear):
                ys = part(ys)
            else:
                given = {"initial_carry": state, "seq_lengths": lengths}
                state, ys = part(ys, return_carry=True, **given)
            final.append(state)
        final = gr.interop.from_nnx_carry(layer, tuple(final) if several else final[0])
        return final, ys if time_major else swapped(ys)

    with jax.numpy_dtype_promotion("standard"):
        assert_same_in_flax(flax, layer, quiet(layer), XS, lengths)


def test_gradients_of_a_gru_are_ours():
    """But for the bias that nnx does not have: it is no parameter there."""
    params = quiet(GRU)

    def loss(module):
        return jnp.sum(jnp.sin(module(XS)))

    layer = gr.recurrent(GRU)
    module = gr.interop.to_nnx(layer, gr.RecurrentParams(params, None))
    grads = nnx.jit(nnx.grad(loss))(module)
    nnx.update(module, grads)
    want = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(layer.apply(p, XS)[1]))))(
        gr.RecurrentParams(params, None)
    )
    assert jnp.abs(want.cell.recurrent_bias).min() > 0
    assert_close(gr.interop.from_nnx(module)[1], without_inside(want))


# Flax's options ---------------------------------------------------------------------------------

ACCEPTED = {
    "time_major": lambda rnn, pair: rnn(time_major=True),
    "return_carry": lambda rnn, pair: rnn(return_carry=True),
    "keep_order": lambda rnn, pair: rnn(keep_order=True),
    "unroll": lambda rnn, pair: rnn(unroll=2),
    "rngs": lambda rnn, pair: rnn(rngs=nnx.Rngs(3)),
    "both": lambda rnn, pair: pair(rnn(), rnn()),
    "both, overridden": lambda rnn, pair: pair(
        rnn(reverse=True, time_major=True), rnn(return_carry=True)
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_options_that_do_not_change_the_function_are_taken(name):
    """With the same outputs, wherever flax would put them."""
    module = noisy(
        ACCEPTED[name](lambda **options: nnx.RNN(cell("GRUCell"), **options), nnx.Bidirectional)
    )
    layer, params = gr.interop.from_nnx(module)
    assert layer == (gr.bidirectional(GRU) if "both" in name else gr.recurrent(GRU))
    got = run(module, XS, {"time_major": True, "return_carry": False})
    assert_close(apply(layer, params, XS)[1], got)


def rnn(kind="LSTMCell", in_features=IN, **options):
    return nnx.RNN(cell(kind, in_features, **options))


def both_of_one():
    one = rnn()
    return nnx.Bidirectional(one, one)


def other(*args, **options):
    return args


CHANGED = {
    "reverse": (lambda: nnx.RNN(cell("LSTMCell"), reverse=True), r"got RNN\(reverse=True\)"),
    "gate_fn": (lambda: rnn(gate_fn=nnx.hard_sigmoid), r"LSTMCell\(gate_fn=hard_sigmoid\)"),
    "activation_fn": (lambda: rnn("GRUCell", activation_fn=nnx.relu), r"\(activation_fn=relu\)"),
    "activation": (
        lambda: cell("SimpleCell", activation_fn=nnx.gelu),
        r"activation_fn=gelu\), expected jnp.tanh",
    ),
    "residual": (lambda: cell("SimpleCell", residual=True), r"SimpleCell\(residual=True\)"),
    "dtype": (
        lambda: cell("SimpleCell", dtype=jnp.float32),
        r"\(dtype=float32\) with parameters in float64",
    ),
    "dense": (lambda: linear(2, 3, preferred_element_type=jnp.float32), r"Linear\(preferred_ele"),
    "dot_general": (lambda: linear(2, 3, dot_general=other), r"Linear\(dot_general=other\)"),
    "promote_dtype": (lambda: rnn(promote_dtype=other), r"LSTMCell\(promote_dtype=other\)"),
    "merge_fn": (
        lambda: nnx.Bidirectional(rnn(), rnn(), merge_fn=jnp.multiply),
        r"Bidirectional\(merge_fn=multiply\), expected the default, _concatenate",
    ),
    "time_major": (
        lambda: nnx.Sequential(rnn(), nnx.RNN(cell("GRUCell", H), time_major=True)),
        "got time_major=True and False",
    ),
    "return_carry": (
        lambda: nnx.Sequential(nnx.RNN(cell("LSTMCell"), return_carry=True), linear(4, 2)),
        "got return_carry=True",
    ),
    "shared": (both_of_one, "share their parameters"),
    "shared layers": (lambda: nnx.Sequential(*[linear(3, 3)] * 2), "share their parameters"),
    "empty": (nnx.Sequential, "got an empty Sequential"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_options_that_change_the_function_are_refused(name):
    make, message = CHANGED[name]
    with pytest.raises(ValueError, match=f"^module: .*{message}"):
        gr.interop.from_nnx(make())


def test_carries_that_do_not_start_from_zeros_are_refused():
    with pytest.warns(UserWarning, match="carry_init"):
        module = rnn(carry_init=nnx.initializers.ones)
    with pytest.raises(ValueError, match=r"^module: .*\(carry_init=ones\), expected zeros"):
        gr.interop.from_nnx(module)
    with pytest.warns(UserWarning, match="carry_init"):
        module = rnn(carry_init=nnx.initializers.zeros)
    assert gr.interop.from_nnx(module)[0] == gr.recurrent(LSTM)


class Mine(nnx.GRUCell):
    """Anything might be in here."""


def test_other_modules_are_refused():
    mine = Mine(IN, H, rngs=nnx.Rngs(0))
    for module, message in (
        (nnx.LSTMCell, "got the class LSTMCell, expected SimpleCell"),
        (mine, "got a Mine of .*, expected SimpleCell"),
        (
            nnx.RNN(type("GRUCell", (Mine,), {})(IN, H, rngs=nnx.Rngs(0))),
            "got a GRUCell of .*, exp",
        ),
        (nnx.RNN(mine), "got a Mine of .*, expected SimpleCell"),
        (nnx.Sequential(linear(2, 3), nnx.relu), "got relu, expected RNN"),
        (nnx.Sequential(cell("GRUCell")), "got a GRUCell of .*, expected RNN"),
        (nnx.Bidirectional(rnn(), linear(2, 3)), "got a Linear of .*, expected RNN for either"),
        (nnx.Dropout(0.5), "got a Dropout of .*, expected SimpleCell"),
        (None, "got a NoneType of .*, expected SimpleCell"),
    ):
        with pytest.raises(TypeError, match=f"^module: {message}"):
            gr.interop.from_nnx(module)


def test_names_and_shapes_that_do_not_fit_are_named():
    def refused(change, message, kind=ValueError):
        module = nnx.Sequential(rnn("GRUCell"), rnn("GRUCell", H))
        change(module.layers[1].cell)
        with pytest.raises(kind, match=message):
            gr.interop.from_nnx(module)

    def kernel(*shape, dtype=jnp.float64):
        def change(gru):
            gru.dense_i.kernel = nnx.Param(jnp.zeros(shape, dtype))

        return change

    def no_bias(gru):
        gru.dense_i.bias = None

    def more(gru):
        gru.more = nnx.Param(jnp.zeros(2))

    refused(no_bias, "^module: 'layers/1/cell/dense_i/bias' is missing")
    refused(more, "^module: got layers/1/cell/more: not part of such a network")
    refused(kernel(3, 12), r"dense_i/kernel': got shape \(3, 12\), expected \(4, 12\)")
    refused(kernel(4, 12, dtype=jnp.float32), "got dtype float64, expected float32", TypeError)
    refused(kernel(4, 12, dtype=int), "got dtype int64, expected a floating", TypeError)


# Ours that flax does not have -------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_flax_does_not_have_are_refused(name):
    layer, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^layer: got .*cannot become an nnx module: {message}"):
        gr.interop.to_nnx(layer, quiet(layer))


@pytest.mark.parametrize("name", USELESS)
def test_options_without_a_use_are_refused(name):
    layer, options, message = USELESS[name]
    with pytest.raises(ValueError, match=message):
        gr.interop.to_nnx(layer, quiet(layer), **options)


def test_options_are_the_modules():
    module = gr.interop.to_nnx(gr.recurrent(LSTM), params_of(gr.recurrent(LSTM)))
    assert (module.time_major, module.return_carry) == (True, False)
    both = gr.bidirectional(LSTM)
    module = gr.interop.to_nnx(both, params_of(both), time_major=False, return_carry=True)
    ((_, h), _), ys = run(module, swapped(XS))
    assert_close(ys[:, -1, :H], h)


# Carries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NETWORKS if "dense" not in name])
def test_carries_there_and_back(name):
    layer = NETWORKS[name]
    carry = carry_of(layer)
    there = gr.interop.to_nnx_carry(layer, carry)
    assert_trees_equal(there, gr.interop.to_linen_carry(layer, carry))
    assert_trees_equal(gr.interop.from_nnx_carry(layer, there), carry)


# Precisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_parameters_keep_their_precision(dtype):
    """And the module computes in it."""
    layer = gr.stack(gr.Elman(2), LSTM, GRU, gr.dense(2))
    params, xs = quiet(layer, dtype), XS.astype(dtype)
    module = gr.interop.to_nnx(layer, params)
    assert_trees_equal(gr.interop.from_nnx(module)[1], params)
    graph, state = nnx.split(module)
    assert jax.eval_shape(lambda state, xs: nnx.merge(graph, state)(xs), state, xs).dtype == dtype


def test_carries_of_16_bits_compute_in_flax():
    layer, dtype = gr.recurrent(LSTM), jnp.bfloat16
    params, xs, carry = params_of(layer, dtype), XS.astype(dtype), carry_of(layer, dtype=dtype)
    module = gr.interop.to_nnx(layer, params, return_carry=True, optimized=True)
    final, _ = run(module, xs, initial_carry=gr.interop.to_nnx_carry(layer, carry))
    final = gr.interop.from_nnx_carry(layer, final)
    assert_close(final, apply(layer, params, xs, carry)[0], 4e-2)


# What flax does otherwise -----------------------------------------------------------------------


def test_flax_does_not_hold_the_carry_of_an_empty_row_nor_zero_the_padding():
    """A length of 0 indexes step -1 of its history. Our empty row ends where it started."""
    layer = gr.recurrent(ELMAN)
    params, carry, lengths = params_of(layer), carry_of(layer), jnp.array([0, 2, T])
    module = gr.interop.to_nnx(layer, params, return_carry=True)
    states = gr.interop.to_nnx_carry(layer, carry)
    got, ys = run(module, XS, initial_carry=states, seq_lengths=lengths)
    ours, wanted = apply(layer, params, XS, carry, lengths=lengths)
    assert_close(ours.h[0], carry.h[0])
    assert_close(got[0], ys[-1, 0])  # the carry of the last step, where its output is too
    assert jnp.abs(got[0] - ours.h[0]).max() > 1e-3
    assert_close(got[1:], ours.h[1:])
    assert not wanted[2:, 1].any()
    assert jnp.abs(ys[2:, 1]).max() > 0
    assert_close(ys[:2, 1:], wanted[:2, 1:])


def test_the_optimized_cell_of_nnx_has_another_tree():
    """Its documentation says that the parameters are those of LSTMCell; linen's are."""
    one, other = (
        jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(cell(kind), nnx.Param)))
        for kind in ("LSTMCell", "OptimizedLSTMCell")
    )
    assert one["if_"] == {"kernel": (IN, H)}
    assert other["dense_i"] == {"kernel": (IN, 4 * H)}


def test_a_simple_cell_of_nnx_rounds_to_float32_unless_told_otherwise():
    """Whatever its parameters are; ours is converted so that it does not."""
    zeros = nnx.initializers.zeros
    options = {"param_dtype": jnp.float64, "recurrent_kernel_init": zeros, "rngs": nnx.Rngs(0)}
    plain = nnx.SimpleCell(IN, H, **options)
    h = jnp.zeros((B, H))
    assert plain(h, XS[0])[1].dtype == jnp.float32
    params = params_of(gr.Elman(H))
    assert gr.interop.to_nnx(gr.Elman(H), params)(h, XS[0])[1].dtype == jnp.float64


def test_flax_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax.nnx", None)
    with pytest.raises(ModuleNotFoundError, match=r'^flax is not installed: pip install "gatedr'):
        gr.interop.to_nnx(LSTM, params_of(LSTM))
