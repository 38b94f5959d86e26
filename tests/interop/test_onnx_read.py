"""ONNX models as our networks: what onnxruntime computes is what ours compute.

Axes: `T` time, `B` batch, `D` directions, `I` inputs, `H` features.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper

import gatedrnn as gr
from gatedrnn._interop.carries import carry_from_states, states_from_carry
from interop import onnx_models as om

T, B, I, H = 5, 3, 2, 4
OPS = ("RNN", "GRU", "LSTM")
WHOLE = {"y": 4, "h": 3, "c": 3}
in_ops = pytest.mark.parametrize("op", OPS)


def close(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-5 * max(np.abs(want).max(), 1e-3)


def outputs(op):
    """The names and ranks of a node's outputs."""
    return dict(list(WHOLE.items())[: 1 + len(om.STATES[op])])


def single(op, *, d=1, opset=17, x=("T", "B", I), inputs=(), constants=(), seed=0, **options):
    """A model of one node, all its outputs returned."""
    arrays = om.weights(
        op, I, H, d, seed=seed, bias=options.pop("bias", True), peephole=options.pop("peephole", 0)
    ) | dict(constants)
    fed = {"x": x} | dict(inputs)
    made = om.node(op, H, arrays | fed, **options)
    return om.model([made], fed, outputs(op), arrays, opset=opset, ints=("sequence_lens",))


def side_by_side(ys):
    """`[T, D, B, H]` -> `[T, B, DH]`."""
    t, d, b, h = ys.shape
    return ys.transpose(0, 2, 1, 3).reshape(t, b, d * h)


def same(model, layer, params, xs, op, *, carry=None, lengths=None, feeds=()):
    """All outputs of a single node are those of the layer."""
    fed = {"x": xs} | dict(feeds)
    if lengths is not None:
        fed["sequence_lens"] = np.asarray(lengths, np.int32)
    want = om.run(model, fed)
    got_carry, ys = layer.apply(params, jnp.asarray(xs), carry, lengths=lengths)
    close(ys, side_by_side(want["y"]))
    for name, state in zip(om.STATES[op], states_from_carry(layer, got_carry), strict=True):
        close(state, want[name])


# The whole grid of attributes ---------------------------------------------------------------------

ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_node_is_what_onnxruntime_computes(data):
    """Every attribute and input that we have, drawn together; layout 1 beside its twin in 0."""
    op = data.draw(st.sampled_from(OPS), "op")
    opset = data.draw(st.sampled_from([7, 9, 12, 13, 14, 17, 20, 21]), "opset")
    d = data.draw(st.sampled_from([1, 2]), "directions")
    options = {"bias": data.draw(st.booleans(), "bias")}
    if d == 2:
        options["direction"] = "bidirectional"
    cells = []
    if op == "RNN":
        names = [data.draw(st.sampled_from(list(ACTIVATIONS)), "activation") for _ in range(d)]
        options["activations"] = [ACTIVATIONS[name] for name in names]
        linear = names.count("identity")
        if linear:
            options |= {"activation_alpha": [1.0] * linear, "activation_beta": [0.0] * linear}
        cells = [gr.Elman(H, name, options["bias"]) for name in names]
    elif op == "GRU":
        after = data.draw(st.booleans(), "after")
        options["linear_before_reset"] = int(after)
        cells = [gr.GRU(H, "after" if after else "before", "keeps", options["bias"])] * d
    else:
        coupled = data.draw(st.booleans(), "coupled")
        options["input_forget"] = int(coupled)
        options["peephole"] = data.draw(st.booleans(), "peephole")
        peephole = "diagonal" if options["peephole"] else None
        cells = [gr.LSTM(H, peephole=peephole, coupled=coupled, use_bias=options["bias"])] * d
    start = data.draw(st.sampled_from(["zeros", "constant", "input"]), "initial")
    states = {f"initial_{n}": om.draw((7, k), d, B, H) for k, n in enumerate(om.STATES[op])}
    fed, held = {}, {}
    if start == "constant":
        held = {name: np.repeat(state[:, :1], B, 1) for name, state in states.items()}
    elif start == "input":
        fed = states
    lengths = data.draw(st.sampled_from([None, (5, 1, 4)]), "lengths")
    shapes = dict.fromkeys(fed, (d, "B", H))
    if lengths is not None:
        shapes["sequence_lens"] = ("B",)

    model = single(op, d=d, opset=opset, inputs=shapes, constants=held, **options)
    layer, params = gr.interop.from_onnx(model)
    initial = "learned" if start == "constant" else "zeros"
    recurrent = [gr.recurrent(cell, initial=initial) for cell in cells]
    assert layer == (recurrent[0] if d == 1 else gr.bidirectional(*recurrent))
    carry = None
    if fed:
        carry = carry_from_states(layer, [jnp.asarray(state) for state in fed.values()])
    xs = om.draw(11, T, B, I)
    same(
        model,
        layer,
        params,
        xs,
        op,
        carry=carry,
        lengths=None if lengths is None else jnp.asarray(lengths),
        feeds=fed,
    )
    if opset >= 14:  # onnxruntime has no layout 1, so the twin stands for it
        turned = {name: np.moveaxis(state, 0, 1) for name, state in held.items()}
        shapes = {
            name: (shape[1], d, H) if len(shape) == 3 else shape for name, shape in shapes.items()
        }
        twin = single(
            op,
            d=d,
            opset=opset,
            x=("B", "T", I),
            inputs=shapes,
            constants=turned,
            layout=1,
            **options,
        )
        equal((layer, params), gr.interop.from_onnx(twin))


