"""Networks written as ONNX graphs: valid, and the same function in onnxruntime."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gatedrnn as gr

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

I, H, V, T, B = 3, 4, 5, 6, 4
LENGTHS = np.array([6, 0, 1, 4], np.int32)

CELLS = [
    *(gr.Elman(H, activation) for activation in ("tanh", "relu", "sigmoid", "identity")),
    gr.Elman(H, use_bias=False),
    gr.LSTM(H),
    gr.LSTM(H, use_bias=False),
    gr.LSTM(H, peephole="diagonal"),
    gr.LSTM(H, coupled=True),
    gr.LSTM(H, coupled=True, peephole="diagonal", use_bias=False),
    *(gr.GRU(H, reset, update) for reset in ("before", "after") for update in ("writes", "keeps")),
    gr.GRU(H, reset="after", use_bias=False),
]


def random_like(tree, seed):
    """Every floating leaf drawn, in float32; integers stay."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(rng.normal(size=leaf.shape) * 0.6, jnp.float32)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else jnp.zeros(leaf.shape, leaf.dtype)
        ),
        tree,
    )


def reads(layer):
    return None if getattr(layer, "reads_tokens", False) else I


def random_params(layer, seed=0):
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), reads(layer)))
    return random_like(shapes, seed)


def random_inputs(layer, steps=T, batch=B, lengths=None):
    """Inputs with NaN in the padding, which no layer can stand."""
    rng = np.random.default_rng(7)
    tokens = reads(layer) is None
    if tokens:
        xs = rng.integers(0, V, (steps, batch)).astype(np.int32)
    else:
        xs = rng.normal(size=(steps, batch, I)).astype(np.float32)
    if lengths is not None:
        xs[np.arange(steps)[:, None] >= lengths] = -1 if tokens else np.nan
    return xs


def written(layer, params, **options):
    model = gr.interop.to_onnx(layer, params, **options)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, feeds):
    """All outputs by name."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_close(got, want):
    """Within 1e-5 of the largest entry, nowhere NaN."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0.0) <= 1e-5 * max(np.abs(b).max(initial=0.0), 1e-3)


def assert_same(layer, params=None, *, lengths=None, carry=False, opset=17, steps=T, batch=B):
    """The file and the network give the same outputs and final states."""
    params = random_params(layer) if params is None else params
    xs = random_inputs(layer, steps, batch, lengths)
    model = written(layer, params, lengths=lengths is not None, carry=carry, opset=opset)
    state, feeds = layer.carry((batch,), params=params), {"xs": xs}
    if lengths is not None:
        feeds["lengths"] = lengths
    if carry:
        state = random_like(state, 3)
        feeds |= gr.interop.to_onnx_carry(layer, state)
    assert [value.name for value in model.graph.input] == list(feeds)
    outputs = run(model, feeds)
    ys = outputs.pop("ys")
    every = np.full(batch, steps, np.int32)  # the same program of ours, with lengths or without
    after, want = apply(layer, params, xs, state, every if lengths is None else lengths)
    assert_close(ys, want)
    after = uncounted(after)
    assert_close(uncounted(gr.interop.from_onnx_carry(layer, outputs)), after)
    return model


@partial(jax.jit, static_argnums=0)
def apply(layer, params, xs, carry, lengths):
    return layer.apply(params, xs, carry, lengths=lengths)


def uncounted(carry):
    """Without the steps that dropout counts."""
    counts = lambda node: isinstance(node, gr.DropoutCarry)  # noqa: E731
    return jax.tree.map(lambda node: () if counts(node) else node, carry, is_leaf=counts)


# Cells --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_cells(cell):
    assert_same(gr.bidirectional(cell), lengths=LENGTHS, carry=True)


@pytest.mark.parametrize("cell", [gr.Elman(H), gr.LSTM(H), gr.GRU(H)], ids=repr)
def test_learned_initial_carries(cell):
    """One node holds them also where only one direction learns its own."""
    learned = gr.recurrent(cell, initial="learned")
    assert_same(learned)
    assert_same(gr.bidirectional(learned, cell), lengths=LENGTHS)
    assert_same(gr.bidirectional(cell, learned), carry=True)


