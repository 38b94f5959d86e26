"""A layer and its parameters in one file: what is read is what was written, or is refused."""

import dataclasses
import math
import os
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Leaky, LeakyParams
from saved import DTYPES, I, bits, params_of

import gatedrnn as gr
from gatedrnn._registry.cells import ROWS, Attention
from gatedrnn._registry.row import Row

safetensors = pytest.importorskip("safetensors")


def assert_comes_back(path, layer, params, classes=()):
    """The same layer, structure, dtypes and bits."""
    gr.save(path, layer, params, classes=classes)
    read, found = gr.load(path, classes=classes)
    assert read == layer
    assert type(read) is type(layer)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert list(map(bits, jax.tree.leaves(found))) == list(map(bits, jax.tree.leaves(params)))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "net.safetensors")


@pytest.fixture(scope="module")
def module_path(tmp_path_factory):
    return str(tmp_path_factory.mktemp("nets") / "net.safetensors")


# What comes back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_cell_and_option(row, path):
    """Cells for trees, too; an attention with its memory, whose class is not the library's."""
    for cell in Row.every(row):
        classes = [Attention] if isinstance(cell, Attention) else []
        assert_comes_back(path, cell, params_of(cell, I), classes)


BPTTS = st.builds(
    gr.BPTT,
    rule=st.sampled_from([None, "hand", "autodiff"]),
    chunk=st.none() | st.integers(1, 9),
    truncate=st.none() | st.integers(1, 9),
    clip=st.none() | st.floats(0.01, 9.0),
    save=st.sampled_from([None, "carries", "gates", "boundaries"]),
    kernel=st.sampled_from([None, "scan"]),
    target=st.sampled_from([None, "cpu", "gpu", "tpu"]),
)
SIZES = st.integers(1, 4)
RATES = st.floats(0.0, 0.9)


@st.composite
def cells(draw):
    """A cell of the registry, perhaps with noise or a memory around it."""
    row = draw(st.sampled_from([row for row in ROWS if not row.of_trees and row.enumerated]))
    cell = draw(st.sampled_from(row.sample()))
    around = draw(st.sampled_from(["", "", "dropout", "zoneout", "attention"]))
    if around == "dropout":
        cell = gr.RecurrentDropout(cell, draw(RATES))
    if around == "zoneout":
        cell = gr.Zoneout(cell, draw(RATES))
    if around == "attention":
        cell = gr.Attention(cell, draw(SIZES), draw(SIZES))
    return cell


@st.composite
def layers(draw, reads, depth, causal=False):
    """A layer that reads so many features, of layers that are nested `depth` deep at most."""
    inside = partial(layers, depth=depth - 1)
    leaves = ["recurrent", "dense", "dropout"]
    nested = ["stack", "residual", "repeat"] + ["bidirectional"] * (not causal)
    kind = draw(st.sampled_from(leaves + nested if depth else leaves))
    if kind == "recurrent":
        initial, back = draw(st.sampled_from(["zeros", "learned"])), draw(st.booleans())
        return gr.recurrent(draw(cells()), draw(BPTTS), initial, back and not causal)
    if kind == "dense":
        return gr.dense(draw(SIZES), draw(st.booleans()))
    if kind == "dropout":
        return gr.dropout(draw(RATES), draw(st.booleans()))
    if kind == "bidirectional":
        both = [draw(inside(reads, causal=True)) for _ in range(2)]
        same = len({layer.out_features(reads) for layer in both}) == 1
        merges = ["concat", "sum", "mean", "mul"] if same else ["concat"]
        return gr.bidirectional(*both, draw(st.sampled_from(merges)))
    if kind == "stack":
        first = draw(inside(reads, causal=causal))
        return gr.stack(first, draw(inside(first.out_features(reads), causal=causal)))
    layer = gr.stack(draw(inside(reads, causal=causal)), gr.dense(reads))
    return gr.residual(layer) if kind == "residual" else gr.repeat(layer, draw(SIZES))


@st.composite
def networks(draw):
    """A network and the features that it reads, None for tokens."""
    reads = draw(SIZES)
    net = draw(layers(reads, 2))
    if draw(st.booleans()):
        net, reads = gr.stack(gr.embed(5, reads), net), None
    ends = [lambda layer: layer, gr.final, gr.pool, lambda layer: gr.pool(layer, "max")]
    return draw(st.sampled_from(ends))(net), reads


