"""Legal ONNX graphs of many kinds, and ways in which they become something else.

A change takes a model, in place, and `draw`, which draws from a strategy of hypothesis.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import gatedrnn as gr
from interop import onnx_models as om

I, H, V = 2, 3, 5

# Graphs -------------------------------------------------------------------------------------------


def written(layer, **options):
    """What our exporter makes of a layer with random parameters."""
    reads = None if layer.reads_tokens else I
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), reads))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.6, jnp.float32), shapes
    )
    return gr.interop.to_onnx(layer, params, **options)


def node(op, d=1, *, after=(), outputs=None, constants=(), inputs=(), x=("T", "B", I), **options):
    """One recurrent node by hand, and others after it."""
    arrays = om.weights(op, I, H, d, peephole=op == "LSTM") | dict(constants)
    fed = {"x": x} | dict(inputs)
    opset = options.pop("opset", 17)
    nodes = [om.node(op, H, arrays | fed, **options), *after]
    default = dict(zip(("y", "h", "c"), (4, 3, 3)[: 1 + len(om.STATES[op])], strict=False))
    ints = ("sequence_lens",)
    return om.model(nodes, fed, outputs or default, arrays, opset=opset, ints=ints)


def rearranged():
    """Weights that nodes join, turn and cast, and a state that they expand."""
    arrays = om.weights("LSTM", I, H)
    computing, constants = om.computed(arrays)
    nodes = [
        *computing,
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["batch"], axis=0),
        helper.make_node("Concat", ["one", "batch", "size"], ["whole"], axis=0),
        helper.make_node("Expand", ["row", "whole"], ["initial_h"]),
        helper.make_node("ConstantOfShape", ["whole"], ["initial_c"]),
        om.node("LSTM", H, {**arrays, "initial_h": 0, "initial_c": 0}),
    ]
    constants |= {
        "row": om.draw(5, 1, 1, H),
        "one": np.array([1]),
        "size": np.array([H]),
    }
    return om.model(nodes, {"x": ("T", "B", I)}, {"y": 4, "h": 3, "c": 3}, constants)


def two_nodes(after, opset=17):
    """A forward and a reverse node over the same input."""
    arrays, nodes = {}, []
    for prefix, direction in (("f", "forward"), ("b", "reverse")):
        own = om.weights("GRU", I, H, prefix=prefix, seed=ord(prefix))
        arrays |= own
        y = (f"{prefix}y", f"{prefix}h")
        nodes.append(om.node("GRU", H, own, prefix=prefix, y=y, direction=direction))
        nodes.append(helper.make_node("Squeeze", [f"{prefix}y", "axis"], [f"{prefix}s"]))
    constants = arrays | {"axis": np.array([1]), "half": np.float32(0.5)}
    return om.model([*nodes, *after], {"x": ("T", "B", I)}, {"y": 3}, constants, opset=opset)


def last_step():
    """The last step by a slice, and a read-out of it."""
    after = [
        helper.make_node("Slice", ["y", "from", "to", "zero"], ["s"]),
        helper.make_node("Squeeze", ["s", "both"], ["z"]),
        helper.make_node("Gemm", ["z", "kernel", "bias"], ["out"], transB=1),
    ]
    constants = {
        "zero": np.array([0]),
        "both": np.array([0, 1]),
        "from": np.array([-1]),
        "to": np.array([2**63 - 1]),
        "kernel": om.draw(4, 2, H),
        "bias": om.draw(5, 2),
    }
    return node("GRU", after=after, outputs={"out": 2}, constants=constants)


def batch_major():
    """Batch before time, both directions side by side, a mean over time."""
    after = [
        helper.make_node("Transpose", ["y"], ["t"], perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["t", "shape"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["z"], axes=[1], keepdims=0),
    ]
    constants = {"shape": np.array([0, 0, 2 * H])}
    options = {"outputs": {"z": 2}, "constants": constants, "direction": "bidirectional"}
    return node("GRU", 2, after=after, **options)


def from_torch(then, **options):
    """What torch exports."""
    import io
    import warnings

    import onnx
    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.rnn = torch.nn.LSTM(I, H, **options)
            self.fc = torch.nn.Linear(2 * H, 2)

        def forward(self, x):
            y, (h, c) = self.rnn(x)
            if then == "states":
                return self.fc(torch.cat([h[-2], h[-1]], -1))
            if then == "product":
                ahead, back = y.chunk(2, -1)
                return ahead * back
            return self.fc(y), h, c

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"x": {0: "first", 1: "second"}}
        torch.onnx.export(
            Module().eval(),
            torch.randn(4, 3, I),
            file,
            dynamo=False,
            input_names=["x"],
            dynamic_axes=axes,
        )
    return onnx.load_from_string(file.getvalue())


def _net():
    gru, both = gr.GRU(H, "after", "keeps"), gr.bidirectional
    learned = gr.recurrent(gr.GRU(H, "before", "keeps"), initial="learned")
    masked = {"lengths": True}
    return {
        "lstm": (gr.recurrent(gr.LSTM(H, peephole="diagonal")), {"opset": 13}),
        "read-out": (gr.final(gr.stack(gru, gr.dense(2))), {}),
        "both": (both(gr.LSTM(H, coupled=True)), {"lengths": True, "carry": True}),
        "pooled": (gr.pool(both(gr.Elman(H, "relu"), merge="sum"), "max"), masked),
        "tagger": (
            gr.pool(gr.stack(gr.embed(V, H), gr.residual(gru), gr.dense(2)), "mean"),
            masked,
        ),
        "ends": (gr.final(both(learned)), masked),
        "last": (gr.final(gr.stack(gr.LSTM(H), gr.dense(H), gr.residual(gr.dense(H)))), masked),
        "linear": (gr.stack(gr.dense(I), gr.residual(gr.Elman(I, "identity"))), {"opset": 21}),
        "two cells": (both(gr.recurrent(gru), learned, merge="mul"), {"opset": 18}),
    }


BY_HAND = {
    "rnn": lambda: node("RNN", 2, direction="bidirectional", opset=9),
    "lengths": lambda: node("LSTM", inputs={"sequence_lens": ("B",)}),
    "state": lambda: node(
        "GRU", constants={"initial_h": np.repeat(om.draw(5, 1, 1, H), 3, 1)}, x=(5, 3, I)
    ),
    "rearranged": rearranged,
    "side by side": lambda: two_nodes([helper.make_node("Concat", ["fs", "bs"], ["y"], axis=2)]),
    "mean": lambda: two_nodes(
        [
            helper.make_node("Sum", ["fs", "bs"], ["s"]),
            helper.make_node("Mul", ["s", "half"], ["y"]),
        ]
    ),
    "last step": last_step,
    "batch major": batch_major,
}
TORCH = {
    "torch": lambda: from_torch("", num_layers=2, bidirectional=True, batch_first=True),
    "torch, states": lambda: from_torch("states", num_layers=2, bidirectional=True),
    "torch, product": lambda: from_torch("product", bidirectional=True),
}
NAMES = [*_net(), *BY_HAND, *TORCH]


@functools.cache
def graph(name):
    """A legal graph by name, as bytes."""
    if name in BY_HAND or name in TORCH:
        made = (BY_HAND | TORCH)[name]()
    else:
        layer, options = _net()[name]
        made = written(layer, **options)
    return made.SerializeToString(deterministic=True)


# Changes ------------------------------------------------------------------------------------------

NUMBERS = [0, 1, 2, 3, 5, -1, -2, 4, 6, 61, 67, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)]
ints = st.sampled_from(NUMBERS) | st.integers(-8, 8)
floats = st.sampled_from([0.0, 1.0, 0.5, -1.0, 1e30, float("nan"), float("inf")])
WORDS = "forward reverse bidirectional Tanh Relu Sigmoid Affine Elu tanh HardSigmoid".split
words = st.sampled_from([*WORDS(), "", "é", "a\nb"])
OPS = """
    Add And Cast Concat Constant ConstantOfShape Div Dropout Equal Expand Flatten GRU Gather Gemm
    Greater Identity LSTM Less MatMul Max Mean Mul Neg RNN Range ReduceMax ReduceMean ReduceProd
    ReduceSum Reshape Shape Slice Split Squeeze Sub Sum Tile Transpose Unsqueeze Where
    Softmax If Size Floor Mod CastLike
