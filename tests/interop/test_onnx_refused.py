"""ONNX models that are no network of ours: refused by the name of the node, and why.

Axes: `T` time, `B` batch, `I` inputs, `H` features.
"""

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper

import gatedrnn as gr
from interop import onnx_models as om

B, I, H = 3, 2, 4
Y = {"y": 4}


def simple(op="GRU", after=(), out=None, constants=(), inputs=(), d=1, opset=17, **options):
    """One node, others after it."""
    changed = options.pop("arrays", {})
    arrays = om.weights(op, I, H, d, peephole=op == "LSTM") | dict(constants) | changed
    fed = {"x": ("T", "B", I)} | dict(inputs)
    nodes = [om.node(op, H, arrays | fed, **options), *after]
    ints = ("sequence_lens",)
    return om.model(nodes, fed, out or Y, arrays, opset=opset, ints=ints)


def follow(op, *inputs, out="z", rank=3, constants=(), node=(), **attributes):
    """A node after a GRU."""
    after = [helper.make_node(op, inputs, [out], name="next", **attributes)]
    return simple(after=after, out={out: rank}, constants=constants, **dict(node))


def two(second, h=H, **attributes):
    """A GRU, and another node on it."""
    above = om.weights("GRU", h, H, prefix="b")
    squeeze = helper.make_node("Squeeze", ["y", "one"], ["s"])
    node = om.node("GRU", H, above, x=second, prefix="b", y=("z", "zh"), **attributes)
    return [squeeze, node], above | {"one": np.array([1])}


def states(*shape):
    return om.draw(5, *shape)


def over_batch():
    """Two nodes, the second recurrent over the batch."""
    (squeeze, node), constants = two("t")
    turn = helper.make_node("Transpose", ["s"], ["t"], perm=[1, 0, 2])
    return simple(after=[squeeze, turn, node], out={"z": 4}, constants=constants)


def with_and_without_lengths():
    after, constants = two("s")
    inputs = {"sequence_lens": ("B",)}
    return simple(after=after, out={"z": 4}, constants=constants, inputs=inputs)


def decoder():
    """Its initial state is the final one of another node."""
    below, above = om.weights("GRU", I, H), om.weights("GRU", I, H, prefix="b")
    nodes = [
        om.node("GRU", H, below),
        om.node("GRU", H, above | {"binitial_h": 0}, prefix="b", y=("z", "zh")),
    ]
    nodes[1].input[5] = "h"
    return om.model(nodes, {"x": ("T", "B", I)}, {"z": 4}, below | above)


def side_by_side(*directions, axis=3):
    """Two nodes over the same input, one beside the other."""
    arrays, nodes = {}, []
    for prefix, direction in zip("fb", directions, strict=True):
        own = om.weights("GRU", I, H, prefix=prefix)
        arrays |= own
        y = (f"{prefix}y", f"{prefix}h")
        nodes.append(om.node("GRU", H, own, prefix=prefix, y=y, direction=direction))
    nodes.append(helper.make_node("Concat", ["fy", "by"], ["y"], name="join", axis=axis))
    return om.model(nodes, {"x": ("T", "B", I)}, Y, arrays)


def residual_padding():
    """A sum over time of outputs beside what they read, whose padding may be anything."""
    arrays = om.weights("GRU", H, H) | {"one": np.array([1]), "zero": np.array([0])}
    nodes = [
        om.node("GRU", H, arrays | {"sequence_lens": 0}),
        helper.make_node("Squeeze", ["y", "one"], ["s"]),
        helper.make_node("Add", ["x", "s"], ["a"]),
        helper.make_node("ReduceSum", ["a", "zero"], ["z"], name="next"),
    ]
    inputs = {"x": ("T", "B", H), "sequence_lens": ("B",)}
    return om.model(nodes, inputs, {"z": 3}, arrays, ints=("sequence_lens",))


