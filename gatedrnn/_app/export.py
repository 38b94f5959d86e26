"""`gatedrnn export`: the network of a run, with its best parameters, as an ONNX file.

Axes: `T` steps, `B` sequences.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr
from gatedrnn._app import evaluation, files, run_folder, tasks
from gatedrnn._app.errors import CommandError
from gatedrnn._app.record import CONFIG
from gatedrnn._app.task import Model

T, B = 12, 4  # of the random input that the file is compared on


def run(folder: str, *, to: str, model: str | None, lengths: bool, carry: bool) -> int:
    """Write the network of one model of the run in `folder` to the file `to`; the exit code."""
    path = _target(to)
    found = run_folder.find(folder)
    name, chosen = _chosen(folder, tasks.load(found.path / CONFIG).models_of(found), model)
    layer = _network(name, chosen)
    params = evaluation.best_of(name, chosen, found)
    made = _graph(name, layer, params, lengths=lengths, carry=carry)
    content = made.SerializeToString()
    files.write_whole(path, content)
    step = found.record.best[name].step
    print(f"wrote       {to}, {len(content):,} bytes: {name} at step {step}")
    for label, values in (("input", made.graph.input), ("output", made.graph.output)):
        for value in values:
            print(f"{label:11} {_described(value)}")
    print(f"compared    {_compared(content, made, layer, params)}", flush=True)
    return 0


def _target(to: str) -> Path:
    """The path `to`; raise where that cannot be a file."""
    path = Path(to)
    if path.is_dir():
        raise CommandError(f"--to: {to} is a folder, expected a file, such as model.onnx")
    if not path.parent.is_dir():
        raise CommandError(f"--to: there is no folder {path.parent}")
    return path


def _chosen(folder: str, models: Mapping[str, Model], name: str | None) -> tuple[str, Model]:
    names = ", ".join(models)
    if name is None:
        if len(models) > 1:
            raise CommandError(f"{folder} holds several models; --model names one of them: {names}")
        name = next(iter(models))
    if name not in models:
        raise CommandError(f"--model: got {name!r}, expected one of {names}")
    return name, models[name]


def _network(name: str, model: Model) -> Any:
    """The layer that is the whole model, with the model's own parameters."""
    try:
        layer = model.net
    except TypeError as error:  # made of what is no layer
        raise CommandError(f"{name} cannot become an ONNX graph: {error}") from error
    if layer is None:
        raise CommandError(f"{name} cannot become an ONNX graph: it reads no sequences")
    return layer


def _graph(name: str, layer: Any, params: Any, *, lengths: bool, carry: bool) -> Any:
    import onnx

    try:
        made = gr.interop.to_onnx(layer, params, lengths=lengths, carry=carry)
    except ValueError as error:
        words = str(error)
        why = words.partition("which cannot become ")[2] or words
        raise CommandError(f"{name} cannot become {why}") from error
    onnx.checker.check_model(made, full_check=True)
    return made


def _described(value: Any) -> str:
    """The name, dtype and shape of an input or output of a graph."""
    from onnx import helper

    kind = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    shape = ", ".join(axis.dim_param or str(axis.dim_value) for axis in kind.shape.dim)
    return f"{value.name} {dtype} [{shape}]"


def _compared(content: bytes, made: Any, layer: Any, params: Any) -> str:
    """The difference of the file, run by onnxruntime, from the network, in words."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "not: onnxruntime is not installed"
    import onnxruntime

    inputs = [value.name for value in made.graph.input]
    carry = any(name.startswith("carry.") for name in inputs)
    feeds, ours = _example(layer, params, made.graph.input[0], "lengths" in inputs, carry)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    got = session.run(names, {name: feeds[name] for name in inputs})
    error = max(
        float(np.abs(value - ours[name]).max() / max(np.abs(ours[name]).max(), 1e-30))
        for name, value in zip(names, got, strict=True)
    )
    version = onnxruntime.__version__
    return f"in onnxruntime {version}, differs by at most {error:.1e} of the largest output"


def _example(
    layer: Any, params: Any, xs: Any, lengths: bool, carry: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random inputs, and our outputs, by name."""
    rng = np.random.default_rng(0)
    sizes = [axis.dim_value for axis in xs.type.tensor_type.shape.dim]
    feeds: dict[str, np.ndarray] = {"lengths": rng.integers(0, T + 1, B).astype(np.int32)}
    if len(sizes) == 2:
        feeds["xs"] = rng.integers(0, _vocabulary(layer), (T, B)).astype(np.int32)
    else:
        feeds["xs"] = rng.normal(size=(T, B, sizes[2])).astype(np.float32)
    state = layer.carry((B,), params=params)
    if carry:
        state = jax.tree.map(
            lambda leaf: (
                jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
                if jnp.issubdtype(leaf.dtype, jnp.floating)
                else leaf
            ),
            state,
        )
    feeds |= gr.interop.to_onnx_carry(layer, state)
    given = feeds["lengths"] if lengths else None
    after, ys = layer.apply(params, jnp.asarray(feeds["xs"]), state, lengths=given)
    finals = gr.interop.to_onnx_carry(layer, after)
    ours = {name.replace("carry", "final", 1): value for name, value in finals.items()}
    return feeds, {"ys": np.asarray(ys), **ours}


def _vocabulary(layer: Any) -> int:
    """The number of tokens that the first layer knows."""
    while not isinstance(layer, gr.Embed):
        (_, layer, _), *_ = layer.parts(None)
    return layer.vocab