@pytest.mark.parametrize("cell", [gr.Elman(H), gr.LSTM(H), gr.GRU(H)], ids=repr)
def test_a_bare_cell_is_a_recurrent_layer(cell):
    layer = gr.recurrent(cell)
    params = random_params(layer)
    model = written(cell, params.cell)
    assert model.graph.node == written(layer, params).graph.node
    carry = random_like(cell.carry((B,)), 1)
    states = gr.interop.to_onnx_carry(cell, carry)
    assert list(states) == [f"carry.{name}" for name in carry._fields]
    assert_close(gr.interop.from_onnx_carry(cell, states), carry)


def test_weights_are_to_the_bit_and_in_onnx_s_order():
    layer = gr.recurrent(gr.LSTM(H, peephole="diagonal"))
    params = random_params(layer).cell
    model = written(layer, gr.RecurrentParams(params, None))
    arrays = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    i, f, g, o = np.split(np.asarray(params.kernel), 4, axis=1)
    np.testing.assert_array_equal(arrays["W"][0], np.concatenate([i, o, f, g], axis=1).T)
    i, f = np.split(np.asarray(params.peephole), 2)
    expected = np.concatenate([i, params.output_peephole, f])
    np.testing.assert_array_equal(arrays["P"][0], expected)
    assert not arrays["B"][0, 4 * H :].any()


# Layers -------------------------------------------------------------------------------------------