def residual_of_ends():
    """The final states of two directions are those of no step, to which others could be added."""
    below, above = om.weights("GRU", I, H, 2), om.weights("GRU", H, H, prefix="b")
    constants = below | above | {"one": np.array([1]), "zero": np.array([0])}
    nodes = [
        om.node("GRU", H, below, direction="bidirectional"),
        helper.make_node("ReduceSum", ["y", "one"], ["s"], keepdims=0),
        helper.make_node("ReduceSum", ["h", "zero"], ["e"], keepdims=1),
        om.node("GRU", H, above, x="t", prefix="b", y=("z", "zh")),
        helper.make_node("Add", ["e", "zh"], ["end"], name="next"),
    ]
    nodes[3].input[0] = "s"
    return om.model(nodes, {"x": ("T", "B", I)}, {"end": 3}, constants)


def masked(steps=(0, 1, 2, 3, 4), empty=None, told=True):
    """Outputs zeroed by lengths, or final states kept where they are 0."""
    arrays = om.weights("GRU", I, H)
    arrays |= {"steps": np.array(steps, np.int32)[:, None], "none": np.array(0, np.int32)}
    arrays |= {"one": np.array([1]), "two": np.array([2]), "zero": np.float32(0)}
    if empty is not None:
        arrays["empty"] = np.float32(empty)
    nodes = [
        om.node("GRU", H, arrays | ({"sequence_lens": 0} if told else {})),
        helper.make_node("Squeeze", ["y", "one"], ["s"]),
        helper.make_node("Less", ["steps", "sequence_lens"], ["flags"], name="compare"),
        helper.make_node("Unsqueeze", ["flags", "two"], ["mask"]),
        helper.make_node("Where", ["mask", "s", "zero"], ["z"], name="next"),
        helper.make_node("Greater", ["sequence_lens", "none"], ["any"]),
        helper.make_node("Unsqueeze", ["any", "one"], ["some"]),
        helper.make_node("Where", ["some", "h", "empty"], ["end"], name="keep"),
    ]
    inputs = {"x": (5, "B", I), "sequence_lens": ("B",)}
    outputs = {"z": 3} if empty is None else {"end": 3}
    return om.model(nodes, inputs, outputs, arrays, ints=("sequence_lens",))


def of_another_input():
    """A reverse node that reads what a layer makes of what the forward one reads."""
    model = side_by_side("forward", "reverse")
    model.graph.initializer.append(numpy_helper.from_array(states(I, I), "k"))
    model.graph.node.insert(0, helper.make_node("MatMul", ["x", "k"], ["made"]))
    model.graph.node[2].input[0] = "made"
    return model


