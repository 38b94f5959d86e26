"""The function of a model that leaves Python, and inputs to try it with.

Axes: `T` steps, `B` sequences.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

import gatedrnn as gr
from gatedrnn._app.errors import CommandError
from gatedrnn._app.task import Input, Model, Served


def layer_of(name: str, model: Model, what: str) -> Any:
    """The layer that is the whole model, which is to become `what`."""
    try:
        layer = model.net
    except TypeError as error:  # made of what is no layer
        raise CommandError(f"{name} cannot become {what}: {error}") from error
    if layer is None:
        raise CommandError(
            f"{name} cannot become {what}: it reads no sequences; orbax reads its parameters, in"
            f" best/{name} of the run"
        )
    return layer


def vocabulary(layer: Any) -> int:
    """The number of tokens that the first layer knows."""
    while not isinstance(layer, gr.Embed):
        (_, layer, _), *_ = layer.parts(None)
    return layer.vocab


def of_layer(
    layer: Any, in_features: int | None, params: Any, *, lengths: bool, carry: bool
) -> Served:
    """The outputs of a layer for `xs`, with `lengths [B]` and states before and after on demand.

    States are a dictionary of arrays, so that a reader needs no class of this package.
    """
    if in_features is None:
        inputs: dict[str, Any] = {"xs": Input("T, B", "int32", below=vocabulary(layer))}
    else:
        inputs = {"xs": Input(f"T, B, {in_features}", "float32")}
    if lengths:
        inputs["lengths"] = Input("B", "int32", below="T")
    like = _state(layer, params)
    if carry:
        inputs["carry"] = {
            name: Input(", ".join(map(str, leaf.shape)), leaf.dtype.name, below=1)
            for name, leaf in _named(like).items()
        }

    def call(params: Any, xs: Array, *rest: Any) -> Any:
        given = dict(zip(list(inputs)[1:], rest, strict=True))
        state = None
        if carry:
            leaves = [given["carry"][name] for name in _named(like)]
            state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        after, ys = layer.apply(params, xs, state, lengths=given.get("lengths"))
        return (ys, _named(after)) if carry else ys

    return Served(call, inputs)


def _state(layer: Any, params: Any) -> Any:
    """The state of a layer, without values."""
    sizes = export.symbolic_shape("B")
    return jax.eval_shape(lambda params: layer.carry(sizes, jnp.float32, params), params)


def _named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their places, such as `0.forward.h`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def example(served: Served, **sizes: int) -> list[Any]:
    """Random inputs in which each open axis has a size."""
    rng = np.random.default_rng(0)

    def drawn(given: Input) -> np.ndarray:
        axes = filter(None, given.axes.split(", "))
        shape = [sizes[axis] if axis in sizes else int(axis) for axis in axes]
        if given.below is None or np.issubdtype(given.dtype, np.floating):
            return rng.normal(size=shape).astype(given.dtype)
        top = sizes[given.below] + 1 if isinstance(given.below, str) else given.below
        return rng.integers(0, top, shape).astype(given.dtype)

    return jax.tree.map(drawn, list(served.inputs.values()))
