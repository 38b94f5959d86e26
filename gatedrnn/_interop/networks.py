"""A network as other libraries have it: layers one after another, of one or two directions each.

A bare cell counts as its layer, stacks within stacks as one row of layers, `gr.repeat` as that many
layers.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gatedrnn._interop.arrays import check_leaves
from gatedrnn._src.base import Carry, Params
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.combinators import Repeat, Residual
from gatedrnn._src.layers.many_to_one import Final, Pool
from gatedrnn._src.layers.recurrent import Recurrent, RecurrentParams, as_layer
from gatedrnn._src.layers.stack import Stack

Kind = Literal["params", "carry"]


class DirectedCell(NamedTuple):
    """A cell with its parameters, run over time in one direction."""

    cell: Any
    params: Any
    initial: Carry | None  # without batch axes; None where it is not learned


def check_network(layer: Any) -> None:
    """Raise unless this is a layer or a cell."""
    methods = ("init", "carry", "apply" if hasattr(layer, "apply") else "step")
    if isinstance(layer, type) or not all(hasattr(layer, name) for name in methods):
        got = f"the class {layer.__name__}" if isinstance(layer, type) else type(layer).__name__
        raise TypeError(f"layer: got {got}, expected a layer or a cell, like gr.LSTM(256)")


def is_cell(network: Any) -> bool:
    """Return whether this is a bare cell."""
    return not hasattr(network, "apply")


def is_sequence(network: Any) -> bool:
    """Return whether this is a stack or repeat, also one of a single layer."""
    return isinstance(network, Stack | Repeat)


# Directions --------------------------------------------------------------------------------------


def runs_forward(layer: Any) -> bool:
    """Return whether this is a cell over time, from the first step to the last."""
    return isinstance(layer, Recurrent) and not layer.reverse


def directions_of(layer: Any) -> tuple[Recurrent, ...]:
    """The one or two cells over time of a recurrent layer, forward before backward.

    Empty for any other layer, also a bidirectional one with directions of another kind: no other
    library has those.
    """
    both: tuple[Any, ...] = (layer,)
    if isinstance(layer, Bidirectional):  # which itself runs `backward` backward
        both = (layer.forward, layer.backward)
    return both if all(map(runs_forward, both)) else ()


def recurrences_of(layer: Any, params: Any) -> tuple[DirectedCell, ...]:
    """The one or two directions of a recurrent layer, with their parameters.

    Raises:
      ValueError: `params` are those of another layer.
    """
    layers = directions_of(layer)
    each = split(layer, params, "params") if len(layers) == 2 else [params]
    for one, own in zip(layers, each, strict=True):
        one.check(own)
    pairs = zip(layers, each, strict=True)
    return tuple(DirectedCell(one.cell, own.cell, own.initial) for one, own in pairs)


def layer_of(recurrences: tuple[DirectedCell, ...], merge: Any = "concat") -> tuple[Any, Any]:
    """A recurrent or bidirectional layer and its parameters; `recurrences_of` undone."""
    layers = [
        Recurrent(one.cell, initial="zeros" if one.initial is None else "learned")
        for one in recurrences
    ]
    params = [RecurrentParams(one.params, one.initial) for one in recurrences]
    if len(layers) == 1:
        return layers[0], params[0]
    return Bidirectional(layers[0], layers[1], merge), Directions(*params)


# Layers inside layers ----------------------------------------------------------------------------


def children(layer: Any) -> list[tuple[str, Any]]:
    """The layers inside a layer, by name; empty for a layer that holds no other.

    A name is empty where the layer inside has the parameters and the carry of the whole.
    """
    match layer:
        case Stack():
            return [(str(k), part) for k, part in enumerate(layer.layers)]
        case Repeat():
            return [(str(k), layer.layer) for k in range(layer.n)]
        case Bidirectional():
            return [(name, getattr(layer, name)) for name in Directions._fields]
        case Residual() | Final() | Pool():
            return [("", layer.layer)]
    return []


def split(layer: Any, tree: Any, kind: Kind) -> list[Any]:
    """The parameters or the carry of each of the `children`.

    Raises:
      ValueError: `tree` is that of another layer.
    """
    match layer:
        case Stack() if not isinstance(tree, tuple) or len(tree) != len(layer.layers):
            raise ValueError(
                f"{kind}: got {type(tree).__name__}, expected a tuple of {len(layer.layers)} for "
                f"{layer!r}"
            )
        case Bidirectional() if not _is_pair(tree, kind):
            raise ValueError(
                f"{kind}: got {type(tree).__name__}, expected Directions(forward, backward)"
            )
        case Stack() | Bidirectional():
            return list(tree)
        case Repeat() if kind == "carry":
            return carries_of_repeat(layer, tree)
        case Repeat():
            layer.check(tree)
            return [jax.tree.map(lambda leaf, k=k: leaf[k], tree) for k in range(layer.n)]
    return [tree]


def _is_pair(tree: Any, kind: Kind) -> bool:
    """Return whether these are two directions; parameters may be any tuple, as layers take them."""
    return isinstance(tree, Directions if kind == "carry" else tuple) and len(tree) == 2


def join(layer: Any, carries: list[Carry]) -> Carry:
    """The carry of a layer from those of its `children`; `split` undone."""
    match layer:
        case Stack():
            return tuple(carries)
        case Repeat():
            return carry_of_repeat(layer, carries)
        case Bidirectional():
            return Directions(*carries)
    return carries[0]


# these alone know where the carry of a repeat has the axis of its layers: behind the batch axes


def carries_of_repeat(layer: Repeat, carry: Carry) -> list[Carry]:
    """The carry of each layer of a repeat."""
    one = _row_of_carry(layer.layer)
    structure: Any = jax.tree.structure(one)
    if jax.tree.structure(carry) != structure:
        raise ValueError(f"carry: got {type(carry).__name__}, expected that of {layer!r}")
    pairs = zip(jax.tree.leaves_with_path(carry), jax.tree.leaves(one), strict=True)
    for (path, leaf), row in pairs:
        shape, behind = jnp.shape(leaf), len(row.shape) + 1
        if len(shape) < behind or shape[-behind:] != (layer.n, *row.shape):
            raise ValueError(
                f"carry{jax.tree_util.keystr(path)}: got shape {shape}, expected "
                f"{(layer.n, *row.shape)} behind the batch axes, for {layer!r}"
            )

    def taken(k: int) -> Carry:
        return jax.tree.map(lambda leaf, row: leaf.take(k, leaf.ndim - row.ndim - 1), carry, one)

    return [taken(k) for k in range(layer.n)]


def carry_of_repeat(layer: Repeat, carries: list[Carry]) -> Carry:
    """The carry of a repeat from those of its layers."""

    def stacked(row: Any, *leaves: Any) -> Any:
        return jnp.stack(leaves, axis=jnp.ndim(leaves[0]) - row.ndim)

    return jax.tree.map(stacked, _row_of_carry(layer.layer), *carries)


def _row_of_carry(layer: Any) -> Any:
    """The shapes of one row of the carry of a layer, whatever its initial carry is."""
    match layer:
        case Recurrent():
            return jax.eval_shape(lambda: dataclasses.replace(layer, initial="zeros").carry(()))
        case Repeat():
            row = _row_of_carry(layer.layer)
            return jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((layer.n, *leaf.shape), leaf.dtype), row
            )
        case _ if children(layer):
            return join(layer, [_row_of_carry(part) for _, part in children(layer)])
    return jax.eval_shape(lambda: layer.carry(()))


# Networks ----------------------------------------------------------------------------------------


def layers_of(network: Any) -> list[Any]:
    """The layers of a network in order, none of them a stack, a repeat or a bare cell.

    Raises:
      TypeError: something else as a network.
    """
    check_network(network)
    network = as_layer(network)
    if is_sequence(network):
        return [layer for _, part in children(network) for layer in layers_of(part)]
    return [network]


def split_network(network: Any, tree: Any, kind: Kind) -> list[Any]:
    """The parameters or the carry of each of the `layers_of` a network.

    Raises:
      TypeError: `tree` holds what is no array.
      ValueError: `tree` is that of another network.
    """
    check_leaves(kind, tree)
    return _split(network, tree, kind)


def _split(network: Any, tree: Any, kind: Kind) -> list[Any]:
    if is_cell(network):
        return [RecurrentParams(tree, None) if kind == "params" else tree]
    if not is_sequence(network):
        return [tree]
    parts = zip(children(network), split(network, tree, kind), strict=True)
    return [found for (_, part), own in parts for found in _split(part, own, kind)]


def layers_with_params(network: Any, params: Params) -> list[tuple[Any, Any]]:
    """The `layers_of` a network, each with its parameters.

    Raises:
      ValueError: `params` are those of another network.
    """
    return list(zip(layers_of(network), split_network(network, params, "params"), strict=True))


def join_network(network: Any, carries: list[Carry]) -> Carry:
    """The carry of a network from those of its `layers_of`."""
    left = iter(carries)

    def joined(layer: Any) -> Carry:
        if is_sequence(layer):
            return join(layer, [joined(part) for _, part in children(layer)])
        return next(left)

    return joined(network)


def stack_of(cells: Iterable[Callable[[int | None], DirectedCell]]) -> tuple[Any, Any]:
    """A stack of cells over time and its parameters; each is made for the features that it reads.

    The first is told None.
    """
    layers, params = [], []
    in_features = None
    for make in cells:
        one = make(in_features)
        layer, p = layer_of((one,))
        layers.append(layer)
        params.append(p)
        in_features = one.cell.features
    return Stack(tuple(layers)), tuple(params)


def network_of(layers: list[Any], params: list[Any]) -> tuple[Any, Any]:
    """One layer and its parameters as they are, several as a stack of them."""
    if len(layers) == 1:
        return layers[0], params[0]
    return Stack(tuple(layers)), tuple(params)
