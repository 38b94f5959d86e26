"""ONNX files that ask for too much, or that are damaged: refused before anything is made of them.

Axes: `T` time, `B` batch, `I` inputs, `H` features.
"""

import itertools
import os

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import gatedrnn as gr  # noqa: E402
from gatedrnn._interop.onnx import read_limits  # noqa: E402
from interop import onnx_models as om  # noqa: E402
from interop.common import bounded  # noqa: E402

I, H = 2, 3
BIG = 2**40


def refused(model, match, error=ValueError):
    """The model is refused, in one line, with little memory and in little time."""
    with pytest.raises(error, match=match) as caught, bounded(3 * 2**29):
        gr.interop.from_onnx(model)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def gru(*before, constants=(), opset=17, fed=(), **changed):
    """A GRU after other nodes, which make some of its inputs."""
    arrays = om.weights("GRU", I, H)
    made = {name for node in before for name in node.output}
    known = {name: array for name, array in arrays.items() if name not in made} | dict(constants)
    node = om.node("GRU", H, arrays | dict.fromkeys(made, 0))
    for name, value in changed.items():
        for attribute in [a for a in node.attribute if a.name == name]:
            node.attribute.remove(attribute)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))
    inputs = {"x": ("T", "B", I)} | dict(fed)
    return om.model([*before, node], inputs, {"y": 4, "h": 3}, known, opset=opset)


def ints(*values):
    return np.array(values, np.int64)


def growing(op, count, width=2, **attributes):
    """A constant that becomes larger with every node."""
    names = ["k", *(f"k{n}" for n in range(1, count)), "W"]
    pairs = itertools.pairwise(names)
    return [helper.make_node(op, [a] * width, [b], **attributes) for a, b in pairs]


def one(op, *inputs, **attributes):
    return [helper.make_node(op, inputs, ["W"], name="bomb", **attributes)]