LSTM, GRU = gr.LSTM(H), gr.GRU(H, reset="after")
SQUARE = gr.GRU(I)
LAYERS = [
    gr.stack(LSTM, gr.dropout(0.5), GRU, gr.dense(2)),
    gr.stack(gr.embed(V, 3), gr.bidirectional(LSTM), gr.dense(2, use_bias=False)),
    gr.stack(gr.stack(gr.dense(H), LSTM), gr.repeat(GRU, 2)),
    gr.stack(gr.dense(H), gr.repeat(gr.bidirectional(LSTM, merge="sum"), 2)),
    gr.stack(gr.dense(H), gr.repeat(gr.residual(gr.stack(GRU, gr.dense(H))), 2)),
    gr.residual(gr.stack(LSTM, gr.dense(I))),
    gr.repeat(gr.recurrent(SQUARE, initial="learned"), 2),
    gr.bidirectional(LSTM, gr.GRU(2)),
    gr.bidirectional(gr.recurrent(LSTM, initial="learned"), gr.Elman(H, "relu"), merge="mean"),
    *(gr.bidirectional(GRU, merge=merge) for merge in ("concat", "sum", "mean", "mul")),
    *(gr.bidirectional(GRU, LSTM, merge=merge) for merge in ("sum", "mul")),
    gr.stack(gr.embed(V, 3), gr.dense(2)),
    gr.final(gr.stack(LSTM, gr.dropout(0.1), gr.dense(2))),
    gr.final(gr.stack(gr.bidirectional(LSTM), gr.bidirectional(LSTM, GRU))),
    gr.final(gr.stack(gr.embed(V, H), gr.repeat(LSTM, 2), gr.repeat(gr.residual(gr.dense(H)), 2))),
    gr.final(gr.residual(SQUARE)),
    gr.final(gr.repeat(SQUARE, 2)),
    gr.final(gr.bidirectional(GRU, merge="mul")),
    gr.final(gr.dense(2)),
    gr.final(gr.recurrent(LSTM, gr.BPTT(truncate=3))),
    gr.pool(gr.stack(gr.bidirectional(LSTM), gr.dense(2))),
    gr.pool(gr.residual(gr.stack(gr.bidirectional(GRU), gr.dense(I))), how="max"),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_layers(layer):
    assert_same(layer)
    assert_same(layer, lengths=LENGTHS, carry=True)


@pytest.mark.parametrize("opset", [13, 14, 18, 22])
def test_versions_of_the_operators(opset):
    model = assert_same(gr.pool(gr.bidirectional(LSTM, merge="mul"), "max"), opset=opset)
    assert model.opset_import[0].version == opset
    assert_same(gr.stack(GRU, gr.dense(2)), lengths=LENGTHS, opset=opset)


def test_rows_of_length_0_keep_their_initial_state():
    """Rows for which onnxruntime by itself would return zeros, or read what is not there."""
    for cell in (gr.Elman(H), LSTM, GRU):
        layer = gr.stack(cell, gr.bidirectional(cell), gr.dense(2))
        params = random_params(layer)
        carry = random_like(layer.carry((2,)), 3)
        none = np.zeros(2, np.int32)
        feeds = {"xs": random_inputs(layer, T, 2), "lengths": none}
        states = gr.interop.to_onnx_carry(layer, carry)
        model = written(layer, params, lengths=True, carry=True)
        made_by = {name: node.op_type for node in model.graph.node for name in node.output}
        told = [
            node.input[4] for node in model.graph.node if node.op_type in ("RNN", "LSTM", "GRU")
        ]
        assert [made_by.get(name) for name in told] == ["Max", "Max"]  # never 0
        outputs = run(model, feeds | states)
        assert not outputs.pop("ys").any()
        assert_close(gr.interop.from_onnx_carry(layer, outputs), carry)


def test_windows_go_on_from_the_states_of_those_before():
    layer = gr.stack(gr.repeat(gr.LSTM(I), 2), gr.residual(GRU_OF_I), gr.dense(2))
    params, xs = random_params(layer), random_inputs(layer, 9)
    model = written(layer, params, carry=True)
    carry, parts = layer.carry((B,), params=params), []
    for window in (xs[:4], xs[4:5], xs[5:]):
        outputs = run(model, {"xs": window, **gr.interop.to_onnx_carry(layer, carry)})
        parts.append(outputs.pop("ys"))
        carry = gr.interop.from_onnx_carry(layer, outputs)
    want_carry, want = layer.apply(params, xs)
    assert_close(np.concatenate(parts), want)
    assert_close(carry, want_carry)


GRU_OF_I = gr.GRU(I)

cells = st.one_of(
    st.builds(
        gr.Elman,
        st.integers(1, 5),
        st.sampled_from(["tanh", "relu", "sigmoid", "identity"]),
        st.booleans(),
    ),
    st.builds(
        gr.LSTM,
        st.integers(1, 5),
        peephole=st.sampled_from([None, "diagonal"]),
        coupled=st.booleans(),
        use_bias=st.booleans(),
    ),
    st.builds(
        gr.GRU,
        st.integers(1, 5),
        st.sampled_from(["before", "after"]),
        st.sampled_from(["writes", "keeps"]),
        st.booleans(),
    ),
)


@st.composite
def directions(draw):
    """One recurrent layer."""
    first = gr.recurrent(draw(cells), initial=draw(st.sampled_from(["zeros", "learned"])))
    kind = draw(st.sampled_from(["forward", "equal", "different"]))
    if kind == "forward":
        return first
    other = first if kind == "equal" else gr.recurrent(draw(cells))
    merges = ["concat"]
    if first.cell.features == other.cell.features:
        merges += ["sum", "mean", "mul"]
    return gr.bidirectional(first, other, draw(st.sampled_from(merges)))


@st.composite
def networks(draw):
    layers = draw(st.lists(directions(), min_size=1, max_size=2))
    if draw(st.booleans()):
        layers.insert(0, gr.embed(V, 2))
    if draw(st.booleans()):
        layers.append(gr.dense(2, use_bias=draw(st.booleans())))
    layer = gr.stack(*layers)
    ends = {"all": gr.stack, "final": gr.final, "mean": gr.pool, "max": lambda n: gr.pool(n, "max")}
    return ends[draw(st.sampled_from([*ends]))](layer)


@settings(max_examples=10, deadline=None)
@given(
    networks(), st.integers(1, 4), st.lists(st.integers(0, 4), min_size=1, max_size=3), st.data()
)
def test_any_network(layer, steps, lengths, data):
    lengths = np.minimum(lengths, steps).astype(np.int32)
    ragged, carry = data.draw(st.booleans()), data.draw(st.booleans())
    opset = data.draw(st.sampled_from([13, 17, 20]))
    options = {"carry": carry, "opset": opset, "steps": steps, "batch": len(lengths)}
    assert_same(layer, lengths=lengths if ragged else None, **options)


# What is in the file ------------------------------------------------------------------------------


def shapes(values):
    return {
        v.name: tuple(axis.dim_param or axis.dim_value for axis in v.type.tensor_type.shape.dim)
        for v in values
    }


def test_inputs_and_outputs_have_names_and_free_axes():
    layer = gr.stack(gr.embed(V, 3), gr.bidirectional(LSTM), gr.repeat(gr.GRU(8), 2), gr.dense(2))
    model = written(layer, random_params(layer), lengths=True, carry=True, name="tagger")
    states = {f"1.{way}.{leaf}": ("B", H) for way in ("forward", "backward") for leaf in "hc"}
    states |= {"2.0.h": ("B", 8), "2.1.h": ("B", 8)}
    assert shapes(model.graph.input) == {
        "xs": ("T", "B"),
        "lengths": ("B",),
        **{f"carry.{name}": shape for name, shape in states.items()},
    }
    assert shapes(model.graph.output) == {
        "ys": ("T", "B", 2),
        **{f"final.{name}": shape for name, shape in states.items()},
    }
    int32 = onnx.TensorProto.INT32
    assert [v.type.tensor_type.elem_type for v in model.graph.input[:2]] == [int32, int32]
    assert (model.graph.name, model.producer_name) == ("tagger", "gatedrnn")
    layer = gr.final(gr.stack(LSTM, gr.dense(2)))
    model = written(layer, random_params(layer))
    assert shapes(model.graph.input) == {"xs": ("T", "B", I)}
    assert shapes(model.graph.output)["ys"] == ("B", 2)


def test_equal_directions_are_one_node_different_ones_two():
    def kinds(layer):
        nodes = written(layer, random_params(layer)).graph.node
        ways = [[a.s.decode() for a in n.attribute if a.name == "direction"] for n in nodes]
        return [(n.op_type, *way) for n, way in zip(nodes, ways, strict=True) if way]

    assert kinds(gr.bidirectional(LSTM)) == [("LSTM", "bidirectional")]
    assert kinds(gr.bidirectional(LSTM, GRU)) == [("LSTM", "forward"), ("GRU", "reverse")]
    assert kinds(gr.repeat(SQUARE, 3)) == [("GRU", "forward")] * 3
    without = gr.stack(gr.dropout(0.5), LSTM, gr.dropout(0.5))
    assert [n.op_type for n in written(without, random_params(without)).graph.node] == [
        *("LSTM", "Gather", "Gather", "Squeeze")
    ]


def test_float64_is_for_other_runtimes():
    """Recurrent nodes in float64 run in the reference of onnx, and not in onnxruntime."""
    from onnx.reference import ReferenceEvaluator

    for cell in (gr.Elman(H), LSTM, gr.GRU(H)):
        layer = gr.stack(cell, gr.dense(2))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), random_params(layer))
        model = written(layer, params)
        xs = random_inputs(layer).astype(np.float64)
        want = np.asarray(layer.apply(params, xs)[1])
        (got,) = ReferenceEvaluator(model).run(["ys"], {"xs": xs})
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
        with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|NotImplemented|does not support"):
            run(model, {"xs": xs})
    dense = gr.dense(2)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), random_params(dense))
    got = run(written(dense, params), {"xs": xs})["ys"]
    np.testing.assert_allclose(got, dense.apply(params, xs)[1], rtol=0, atol=1e-12)


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (gr.LSTM(H, projection=2), "there is no recurrent projection"),
        (gr.LSTM(H, peephole="full"), "there are no full peepholes"),
        (gr.Jordan(H, out_features=2), "there is no Jordan cell"),
        (gr.LayerNormLSTM(H), "there is no LayerNormLSTM cell"),
        (gr.Zoneout(LSTM, 0.1), "there is no Zoneout cell"),
        (gr.stack(LSTM, gr.bidirectional(GRU, gr.LayerNormGRU(H))), "no LayerNormGRU cell"),
        (
            gr.seq2seq(gr.stack(gr.embed(V, 2), GRU), gr.stack(gr.embed(V, 2), GRU, gr.dense(V))),
            "it has no place for a Seq2Seq layer",
        ),
        (gr.final(gr.residual(gr.bidirectional(gr.GRU(2)))), "its outputs mix both directions"),
    ],
    ids=repr,
)
def test_what_has_no_counterpart_is_refused(layer, words):
    with pytest.raises(ValueError, match=r"^layer: got .* cannot become an ONNX graph: ") as caught:
        gr.interop.to_onnx(layer, ())
    assert words in str(caught.value)


