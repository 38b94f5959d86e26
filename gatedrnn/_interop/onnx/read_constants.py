"""The part of an ONNX graph that is constant: weights that nodes rearrange, shapes, sizes."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gatedrnn._interop.onnx.read_limits import RANK, broadcast, quoted, size_of_shape
from gatedrnn._interop.onnx.read_tensors import Constant, GraphReader, Node, Value, refused
from gatedrnn._interop.require import require

# by what is known of the size of their outputs
_ELEMENTWISE = """
    Add And Cast CastLike Ceil Div Equal Floor Greater GreaterOrEqual Less LessOrEqual Max Min Mod
    Mul Neg Not Or Sub Sum Where
"""
_NO_LARGER = "Flatten Identity ReduceProd Reshape Slice Split Squeeze Transpose Unsqueeze"
_OTHERS = "Concat Constant ConstantOfShape Expand Gather Range Shape Size Tile"
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
NO_LARGER = frozenset(_NO_LARGER.split())  # than the first input
OTHERS = frozenset(_OTHERS.split())
MOVES = NO_LARGER - {"ReduceProd"} | {"Concat", "Expand", "Gather", "Tile"}
FOLDED = ELEMENTWISE | NO_LARGER | OTHERS
# what differs from one size to another, beyond what stand-ins tell: `min(T, 100)`
CASES = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod"}
# the input that is a shape, which does not make the values depend on sizes
SHAPES = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}


# Tensors ------------------------------------------------------------------------------------------


def array_of(graph: GraphReader, what: str, tensor: Any) -> np.ndarray:
    """The array of an ONNX tensor, counted; raise unless its data fill its shape."""
    helper, kinds = graph.onnx.helper, graph.onnx.TensorProto
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except KeyError:
        raise ValueError(f"model, {what}: got values of an unknown type") from None
    if dtype.kind not in "biuf" and tensor.data_type != kinds.BFLOAT16:
        raise ValueError(
            f"model, {what}: got values of {dtype}, expected booleans, integers or floating-point "
            "numbers of 16 bits or more"
        )
    if tensor.data_location == kinds.EXTERNAL:
        raise ValueError(
            f"model, {what}: got values in another file, expected the path of the model, beside "
            "which that file lies, or a model that holds its values"
        )
    shape = tuple(tensor.dims)
    if any(n < 0 for n in shape) or len(shape) > RANK:
        raise ValueError(f"model, {what}: got the shape {shape[:RANK]}, expected sizes from 0 on")
    raw = tensor.HasField("raw_data")
    field = "raw_data" if raw else helper.tensor_dtype_to_field(tensor.data_type)
    got, count = len(getattr(tensor, field)), size_of_shape(shape)
    expected = count * dtype.itemsize if raw else count
    if got != expected:
        raise ValueError(
            f"model, {what}: got {got:,} {'bytes' if raw else 'values'}, expected {expected:,} "
            f"for the shape {shape}"
        )
    graph.memory.take(what, expected if raw else count * dtype.itemsize)
    try:
        return graph.onnx.numpy_helper.to_array(tensor)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"model, {what}: got values that cannot be read: {error}") from error


def _constant(graph: GraphReader, node: Node) -> np.ndarray:
    """Return the array that a `Constant` node holds."""
    if len(node.proto.attribute) != 1:
        raise refused(node, f"it has {len(node.proto.attribute)} values, expected one")
    ((name, value),) = node.attributes.items()
    if name == "value":
        return array_of(graph, str(node), value)
    if name not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise refused(node, f"its {name} is no array of numbers")
    return np.asarray(value, np.float32 if name.startswith("value_float") else np.int64)


# Nodes --------------------------------------------------------------------------------------------


def can_fold(graph: GraphReader, node: Node) -> bool:
    """Return whether all inputs of a node are constants, and it is one that is computed here."""
    if node.op not in FOLDED:
        return False
    values = [graph.value(node, k) for k in range(len(node.inputs))]
    return all(value is None or isinstance(value, Constant) for value in values)


def fold(graph: GraphReader, node: Node, opset: int) -> list[Value]:
    """The outputs of a node of constants."""
    if node.op == "Constant":
        return [Constant(_constant(graph, node))]
    values = [graph.value(node, k) for k in range(len(node.inputs))]
    constants = [value if isinstance(value, Constant) else None for value in values]
    inputs = [None if one is None else one.array for one in constants]
    if node.op == "Squeeze" and any(one is not None and not one.size for one in inputs[1:]):
        raise refused(node, "it names no axes to drop: runtimes differ")
    graph.memory.take(str(node), _size(graph, node, inputs))
    graph.folded = True
    arrays = _computed(graph, node, inputs, opset)
    sized = _sized(graph, node, constants, arrays, opset)
    return [Constant(*both) for both in zip(arrays, sized, strict=True)]


def _sized(
    graph: GraphReader,
    node: Node,
    inputs: list[Constant | None],
    outputs: list[np.ndarray],
    opset: int,
) -> list[np.ndarray | None]:
    """The values of each output that follow from sizes that are open; None: none do."""
    masks: list[np.ndarray | None] = [
        None if one is None or SHAPES.get(node.op) == k else one.sized
        for k, one in enumerate(inputs)
    ]
    found = [mask for mask in masks if mask is not None]
    if not found:
        return [None] * len(outputs)
    count = len(inputs) if node.op == "Concat" else 1
    if node.op in MOVES and not any(mask is not None for mask in masks[count:]):
        moved = [None if one is None else one.array for one in inputs]
        for k, (own, mask) in enumerate(zip(inputs[:count], masks, strict=False)):
            if own is not None:
                moved[k] = np.zeros(own.array.shape, bool) if mask is None else mask
        sized = _computed(graph, node, moved, opset)
    elif node.op in ELEMENTWISE:
        sized = [np.array(np.broadcast_to(False, array.shape)) for array in outputs]
        for mask in found:
            sized[0] |= mask
        _check_same_for_all(node, [one.array for one in inputs if one], outputs[0], sized[0])
    else:
        sized = [np.ones(array.shape, bool) for array in outputs]
    return [mask if mask.any() else None for mask in sized]


def _computed(
    graph: GraphReader, node: Node, inputs: list[np.ndarray | None], opset: int
) -> list[np.ndarray]:
    """The outputs, by ONNX's own reference."""
    onnx = graph.onnx
    feeds = {
        name: array for name, array in zip(node.inputs, inputs, strict=True) if array is not None
    }
    outputs = [name or f"left out, {k}" for k, name in enumerate(node.outputs)]
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    proto.output[:] = outputs
    infos = ([onnx.ValueInfoProto(name=name) for name in names] for names in (feeds, outputs))
    whole = onnx.helper.make_graph([proto], "constant", *infos)
    reference = require("onnx.reference", "onnx", "onnx")
    try:
        _check_shapes(onnx, proto, feeds, opset)
        with np.errstate(all="ignore", divide="raise", invalid="raise"):
            evaluator = reference.ReferenceEvaluator(whole, opsets={"": opset})
            return [np.asarray(array) for array in evaluator.run(None, feeds)]
    except Exception as error:  # whatever the reference says of a node that is malformed
        why = " ".join(str(error).split())[:200]
        raise refused(node, f"it does not fit its constants: {why}") from error


