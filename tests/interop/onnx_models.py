"""ONNX models written by hand, and what onnxruntime makes of them.

Axes: `T` time, `B` batch, `D` directions, `I` inputs, `H` features, `n` gates.
"""

import numpy as np

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STATES = {"RNN": ("h",), "GRU": ("h",), "LSTM": ("h", "c")}


def draw(seed, *shape, dtype=np.float32):
    """Random numbers of moderate size."""
    return (np.random.default_rng(seed).normal(size=shape) * 0.6).astype(dtype)


def weights(op, i, h, d=1, *, bias=True, peephole=False, seed=0, dtype=np.float32, prefix=""):
    """The weights of a node by name."""
    n = GATES[op]
    arrays = {
        "W": draw((seed, 0), d, n * h, i, dtype=dtype),
        "R": draw((seed, 1), d, n * h, h, dtype=dtype),
    }
    if bias:
        arrays["B"] = draw((seed, 2), d, 2 * n * h, dtype=dtype)
    if peephole:
        arrays["P"] = draw((seed, 3), d, 3 * h, dtype=dtype)
    return {prefix + name: array for name, array in arrays.items()}


def computed(arrays):
    """Nodes that make the weights of a node, joined, turned and cast, and what they read."""
    from onnx import TensorProto, helper, numpy_helper

    first, rest = np.split(arrays["W"], [3], axis=1)
    nodes = [
        helper.make_node("Constant", [], ["first"], value=numpy_helper.from_array(first)),
        helper.make_node("Transpose", ["turned"], ["rest"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["first", "rest"], ["W"], axis=1),
        helper.make_node("Cast", ["wide"], ["B"], to=TensorProto.FLOAT),
    ]
    return nodes, {
        "R": arrays["R"],
        "turned": rest.transpose(0, 2, 1),
        "wide": arrays["B"].astype(np.float64),
    }


def node(op, h, names, *, x="x", y=("y", "h", "c"), prefix="", **attributes):
    """A recurrent node, whose inputs are those of `names` that it has."""
    from onnx import helper

    order = ["W", "R", "B", "sequence_lens", "initial_h"]
    order += ["initial_c", "P"] if op == "LSTM" else []
    outputs = y[: 1 + len(STATES[op])]
    return helper.make_node(
        op,
        [x, *(prefix + name if prefix + name in names else "" for name in order)],
        outputs,
        name=prefix + op.lower(),
        hidden_size=h,
        **attributes,
    )


def model(nodes, inputs, outputs, constants, *, opset=17, ints=(), tokens=()):
    """A model: inputs by name with their shapes, outputs by name with their ranks."""
    from onnx import TensorProto, helper, numpy_helper

    kinds = dict.fromkeys(ints, TensorProto.INT32) | dict.fromkeys(tokens, TensorProto.INT64)
    dtype = next(iter(constants.values())).dtype if constants else np.dtype(np.float32)
    real = helper.np_dtype_to_tensor_dtype(dtype)

    def info(name, shape):
        return helper.make_tensor_value_info(name, kinds.get(name, real), shape)

    graph = helper.make_graph(
        nodes,
        "graph",
        [info(name, shape) for name, shape in inputs.items()],
        [info(name, [None] * rank) for name, rank in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets)
    )


def run(model, feeds):
    """The outputs of onnxruntime, by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