""".split()  # noqa: SIM905
ATTRIBUTES = """
    activations activation_alpha activation_beta clip direction hidden_size input_forget layout
    linear_before_reset axis axes perm keepdims to ratio transA transB alpha beta value allowzero
    start end split num_outputs noop_with_empty_axes value_int value_floats value_string
""".split()  # noqa: SIM905
DTYPES = [
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.INT4,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT64,
    TensorProto.BOOL,
    TensorProto.STRING,
    TensorProto.COMPLEX64,
    0,
    77,
]
dtypes = st.sampled_from(DTYPES)


def names_of(model):
    """Every value's name."""
    g = model.graph
    found = [x.name for x in (*g.input, *g.initializer)]
    return [*found, *(name for n in g.node for name in n.output if name)]


def pick(draw, items):
    """One of several, or None."""
    items = list(items)
    return items[draw(st.integers(0, len(items) - 1))] if items else None


def some_name(draw, model):
    known = pick(draw, names_of(model)) or "x"
    return draw(st.sampled_from([known, known, known, known, "", "nothing"]))


def constant(draw, model, array):
    """The name of a new initializer."""
    name = f"new{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def some_ints(draw, model, size=3):
    return constant(draw, model, np.array(draw(st.lists(ints, max_size=size)), np.int64))


