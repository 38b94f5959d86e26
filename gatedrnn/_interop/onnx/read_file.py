"""A model with all its weights, from wherever it is."""

import os
import stat
from typing import Any

from gatedrnn._interop.onnx.read_limits import Memory, check_functions, quoted
from gatedrnn._interop.require import require


def load(onnx: Any, source: Any) -> tuple[Any, int]:
    """The model that a source holds, and its size in bytes, with its files of external data."""
    if isinstance(source, onnx.ModelProto):
        return source, source.ByteSize()
    if isinstance(source, bytes):
        return _parsed("bytes that are", lambda: onnx.load_from_string(source)), len(source)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"model: got {type(source).__name__}, expected onnx.ModelProto, its bytes, or a path"
        )
    path = os.fsdecode(source)
    size = _size("model", path)
    model = _parsed(f"{path}, which is", lambda: onnx.load(path, load_external_data=False))
    return model, _load_external_data(onnx, model, path, size)


def _parsed(got: str, parse: Any) -> Any:
    try:
        return parse()
    except OSError:
        raise
    except Exception as error:  # of protobuf, in any of its formats
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"model: got {got} no ONNX model: {why}") from error


def _size(what: str, path: str) -> int:
    """The size of a file, which is read only if it has an end."""
    if "\0" in path:
        raise ValueError(f"{what}: got {quoted(path)}, expected the path of a file")
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{what}: got {quoted(path)}, expected a regular file")
    return found.st_size


def _load_external_data(onnx: Any, model: Any, path: str, size: int) -> int:
    """Load what lies beside a model; return the bytes of all its files."""
    helper, folder = onnx.external_data_helper, os.path.dirname(path)
    tensors = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    tensors = [t for t in (*model.graph.initializer, *tensors) if helper.uses_external_data(t)]
    files: dict[str, int] = {}
    reads: list[tuple[str, Any, int]] = []
    for tensor in tensors:
        what = f"initializer {quoted(tensor.name)}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        numbers = [entries.get(key, "0") for key in ("offset", "length")]
        fits = all(isinstance(n, str) and n.isascii() and n.isdecimal() for n in numbers)
        if not isinstance(location, str) or not location or not fits:
            raise ValueError(
                f"model, {what}: got external data at {quoted(entries)}, expected a location, and "
                "an offset and a length that are numbers"
            )
        offset, length = map(int, numbers)
        try:
            whole = files.setdefault(
                location, _size(f"model, {what}", os.path.join(folder, location))
            )
        except OSError as error:
            raise ValueError(
                f"model, {what}: got external data at {quoted(location)}, expected a file beside "
                f"the model: {error.strerror}"
            ) from error
        reads.append((what, tensor, length or max(0, whole - offset)))
    memory = Memory(size + sum(files.values()))
    for what, tensor, length in reads:
        memory.take(what, length)
        try:
            helper.load_external_data_for_tensor(tensor, folder)
        except Exception as error:  # outside of the folder, cut off, a link: as onnx checks it
            why = " ".join(str(error).split())[:200]
            raise ValueError(f"model, {what}: got external data that is not read: {why}") from error
    return memory.own


def inlined(model: Any) -> Any:
    """A model whose functions are nodes of its graph."""
    check_functions(model)
    try:
        return require("onnx.inliner", "onnx", "onnx").inline_local_functions(model)
    except Exception as error:  # whatever a function that is malformed makes of it
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"model: got functions that cannot be followed: {why}") from error


def check_names(graph: Any) -> None:
    """Raise unless all names of a graph are text: protobuf gives bytes for what is not UTF-8."""
    names = [info.name for info in (*graph.initializer, *graph.input, *graph.output)]
    for info in graph.input:
        names += [axis.dim_param for axis in info.type.tensor_type.shape.dim]
    for node in graph.node:
        names += [node.op_type, node.domain, node.name, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"model: got the name {quoted(name)}, expected text in UTF-8")