def test_params_of_another_network_are_refused():
    layer = gr.stack(LSTM, gr.dense(2))
    params = random_params(layer)
    other = random_params(gr.stack(LSTM, gr.dense(3)))
    with pytest.raises(ValueError, match=r"params\[1\].kernel: got shape \(4, 3\), expected"):
        gr.interop.to_onnx(layer, other)
    with pytest.raises(ValueError, match=r"^params: got"):
        gr.interop.to_onnx(layer, params[0])
    with pytest.raises(ValueError, match="params: got tuple without a matrix"):
        gr.interop.to_onnx(gr.dropout(0.1), ())
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    with pytest.raises(ValueError, match="its parameters are bfloat16, expected all float32"):
        gr.interop.to_onnx(layer, half)
    mixed = (params[0], jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params[1]))
    with pytest.raises(ValueError, match="are float32 and float64, expected all"):
        gr.interop.to_onnx(layer, mixed)
    tokens = (params[0], params[1]._replace(bias=np.arange(2)))
    with pytest.raises(TypeError, match=r"params\[1\].bias: got dtype int64"):
        gr.interop.to_onnx(layer, tokens)


def test_weights_beyond_one_file_are_refused(monkeypatch):
    from gatedrnn._interop.onnx import write

    monkeypatch.setattr(write, "LIMIT", 100)
    with pytest.raises(ValueError, match="bytes of weights do not fit into one file"):
        gr.interop.to_onnx(gr.recurrent(LSTM), random_params(gr.recurrent(LSTM)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opset": 12}, "opset: got 12, expected an integer from 13 to"),
        ({"opset": 999}, "opset: got 999"),
        ({"opset": "17"}, "opset: got '17'"),
        ({"lengths": 1}, "lengths: got 1, expected True or False"),
        ({"carry": None}, "carry: got None"),
        ({"name": ""}, "name: got ''"),
    ],
)
def test_wrong_options(options, words):
    layer = gr.recurrent(LSTM)
    with pytest.raises(ValueError, match=words):
        gr.interop.to_onnx(layer, random_params(layer), **options)


