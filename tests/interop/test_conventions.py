"""The table of conventions: what it says of a library is what the library does."""

import dataclasses
import itertools
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gatedrnn as gr
from gatedrnn._interop import conventions
from gatedrnn._interop.conventions import LIBRARIES, OURS
from gatedrnn._interop.layouts import cell_of, from_arrays, shapes_of, to_arrays
from gatedrnn._interop.networks import layers_of
from gatedrnn._interop.supported import checked_directions, row_of

from .common import IN, B, H, P, assert_equal, random_params

ROWS = {f"{own.name} {row.modules[0]}": (own, row) for own in LIBRARIES for row in own.cells}
in_rows = pytest.mark.parametrize("name", ROWS)


def forms(row):
    """Every cell of ours that a row has: each option by itself, and all together."""
    choices = {"use_bias": (True, False) if row.bias_optional else (True,)}
    if row.cell is gr.LSTM:
        choices["peephole"] = (None, "diagonal") if row.peephole else (None,)
        choices["projection"] = (None, P) if row.projection else (None,)
        choices["coupled"] = (False, True) if row.coupled else (False,)
    if row.cell is gr.GRU:
        choices["reset"], choices["update"] = row.resets, row.updates
    if row.cell is gr.Elman:
        choices["activation"] = tuple(row.activations)
    for chosen in itertools.product(*choices.values()):
        yield cell_of(row, H, **dict(zip(choices, chosen, strict=True)))


@in_rows
def test_what_is_laid_out_comes_back(name):
    """To the bit, in arrays of the names and shapes that the row announces."""
    library, row = ROWS[name]
    for cell in forms(row):
        params = random_params(cell)
        if row.cell is gr.GRU and not row.recurrent_bias and cell.reset == "after":
            params = params._replace(recurrent_bias=jnp.zeros(H))
        if row.forget_shift:  # rounds otherwise
            params = params._replace(bias=jnp.round(params.bias))
        arrays = to_arrays(library, cell, params, row.modules)
        assert {k: array.shape for k, array in arrays.items()} == shapes_of(row, cell, IN)
        assert_equal(from_arrays(row, cell, arrays), params)


def test_our_own_row_is_the_identity():
    for row in OURS.cells:
        for cell in forms(row):
            params = random_params(cell)
            arrays = to_arrays(OURS, cell, params)
            assert arrays.keys() == {k for k, leaf in params._asdict().items() if leaf is not None}
            for field, array in arrays.items():
                np.testing.assert_array_equal(array, getattr(params, field))


def test_a_cell_without_biases_gets_zeros_where_there_must_be_some():
    for library, row in ROWS.values():
        if not row.bias_optional:
            cell = dataclasses.replace(next(forms(row)), use_bias=False)
            back = cell_of(row, H) if row.cell is not gr.Elman else next(forms(row))
            params = random_params(cell)
            found = from_arrays(row, back, to_arrays(library, cell, params, row.modules))
            np.testing.assert_array_equal(found.kernel, params.kernel)
            assert not np.any(found.bias)


def modules():
    """A fresh cell of each library: its arrays by the table's names, and its states in order."""
    sizes = IN, H
    import equinox as eqx
    import flax.linen as nn
    import haiku as hk
    import keras
    import torch
    from flax import nnx

    def slashed(tree):
        paths = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in paths}

    for name in ("RNNCell", "LSTMCell", "GRUCell"):
        yield "torch", name, dict(getattr(torch.nn, name)(*sizes).named_parameters())
    for name in ("SimpleRNNCell", "LSTMCell", "GRUCell"):
        cell = getattr(keras.layers, name)(H)
        cell.build((None, IN))
        yield "keras", name, {weight.name: weight for weight in cell.weights}
    cell = keras.layers.GRUCell(H, reset_after=False)
    cell.build((None, IN))
    yield "keras", "GRU(reset_after=False)", {weight.name: weight for weight in cell.weights}
    for name in ("SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell"):
        cell, key = getattr(nn, name)(H), jax.random.key(0)
        xs = jnp.zeros((B, IN))
        variables = cell.init(key, cell.initialize_carry(key, xs.shape), xs)
        yield "linen", name, slashed(variables["params"])
        cell = getattr(nnx, name)(*sizes, rngs=nnx.Rngs(0))
        yield "nnx", name, slashed(nnx.to_pure_dict(nnx.state(cell, nnx.Param)))
    for name in ("LSTMCell", "GRUCell"):
        cell = getattr(eqx.nn, name)(*sizes, key=jax.random.key(0))
        arrays = {k: leaf for k, leaf in vars(cell).items() if isinstance(leaf, jax.Array)}
        yield "equinox", name, arrays
    for name, core in {
        "VanillaRNN": lambda: hk.VanillaRNN(H, name="core"),
        "VanillaRNN(double_bias=False)": lambda: hk.VanillaRNN(H, double_bias=False, name="core"),
        "LSTM": lambda: hk.LSTM(H, name="core"),
        "GRU": lambda: hk.GRU(H, name="core"),
    }.items():

        def run(xs, core=core):
            made = core()
            return made(xs, made.initial_state(B))

        params = hk.transform(run).init(jax.random.key(0), jnp.zeros((B, IN)))
        yield "haiku", name, {k.removeprefix("core/"): a for k, a in slashed(params).items()}