@settings(max_examples=60, deadline=None)
@given(drawn=networks(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_any_network(module_path, drawn, dtype, seed):
    net, reads = drawn
    assert_comes_back(module_path, net, params_of(net, reads, dtype=dtype, seed=seed))


def test_sequence_to_sequence(path):
    """Also with the parameters that `encode` returns, in which a memory is bound."""
    reader = gr.stack(gr.embed(5, 3), gr.bidirectional(gr.GRU(2)))
    for bridge in ("learned", "direct", None):
        looking = gr.recurrent(gr.Attention(gr.GRU(4), 4, 2))
        model = gr.seq2seq(reader, gr.stack(gr.embed(6, 3), looking, gr.dense(6)), bridge)
        params = model.init(jax.random.key(0))
        assert_comes_back(path, model, params)
    assert_comes_back(path, model, model.encode(params, jnp.ones((4, 2), jnp.int32))[1])
    ahead = gr.seq2seq(gr.LSTM(3), gr.stack(gr.GRU(3), gr.dense(2)), "learned")
    assert_comes_back(path, ahead, params_of(ahead, 5, 7))


def test_a_layer_of_cudnn(path):
    net = gr.cudnn(gr.stack(gr.LSTM(4), gr.LSTM(4)))
    assert_comes_back(path, net, params_of(net, I))


def test_what_was_read_computes_the_same(path):
    net = gr.stack(gr.embed(7, 3), gr.bidirectional(gr.LSTM(4)), gr.dense(7))
    params = net.init(jax.random.key(0), None)
    gr.save(path, net, params)
    layer, found = gr.load(path)
    tokens = jnp.arange(10, dtype=jnp.int32).reshape(5, 2) % 7
    assert bits(layer.apply(found, tokens)[1]) == bits(net.apply(params, tokens)[1])


def test_an_array_in_two_places_is_written_once(path):
    """And is one array again; equal ones are two."""
    one = params_of(gr.GRU(4), I)
    both = gr.Directions(gr.RecurrentParams(one, None), gr.RecurrentParams(one, None))
    gr.save(path, gr.bidirectional(gr.GRU(4)), both)
    _, found = gr.load(path)
    assert found.forward.cell.kernel is found.backward.cell.kernel
    with safetensors.safe_open(path, framework="numpy") as file:
        names = ["bias", "kernel", "recurrent_kernel"]
        assert sorted(file.keys()) == [f"forward.cell.{name}" for name in names]


def test_arrays_of_numpy_in_any_layout(path):
    """They are JAX's when they come back."""
    for kernel in (
        np.arange(12.0).reshape(4, 3).T,
        np.arange(12, dtype=">f8").reshape(3, 4),
        np.arange(24.0).reshape(3, 8)[:, ::2],
    ):
        gr.save(path, gr.dense(4), gr.Dense(4).init(jax.random.key(0), I)._replace(kernel=kernel))
        np.testing.assert_array_equal(gr.load(path)[1].kernel, kernel, strict=False)


def test_arrays_on_several_devices(path):
    """They are gathered."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a", "b"))
    params = params_of(gr.dense(4, use_bias=False), 6)
    divided = jax.device_put(params, spec)
    gr.save(path, gr.dense(4, use_bias=False), divided)
    assert bits(gr.load(path)[1].kernel) == bits(params.kernel)


# Classes of one's own -----------------------------------------------------------------------------


class Extra(NamedTuple):
    arrays: Any
    key: Any = None


INSIDE, EXTRA = gr.recurrent(gr.GRU(2)), Extra(1.5)


@dataclasses.dataclass(frozen=True)
class Own(gr.Layer):
    """A layer with every kind of value in its fields."""

    values: tuple = (1, 2.0, True, None, "é\n\x00", (), float("inf"), -float("inf"), 1e-300, -0.0)
    inside: gr.Layer = INSIDE
    extra: Extra = EXTRA

    def out_features(self, in_features):
        return in_features

    def init(self, key, in_features, dtype=jnp.float32):
        return Extra(
            {
                "a.b": jnp.ones(2, dtype),
                "a": {"b": jnp.zeros((), jnp.int8)},
                "c": {3: [(), []]},
                "__metadata__": jnp.ones(1),
            },
            (key, jax.random.key(1, impl="rbg"), gr.Shared(jnp.zeros((0, 2), bool))),
        )

    def run(self, params, xs, carry, context):
        return carry, xs


def test_a_class_of_ones_own(path):
    """With any fields and any tree of parameters, of keys and names that look alike too."""
    layer = gr.stack(gr.GRU(I), Own(), gr.recurrent(Leaky(2, 3)))
    params = layer.init(jax.random.key(0), I)
    assert_comes_back(path, layer, params, [Own, Extra, Leaky, LeakyParams, gr.GRU])
    (zero,) = gr.load(path, classes=[Own, Extra, Leaky, LeakyParams])[0].layers[1].values[-1:]
    assert math.copysign(1.0, zero) == -1.0


def test_names_that_arrays_cannot_have(path):
    """And those that look alike."""
    names = ["__metadata__", "", "value", "['a']", "['", "a", "a.b", "é\n"]
    params = {name: jnp.full(2, k) for k, name in enumerate(names)}
    assert_comes_back(path, Own(), params, [Own, Extra])


def test_a_class_that_was_not_given_is_refused_by_name(path):
    layer = gr.stack(gr.GRU(I), gr.recurrent(Leaky(2, 3)))
    params = layer.init(jax.random.key(0), I)
    with pytest.raises(ValueError, match=r"^layer\.layers\[1\]\.cell: .* classes=\[Leaky\]$"):
        gr.save(path, layer, params)
    with pytest.raises(ValueError, match=r"^params\[1\]\.cell: .* classes=\[LeakyParams\]$"):
        gr.save(path, layer, params, classes=[Leaky])
    assert not os.path.exists(path)
    gr.save(path, layer, params, classes=[Leaky, LeakyParams])
    refused = r"net\.safetensors: layer\.layers\[1\]\.cell: got the class Leaky, expected one that"
    with pytest.raises(ValueError, match=refused):
        gr.load(path)
    with pytest.raises(ValueError, match=r"params\[1\]\.cell: got the class LeakyParams, .*"):
        gr.load(path, classes=[Leaky])


def test_a_class_of_ours_under_another_is_not_ours(path):
    """Names are those of classes, so two of one name are refused, and ours are never replaced."""
    LSTM = dataclasses.make_dataclass("LSTM", [], bases=(gr.LSTM,), frozen=True)
    other = dataclasses.make_dataclass("LSTM", [], bases=(gr.LSTM,), frozen=True)
    params = params_of(gr.LSTM(4), I)
    with pytest.raises(ValueError, match=r"^layer: .* classes=\[LSTM\]$"):
        gr.save(path, LSTM(4), params)
    assert_comes_back(path, LSTM(4), params, [LSTM])
    assert type(gr.load(path, classes=[other])[0]) is other
    with pytest.raises(ValueError, match=r"^classes: got .* and .*, expected one of that name"):
        gr.load(path, classes=[LSTM, other])


@pytest.mark.parametrize("classes", [Leaky, [3], "Leaky", [Leaky(2, 3)], [int], None])
def test_what_is_no_list_of_classes(classes, path):
    with pytest.raises(TypeError, match=r"^classes: got .*, expected a list of dataclasses"):
        gr.save(path, gr.dense(3), (), classes=classes)


@dataclasses.dataclass(frozen=True)
class Holds(Own):
    value: Any = None


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (jax.nn.relu, "; a function can go by a name that the layer looks up"),
        (jnp.float32, "; a function can go by a name that the layer looks up"),
        (np.float32(2), "; its item() is a plain one"),
        (np.dtype("float32"), "; a dtype can go by its name"),
        (np.ones(2), "; arrays belong to the parameters"),
        (1j, "layers"),
        (b"text", "layers"),
    ],
)
def test_a_field_that_no_file_holds(value, advice, path):
    with pytest.raises(TypeError, match=r"^layer\.value: got .*, expected numbers.*") as caught:
        gr.save(path, Holds(value=value), (), classes=[Holds, Extra])
    assert str(caught.value).endswith(advice)
    assert not os.path.exists(path)


@dataclasses.dataclass(frozen=True)
class Doubled(Own):
    size: int = 1

    def __post_init__(self):
        object.__setattr__(self, "size", 2 * self.size)


def test_a_layer_that_its_fields_do_not_make(path):
    with pytest.raises(ValueError, match=r"^layer: got .*, of which its fields make another value"):
        gr.save(path, Doubled(), (), classes=[Doubled, Extra])
