"""The function of a model with its parameters as a program of `jax.export`.

The program has a symbol for every size that is left open, runs on CPU, CUDA and TPU, and is read
back without this package.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import errors, export

from gatedrnn._app import files, served
from gatedrnn._app.errors import CommandError, reason
from gatedrnn._app.task import Input, Model, Served

WHAT = "a program of jax.export"
PLATFORMS = ("cpu", "cuda", "tpu")
SIZES = (12, 4), (5, 1)  # of the open axes, on which the file is compared
MOST = 2**31 - 2**24  # bytes of parameters, which the format holds beside a program


def write(
    path: Path, name: str, model: Model, params: Any, *, lengths: bool, carry: bool
) -> list[tuple[str, str]]:
    """Write the file, and return what is said of it, by label."""
    function = _function(name, model, params, lengths=lengths, carry=carry)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if size > MOST:
        raise CommandError(
            f"{name} cannot become {WHAT}: its parameters have {size:,} bytes, and a file holds "
            f"{MOST:,}; --to NAME.safetensors has no such limit, and gr.load reads it"
        )
    try:
        program = _program(function, params)
    except (TypeError, ValueError, errors.InconclusiveDimensionOperation) as error:
        raise CommandError(f"{name} cannot become {WHAT}: {reason(error)}") from error
    content = bytes(program.serialize())
    files.write_whole(path, content)
    arguments = ", ".join(function.inputs)
    return [
        *(("input", words) for words in _inputs(function)),
        *(("output", words) for words in _outputs(program)),
        ("compared", _compared(content, function, params)),
        ("run it", f'jax.export.deserialize(open("{path}", "rb").read()).call({arguments})'),
    ]


def _function(name: str, model: Model, params: Any, *, lengths: bool, carry: bool) -> Served:
    """The function that answers for a model."""
    own = model.served
    if own is None:
        layer = served.layer_of(name, model, WHAT)
        return served.of_layer(layer, model.in_features, params, lengths=lengths, carry=carry)
    for option, given in (("--lengths", lengths), ("--carry", carry)):
        if given:
            inputs = ", ".join(own.inputs)
            raise CommandError(f"{option}: {name} has inputs of its own, {inputs}")
    return own


def _program(function: Served, params: Any) -> export.Exported:
    """The program, with the parameters as constants."""
    scope = export.SymbolicScope()

    def shape(given: Input) -> jax.ShapeDtypeStruct:
        axes = export.symbolic_shape(given.axes, scope=scope)
        return jax.ShapeDtypeStruct(axes, np.dtype(given.dtype))

    shapes = jax.tree.map(shape, list(function.inputs.values()))
    answer = jax.jit(partial(function.call, params))
    return export.export(answer, platforms=PLATFORMS)(*shapes)


def _inputs(function: Served) -> list[str]:
    """The inputs in words, in the order of the call: name, dtype and axes."""
    return [
        _words(
            ".".join((name, *(jax.tree_util.keystr((key,), simple=True) for key in path))),
            given.dtype,
            given.axes,
        )
        for name, tree in function.inputs.items()
        for path, given in jax.tree.leaves_with_path(tree)
    ]


def _outputs(program: export.Exported) -> list[str]:
    """The outputs in words: place, dtype and axes."""
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    return [
        _words(jax.tree_util.keystr(path), found.dtype.name, ", ".join(map(str, found.shape)))
        for path, found in jax.tree.leaves_with_path(outputs)
    ]


def _words(name: str, dtype: str, axes: str) -> str:
    return f"{name} {dtype} [{axes}]".strip()


def _compared(content: bytes, function: Served, params: Any) -> str:
    """The difference of the file, run by JAX, from the model, in words."""
    program, axes = export.deserialize(bytearray(content)), _open_axes(function)
    differences = [0.0]
    for first, batch in SIZES:
        sizes = {axis: batch if axis == "B" else first for axis in axes}
        inputs = served.example(function, **sizes)
        try:
            got = program.call(*inputs)
        except ValueError as error:  # a platform that the program is not for, such as ROCm
            return f"not: {reason(error)}"
        want = jax.jit(function.call)(params, *inputs)
        differences += map(_difference, jax.tree.leaves(got), jax.tree.leaves(want))
    where = jax.default_backend().upper()
    return f"on the {where}, differs by at most {max(differences):.1e} of the largest output"


def _open_axes(function: Served) -> set[str]:
    every = [given.axes.split(", ") for given in jax.tree.leaves(dict(function.inputs))]
    return {axis for axes in every for axis in axes if axis and not axis.isdecimal()}


def _difference(got: Any, want: Any) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))