def _check_shapes(onnx: Any, proto: Any, feeds: dict[str, np.ndarray], opset: int) -> None:
    """Raise where the inference of shapes, stricter than the reference, finds a fault."""
    helper = onnx.helper
    types, data = {}, {}
    for name, array in feeds.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        types[name] = helper.make_tensor_type_proto(kind, array.shape)
        if array.size <= RANK:  # which may be axes or a shape
            data[name] = onnx.numpy_helper.from_array(array, name)
    inference = require("onnx.shape_inference", "onnx", "onnx")
    opsets = [helper.make_opsetid("", opset)]
    schema = onnx.defs.get_schema(proto.op_type, opset, "")
    inference.infer_node_outputs(schema, proto, types, data, opset_imports=opsets)


def _size(graph: GraphReader, node: Node, inputs: list[np.ndarray | None]) -> int:
    """The bytes of the outputs of a node at most."""
    arrays = [array for array in inputs if array is not None]
    if node.op in ("Shape", "Size"):
        return 8 * RANK
    if node.op == "Range":
        return _range_count(node, arrays) * arrays[0].itemsize
    if node.op == "ConstantOfShape":
        value = node.attributes.get("value")
        size = 4 if value is None else array_of(graph, str(node), value).itemsize
        return size_of_shape(_shape(node, arrays[0])) * size
    first = arrays[0]
    if node.op == "Expand":
        return size_of_shape(broadcast([first.shape, _shape(node, arrays[1])])) * first.itemsize
    if node.op == "Tile":
        return size_of_shape((*first.shape, *_shape(node, arrays[1]))) * first.itemsize
    if node.op == "Gather":
        k = node.attributes.get("axis", 0)
        if not -first.ndim <= k < first.ndim:
            raise refused(node, f"it names axis {k} of {first.ndim}")
        return first.nbytes // max(1, first.shape[k]) * arrays[1].size
    if node.op == "Concat":
        return sum(array.nbytes for array in arrays)
    if node.op in NO_LARGER:
        return first.nbytes
    size = max(array.itemsize for array in arrays)
    if node.op == "Cast":
        size = cast_dtype(graph, node).itemsize
    return size_of_shape(broadcast([array.shape for array in arrays])) * size


