"""The part of an ONNX graph that is constant: weights that nodes rearrange, shapes, sizes."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gatedrnn._interop.onnx.read_tensors import Constant, GraphReader, Node, Value, refused
from gatedrnn._interop.require import require

FOLDED = """
    Add And Cast CastLike Ceil Concat Constant ConstantOfShape Div Equal Expand Flatten Floor Gather
    Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Range ReduceProd
    Reshape Shape Size Slice Split Squeeze Sub Sum Tile Transpose Unsqueeze Where
"""
# what differs from one size to another, beyond what stand-ins tell: `min(T, 100)`
CASES = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod"}
# the input that is a shape, which does not make the values depend on sizes
SHAPES = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}


def can_fold(graph: GraphReader, node: Node) -> bool:
    """Return whether all inputs of a node are constants, and it is one that is computed here."""
    if node.op not in FOLDED.split():
        return False
    values = [graph.value(node, k) for k in range(len(node.inputs))]
    return all(value is None or isinstance(value, Constant) for value in values)


def fold(graph: GraphReader, node: Node, opset: int) -> list[Value]:
    """The outputs of a node of constants."""
    feeds, from_sizes = {}, False
    for k, name in enumerate(node.inputs):
        value = graph.value(node, k)
        if isinstance(value, Constant):
            feeds[name] = value.array
            from_sizes |= value.from_sizes and SHAPES.get(node.op) != k
    if from_sizes and node.op in CASES:
        raise refused(node, "what it makes of the sizes of the inputs is not the same for all")
    onnx = graph.onnx
    inputs, outputs = (
        [onnx.ValueInfoProto(name=name) for name in names if name]
        for names in (node.inputs, node.outputs)
    )
    whole = onnx.helper.make_graph([node.proto], "constant", inputs, outputs)
    reference = require("onnx.reference", "onnx", "onnx")
    evaluator = reference.ReferenceEvaluator(whole, opsets={"": opset})
    try:
        arrays = evaluator.run(None, feeds)
    except Exception as error:  # whatever the reference says of a node that is malformed
        raise refused(node, f"it does not fit its constants: {error}") from error
    return [Constant(np.asarray(array), from_sizes) for array in arrays]


def stand_ins(onnx: Any, graph: Any) -> Iterator[int]:
    """Primes that a graph does not mention, for the sizes that it leaves open."""
    tensors = list(graph.initializer)
    tensors += [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    taken = {n for tensor in tensors for n in tensor.dims}
    for tensor in tensors:
        if tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
            taken |= set(np.ravel(onnx.numpy_helper.to_array(tensor)).tolist())
    for node in graph.node:
        taken |= {n for a in node.attribute for n in (a.i, *a.ints)}
    for info in graph.input:
        taken |= {axis.dim_value for axis in info.type.tensor_type.shape.dim}
    for n in itertools.count(61, 2):
        if not taken & {n - 1, n, n + 1} and all(n % d for d in range(3, math.isqrt(n) + 1, 2)):
            yield n
