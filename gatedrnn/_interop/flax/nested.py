"""Parameters as nested dictionaries of arrays, which flax, optax and checkpoints all know."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gatedrnn._src.base import Params

Names = tuple[str, ...]


def to_tree(params: Params) -> dict[str, Any]:
    """Our parameters as nested dictionaries of arrays, as the modules of `gatedrnn.flax` keep them.

    A field of a NamedTuple goes by its name, an entry of a tuple by its number: the recurrent
    kernel of the second layer of a stack is `tree["1"]["cell"]["recurrent_kernel"]`. What holds no
    array (None, the `()` of a dropout) leaves no trace. The arrays themselves are the same;
    `from_tree` undoes it. Gradients, and all else of the same structure, go the same way.

    Args:
      params: the parameters of a layer or cell.

    Example:
      >>> from gatedrnn.flax import to_tree
      >>> layer = gr.recurrent(gr.GRU(4))
      >>> tree = to_tree(layer.init(jax.random.key(0), 3))
      >>> tree["cell"]["kernel"].shape
      (3, 12)
    """
    return nest({_names(path): leaf for path, leaf in jax.tree.leaves_with_path(params)})


def nest(leaves: Mapping[Names, Any]) -> dict[str, Any]:
    """Nested dictionaries from leaves by the names on the way to them."""
    tree: dict[str, Any] = {}
    for (*above, name), leaf in leaves.items():
        branch = tree
        for key in above:
            branch = branch.setdefault(key, {})
        branch[name] = leaf
    return tree


def from_tree(layer: Any, tree: Mapping[str, Any], in_features: int | None) -> Params:
    """The parameters of `layer` in a tree of arrays; `to_tree` undone.

    Args:
      layer: the layer, or the cell; for `gatedrnn.flax.linen.Layer(cell)` that is
        `gr.recurrent(cell)`, the module's attribute `layer`.
      tree: what the module keeps: `variables["params"]` of linen, or one branch of it.
      in_features: how many features the layer reads, None for tokens.

    Raises:
      ValueError: an array that is missing, of another shape, or not the layer's.

    Example:
      >>> from gatedrnn.flax import from_tree
      >>> tree = {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}
      >>> from_tree(gr.dense(4), tree, 3).bias.shape
      (4,)
    """
    found = dict(_flat(tree))
    given = ", ".join(map(_text, found)) or "nothing"
    wanted, structure = jax.tree_util.tree_flatten_with_path(shapes_of(layer, in_features))
    leaves = []
    for path, shape in wanted:
        names = _names(path)
        if names not in found:
            raise ValueError(f"tree: {_text(names)} is missing for {layer!r}, got {given}")
        leaf = found.pop(names)
        if jnp.shape(leaf) != shape.shape:
            raise ValueError(
                f"tree, {_text(names)}: got shape {jnp.shape(leaf)}, expected {shape.shape} for "
                f"{layer!r} that reads {in_features} features"
            )
        leaves.append(leaf)
    if found:
        others = ", ".join(map(_text, found))
        raise ValueError(f"tree: got {others} as well, expected no more for {layer!r}")
    return jax.tree.unflatten(structure, leaves)


@functools.lru_cache(maxsize=512)
def shapes_of(layer: Any, in_features: int | None) -> Params:
    """The parameters of `layer` without values, in float32."""
    return jax.eval_shape(lambda: layer.init(jax.random.key(0), in_features))


def _names(path: tuple[Any, ...]) -> Names:
    """The names on the way to a leaf; parameters that are a single array have one as well."""
    names = tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
    return names or ("value",)


def _flat(tree: Mapping[str, Any], above: Names = ()) -> Iterator[tuple[Names, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*above, name))
        else:
            yield (*above, name), value


def _text(names: Names) -> str:
    return repr("/".join(names))