def test_fresh_cells_of_every_library_have_the_arrays_of_their_row():
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for package in ("torch", "keras", "flax", "equinox", "haiku"):
            pytest.importorskip(package, exc_type=ImportError)
        seen = set()
        for name, module, arrays in modules():
            (library,) = [own for own in LIBRARIES if own.name == name]
            row = library.row(module)
            shapes = shapes_of(row, cell_of(row, H, **forced(row)), IN)
            assert {k: tuple(array.shape) for k, array in arrays.items()} == shapes, module
            seen.add((name, row.modules))
    missing = {(own.name, row.modules) for own, row in ROWS.values()} - seen
    others = {"gatedrnn", "cudnn", "onnx"}  # ours, and those without cells of their own
    assert {(name, own) for name, own in missing if name not in others} == {("torch", ("LSTM",))}


def forced(row):
    """The options that an Elman cell needs where the row has no tanh."""
    return {"activation": next(iter(row.activations))} if row.cell is gr.Elman else {}


STATES = {
    "torch": lambda states: states,
    "keras": lambda states: states,
    "linen": lambda states: states,
    "nnx": lambda states: states,
    "equinox": lambda states: states,
    "haiku": tuple,
    "cudnn": lambda states: [state[0] for state in states],
    "onnx": lambda states: list(states.values()),
}


@pytest.mark.parametrize("name", STATES)
def test_states_are_in_the_order_of_the_row(name):
    (library,) = [own for own in LIBRARIES if own.name == name]
    (order,) = {row.carry for row in library.cells if row.cell is gr.LSTM}
    with jax.numpy_dtype_promotion("standard"):
        pytest.importorskip(library.module.split(".")[0], exc_type=ImportError)
        carry = gr.LSTMCarry(h=jnp.full((B, H), 1.0), c=jnp.full((B, H), 2.0))
        found = STATES[name](getattr(gr.interop, f"to_{name}_carry")(gr.LSTM(H), carry))
    marks = {1.0: "h", 2.0: "c"}
    assert tuple(marks[float(np.asarray(state)[0, 0])] for state in found) == order


def test_the_table_names_every_converter():
    """In both directions, with states."""
    names = {own.name for own in LIBRARIES} - {"gatedrnn"}
    pairs = itertools.product(("from", "to"), names, ("", "_carry"))
    assert {f"{way}_{name}{end}" for way, name, end in pairs} == set(gr.interop.__all__)


def test_every_field_of_the_table_is_documented():
    for kind in (conventions.CellConvention, conventions.LibraryConvention):
        for field in dataclasses.fields(kind):
            assert f"\n      {field.name}: " in kind.__doc__


def test_a_row_says_why_it_does_not_fit():
    for library in LIBRARIES[1:]:
        with pytest.raises(ValueError, match=f"become {library.target}: there is no Jordan cell"):
            row_of(library, gr.Jordan(H, out_features=P))


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda own: own.name)
def test_a_layer_that_runs_backward_alone_is_refused_by_name(library):
    """No library joins its outputs as ours does; in `gr.bidirectional` it would run forward."""
    net = gr.stack(gr.recurrent(gr.LSTM(H), reverse=True))
    with pytest.raises(ValueError, match=r"no place for recurrent\(.*, reverse=True\)"):
        checked_directions(net, layers_of(net)[0], library)
