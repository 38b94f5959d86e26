"""`gr.save` and `gr.load`: a layer and its parameters as one safetensors file."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from gatedrnn import _version
from gatedrnn._interop.require import require
from gatedrnn._saving import arrays, whole
from gatedrnn._saving.classes import known
from gatedrnn._saving.description import JSON, all_ours, described, made, plain, read_plain
from gatedrnn._saving.fit import check_fit
from gatedrnn._src.base import Params
from gatedrnn._src.describe import shown

FORMAT = 1  # of the description; a file of a newer one is refused, all older ones are read
KEY = "gatedrnn"  # of the description in the metadata of the file


def save(
    path: str | os.PathLike[str],
    layer: Any,
    params: Params,
    *,
    classes: Iterable[type] = (),
) -> None:
    """Write a layer and its parameters to one file, whole or not at all.

    The file is a safetensors file: arrays by names such as `0.cell.kernel`, and in the metadata,
    under `"gatedrnn"`, the layer as JSON. It holds no code, and reading it runs none. An array that
    stands in two places is written once; a file that is at `path` stays whole until the new one is
    written. Sharded arrays are gathered on this host.

    Args:
      path: where to write, usually a name that ends in `.safetensors`.
      layer: any layer or cell, also of trees, or a `gr.Seq2Seq`.
      params: its parameters: arrays of up to 64 bits, keys, also with a memory that `gr.attend` has
        bound to them.
      classes: classes of your own that occur in `layer` or `params`, dataclasses and named tuples;
        the same are given to `gr.load`, which finds them by their names.

    Raises:
      TypeError: no layer, a value that no file holds, such as a function in a field, or a dtype.
      ValueError: parameters of another layer, a class that was not given, an array of which other
        processes have a part, or one that was deleted.
      OSError: the file cannot be written, or what is at `path` is no regular file.
      ModuleNotFoundError: without safetensors, the extra `files`.

    Example:
      >>> import tempfile
      >>> net = gr.stack(gr.embed(7, 3), gr.LSTM(4), gr.dense(7))
      >>> path = f"{tempfile.mkdtemp()}/net.safetensors"
      >>> gr.save(path, net, net.init(jax.random.key(0), None))
      >>> layer, params = gr.load(path)
      >>> layer == net, params[1].cell.kernel.shape
      (True, (3, 16))
    """
    numpy = require("safetensors.numpy", "safetensors", "files")
    path = _path(path)
    by_name = known(classes)
    names = {kind: name for name, kind in by_name.items()}
    _check_layer("layer", layer, TypeError)
    layer_json = described(layer, "layer", names, plain)
    tensors = _Tensors()
    params_json = described(params, "params", names, tensors.write)
    if all_ours(layer_json):
        check_fit(layer, params)
    elif (
        described(made(layer_json, "layer", by_name, read_plain), "layer", names, plain)
        != layer_json
    ):
        raise ValueError(
            f"layer: got {shown(layer)}, of which its fields make another value, expected one that "
            "follows from its fields"
        )
    description = {
        "format": FORMAT,
        "version": _version.read(),
        "layer": layer_json,
        "params": params_json,
    }
    text = {KEY: json.dumps(description, ensure_ascii=False, allow_nan=False)}
    try:
        with whole.replacing(path) as part:
            numpy.save_file(tensors.values, part, text)
    except require("safetensors", "safetensors", "files").SafetensorError as error:
        raise OSError(f"cannot write {path}: {_line(error)}") from error


def load(path: str | os.PathLike[str], *, classes: Iterable[type] = ()) -> tuple[Any, Params]:
    """Read a layer and its parameters from a file that `gr.save` wrote.

    The parameters are those that were saved, to the bit and in the same named tuples, as arrays on
    JAX's default device (`with jax.default_device(...)` chooses another). A file may name the
    classes of this package and those that are given; nothing else is looked up or run.

    Args:
      path: the file.
      classes: classes of your own that occur in it, as given to `gr.save`.

    Returns:
      `(layer, params)`.

    Raises:
      OSError: there is no such file, it is no regular one, or it cannot be read.
      ValueError: a file that is damaged or no such file, of a newer version of gatedrnn, with a
        class that was not given, with 64-bit arrays while JAX is in its 32-bit mode, or with a
        kernel in `gr.BPTT` that the device in use has not. The error names the file.
      TypeError: what is no path, or no list of classes.
      ModuleNotFoundError: without safetensors, the extra `files`.

    Example:
      >>> import tempfile
      >>> path, cell = f"{tempfile.mkdtemp()}/cell.safetensors", gr.GRU(3, reset="after")
      >>> gr.save(path, cell, cell.init(jax.random.key(0), 2))
      >>> gr.load(path)[0]
      GRU(3, reset='after')
    """
    require("safetensors.numpy", "safetensors", "files")
    path = _path(path)
    by_name = known(classes)
    whole.size(path)  # of a regular file: no other has an end
    try:
        return _read(path, by_name)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged description leads to
        raise ValueError(f"{path}: {_line(error)}") from error


def _read(path: str, by_name: Mapping[str, type]) -> tuple[Any, Params]:
    """The layer and the parameters in the file; raise for what `gr.save` did not write."""
    safetensors = require("safetensors", "safetensors", "files")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            description = _description(file.metadata() or {})
            tensors = _Stored(file)
            layer = made(description["layer"], "layer", by_name, read_plain)
            params = made(description["params"], "params", by_name, tensors.read)
            tensors.check_all_read()
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is no whole safetensors file: {error}") from error
    _check_layer("layer", layer, ValueError)
    if all_ours(description["layer"]):
        check_fit(layer, params)
    return layer, params


def _description(found: Mapping[str, str]) -> dict[str, JSON]:
    """The description in the metadata of a file."""
    if KEY not in found:
        raise ValueError("it holds arrays and no layer, expected a file that gr.save wrote")
    description = json.loads(found[KEY])
    if not isinstance(description, dict):
        raise ValueError(f"got a description {shown(description)}, expected a JSON object")
    number = description.get("format")
    if type(number) is not int or number < 1:
        raise ValueError(f"format: got {shown(number)}, expected an integer from 1 to {FORMAT}")
    if number > FORMAT:
        raise ValueError(
            f"format: got {number}, expected at most {FORMAT}: it was written by the newer gatedrnn"
            f" {shown(description.get('version'))}, and this is {_version.read()}"
        )
    for part in ("layer", "params"):
        if part not in description:
            raise ValueError(f"got a description without {part}, expected a file of gr.save")
    return description


# Arrays -------------------------------------------------------------------------------------------


class _Tensors:
    """The arrays of a file that is written, by their names."""

    def __init__(self) -> None:
        self.values: dict[str, np.ndarray] = {}
        self._seen: dict[int, tuple[Any, JSON]] = {}  # the array is kept, and so its id is its own

    def write(self, where: str, array: Any) -> JSON:
        """Add an array, once wherever it stands; its entry in the description."""
        if not arrays.is_array(array):
            raise TypeError(f"{where}: got {shown(array)}, expected an array")
        if id(array) not in self._seen:
            value = arrays.on_host(where, array)
            name = self._free(_name(where))
            self.values[name] = value
            entry = [name, value.dtype.name, list(value.shape)]
            if arrays.is_key(array):
                kind = {"$key": [*entry, str(jax.random.key_impl(array))]}
            else:
                kind = {"$array": entry}
            self._seen[id(array)] = array, kind
        return self._seen[id(array)][1]

    def _free(self, name: str) -> str:
        while name in self.values or name == "__metadata__":
            name += "_"
        return name


class _Stored:
    """The arrays of a file that is read."""

    def __init__(self, file: Any) -> None:
        self._file, self._names = file, set(file.keys())
        self._read: dict[str, Array] = {}

    def read(self, where: str, json: JSON) -> Array:
        """The array of an entry of the description, one for all places where it stands."""
        entry = json.get("$array", json.get("$key")) if isinstance(json, dict) else None
        if not (isinstance(entry, list) and len(entry) == (3 if "$array" in json else 4)):
            raise ValueError(f"{where}: got {shown(json)}, expected an array, its dtype and shape")
        name, dtype, shape, *implementation = entry
        if not isinstance(name, str) or name not in self._names:
            raise ValueError(f"{where}: got no array {shown(name)}, expected one in the file")
        if name not in self._read:
            value = self._file.get_tensor(name)
            if [value.dtype.name, list(value.shape)] != [dtype, shape]:
                raise ValueError(
                    f"{where}: got an array of {value.dtype.name} {list(value.shape)}, expected "
                    f"{dtype} {shape}"
                )
            array = arrays.on_device(where, value)
            self._read[name] = (
                jax.random.wrap_key_data(array, impl=implementation[0]) if implementation else array
            )
        return self._read[name]

    def check_all_read(self) -> None:
        """Raise where the file holds arrays that its description does not name."""
        if more := sorted(self._names - set(self._read)):
            raise ValueError(f"got arrays that no parameter is, {', '.join(more)}, expected none")


def _name(where: str) -> str:
    """`params[0].cell.kernel` as the name of an array, `0.cell.kernel`."""
    inside = where.removeprefix("params").replace("['", ".").replace("']", "")
    return inside.replace("[", ".").replace("]", "").removeprefix(".") or "value"


# Errors -------------------------------------------------------------------------------------------


def _check_layer(name: str, layer: Any, error: type[Exception]) -> None:
    """Raise unless `layer` is a value that makes parameters."""
    if isinstance(layer, type) or not callable(getattr(layer, "init", None)):
        raise error(f"{name}: got {shown(layer)}, expected a layer or a cell, like gr.LSTM(256)")


def _path(path: Any) -> str:
    """A path as text."""
    if not isinstance(path, str | Path | os.PathLike):
        raise TypeError(f"path: got {shown(path)}, expected the name of a file")
    return os.fspath(path)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