def set_attribute(draw, model):
    """An attribute of another value or type, or one more."""
    n = pick(draw, model.graph.node)
    if n is None:
        return
    old = pick(draw, n.attribute)
    how = draw(st.sampled_from(["value", "value", "remove", "type", "new", "twice", "rename"]))
    if how == "new" or old is None:
        old = n.attribute.add(name=draw(st.sampled_from(ATTRIBUTES)))
        how = "type"
    if how == "remove":
        n.attribute.remove(old)
    elif how == "twice":
        n.attribute.append(old)
    elif how == "rename":
        old.name = draw(st.sampled_from([*ATTRIBUTES, "strange"]))
    else:
        kind = old.type if how == "value" else draw(st.integers(0, 14))
        name = old.name
        old.Clear()
        old.name, old.type = name, kind
        fill_attribute(draw, old, kind)


def fill_attribute(draw, attribute, kind):
    """A value of this type."""
    kinds = AttributeProto
    if kind == kinds.INT:
        attribute.i = draw(ints)
    elif kind == kinds.FLOAT:
        attribute.f = draw(floats)
    elif kind == kinds.STRING:
        attribute.s = draw(words).encode() + draw(st.sampled_from([b"", b"", b"\xff"]))
    elif kind == kinds.INTS:
        attribute.ints.extend(draw(st.lists(ints, max_size=4)))
    elif kind == kinds.FLOATS:
        attribute.floats.extend(draw(st.lists(floats, max_size=4)))
    elif kind == kinds.STRINGS:
        attribute.strings.extend(w.encode() for w in draw(st.lists(words, max_size=4)))
    elif kind == kinds.TENSOR:
        array = np.array(draw(st.lists(ints, max_size=4)), np.int64)
        attribute.t.CopyFrom(numpy_helper.from_array(array))
        damage(draw, attribute.t)
    elif kind == kinds.GRAPH:
        attribute.g.name = "inner"


def change_inputs(draw, model):
    """Inputs of a node removed, renamed, exchanged, more of them."""
    n = pick(draw, model.graph.node)
    if n is None or not n.input:
        return
    k, other = (draw(st.integers(0, len(n.input) - 1)) for _ in range(2))
    how = draw(st.sampled_from(["rename", "rename", "rename", "remove", "swap", "more", "output"]))
    if how == "rename":
        n.input[k] = some_name(draw, model)
    elif how == "remove":
        del n.input[k]
    elif how == "swap":
        n.input[k], n.input[other] = n.input[other], n.input[k]
    elif how == "more":
        n.input.append(some_name(draw, model))
    elif n.output:
        n.output[0] = some_name(draw, model)