def equal(one, two):
    """The same network with the same parameters, to the bit."""
    assert one[0] == two[0]
    jax.tree.map(np.testing.assert_array_equal, one[1], two[1])


@pytest.mark.parametrize(("op", "dtype"), [("GRU", np.float16), ("LSTM", np.float64)])
def test_weights_keep_their_dtype(op, dtype):
    arrays = om.weights(op, I, H, dtype=dtype)
    model = om.model([om.node(op, H, arrays)], {"x": ("T", "B", I)}, outputs(op), arrays)
    _, params = gr.interop.from_onnx(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
    first = params.cell.kernel[:, H : 2 * H] if op == "GRU" else params.cell.kernel[:, :H]
    np.testing.assert_array_equal(first, arrays["W"][0, :H].T)  # z, i


def test_float64_is_refused_where_jax_would_round_it():
    arrays = om.weights("GRU", I, H, dtype=np.float64)
    model = om.model([om.node("GRU", H, arrays)], {"x": ("T", "B", I)}, outputs("GRU"), arrays)
    with jax.enable_x64(False), pytest.raises(TypeError, match="'gru', 'W': got dtype float64"):
        gr.interop.from_onnx(model)


@in_ops
def test_a_row_of_length_0_keeps_its_initial_state_where_onnxruntime_returns_zeros(op):
    """The one exception; outputs agree."""
    state = {f"initial_{n}": om.draw((7, k), 1, B, H) for k, n in enumerate(om.STATES[op])}
    shapes = dict.fromkeys(state, (1, "B", H)) | {"sequence_lens": ("B",)}
    model = single(op, inputs=shapes)
    layer, params = gr.interop.from_onnx(model)
    carry = carry_from_states(layer, [jnp.asarray(s) for s in state.values()])
    xs, lengths = om.draw(11, T, B, I), np.array([0, 5, 2], np.int32)
    want = om.run(model, {"x": xs, "sequence_lens": lengths, **state})
    got, ys = layer.apply(params, jnp.asarray(xs), carry, lengths=jnp.asarray(lengths))
    close(ys, side_by_side(want["y"]))
    for name, before, after in zip(om.STATES[op], state.values(), got, strict=True):
        np.testing.assert_array_equal(want[name][0, 0], 0)
        np.testing.assert_array_equal(after[0], before[0, 0])
        close(after[1:], want[name][0, 1:])


# Where weights and initial states come from -------------------------------------------------------


@in_ops
def test_weights_may_be_constants_that_nodes_compute(op):
    """Constant nodes, pieces joined, cast and turned."""
    arrays = om.weights(op, I, H)
    computing, constants = om.computed(arrays)
    nodes = [
        *computing,
        om.node(op, H, arrays),
    ]
    model = om.model(nodes, {"x": ("T", "B", I)}, outputs(op), constants)
    plain = om.model([om.node(op, H, arrays)], {"x": ("T", "B", I)}, outputs(op), arrays)
    equal(gr.interop.from_onnx(model), gr.interop.from_onnx(plain))


def expanded(count):
    """Nodes that make the initial states of a batch from one row, and their initializers."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["batch"], axis=0),
        helper.make_node("Concat", ["one_more", "batch", "size"], ["whole"], axis=0),
        helper.make_node("Expand", ["row_h", "whole"], ["initial_h"]),
        helper.make_node("ConstantOfShape", ["whole"], ["initial_c"]),
    ]
    constants = {
        "row_h": om.draw(5, count, 1, H),
        "one": np.array([1]),
        "one_more": np.array([count]),
        "size": np.array([H]),
    }
    return nodes, constants


@pytest.mark.parametrize("d", [1, 2])
def test_one_row_that_the_graph_expands_is_a_learned_initial_carry(d):
    """Whatever the batch; the other state, of zeros, is learned beside it."""
    nodes, constants = expanded(d)
    arrays = om.weights("LSTM", I, H, d)
    direction = "bidirectional" if d == 2 else "forward"
    made = om.node("LSTM", H, {**arrays, "initial_h": 0, "initial_c": 0}, direction=direction)
    model = om.model([*nodes, made], {"x": ("T", "B", I)}, outputs("LSTM"), arrays | constants)
    layer, params = gr.interop.from_onnx(model)
    runs = (
        [(layer, params)]
        if d == 1
        else list(zip((layer.forward, layer.backward), params, strict=True))
    )
    for k, (one, p) in enumerate(runs):
        assert one.initial == "learned"
        np.testing.assert_array_equal(p.initial.h, constants["row_h"][k, 0])
        np.testing.assert_array_equal(p.initial.c, 0)
    same(model, layer, params, om.draw(11, T, B, I), "LSTM")


@in_ops
def test_zeros_are_no_more_than_zeros(op):
    zeros = {f"initial_{n}": np.zeros((1, B, H), np.float32) for n in om.STATES[op]}
    layer, params = gr.interop.from_onnx(single(op, constants=zeros))
    assert layer.initial == "zeros"
    assert params.initial is None


def test_zeros_may_stand_beside_an_input():
    zeros = {"initial_c": np.zeros((1, B, H), np.float32)}
    model = single("LSTM", constants=zeros, inputs={"initial_h": (1, "B", H)})
    layer, params = gr.interop.from_onnx(model)
    h, xs = om.draw(5, 1, B, H), om.draw(11, T, B, I)
    carry = gr.LSTMCarry(jnp.asarray(h[0]), jnp.zeros((B, H), jnp.float32))
    same(model, layer, params, xs, "LSTM", carry=carry, feeds={"initial_h": h})


def test_one_direction_may_start_from_zeros():
    state = np.concatenate([np.zeros((1, B, H)), np.ones((1, B, H))]).astype(np.float32)
    options = {"d": 2, "direction": "bidirectional", "constants": {"initial_h": state}}
    model = single("GRU", **options)
    layer, params = gr.interop.from_onnx(model)
    assert (layer.forward.initial, layer.backward.initial) == ("zeros", "learned")
    same(model, layer, params, om.draw(11, T, B, I), "GRU")


def test_paths_bytes_and_external_data(tmp_path):
    import onnx

    model = single("LSTM")
    want = gr.interop.from_onnx(model)
    equal(gr.interop.from_onnx(model.SerializeToString()), want)
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, size_threshold=0, location="weights")
    assert (tmp_path / "weights").is_file()
    equal(gr.interop.from_onnx(path), want)
    equal(gr.interop.from_onnx(str(path)), want)
    with pytest.raises(ValueError, match="initializer 'W': got values in another file, expected"):
        gr.interop.from_onnx(path.read_bytes())


# Networks of several nodes ------------------------------------------------------------------------


def forward_and_reverse(op, h, after):
    """Two nodes over the same input, squeezed, and the nodes that follow."""
    arrays, nodes = {}, []
    for k, (prefix, direction) in enumerate((("f", "forward"), ("b", "reverse"))):
        own = om.weights(op, I, h[k], prefix=prefix, seed=k)
        arrays |= own
        y = (f"{prefix}y", f"{prefix}h", "")
        nodes.append(om.node(op, h[k], own, prefix=prefix, y=y, direction=direction))
        nodes.append(helper.make_node("Squeeze", [f"{prefix}y", "axis"], [f"{prefix}s"]))
    constants = arrays | {"axis": np.array([1]), "half": np.float32(0.5)}
    return om.model([*nodes, *after], {"x": ("T", "B", I)}, {"y": 3}, constants)


MERGES = {
    "concat": [helper.make_node("Concat", ["fs", "bs"], ["y"], axis=2)],
    "sum": [helper.make_node("Add", ["bs", "fs"], ["y"])],
    "mul": [helper.make_node("Mul", ["fs", "bs"], ["y"])],
    "mean": [
        helper.make_node("Sum", ["fs", "bs"], ["s"]),
        helper.make_node("Mul", ["s", "half"], ["y"]),
    ],
}


@pytest.mark.parametrize(
    ("op", "merge"),
    [("RNN", "concat"), ("GRU", "unequal"), ("GRU", "sum"), ("LSTM", "mul"), ("LSTM", "mean")],
)
def test_a_forward_and_a_reverse_node_are_a_bidirectional_layer(op, merge):
    sizes = (H, H + 1) if merge == "unequal" else (H, H)
    how = "concat" if merge == "unequal" else merge
    model = forward_and_reverse(op, sizes, MERGES[how])
    layer, params = gr.interop.from_onnx(model)
    assert layer.merge == how
    xs = om.draw(11, T, B, I)
    close(layer.apply(params, jnp.asarray(xs))[1], om.run(model, {"x": xs})["y"])


REDUCED = {"sum": "ReduceSum", "mean": "ReduceMean", "mul": "ReduceProd"}


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("merge", REDUCED)
def test_a_reduction_over_directions_is_a_merge(merge, opset):
    """Along `Y` and along `Y_h`, which is `gr.final`."""
    inputs = opset >= (13 if merge == "sum" else 18)
    arrays = om.weights("GRU", I, H, 2)

    def reduced(value, axis, keepdims):
        if inputs:
            return helper.make_node(
                REDUCED[merge], [value, f"axis{axis}"], ["z"], keepdims=keepdims
            )
        return helper.make_node(REDUCED[merge], [value], ["z"], axes=[axis], keepdims=keepdims)

    constants = arrays | {"axis1": np.array([1]), "axis0": np.array([0])}
    made = om.node("GRU", H, arrays, direction="bidirectional")
    xs = om.draw(11, T, B, I)
    for value, axis, keepdims, rank in (("y", 1, 0, 3), ("y", 1, 1, 4), ("h", 0, 0, 2)):
        nodes = [made, reduced(value, axis, keepdims)]
        model = om.model(nodes, {"x": ("T", "B", I)}, {"z": rank}, constants, opset=opset)
        layer, params = gr.interop.from_onnx(model)
        both = gr.bidirectional(gr.GRU(H, "before", "keeps"), merge=merge)
        assert layer == (both if value == "y" else gr.final(both))
        want = om.run(model, {"x": xs})["z"]
        got = layer.apply(params, jnp.asarray(xs))[1]
        close(got, want.reshape(got.shape))


def deep(opset=17):
    """Tokens, a table, two layers with a residual, the last states, a read-out of them."""
    below = om.weights("LSTM", I, H // 2, 2, prefix="a")
    above = om.weights("GRU", H, H, prefix="b", seed=1)
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"], axis=0),  # [B, T, I]
        helper.make_node("Transpose", ["e"], ["et"], perm=[1, 0, 2]),
        om.node(
            "LSTM",
            H // 2,
            below,
            x="et",
            prefix="a",
            y=("y1", "h1", "c1"),
            direction="bidirectional",
        ),
        helper.make_node("Transpose", ["y1"], ["t1"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t1", "shape"], ["r1"]),
        helper.make_node("Dropout", ["r1", "ratio"], ["d1"]),
        om.node("GRU", H, above, x="d1", prefix="b", y=("y2", "h2")),
        helper.make_node("Squeeze", ["y2", "one"], ["s2"]),
        helper.make_node("Add", ["r1", "s2"], ["res"]),
        helper.make_node("MatMul", ["res", "kernel"], ["m"]),
        helper.make_node("Add", ["bias", "m"], ["n"]),
        helper.make_node("Identity", ["n"], ["y"]),
    ]
    constants = below | above
    constants |= {
        "table": om.draw(3, 7, I),
        "shape": np.array([0, 0, -1]),
        "ratio": np.float32(0.25),
        "one": np.array([1]),
        "kernel": om.draw(4, H, 6),
        "bias": om.draw(5, 6),
    }
    return om.model(
        nodes,
        {"x": ("B", "T")},
        {"y": 3, "h1": 3, "c1": 3, "h2": 3},
        constants,
        opset=opset,
        tokens=("x",),
    )


def test_a_deep_network_of_everything():
    model = deep()
    layer, params = gr.interop.from_onnx(model)
    assert layer == gr.stack(
        gr.embed(7, I),
        gr.bidirectional(gr.LSTM(H // 2)),
        gr.residual(gr.stack(gr.dropout(0.25), gr.GRU(H, "before", "keeps"))),
        gr.dense(6),
    )
    tokens = np.random.default_rng(0).integers(7, size=(B, T))
    want = om.run(model, {"x": tokens})
    carry, ys = layer.apply(params, jnp.asarray(tokens.T))
    close(ys, want["y"])
    close(jnp.stack([d.c for d in carry[1]]), want["c1"])
    close(carry[2][1].h[None], want["h2"])


ENDS = {
    "h": [helper.make_node("Squeeze", ["h", "zero"], ["z"])],
    "gather": [
        helper.make_node("Squeeze", ["y", "one"], ["s"]),
        helper.make_node("Gather", ["s", "last"], ["z"], axis=0),
    ],
    "slice": [
        helper.make_node("Slice", ["y", "from", "to", "zero"], ["s"]),
        helper.make_node("Squeeze", ["s", "both"], ["z"]),
    ],
}


@in_ops
@pytest.mark.parametrize("how", ENDS)
def test_the_last_step_is_final(op, how):
    """And a read-out of it as well, by `Gemm`."""
    arrays = om.weights(op, I, H)
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "both": np.array([0, 1]),
        "last": np.array(-1),
        "from": np.array([-1]),
        "to": np.array([2**63 - 1]),
        "kernel": om.draw(4, 6, H),
        "bias": om.draw(5, 6),
    }
    gemm = helper.make_node("Gemm", ["z", "kernel", "bias"], ["out"], transB=1)
    nodes = [om.node(op, H, arrays), *ENDS[how], gemm]
    model = om.model(nodes, {"x": ("T", "B", I)}, {"out": 2}, arrays | constants)
    layer, params = gr.interop.from_onnx(model)
    assert layer.layer.layers[1] == gr.dense(6)
    xs = om.draw(11, T, B, I)
    close(layer.apply(params, jnp.asarray(xs))[1], om.run(model, {"x": xs})["out"])


@pytest.mark.parametrize("how", ["mean", "max"])
def test_a_mean_or_maximum_over_time_is_pool(how):
    arrays = om.weights("GRU", I, H, 2)
    op = {"mean": "ReduceMean", "max": "ReduceMax"}[how]
    nodes = [
        om.node("GRU", H, arrays, direction="bidirectional"),
        helper.make_node("Transpose", ["y"], ["t"], perm=[2, 0, 1, 3]),  # [B, T, D, H]
        helper.make_node("Reshape", ["t", "shape"], ["r"]),
        helper.make_node(op, ["r"], ["z"], axes=[1], keepdims=0),
    ]
    constants = arrays | {"shape": np.array([0, 0, 2 * H])}
    model = om.model(nodes, {"x": ("T", "B", I)}, {"z": 2}, constants)
    layer, params = gr.interop.from_onnx(model)
    assert layer == gr.pool(gr.bidirectional(gr.GRU(H, "before", "keeps")), how)
    xs = om.draw(11, T, B, I)
    close(layer.apply(params, jnp.asarray(xs))[1], om.run(model, {"x": xs})["z"])


@pytest.mark.parametrize("how", ["ReduceMean", "ReduceMax"])
def test_one_direction_of_a_mean_or_maximum_is_pool(how):
    axes = {"zero": np.array([0]), "at": np.array(0)}
    after = [
        helper.make_node(how, ["y", "zero"], ["pooled"], keepdims=0),
        helper.make_node("Gather", ["pooled", "at"], ["z"], axis=0),
    ]
    arrays = om.weights("GRU", I, H, 2) | axes
    nodes = [om.node("GRU", H, arrays, direction="bidirectional"), *after]
    model = om.model(nodes, {"x": ("T", "B", I)}, {"z": 2}, arrays, opset=18)
    layer, params = gr.interop.from_onnx(model)
    assert layer == gr.pool(gr.recurrent(layer.layer.cell), how.removeprefix("Reduce").lower())
    xs = om.draw(1, T, B, I)
    close(layer.apply(params, xs)[1], om.run(model, {"x": xs})["z"])


def batch_major(end):
    """A bidirectional node of layout 1, and a read-out of every step or of the last states."""
    arrays = om.weights("GRU", I, H, 2) | {"k": om.draw(4, 2 * H, 6)}
    arrays["shape"] = np.array([0, -1] if end else [0, 0, -1])
    nodes = [
        om.node("GRU", H, arrays, direction="bidirectional", layout=1),
        helper.make_node("Reshape", ["h" if end else "y", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "k"], ["z"]),
    ]
    return om.model(nodes, {"x": ("B", "T", I)}, {"z": 2 if end else 3}, arrays)


@pytest.mark.parametrize("end", [True, False])
def test_batch_major_outputs(end):
    """`Y [B, T, D, H]` and `Y_h [B, D, H]`: nothing needs to be turned."""
    layer, params = gr.interop.from_onnx(batch_major(end))
    both = gr.bidirectional(gr.GRU(H, "before", "keeps"))
    network = gr.stack(both, gr.dense(6, use_bias=False))
    assert layer == (gr.final(network) if end else network)
    np.testing.assert_array_equal(params[1].kernel, om.draw(4, 2 * H, 6))


def test_nodes_that_no_output_needs_are_not_read():
    model = single("GRU")
    model.graph.node.append(helper.make_node("Softmax", ["y"], ["unused"]))
    equal(gr.interop.from_onnx(model), gr.interop.from_onnx(single("GRU")))


def test_old_opsets_have_axes_as_attributes():
    arrays = om.weights("LSTM", I, H)
    nodes = [
        helper.make_node("Unsqueeze", ["x"], ["u"], axes=[1]),
        helper.make_node("Squeeze", ["u"], ["v"], axes=[1]),
        om.node("LSTM", H, arrays, x="v"),
        helper.make_node("Squeeze", ["y"], ["z"], axes=[1]),
        helper.make_node("Slice", ["z"], ["w"], starts=[-1], ends=[2**31 - 1], axes=[0]),
        helper.make_node("Squeeze", ["w"], ["out"], axes=[0]),
    ]
    model = om.model(nodes, {"x": ("T", "B", I)}, {"out": 2}, arrays, opset=9)
    layer, params = gr.interop.from_onnx(model)
    assert layer == gr.final(gr.LSTM(H))
    xs = om.draw(11, T, B, I)
    close(layer.apply(params, jnp.asarray(xs))[1], om.run(model, {"x": xs})["out"])


def test_a_batch_that_the_graph_does_not_have():
    """`[T, I]`, as torch exports a module called without a batch."""
    arrays = om.weights("GRU", I, H)
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["u"]),
        om.node("GRU", H, arrays, x="u"),
        helper.make_node("Squeeze", ["y", "both"], ["z"]),
    ]
    constants = arrays | {"one": np.array([1]), "both": np.array([1, 2])}
    model = om.model(nodes, {"x": ("T", I)}, {"z": 2}, constants)
    layer, params = gr.interop.from_onnx(model)
    xs = om.draw(11, T, I)
    close(layer.apply(params, jnp.asarray(xs))[1], om.run(model, {"x": xs})["z"])