def sized():
    """A bias that follows from the length of the batch."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["n"], axis=0),
        helper.make_node("Cast", ["n"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["B0", "real"], ["B"]),
    ]
    arrays = om.weights("GRU", I, H)
    constants = {"W": arrays["W"], "R": arrays["R"], "B0": arrays["B"], "one": np.array(1)}
    nodes.append(om.node("GRU", H, arrays))
    return om.model(nodes, {"x": ("T", "B", I)}, Y, constants)


def embedded(axis=0, cast=False):
    """A table, and tokens that are cast, or columns instead of rows."""
    arrays = om.weights("GRU", I, H) | {"table": om.draw(3, 7, I), "none": np.array(0)}
    nodes = [helper.make_node("Gather", ["table", "x"], ["e"], name="look up", axis=axis)]
    if cast:
        nodes.insert(0, helper.make_node("Abs", ["x"], ["a"], name="positive"))
        nodes[1].input[1] = "a"
    nodes.append(om.node("GRU", H, arrays, x="e"))
    return om.model(nodes, {"x": ("T", "B")}, Y, arrays, tokens=("x",))


def no_shape():
    model = simple()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def two_outputs():
    below, above = om.weights("GRU", I, H), om.weights("GRU", I, H, prefix="b")
    nodes = [
        om.node("GRU", H, below),
        om.node("GRU", H, above, prefix="b", y=("z", "zh")),
    ]
    return om.model(nodes, {"x": ("T", "B", I)}, {"y": 4, "z": 4}, below | above)


def states_of_another():
    model = two_outputs()
    model.graph.output[1].name = "zh"
    return model


def over_time(*after, constants=(), rank=3, lengths=False, **options):
    """`y [T, B, F]` of a GRU without the axis of directions is `s`, `z` is made of it."""
    squeeze = helper.make_node("Squeeze", ["y", "one"], ["s"])
    known = {"one": np.array([1]), "zero": np.array([0]), "k": om.draw(6, H, H), "b": om.draw(7, H)}
    inputs = {"sequence_lens": ("B",)} if lengths else {}
    options |= {"constants": known | dict(constants), "inputs": inputs, "opset": 18}
    return simple(after=[squeeze, *after], out={"z": rank}, **options)


def only_the_last_step(op, *inputs, rank=3, **attributes):
    """A node after one that puts zeros in the place of all steps but the last."""
    known = {name: np.array(n) for name, n in (("i0", 0), ("i1", 1))}
    known |= {"n1": np.array(1, np.int32), "two": np.array([2]), "nil": np.float32(0)}
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "i0"], ["T"], axis=0),
        helper.make_node("Range", ["i0", "T", "i1"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["short"], to=TensorProto.INT32),
        helper.make_node("Unsqueeze", ["short", "one"], ["steps"]),
        helper.make_node("Sub", ["sequence_lens", "n1"], ["ends"]),
        helper.make_node("Equal", ["steps", "ends"], ["is_end"]),
        helper.make_node("Unsqueeze", ["is_end", "two"], ["mask"]),
        helper.make_node("MatMul", ["s", "k"], ["d"]),
        helper.make_node("Where", ["mask", "d", "nil"], ["only"], name="mask"),
        helper.make_node(op, inputs, ["z" if rank else "n"], name="next", **attributes),
    ]
    if not rank:
        nodes.append(helper.make_node("ReduceSum", ["n", "zero"], ["z"], name="sum", keepdims=0))
    return over_time(*nodes, constants=known, rank=rank or 2, lengths=True)


def truncated(start, end):
    """The first or last steps of sequences whose length is open."""
    known = {"from": np.array([start]), "to": np.array([end]), "axis": np.array([0])}
    node = helper.make_node("Slice", ["s", "from", "to", "axis"], ["z"], name="next")
    return over_time(node, constants=known)


def at_most(n):
    """No more than so many steps."""
    nodes = [
        helper.make_node("Shape", ["x"], ["T"], start=0, end=1),
        helper.make_node("Min", ["T", "n"], ["end"], name="least"),
        helper.make_node("Slice", ["s", "zero", "end", "zero"], ["z"]),
    ]
    return over_time(*nodes, constants={"n": np.array([n])})


def merged_after(pool, merge):
    """Two directions that are pooled before they are merged."""
    attributes = {"keepdims": 0}
    nodes = [
        helper.make_node(pool, ["y", "zero"], ["p"], **attributes),
        helper.make_node(merge, ["p", "zero"], ["z"], name="next", **attributes),
    ]
    constants = {"zero": np.array([0])}
    return simple(after=nodes, out={"z": 2}, constants=constants, opset=18, **BIDIRECTIONAL)


def sum_of_maxima():
    """Two nodes, each with its maximum over time."""
    model = side_by_side("forward", "reverse")
    nodes = [
        helper.make_node("ReduceMax", ["fy"], ["fm"], axes=[0]),
        helper.make_node("ReduceMax", ["by"], ["bm"], axes=[0]),
        helper.make_node("Add", ["fm", "bm"], ["y"], name="next"),
    ]
    del model.graph.node[-1]
    model.graph.node.extend(nodes)
    return model


def state_of_the_sequence():
    """The first step is the initial state."""
    model = simple(constants={"at": np.array([0]), "end": np.array([1])})
    first = helper.make_node("Slice", ["x", "at", "end", "at"], ["first"])
    model.graph.node.insert(0, first)
    model.graph.node[1].input[5:] = ["first"]
    return model


LSTM_STATES = {"initial_h": (1, "B", H)}
BIDIRECTIONAL = {"d": 2, "direction": "bidirectional"}
LAST = {"last": np.array(-1), "shape": np.array([0, 0, -1])}
turned = [
    helper.make_node("Transpose", ["y"], ["t"], perm=[0, 2, 1, 3]),
    helper.make_node("Reshape", ["t", "shape"], ["r"]),
    helper.make_node("Gather", ["r", "last"], ["z"], name="next", axis=0),
]

REFUSED = {
    "clip": (lambda: simple(clip=3.0), "GRU node 'gru'.*it clips .*at 3"),
    "reverse": (lambda: simple(direction="reverse"), "output 'y': got no output of a layer"),
    "reverse, read": (
        lambda: simple(
            direction="reverse",
            after=[helper.make_node("MatMul", ["y", "k"], ["z"], name="next")],
            out={"z": 4},
            constants={"k": states(H, 2)},
        ),
        "MatMul node 'next'.*the output of a reverse node, which alone is not converted",
    ),
    "direction": (lambda: simple(direction="sideways"), "its direction is 'sideways'"),
    "activations of a GRU": (
        lambda: simple(activations=["Sigmoid", "Relu"]),
        "its activations are sigmoid, relu, not sigmoid, tanh",
    ),
    "activations of an LSTM": (
        lambda: simple("LSTM", activations=["HardSigmoid", "Tanh", "Tanh"]),
        "LSTM node 'lstm'.*its activations are hardsigmoid, tanh, tanh, not",
    ),
    "activation of an RNN": (
        lambda: simple("RNN", activations=["Elu"]),
        "RNN node 'rnn'.*its activation is elu, not tanh, relu, sigmoid, affine",
    ),
    "affine": (
        lambda: simple(
            "RNN", activations=["Affine"], activation_alpha=[2.0], activation_beta=[0.0]
        ),
        "its activation is Affine of 2.0 and 0.0, not of 1 and 0",
    ),
    "affine, unsaid": (
        lambda: simple("RNN", activations=["Affine"]),
        "its activation is Affine of None and None",
    ),
    "too many numbers": (
        lambda: simple("RNN", activations=["Tanh"], activation_alpha=[1.0]),
        "activation_alpha or activation_beta are more than",
    ),
    "too few activations": (
        lambda: simple("RNN", activations=["Tanh"], **BIDIRECTIONAL),
        r"RNN node 'rnn': got activations \['tanh'\], expected 1 for each direction",
    ),
    "layout": (lambda: simple(layout=2), "its layout is 2, neither 0 nor 1"),
    "attribute": (lambda: simple(input_forget=1), "its attribute 'input_forget' is not one that"),
    "rows": (
        lambda: simple(constants={"initial_h": states(1, B, H)}),
        "its initial_h is a constant with rows of its own for each sequence",
    ),
    "rows, axes": (
        lambda: simple(constants={"initial_h": states(1, H)}),
        r"'gru', initial_h: got shape \(1, 4\), expected three axes",
    ),
    "rows, features": (
        lambda: simple(constants={"initial_h": states(1, 1, H + 1)}),
        r"'gru', initial_h: got a row of shape \(1, 5\), expected \(1, 4\)",
    ),
    "half given": (
        lambda: simple("LSTM", inputs=LSTM_STATES, constants={"initial_c": states(1, 1, H)}),
        "its initial_h is an input, but its initial_c a constant",
    ),
    "decoder": (decoder, "'bgru'.*its initial_h is computed, neither an input nor a constant"),
    "lengths": (
        lambda: simple(constants={"sequence_lens": np.array([2, 3, 4], np.int32)}),
        "its sequence_lens is a constant",
    ),
    "lengths of one node": (
        with_and_without_lengths,
        "'bgru'.*its lengths of sequences are 'none'",
    ),
    "over the batch": (over_batch, "'bgru'.*its time and batch axes are not those of the nodes"),
    "W": (
        lambda: simple(arrays={"W": states(1, 3 * H, I + 1)}),
        r"GRU node 'gru', 'W': got shape \(1, 12, 3\), expected \(1, 12, 2\)",
    ),
    "W of another node": (
        lambda: simple("LSTM", arrays={"W": states(1, 3 * H, I)}),
        r"LSTM node 'lstm', 'W': got shape \(1, 12, 2\), expected \(1, 16, 2\)",
    ),
    "R": (
        lambda: simple(arrays={"R": states(1, 3 * H, H - 1)}),
        r"'R': got shape \(1, 12, 3\), expected \(1, 12, 4\)",
    ),
    "B": (lambda: simple(arrays={"B": states(1, 3 * H)}), r"'B': got shape \(1, 12\), expected"),
    "P": (
        lambda: simple("LSTM", arrays={"P": states(1, H)}),
        r"'P': got shape \(1, 4\), expected \(1, 12\)",
    ),
    "directions": (
        lambda: simple(direction="bidirectional"),
        r"'W': got shape \(1, 12, 2\), expected \(2, 12, 2\)",
    ),
    "weights by sizes": (sized, "GRU node 'gru'.*input 'B' depends on the sizes of the inputs"),
    "softmax": (lambda: follow("Softmax", "y"), "Softmax node 'next'.*nothing like it among"),
    "domain": (
        lambda: follow("GRU", "y", domain="com.example"),
        "com.example.GRU node 'next'.*nothing like it",
    ),
    "cast": (lambda: follow("Cast", "y", to=TensorProto.FLOAT16), "float32 into float16"),
    "squeeze": (
        lambda: follow("Squeeze", "y", "axes", constants={"axes": np.array([0])}),
        "Squeeze node 'next'.*it drops axis 0",
    ),
    "reshape": (
        lambda: follow("Reshape", "y", "shape", constants={"shape": np.array([0, 0, 0, 2, 2])}),
        r"Reshape node 'next'.*it gives \?x1x\?x4 a shape that mixes or divides",
    ),
    "matrix first": (
        lambda: follow("MatMul", "k", "y", constants={"k": states(2, B)}),
        "MatMul node 'next'.*its matrix comes first",
    ),
    "matrix over the batch": (
        lambda: simple(
            after=[
                helper.make_node("Transpose", ["y"], ["t"], perm=[0, 1, 3, 2]),
                helper.make_node("MatMul", ["t", "k"], ["z"], name="next"),
            ],
            out={"z": 4},
            constants={"k": states(B, 2)},
        ),
        "MatMul node 'next'.*axis 3 of what it reads is not that of features",
    ),
    "rows of the matrix": (
        lambda: follow("MatMul", "y", "k", constants={"k": states(H + 1, 2)}),
        "MatMul node 'next': got 4 features, expected 5",
    ),
    "two directions apart": (
        lambda: follow("MatMul", "y", "k", constants={"k": states(H, 2)}, node=BIDIRECTIONAL),
        "MatMul node 'next'.*two directions that are not joined",
    ),
    "memory": (
        lambda: simple(
            "LSTM",
            after=[helper.make_node("MatMul", ["c", "k"], ["z"], name="next")],
            out={"z": 3},
            constants={"k": states(H, 2)},
        ),
        "MatMul node 'next'.*it reads the memory of an LSTM",
    ),
    "only the memory": (
        lambda: simple("LSTM", out={"c": 3}),
        "got outputs 'c', expected an output or a final `h`",
    ),
    "alpha": (
        lambda: simple(
            after=[
                helper.make_node("Squeeze", ["h", "zero"], ["s"]),
                helper.make_node("Gemm", ["s", "k"], ["z"], name="next", alpha=0.5),
            ],
            out={"z": 2},
            constants={"zero": np.array([0]), "k": states(H, 2)},
        ),
        "Gemm node 'next'.*its alpha and beta are 0.5 and 1, not 1",
    ),
    "a constant more": (
        lambda: follow("Add", "y", "k", constants={"k": states(H)}),
        "Add node 'next'.*it adds a constant to other than a product with a matrix",
    ),
    "a scale": (
        lambda: follow("Mul", "y", "k", constants={"k": np.float32(0.5)}),
        "Mul node 'next'.*scales other than the sum of two directions",
    ),
    "a product": (lambda: follow("Mul", "y", "y"), "Mul node 'next'.*other than two directions"),
    "a step": (
        lambda: follow("Gather", "y", "one", axis=0, constants={"one": np.array(1)}),
        r"Gather node 'next'.*it takes entries 1 to 2 of \? along axis 0",
    ),
    "the last step of two directions": (
        lambda: simple(after=turned, out={"z": 2}, constants=LAST, **BIDIRECTIONAL),
        "output 'z': got the last step, expected that of a network",
    ),
    "the last step of the backward direction": (
        lambda: simple(
            after=[
                *turned,
                helper.make_node("Slice", ["z", "from", "to", "one"], ["b"], name="cut"),
            ],
            out={"b": 2},
            constants={
                **LAST,
                "from": np.array([H]),
                "to": np.array([2 * H]),
                "one": np.array([1]),
            },
            **BIDIRECTIONAL,
        ),
        "Slice node 'cut'.*it takes entries 4 to 8 of 8 along axis 1",
    ),
    "the padding in a sum": (residual_padding, "ReduceSum node 'next'.*the padding take part"),
    "a residual of final states": (residual_of_ends, "Add node 'next'.*it adds neither"),
    "two directions one after the other": (
        lambda: side_by_side("forward", "reverse", axis=0),
        "Concat node 'join'.*it joins two directions along axis 0, which is not of features",
    ),
    "features before directions": (
        lambda: simple(
            after=[
                helper.make_node("Transpose", ["y"], ["t"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", ["t", "shape"], ["r"]),
            ],
            out={"r": 3},
            constants=LAST,
            **BIDIRECTIONAL,
        ),
        "output 'r': got directions and features in one axis, mixed",
    ),
    "a reverse node of another input": (
        of_another_input,
        "Concat node 'join'.*not a forward and a reverse node of the same input",
    ),
    "other steps": (
        lambda: masked(steps=(1, 2, 3, 4, 5)),
        "Less node 'compare'.*it does not compare the numbers of all steps with lengths",
    ),
    "lengths that nodes are not told": (
        lambda: masked(told=False),
        "Where node 'next'.*its lengths of sequences are 'sequence_lens', .* 'none'",
    ),
    "other states of empty rows": (
        lambda: masked(empty=1.0),
        "Where node 'keep'.*gives to empty rows is neither zeros nor their initial states",
    ),
    "the last step of padding": (
        lambda: simple(
            after=[helper.make_node("Gather", ["y", "last"], ["z"], name="next")],
            out={"z": 3},
            constants={"last": np.array(-1)},
            inputs={"sequence_lens": ("B",)},
        ),
        "Gather node 'next'.*it takes entries",
    ),
    "the padding in a maximum": (
        lambda: simple(
            after=[helper.make_node("ReduceMax", ["y"], ["z"], name="next", axes=[0])],
            out={"z": 4},
            inputs={"sequence_lens": ("B",)},
        ),
        "ReduceMax node 'next'.*steps in the padding take part",
    ),
    "two forward nodes": (
        lambda: side_by_side("forward", "forward"),
        "Concat node 'join'.*not a forward and a reverse node of the same input",
    ),
    "backward first": (
        lambda: side_by_side("reverse", "forward"),
        "Concat node 'join'.*the backward direction comes before",
    ),
    "training": (
        lambda: follow(
            "Dropout",
            "y",
            "ratio",
            "on",
            constants={"ratio": np.float32(0.5), "on": np.array(True)},
        ),
        "Dropout node 'next'.*in training mode",
    ),
    "columns of a table": (lambda: embedded(axis=1), "Gather node 'look up'.*other than rows"),
    "tokens": (lambda: embedded(cast=True), "Abs node 'positive'.*nothing like it"),
    "no shape": (no_shape, "GRU node 'gru': got an input 'x' that nothing before makes"),
    "two outputs": (two_outputs, "got outputs 'y', 'z', expected one beside final states"),
    "states of another": (states_of_another, "output 'zh': got states of a node that output 'y'"),
    "no network": (
        lambda: om.model([], {"x": ("T", "B", I)}, {"x": 3}, {}),
        "output 'x': got no output of a layer of ours",
    ),
    "a constant": (
        lambda: om.model([], {"x": ("T", "B", I)}, {"k": 1}, {"k": states(3)}),
        "output 'k': got a constant",
    ),
    "the last step alone": (
        lambda: only_the_last_step("Identity", "only"),
        "output 'z': got steps of which all but the last are masked",
    ),
    "the last step alone, read": (
        lambda: only_the_last_step("MatMul", "only", "k"),
        "MatMul node 'next'.*it reads steps of which all but the last are masked",
    ),
    "the last step alone, and its input": (
        lambda: only_the_last_step("Add", "only", "s"),
        "Add node 'next'.*it adds neither",
    ),
    "the last step alone, masked again": (
        lambda: only_the_last_step("Where", "mask", "only", "nil"),
        "Where node 'next'.*masked already",
    ),
    "a bias beside the last step": (
        lambda: only_the_last_step("Add", "only", "b", rank=0),
        "ReduceSum node 'sum'.*steps in the padding take part",
    ),
    "a bias after a sum": (
        lambda: over_time(
            helper.make_node("MatMul", ["s", "k"], ["d"]),
            helper.make_node("ReduceSum", ["d", "zero"], ["t"], keepdims=0),
            helper.make_node("Add", ["t", "b"], ["z"], name="next"),
            rank=2,
        ),
        "Add node 'next'.*it adds a constant to a sum over time",
    ),
    "a sum by a stand-in": (
        lambda: over_time(
            helper.make_node("ReduceSum", ["s", "zero"], ["t"], keepdims=0),
            helper.make_node("Div", ["t", "n"], ["z"], name="next"),
            constants={"n": np.float32(61)},
            rank=2,
        ),
        "Div node 'next'.*by other than the number of steps",
    ),
    "the first steps": (
        lambda: truncated(0, 100),
        "Slice node 'next'.*it cuts axis 0, whose size is open, at 0 or 100",
    ),
    "the last steps": (lambda: truncated(-100, 2**31 - 1), "Slice node 'next'.*it cuts axis 0"),
    "no more than": (lambda: at_most(100), "Min node 'least'.*not the same for all"),
    "a product of means": (
        lambda: merged_after("ReduceMean", "ReduceProd"),
        "ReduceProd node 'next'.*along axis 0",
    ),
    "a sum of maxima": (
        lambda: merged_after("ReduceMax", "ReduceSum"),
        "ReduceSum node 'next'.*along axis 0",
    ),
    "a sum of two maxima": (sum_of_maxima, "Add node 'next'.*it adds neither two directions"),
    "the maximum of the backward one": (
        lambda: simple(
            after=[
                helper.make_node("ReduceMax", ["y"], ["m"], axes=[0], keepdims=0),
                helper.make_node("Gather", ["m", "i"], ["z"], axis=0),
            ],
            out={"z": 2},
            constants={"i": np.array(1)},
            **BIDIRECTIONAL,
        ),
        "output 'z': got no output of a layer of ours",
    ),
    "a state of the sequence": (
        state_of_the_sequence,
        "GRU node 'gru'.*its initial_h is made of the sequence that the network reads",
    ),
    "an old opset": (lambda: simple(opset=6), "got opset 6, expected 7 or newer"),
    "no model": (lambda: b"no model", "got bytes that are no ONNX model"),
    "nothing": (lambda: b"", "got a model without an opset of ONNX"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_in_the_way_is_named(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        gr.interop.from_onnx(make())
    assert str(error.value).startswith("model")


def test_masks_that_fit_are_followed():
    """The models above, as they should be."""
    layer = gr.recurrent(gr.GRU(H, "before", "keeps"))
    assert gr.interop.from_onnx(masked())[0] == layer
    assert gr.interop.from_onnx(masked(empty=0.0))[0] == gr.final(layer)


def test_no_step_by_number_is_taken_for_the_last():
    """Numbers stand for sizes that the graph leaves open, but none that it mentions."""
    for step in range(58, 75):
        constants = {"step": np.array(step)}
        model = follow("Gather", "y", "step", constants=constants)
        with pytest.raises(ValueError, match=rf"it takes entr(y|ies) {step}"):
            gr.interop.from_onnx(model)


def test_something_else_is_no_model():
    with pytest.raises(
        TypeError, match=r"model: got int, expected onnx\.ModelProto, its bytes, or"
    ):
        gr.interop.from_onnx(3)
    with pytest.raises(ValueError, match=r"model: got .*test_onnx_refused\.py, which is no ONNX"):
        gr.interop.from_onnx(__file__)
    with pytest.raises(FileNotFoundError):
        gr.interop.from_onnx("nowhere.onnx")