def change_nodes(draw, model):
    """A node that goes, comes twice, moves, or is of another kind."""
    nodes = list(model.graph.node)
    if not nodes:
        return
    k, to = (draw(st.integers(0, len(nodes) - 1)) for _ in range(2))
    how = draw(st.sampled_from(["remove", "twice", "move", "kind", "kind", "domain", "name"]))
    if how == "kind":
        model.graph.node[k].op_type = draw(st.sampled_from(OPS))
        return
    if how in ("domain", "name"):
        word = draw(st.sampled_from(["", "ai.onnx", "com.example", "a\nb", "x" * 300]))
        setattr(model.graph.node[k], how, word)
        return
    one = nodes.pop(k)
    if how == "twice":
        nodes.insert(k, one)
    if how != "remove":
        nodes.insert(to, one)
    copies = [type(one).FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def inserted(draw, model):
    """One node more, between a value and those that read it."""
    op = draw(st.sampled_from(OPS))
    old = pick(draw, names_of(model))
    if old is None:
        return
    new = f"made{len(model.graph.node)}"
    axes = st.sampled_from([0, 1, 2, -1])
    extra, attributes = [], {}
    if op in ("Squeeze", "Unsqueeze", "ReduceSum", "Reshape", "Expand", "Tile", "Slice", "Split"):
        for _ in range(4 if op == "Slice" else 1):
            extra.append(some_ints(draw, model))
    elif op in ("ReduceMax", "ReduceMean", "ReduceProd"):
        attributes["axes"] = [draw(axes)]
    elif op == "Transpose":
        attributes["perm"] = draw(
            st.sampled_from([[1, 0, 2], [0, 2, 1], [2, 1, 0], [0, 2, 1, 3], [1, 0]])
        )
    elif op == "Gather":
        extra.append(constant(draw, model, np.array(draw(ints), np.int64)))
        attributes["axis"] = draw(axes)
    elif op == "Cast":
        attributes["to"] = draw(dtypes)
    elif op == "Concat":
        extra, attributes["axis"] = [some_name(draw, model)], draw(axes)
    elif op in ("Add", "Mul", "Div", "Sub", "Sum", "Mean", "MatMul", "Max", "Less"):
        number = constant(draw, model, np.float32(draw(st.sampled_from([0.5, 1, 2, 3]))))
        extra = [draw(st.sampled_from([old, some_name(draw, model), number]))]
    if op in ("ReduceMax", "ReduceMean", "ReduceProd", "ReduceSum"):
        attributes["keepdims"] = draw(st.sampled_from([0, 1]))
    places = [k for k, n in enumerate(model.graph.node) if old in n.output]
    at = places[-1] + 1 if places else 0
    for n in list(model.graph.node)[at:]:
        for k, name in enumerate(n.input):
            if name == old:
                n.input[k] = new
    for output in model.graph.output:
        if output.name == old and draw(st.booleans()):
            output.name = new
    model.graph.node.insert(at, helper.make_node(op, [old, *extra], [new], **attributes))


def damage(draw, tensor):
    """Another shape, type or content of a tensor."""
    how = draw(st.sampled_from(["dims", "cut", "type", "values", "values", "more", "external"]))
    if how == "dims":
        dims = draw(st.lists(ints, max_size=4))
        del tensor.dims[:]
        tensor.dims.extend(dims)
    elif how == "cut" and tensor.HasField("raw_data"):
        tensor.raw_data = tensor.raw_data[: draw(st.integers(0, len(tensor.raw_data)))]
    elif how == "type":
        tensor.data_type = draw(dtypes)
    elif how == "values" and tensor.data_type == TensorProto.INT64:
        shape = tuple(tensor.dims)
        count = int(np.prod(shape)) if max(shape, default=1) < 99 else 0
        array = np.array([draw(ints) for _ in range(count)], np.int64)
        if count == np.prod(shape):
            tensor.raw_data = array.tobytes()
    elif how == "values" and tensor.data_type == TensorProto.FLOAT:
        raw = np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // 4 * 4], np.float32).copy()
        if raw.size:
            raw[draw(st.integers(0, raw.size - 1))] = draw(floats)
            tensor.raw_data = raw.tobytes()
    elif how == "more":
        array = np.zeros(draw(st.lists(st.integers(0, 4), max_size=4)), np.float32)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(array, name))
    elif how == "external":
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=draw(words))


def change_initializers(draw, model):
    """A weight of another shape, type or content, twice, or gone."""
    tensor = pick(draw, model.graph.initializer)
    if tensor is None:
        return
    how = draw(st.sampled_from(["damage"] * 4 + ["remove", "twice", "rename", "turn", "sparse"]))
    if how == "damage":
        damage(draw, tensor)
    elif how == "remove":
        model.graph.initializer.remove(tensor)
    elif how == "twice":
        model.graph.initializer.append(tensor)
    elif how == "rename":
        tensor.name = some_name(draw, model)
    elif how == "turn":
        dims = list(tensor.dims)[::-1]
        del tensor.dims[:]
        tensor.dims.extend(dims)
    else:
        sparse = model.graph.sparse_initializer.add(dims=tensor.dims)
        sparse.values.CopyFrom(tensor)
        model.graph.initializer.remove(tensor)