def _shape(node: Node, array: np.ndarray) -> tuple[int, ...]:
    if array.ndim != 1 or array.size > RANK or np.any(array < 0):
        raise refused(node, f"it makes the shape {quoted(array.tolist())}")
    return tuple(array.tolist())


def _range_count(node: Node, ends: list[np.ndarray]) -> int:
    if any(end.size != 1 or not np.isfinite(end).all() for end in ends):
        raise refused(node, "it starts, ends or steps at other than a number")
    start, end, step = (end.reshape(()).item() for end in ends)
    if step == 0:
        raise refused(node, "its step is 0")
    count = (end - start) / step
    return math.ceil(min(max(0, count), 2**63))


def cast_dtype(graph: GraphReader, node: Node) -> np.dtype:
    """The dtype that a `Cast` node makes."""
    try:
        dtype = np.dtype(graph.onnx.helper.tensor_dtype_to_np_dtype(node.attributes["to"]))
    except KeyError:
        raise refused(node, f"it casts to an unknown type, {node.attributes['to']}") from None
    if dtype.kind not in "biuf" and dtype.name != "bfloat16":
        raise refused(node, f"it casts to {dtype}")
    return dtype


def _check_same_for_all(
    node: Node, inputs: list[np.ndarray], output: np.ndarray, sized: np.ndarray
) -> None:
    """Raise where arithmetic with sizes rounds, or compares them: stand-ins do not tell for all."""
    one, rest = inputs[0], inputs[-1]
    if node.op in CASES:
        fits: Any = False
    elif node.op == "Div" and one.dtype.kind in "iu":
        fits = output * rest == one
    elif node.op in ("Floor", "Ceil", "Cast", "CastLike"):
        fits = (one == output) | (output.dtype.kind == "f" and node.op.startswith("Cast"))
    elif node.op == "Equal":  # no size is below 1
        fits = (one == rest) | (one <= 0) | (rest <= 0)
    else:
        return
    if not np.all(fits | ~sized):
        raise refused(node, "what it makes of the sizes of the inputs is not the same for all")


# Sizes that a graph leaves open -------------------------------------------------------------------


def stand_ins(graph: GraphReader, proto: Any, times: int) -> Iterator[int]:
    """Primes, so many `times`, which a graph does not mention, for the sizes that it leaves open.

    Args:
      graph: that is read.
      proto: its definition.
      times: 1, or 2 for others to read it again with.
    """
    kinds = graph.onnx.TensorProto
    tensors = [a.t for node in proto.node for a in node.attribute if a.HasField("t")]
    tensors += list(proto.initializer)
    found = [n for tensor in tensors for n in tensor.dims]
    found += [n for node in proto.node for a in node.attribute for n in (a.i, *a.ints)]
    found += [axis.dim_value for info in proto.input for axis in info.type.tensor_type.shape.dim]
    arrays = [np.asarray(found, np.int64)]
    for tensor in tensors:
        if tensor.data_type == kinds.INT64 and tensor.HasField("raw_data"):
            whole = tensor.raw_data[: len(tensor.raw_data) // 8 * 8]
            arrays.append(np.frombuffer(whole, "<i8"))
        elif tensor.data_type == kinds.INT32 and tensor.HasField("raw_data"):
            whole = tensor.raw_data[: len(tensor.raw_data) // 4 * 4]
            arrays.append(np.frombuffer(whole, "<i4").astype(np.int64))
        elif tensor.data_type in (kinds.INT64, kinds.INT32):
            arrays.append(np.asarray([*tensor.int64_data, *tensor.int32_data], np.int64))
    taken = np.unique(np.concatenate(arrays))

    def is_taken(n: int) -> bool:
        at = np.searchsorted(taken, n - 1)
        return bool(at < len(taken) and taken[at] <= n + 1)

    for n in itertools.count(61, 2):
        if not is_taken(times * n) and all(n % d for d in range(3, math.isqrt(n) + 1, 2)):
            yield times * n
