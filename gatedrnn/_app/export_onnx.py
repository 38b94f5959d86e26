"""The network of a model with its parameters as an ONNX file.

Axes: `T` steps, `B` sequences.
"""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr
from gatedrnn._app import files
from gatedrnn._app.errors import CommandError
from gatedrnn._app.served import layer_of, vocabulary
from gatedrnn._app.task import Model

T, B = 12, 4  # of the random input that the file is compared on


def write(
    path: Path, name: str, model: Model, params: Any, *, lengths: bool, carry: bool
) -> list[tuple[str, str]]:
    """Write the file, and return what is said of it, by label."""
    layer = layer_of(name, model, "an ONNX graph")
    made = _graph(name, layer, params, lengths=lengths, carry=carry)
    content = made.SerializeToString()
    files.write_whole(path, content)
    return [
        *(("input", _described(value)) for value in made.graph.input),
        *(("output", _described(value)) for value in made.graph.output),
        ("compared", _compared(content, made, layer, params)),
    ]


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
        feeds["xs"] = rng.integers(0, vocabulary(layer), (T, B)).astype(np.int32)
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