column, row = np.zeros((60_000, 1), np.float32), np.zeros((1, 60_000), np.float32)
k = np.ones(1, np.float32)
TOO_LARGE = {
    "concat": (growing("Concat", 40, axis=0), {"k": k}),
    "wide concat": (growing("Concat", 9, 32, axis=0), {"k": k}),
    "expand": (one("Expand", "k", "s"), {"k": k, "s": ints(BIG)}),
    "expand, many axes": (one("Expand", "k", "s"), {"k": k, "s": ints(*[2**20] * 60)}),
    "tile": (one("Tile", "k", "s"), {"k": k, "s": ints(BIG)}),
    "constant of shape": (one("ConstantOfShape", "s"), {"s": ints(BIG)}),
    "range": (one("Range", "a", "b", "c"), {"a": ints(0)[0], "b": ints(BIG)[0], "c": ints(1)[0]}),
    "outer sum": (one("Add", "a", "b"), {"a": column, "b": row}),
    "outer choice": (
        one("Where", "c", "a", "b"),
        {"c": np.array(True), "a": column, "b": row},
    ),
    "gather": (
        one("Gather", "a", "n", axis=0),
        {"a": np.zeros((1, 60_000), np.float32), "n": np.zeros(60_000, np.int64)},
    ),
    "many that fit": (
        [
            *(helper.make_node("Expand", ["k", "s"], [f"w{n}"]) for n in range(9)),
            helper.make_node("Sum", [f"w{n}" for n in range(9)], ["W"]),
        ],
        {"k": k, "s": ints(10**7)},
    ),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_constants_that_grow_are_refused_before_they_are_made(name):
    nodes, constants = TOO_LARGE[name]
    refused(
        gru(*nodes, constants=constants),
        r"model, \w+ node .*: got constants of (more than )?[\d,^]+ bytes up to here, expected "
        r"[\d,]+ at most: 268,435,456 and 32 times the [\d,]+ bytes of the model",
    )


def test_weights_that_many_nodes_read_are_counted_for_each():
    """Parameters of ours are arrays of their own."""
    kernel = om.draw(0, 1024, 1024)
    names = ["x", *(f"x{n}" for n in range(120))]
    pairs = itertools.pairwise(names)
    nodes = [helper.make_node("MatMul", [a, "k"], [b]) for a, b in pairs]
    model = om.model(nodes, {"x": ("T", "B", 1024)}, {names[-1]: 3}, {"k": kernel})
    refused(model, "MatMul node .*: got constants of")


def test_what_fits_is_computed():
    """The limit is beside the model's own size: constants of the size of the weights pass."""
    memory = read_limits.Memory(10**9)
    memory.take("first", 32 * 10**9)
    memory.take("second", 2**28)
    with pytest.raises(ValueError, match="model, third: got constants of 32,268,435,457 bytes"):
        memory.take("third", 1)


HIDDEN = {
    "0": (0, "its hidden_size is 0, expected an integer of at least 1"),
    "negative": (-3, "its hidden_size is -3, expected"),
    "missing": (None, "its hidden_size is missing"),
    "a number": (3.0, "its hidden_size is FLOAT, expected INT"),
    "text": ("3", "its hidden_size is STRING, expected INT"),
    "several": ([3], "its hidden_size is INTS, expected INT"),
    "another": (4, r"'W': got shape \(1, 9, 2\), expected \(1, 12, 2\)"),
    "huge": (2**62, r"'W': got shape \(1, 9, 2\), expected"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_size_is_an_integer_that_fits(name):
    value, match = HIDDEN[name]
    refused(gru(hidden_size=value), f"GRU node 'gru'.*{match}")


def changed(change, **options):
    model = gru(**options)
    change(model.graph)
    return model


def weight(name, **fields):
    """A change of one initializer."""

    def change(graph):
        (tensor,) = [t for t in graph.initializer if t.name == name]
        for field, value in fields.items():
            if field == "dims":
                del tensor.dims[:]
                tensor.dims.extend(value)
            else:
                setattr(tensor, field, value)

    return change


def twice(items):
    items.append(items[0])


def of_strings(graph):
    graph.initializer[0].CopyFrom(helper.make_tensor("W", TensorProto.STRING, [1], [b"cat"]))


def of_small_floats(graph):
    kind = TensorProto.FLOAT8E4M3FN
    graph.initializer[0].CopyFrom(helper.make_tensor("W", kind, [1], [1.0]))


def sparse(graph):
    made = graph.sparse_initializer.add(dims=[BIG])
    made.values.CopyFrom(graph.initializer[0])
    del graph.initializer[0]


def open_axis(value):
    def change(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = value

    return change


def sequence(graph):
    graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1


def no_kind(graph):
    graph.input[0].type.tensor_type.elem_type = 77


def no_text(graph):
    data = graph.SerializeToString().replace(b"gru", b"g\xffu")
    graph.ParseFromString(data)


DAMAGED = {
    "data too short": (weight("W", raw_data=b"1234"), "'W': got 4 bytes, expected 72 for"),
    "data missing": (weight("W", dims=[BIG, 4]), "'W': got 72 bytes, expected 17,592,186,044,416"),
    "a negative axis": (weight("W", dims=[-1, 9, 2]), r"'W': got the shape \(-1, 9, 2\)"),
    "many axes": (weight("W", dims=[1] * 70), "'W': got the shape"),
    "no such type": (weight("W", data_type=77), "'W': got values of an unknown type"),
    "no type": (weight("W", data_type=0), "'W': got values of an unknown type"),
    "strings": (of_strings, "'W': got values of object, expected"),
    "8 bits": (of_small_floats, "'W': got values of float8_e4m3fn, expected"),
    "whole numbers": (
        lambda graph: graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.zeros((1, 9, 2), int), "W")
        ),
        "GRU node 'gru'.*input 'W' is of int64, which it does not take",
    ),
    "double": (
        lambda graph: graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.zeros((1, 9, 2)), "W")
        ),
        r"inputs 'x' and 'W' are of tensor\(float\) and tensor\(double\)",
    ),
    "a sparse weight": (sparse, "got a sparse initializer"),
    "a weight twice": (lambda graph: twice(graph.initializer), "got 'W' a second time"),
    "a node twice": (lambda graph: twice(graph.node), "got 'y' a second time"),
    "an input twice": (lambda graph: twice(graph.input), "input 'x': got 'x' a second time"),
    "a circle": (
        lambda graph: graph.node[0].input.__setitem__(0, "y"),
        "got an input 'y' that nothing before makes",
    ),
    "no outputs": (lambda graph: graph.ClearField("output"), "got a graph without outputs"),
    "an axis of 0": (open_axis(0), "input 'x': got an axis of size 0"),
    "an axis of -1": (open_axis(-1), "input 'x': got an axis of size -1"),
    "a sequence": (sequence, "got an input 'x' that nothing before makes"),
    "an input of no type": (no_kind, "input 'x': got values of an unknown type"),
    "names of bytes": (no_text, r"got the name b'g\\xffu', expected text in UTF-8"),
    "an attribute twice": (
        lambda graph: twice(graph.node[0].attribute),
        "its attribute 'hidden_size' is there twice",
    ),
    "an attribute by reference": (
        lambda graph: setattr(graph.node[0].attribute[0], "ref_attr_name", "other"),
        "its attribute 'hidden_size' has no value",
    ),
    "too many inputs": (
        lambda graph: graph.node[0].input.extend(["x"] * 9),
        "GRU node 'gru'.*inputs, expected 3 to 6",
    ),
    "too few inputs": (
        lambda graph: graph.node[0].ClearField("input"),
        "GRU node 'gru'.*it has 0 inputs, expected 3 to 6",
    ),
    "another type of output": (
        lambda graph: setattr(graph.output[0].type.tensor_type, "elem_type", 11),
        "output 'y': got another type than that of what is computed, float32",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_graphs_are_refused_by_name(name):
    change, match = DAMAGED[name]
    refused(changed(change), f"^model.*{match}")


FOLDS = {
    "a step of 0": (
        one("Range", "a", "b", "c"),
        {"a": ints(0)[0], "b": ints(9)[0], "c": ints(0)[0]},
        "its step is 0",
    ),
    "an end of NaN": (
        one("Range", "a", "b", "c"),
        {"a": k[0], "b": np.float32("nan"), "c": k[0]},
        "it starts, ends or steps at other than a number",
    ),
    "a negative shape": (one("ConstantOfShape", "s"), {"s": ints(-2)}, r"it makes the shape \[-2"),
    "division by 0": (
        one("Div", "a", "b"),
        {"a": ints(1), "b": ints(0)},
        "it does not fit its constants",
    ),
    "a cast to text": (one("Cast", "k", to=TensorProto.STRING), {"k": k}, "it casts to object"),
    "a cast to nothing": (one("Cast", "k", to=99), {"k": k}, "casts to an unknown type, 99"),
    "axes of another opset": (
        one("Squeeze", "k", axes=[0]),
        {"k": k},
        "its attribute 'axes' is not one that is known",
    ),
    "a node of a later opset": (
        one("CastLike", "k", "k"),
        {"k": k},
        "ONNX has none in opset 9",
    ),
    "a constant of strings": (one("Constant", value_string="cat"), {}, "is no array of numbers"),
    "a sparse constant": (
        one(
            "Constant",
            sparse_value=helper.make_sparse_tensor(
                numpy_helper.from_array(k), numpy_helper.from_array(ints(0)), [BIG]
            ),
        ),
        {},
        "its sparse_value is no array of numbers",
    ),
}


@pytest.mark.parametrize("name", FOLDS)
def test_constants_that_cannot_be_computed_are_refused(name):
    nodes, constants, match = FOLDS[name]
    opset = 9 if "later" in name else 17
    refused(gru(*nodes, constants=constants, opset=opset), f"model, {nodes[0].op_type}.*{match}")


# What holds for some sizes only -------------------------------------------------------------------


def sizes(*after, constants=(), rank=3):
    """`y [T, B, H]` is `s`, `T` is `n`; the last node makes `z`."""
    nodes = [
        om.node("GRU", H, om.weights("GRU", I, H)),
        helper.make_node("Squeeze", ["y", "one"], ["s"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["n"]),
        *after,
    ]
    known = om.weights("GRU", I, H) | {"zero": ints(0), "one": ints(1), "two": ints(2)}
    return om.model(nodes, {"x": ("T", "B", I)}, {"z": rank}, known | dict(constants))


def slice_to(start, end):
    return helper.make_node("Slice", ["s", start, end, "zero"], ["z"], name="cut")


NOT_FOR_ALL = {
    "half of the length, twice": (
        [
            helper.make_node("Div", ["n", "two"], ["half"]),
            helper.make_node("Mul", ["half", "two"], ["even"]),
            slice_to("even", "n"),
        ],
        {},
        "Div node .*what it makes of the sizes of the inputs is not the same for all",
    ),
    "a length that is 5": (
        [helper.make_node("Equal", ["n", "five"], ["is"]), slice_to("zero", "is")],
        {"five": ints(5)},
        "Equal node .*not the same for all",
    ),
    "a number that stands for the length": (
        [helper.make_node("Add", ["a", "b"], ["last"]), slice_to("last", "n")],
        {"a": ints(20), "b": ints(40)},
        "Slice node 'cut'",
    ),
    "from the last step to the first": (
        [slice_to("end", "one")],
        {"end": ints(-1)},
        "Slice node 'cut'.*it takes nothing of axis 0",
    ),
    "all axes of size 1": (
        [helper.make_node("Squeeze", ["y"], ["z"])],
        {},
        "Squeeze node .*names no axes to drop, and the sizes of some are open",
    ),
}


@pytest.mark.parametrize("name", NOT_FOR_ALL)
def test_what_is_so_for_some_sizes_only_is_refused(name):
    nodes, constants, match = NOT_FOR_ALL[name]
    refused(sizes(*nodes, constants=constants), match)


def test_the_last_step_by_the_length_is_the_last_step():
    nodes = [helper.make_node("Sub", ["n", "one"], ["last"]), slice_to("last", "n")]
    assert gr.interop.from_onnx(sizes(*nodes))[0] == gr.final(gr.GRU(H, "before", "keeps"))


# Depth, and many nodes ----------------------------------------------------------------------------


def test_long_chains_of_nodes_are_followed():
    names = ["y", *(f"y{n}" for n in range(3000))]
    pairs = itertools.pairwise(names)
    model = gru()
    model.graph.node.extend(helper.make_node("Identity", [a], [b]) for a, b in pairs)
    model.graph.output[0].name = names[-1]
    assert gr.interop.from_onnx(model)[0] == gr.recurrent(gr.GRU(H, "before", "keeps"))


def test_layers_that_are_nested_without_end_are_refused():
    kernel = {"k": om.draw(0, 4, 4)}
    nodes = []
    for n in range(600):
        below = f"x{n}" if n else "x"
        nodes.append(helper.make_node("MatMul", [below, "k"], [f"m{n}"]))
        nodes.append(helper.make_node("Add", ["x", f"m{n}"], [f"x{n + 1}"]))
    model = om.model(nodes, {"x": ("T", "B", 4)}, {"x600": 3}, kernel)
    refused(model, "model: got layers that are nested too deeply")


def test_states_that_are_joined_with_themselves_are_refused():
    model = gru()
    model.graph.node.extend(growing("Concat", 40, axis=0))
    model.graph.node[1].input[:] = ["h", "h"]
    model.graph.output[1].name = "W"
    refused(model, "Concat node .*it joins a state with itself")


def calling(*counts):
    """Functions that call one another, each so often."""
    model = gru()
    model.opset_import.append(helper.make_opsetid("mine", 1))
    for n, count in enumerate(counts):
        inner = "Identity" if n == 0 else f"f{n - 1}"
        names = ["a", *(f"a{k}" for k in range(count - 1)), "b"]
        nodes = [
            helper.make_node(inner, [one], [two], domain="" if n == 0 else "mine")
            for one, two in itertools.pairwise(names)
        ]
        opsets = list(model.opset_import)
        model.functions.append(
            helper.make_function("mine", f"f{n}", ["a"], ["b"], nodes, opset_imports=opsets)
        )
    last = helper.make_node(f"f{len(counts) - 1}", ["y"], ["z"], domain="mine")
    model.graph.node.append(last)
    model.graph.output[0].name = "z"
    return model


def test_functions_are_followed_up_to_a_number_of_nodes():
    assert gr.interop.from_onnx(calling(3, 3))[0] == gr.recurrent(gr.GRU(H, "before", "keeps"))
    refused(
        calling(*[10] * 12), "functions that stand for 1,000,000,000,00. nodes, expected 100,000"
    )
    model = calling(1, 1)
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "f1", "mine"
    refused(model, "function 'f.': got one that calls itself")


# Files --------------------------------------------------------------------------------------------


def external(tmp_path, **fields):
    """The path of a model whose `W` lies in the file `weights`, with other fields there."""
    path = tmp_path / "model.onnx"
    onnx.save(gru(), str(path), save_as_external_data=True, size_threshold=0, location="weights")
    model = onnx.load(str(path), load_external_data=False)
    (tensor,) = [t for t in model.graph.initializer if t.name == "W"]
    kept = {entry.key: entry.value for entry in tensor.external_data} | fields
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


EXTERNAL = {
    "outside": ({"location": "../secret"}, "external data"),
    "absolute": ({"location": "/etc/passwd"}, "external data that is not read"),
    "not there": ({"location": "nowhere"}, "external data at 'nowhere', expected a file beside"),
    "a device": ({"location": "/dev/zero"}, "got '/dev/zero', expected a regular file"),
    "nowhere": ({"location": ""}, "expected a location"),
    "a negative offset": ({"offset": "-1"}, "an offset and a length that are numbers"),
    "no number": ({"length": "many"}, "an offset and a length that are numbers"),
    "longer than the file": ({"length": str(2**50)}, "got constants of 1,125,899,"),
    "too far": ({"offset": str(2**50)}, "W"),
}


@pytest.mark.parametrize("name", EXTERNAL)
def test_external_data_lie_beside_the_model(tmp_path, name):
    (tmp_path / "secret").write_bytes(bytes(72))
    folder = tmp_path / "inside"
    folder.mkdir()
    fields, match = EXTERNAL[name]
    refused(external(folder, **fields), f"^model, initializer 'W'.*{match}")


def test_external_data_that_are_read_often_are_counted(tmp_path):
    """A hundred weights of 16 MiB each are the same bytes of one file."""
    path = external(tmp_path)
    (tmp_path / "weights").write_bytes(bytes(2**24))
    model = onnx.load(str(path), load_external_data=False)
    (tensor,) = [t for t in model.graph.initializer if t.name == "W"]
    tensor.external_data[0].value = "weights"
    del tensor.external_data[1:]
    for n in range(100):
        copy = model.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = f"W{n}"
    path.write_bytes(model.SerializeToString())
    refused(path, "initializer 'W.*': got constants of")


def test_paths_that_are_no_files_are_refused(tmp_path):
    refused(tmp_path, "got '.*', expected a regular file")
    refused("/dev/zero", "got '/dev/zero', expected a regular file")
    refused("a\0b", r"model: got 'a\\x00b', expected the path of a file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "expected a regular file")
    with pytest.raises(FileNotFoundError):
        gr.interop.from_onnx(tmp_path / "nowhere.onnx")


VERSIONS = {
    "none": [],
    "two": [("", 17), ("ai.onnx", 18)],
    "negative": [("", -1)],
    "the future": [("", 999)],
    "another domain": [("com.example", 17)],
}


@pytest.mark.parametrize("name", VERSIONS)
def test_versions_that_onnx_does_not_know_are_refused(name):
    model = gru()
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*pair) for pair in VERSIONS[name])
    refused(model, "^model: got .*opset.*, expected 7 or newer, up to")