def test_wrong_carries():
    layer = gr.stack(gr.bidirectional(LSTM), gr.dropout(0.5), gr.repeat(gr.GRU(8), 2))
    carry = random_like(layer.carry((B,)), 1)
    to, back = gr.interop.to_onnx_carry, gr.interop.from_onnx_carry
    assert_close(back(layer, to(layer, carry)), carry)
    with pytest.raises(ValueError, match="carry: got tuple, expected a tuple of 3"):
        to(layer, carry[:2])
    with pytest.raises(ValueError, match=r"expected Directions\(forward, backward\)"):
        to(layer, (carry[0].forward, *carry[1:]))
    with pytest.raises(ValueError, match=r"expected \(2, 8\) behind the batch axes"):
        to(layer, (*carry[:2], gr.GRU(8).carry((B,))))
    with pytest.raises(ValueError, match=r"carry.h: got|expected \[B, F\]"):
        to(gr.recurrent(LSTM), LSTM.carry(()))
    with pytest.raises(ValueError, match=r"carry\.h: got shape|carry\..*got shape \(4, 3\)"):
        to(LSTM, gr.LSTMCarry(jnp.zeros((B, 3)), jnp.zeros((B, 3))))
    with pytest.raises(ValueError, match="there is no Jordan cell"):
        to(gr.Jordan(H, out_features=2), gr.Jordan(H, out_features=2).carry((B,)))
    states = to(layer, carry)
    with pytest.raises(ValueError, match=r"'carry.2.1.h' is missing"):
        back(layer, {name: v for name, v in states.items() if name != "carry.2.1.h"})
    with pytest.raises(ValueError, match="ys: not part of such a network"):
        back(layer, states | {"ys": np.zeros((B, 2), np.float32)})
    with pytest.raises(ValueError, match=r"states, h: got shape \(4, 3\), expected \(4, 8\)"):
        back(layer, states | {"carry.2.0.h": np.zeros((B, 3), np.float32)})