def change_values(draw, model):
    """Inputs and outputs of the graph."""
    kind = draw(st.sampled_from(["input", "input", "output"]))
    infos = getattr(model.graph, kind)
    info = pick(draw, infos)
    if info is None:
        return
    how = draw(st.sampled_from(["axis", "axis", "type", "rename", "remove", "twice", "sequence"]))
    shape = info.type.tensor_type.shape
    if how == "axis":
        axis = pick(draw, shape.dim) if draw(st.booleans()) else shape.dim.add()
        if axis is None or draw(st.booleans()):
            axis = axis or shape.dim.add()
            axis.dim_param = draw(st.sampled_from(["T", "B", "first", ""]))
        else:
            axis.dim_value = draw(ints)
    elif how == "type":
        info.type.tensor_type.elem_type = draw(dtypes)
    elif how == "rename":
        info.name = some_name(draw, model)
    elif how == "remove":
        infos.remove(info)
    elif how == "twice":
        infos.append(info)
    else:
        info.type.sequence_type.elem_type.tensor_type.elem_type = 1


def change_model(draw, model):
    """Versions of operators and of the format."""
    how = draw(st.sampled_from(["version", "version", "domain", "more", "remove", "ir"]))
    if how == "ir":
        model.ir_version = draw(st.sampled_from([0, 3, 8, 99]))
    elif how == "more":
        domain = draw(st.sampled_from(["", "ai.onnx", "com.example"]))
        model.opset_import.append(helper.make_opsetid(domain, draw(st.integers(1, 30))))
    elif model.opset_import:
        if how == "remove":
            del model.opset_import[0]
        elif how == "domain":
            model.opset_import[0].domain = draw(st.sampled_from(["ai.onnx", "com.example"]))
        else:
            version = draw(st.integers(1, 30) | st.sampled_from([-1, 0, 2**40]))
            model.opset_import[0].version = version


def bomb(draw, model):
    """A constant that grows and grows."""
    target = pick(draw, model.graph.initializer)
    if target is None:
        return
    op = draw(st.sampled_from(["Concat", "Add", "Expand", "Tile", "ConstantOfShape", "Range"]))
    name, source = target.name, f"{target.name} before"
    target.name = source
    big = draw(st.sampled_from([2**20, 2**31, 2**40, 2**62]))
    shape = constant(draw, model, np.array([big, *[1] * draw(st.integers(0, 3))], np.int64))
    made = []
    if op == "Concat":
        for k in range(40):
            before, after = (source if k == 0 else f"grown{k}"), f"grown{k + 1}"
            made.append(helper.make_node(op, [before] * 2, [name if k == 39 else after], axis=0))
    elif op == "Add":
        column = constant(draw, model, np.zeros((50_000, 1), np.float32))
        row = constant(draw, model, np.zeros((1, 50_000), np.float32))
        made.append(helper.make_node(op, [column, row], [name]))
    elif op == "ConstantOfShape":
        made.append(helper.make_node(op, [shape], [name]))
    elif op == "Range":
        ends = [constant(draw, model, np.array(n, np.int64)) for n in (0, big)]
        step = constant(draw, model, np.array(draw(st.sampled_from([0, 1, -1])), np.int64))
        made.append(helper.make_node(op, [*ends, step], [name]))
    else:
        made.append(helper.make_node(op, [source, shape], [name]))
    for one in made[::-1]:
        model.graph.node.insert(0, one)


CHANGES = [
    set_attribute,
    change_inputs,
    change_nodes,
    inserted,
    inserted,
    inserted,
    change_initializers,
    change_values,
    change_model,
    bomb,
]


def flipped(draw, data):
    """Bytes of a file that are others, or missing."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        how = draw(st.sampled_from(["flip", "flip", "set", "cut", "copy"]))
        if how == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            data[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        else:
            data[at:at] = data[max(0, at - 40) : at]
        if not data:
            break
    return bytes(data)


@st.composite
def models(draw):
    """The bytes of a model: a legal one, changed once or a few times."""
    import onnx

    data = graph(draw(st.sampled_from(NAMES)))
    if draw(st.integers(0, 5)) == 0:
        return flipped(draw, data)
    model = onnx.load_from_string(data)
    for change in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)):
        change(draw, model)
    return model.SerializeToString()
