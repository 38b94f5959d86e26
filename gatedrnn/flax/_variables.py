"""Parameters of ours as the variables of flax.nnx: nested `nnx.Dict`s of `nnx.Param`s."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from gatedrnn._interop.flax.nested import from_tree, shapes_of, to_tree
from gatedrnn._src import checks, validation
from gatedrnn._src.base import Params


def made(layer: Any, in_features: int | None, param_dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Dict:
    """New parameters of a layer or cell."""
    checks.floating("param_dtype", param_dtype)

    def variables(tree: dict[str, Any]) -> nnx.Dict:
        named = {k: variables(v) if isinstance(v, dict) else nnx.Param(v) for k, v in tree.items()}
        return nnx.Dict(named)

    return variables(to_tree(layer.init(rngs.params(), in_features, param_dtype)))


def params(weights: nnx.Dict, layer: Any, in_features: int | None) -> Params:
    """Return the values of variables from `made`, in our own terms."""

    def values(weights: nnx.Dict, names: dict[str, Any]) -> dict[str, Any]:
        # by the names that there should be: flax has attributes of its own in every module
        found = {}
        for name, below in names.items():
            held = weights[name]
            found[name] = values(held, below) if isinstance(below, dict) else held.get_value()
        return found

    tree = values(weights, to_tree(shapes_of(layer, in_features)))
    return from_tree(layer, tree, in_features)


def load(weights: nnx.Dict, layer: Any, params: Params, in_features: int | None) -> None:
    """Put `params` in the place of what `weights` hold; raise unless they are the layer's."""
    validation.check_shapes("params", params, shapes_of(layer, in_features), layer)

    def put(weights: nnx.Dict, tree: dict[str, Any]) -> None:
        for name, value in tree.items():
            if isinstance(value, dict):
                put(weights[name], value)
            else:
                weights[name].set_value(jnp.asarray(value))

    put(weights, to_tree(params))
