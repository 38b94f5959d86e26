"""Every converter refuses parameters, carries and cells that only look right."""

import os
import re

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gatedrnn as gr
from gatedrnn._interop.arrays import as_array

from .common import IN, B, H, assert_equal, random_params

MODULES = {
    "torch": "torch",
    "keras": "keras",
    "linen": "flax",
    "nnx": "flax",
    "equinox": "equinox",
    "haiku": "haiku",
    "cudnn": "jax",
}
LSTM = gr.LSTM(H)
STACK = gr.stack(LSTM, LSTM)


@pytest.fixture(params=MODULES)
def library(request):
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):  # keras needs both
        pytest.importorskip(MODULES[request.param], exc_type=ImportError)
        yield request.param


def to(library, layer, params):
    return getattr(gr.interop, f"to_{library}")(layer, params)


def to_carry(library, layer, carry):
    return getattr(gr.interop, f"to_{library}_carry")(layer, carry)


@pytest.mark.parametrize("n", [1, 3])
def test_a_repeat_has_as_many_parameters_as_layers(library, n):
    """JAX clamps an index beyond the end, which would give the last layer again."""
    square = gr.LSTM(IN)
    params = random_params(gr.repeat(square, n))
    with pytest.raises(ValueError, match=rf"params.cell.kernel: got shape \({n}, .* 2"):
        to(library, gr.repeat(square, 2), params)


@pytest.mark.parametrize("read", [1, H + 1])
def test_layers_read_what_those_below_make(library, read):
    """Torch would spread a kernel of a single row over all."""
    second = random_params(STACK.layers[1], read)
    with pytest.raises(ValueError, match=rf"params.*got .*shape \({read}, 16\)"):
        to(library, STACK, (random_params(STACK)[0], second))


def test_both_directions_read_the_same(library):
    if library in ("equinox", "haiku"):
        pytest.skip("one direction")
    layer = gr.bidirectional(LSTM)
    params = random_params(layer)._replace(backward=random_params(layer.backward, 1))
    with pytest.raises(ValueError, match=r"params.*got .*shape \(1, 16\)"):
        to(library, layer, params)


def test_parameters_are_of_one_dtype(library):
    """Torch would round the second layer to the precision of the first."""
    first, second = random_params(STACK)
    first = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), first)
    with pytest.raises((TypeError, ValueError), match="params: got dtype"):
        to(library, STACK, (first, second))


class Negated(gr.LSTM):
    """A cell of someone's own."""

    def step(self, params, carry, x):
        return gr.LSTM.step(self, params, carry, -x)


def test_a_subclass_of_a_cell_is_another_cell(library):
    for layer in (Negated(H), gr.recurrent(Negated(H))):
        with pytest.raises(ValueError, match="there is no Negated cell"):
            to(library, layer, random_params(layer))


OTHERS = {
    "cell": (LSTM, gr.GRU(H).carry((B,)), "got GRUCarry"),
    "layer": (gr.recurrent(LSTM), gr.GRU(H).carry((B,)), "got GRUCarry"),
    "size": (LSTM, gr.LSTM(H + 1).carry((B,)), r"carry.h: got shape \(2, 5\), expected \(2, 4\)"),
    "array": (LSTM, jnp.zeros((B, H)), r"got \[2, 4\], expected LSTMCarry"),
    "stack": (STACK, LSTM.carry((B,))[:1], "expected a tuple of 2"),
    "repeat": (
        gr.repeat(LSTM, 2),
        gr.repeat(LSTM, 3).carry((B,)),
        r"got shape \(2, 3, 4\), .* behind",
    ),
    "residual": (gr.stack(LSTM, gr.residual(LSTM)), STACK.carry((B,)), "layer: got .*residual"),
    "counted": (
        gr.recurrent(gr.Zoneout(LSTM, h=0.1)),
        gr.recurrent(gr.Zoneout(LSTM, h=0.1)).carry((B,)),
        "layer: got .*Zoneout",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_carries_of_other_networks_are_refused(library, name):
    layer, carry, message = OTHERS[name]
    with pytest.raises(ValueError, match=message):
        to_carry(library, layer, carry)


def test_states_of_both_directions_are_two(library):
    if library in ("equinox", "haiku"):
        pytest.skip("one direction")
    with pytest.raises(ValueError, match="carry"):
        to_carry(library, gr.bidirectional(LSTM), gr.GRU(H).carry((B,)))


def test_no_states_are_too_few(library):
    for layer in (LSTM, gr.recurrent(LSTM)):
        with pytest.raises(ValueError, match="states: got 0"):
            getattr(gr.interop, f"from_{library}_carry")(layer, ())


def test_states_of_a_residual_are_not_made_up(library):
    states = [jnp.ones((B, H))] * 4
    if library in ("torch", "cudnn"):
        states = [jnp.ones((2, B, H))] * 2
    elif library != "keras":
        states = [(jnp.ones((B, H)),) * 2] * 2
    with pytest.raises(ValueError, match=r"residual"):
        getattr(gr.interop, f"from_{library}_carry")(gr.stack(LSTM, gr.residual(LSTM)), states)


def test_numpy_parameters_are_as_good(library):
    layer = gr.stack(LSTM, LSTM)
    params = random_params(layer)
    made = to(library, layer, jax.tree.map(np.asarray, params))
    if library in ("torch", "keras", "nnx", "equinox"):
        assert_equal(
            getattr(gr.interop, f"from_{library}")(made)[1],
            getattr(gr.interop, f"from_{library}")(to(library, layer, params))[1],
        )


def test_arrays_share_no_memory_with_what_they_come_from():
    """JAX takes an aligned buffer of NumPy as it is."""
    buffer = np.zeros(2 * 64 + 64 * 64 * 8, np.uint8)
    start = -buffer.ctypes.data % 64
    source = buffer[start : start + 64 * 64 * 8].view(np.float64).reshape(64, 64)
    array = as_array("array", source)
    source += 1
    assert not np.any(array)


def test_arrays_of_jax_are_the_same():
    array = jnp.ones(3)
    assert as_array("array", array) is array
    with pytest.raises(TypeError, match=re.escape("array: got float, expected an array")):
        as_array("array", 1.0)
