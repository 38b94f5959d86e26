"""A node, held against what ONNX says of its kind: attributes, inputs and their types."""

from typing import Any

from gatedrnn._interop.onnx.read_tensors import Constant, GraphReader, Node, refused


def check_node(graph: GraphReader, node: Node, opset: int) -> None:
    """Raise unless a node has the attributes, inputs and types that its version of ONNX knows."""
    defs = graph.onnx.defs
    try:
        schema = defs.get_schema(node.op, opset, "")
    except defs.SchemaError:
        raise refused(node, f"ONNX has none in opset {opset}") from None
    _check_attributes(defs, schema, node)
    for what, got, least, most in (
        ("inputs", node.inputs, schema.min_input, schema.max_input),
        ("outputs", node.outputs, schema.min_output, schema.max_output),
    ):
        if not least <= len(got) <= most:
            expected = f"{least}" if least == most else f"{least} to {most}"
            raise refused(node, f"it has {len(got)} {what}, expected {expected}")
    _check_inputs(graph, schema, node)


def _check_attributes(defs: Any, schema: Any, node: Node) -> None:
    kinds: dict[str, Any] = {}
    for attribute in node.proto.attribute:
        if attribute.name in kinds:
            raise refused(node, f"its attribute {attribute.name!r} is there twice")
        kinds[attribute.name] = attribute.type
    for name, kind in kinds.items():
        known = schema.attributes.get(name)
        if known is None:
            raise refused(node, f"its attribute {name!r} is not one that is known")
        if kind != known.type.value:
            got = next((k.name for k in type(known.type) if k.value == kind), f"type {kind}")
            raise refused(node, f"its {name} is {got}, expected {known.type.name}")
    for name, known in schema.attributes.items():
        if known.required and name not in kinds:
            raise refused(node, f"its {name} is missing")


def _check_inputs(graph: GraphReader, schema: Any, node: Node) -> None:
    types: dict[str, tuple[str, str]] = {}
    for k, name in enumerate(node.inputs):
        formal = schema.inputs[min(k, len(schema.inputs) - 1)]
        value = graph.value(node, k)
        if value is None:
            if formal.option.name != "Optional":
                raise refused(node, f"input {k} is missing")
            continue
        dtype = value.array.dtype if isinstance(value, Constant) else value.dtype
        number = graph.onnx.helper.np_dtype_to_tensor_dtype(dtype)
        kind = f"tensor({graph.onnx.TensorProto.DataType.Name(number).lower()})"
        if kind not in formal.types and kind != formal.type_str:
            raise refused(node, f"input {name!r} is of {dtype}, which it does not take")
        if formal.is_homogeneous:
            first, other = types.setdefault(formal.type_str, (name, kind))
            if kind != other:
                raise refused(node, f"inputs {first!r} and {name!r} are of {other} and {kind}")
