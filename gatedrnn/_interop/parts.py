"""A network as other libraries have it: a row of simple layers, of one or two directions each.

A bare cell counts as its layer, stacks within stacks as one row, `gr.repeat` as that many layers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell, Params
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.combinators import Repeat
from gatedrnn._src.layers.recurrent import Recurrent, RecurrentParams, as_layer
from gatedrnn._src.layers.stack import Stack


class Run(NamedTuple):
    """A cell run over time in one direction."""

    cell: Any  # one of ours; which one is for `Forms` to say
    params: Any
    initial: Carry | None  # without batch axes, where it is learned


def is_cell(layer: Any) -> bool:
    """Whether this is a bare cell."""
    return not hasattr(layer, "apply")


def is_row(layer: Any) -> bool:
    """Whether this is a stack or repeat, also one of a single layer."""
    return isinstance(layer, Stack | Repeat)


def row(layer: Any) -> list[Any]:
    """The layers of a network one after another, none of them a stack, a repeat or a bare cell."""
    layer = as_layer(layer)
    if isinstance(layer, Stack):
        return [simple for part in layer.layers for simple in row(part)]
    if isinstance(layer, Repeat):
        return row(layer.layer) * layer.n
    return [layer]


def row_of_params(layer: Any, params: Any) -> list[Any]:
    """The parameters of each layer of the `row`.

    Raises:
      ValueError: `params` are those of another network.
    """
    if is_cell(layer):
        return [RecurrentParams(params, None)]
    return _row_of("params", layer, params)


def row_with_params(layer: Any, params: Any) -> list[tuple[Any, Any]]:
    """The layers of the `row`, each with its parameters.

    Raises:
      ValueError: `params` are those of another network.
    """
    return list(zip(row(layer), row_of_params(layer, params), strict=True))


def row_of_carry(layer: Any, carry: Any) -> list[Any]:
    """The carry of each layer of the `row`; those of layers without a state are `()` or counts.

    Raises:
      ValueError: `carry` is that of another network.
    """
    return _row_of("carry", layer, carry)


def _row_of(name: str, layer: Any, tree: Any) -> list[Any]:
    if isinstance(layer, Stack):
        if not isinstance(tree, tuple) or len(tree) != len(layer.layers):
            raise ValueError(
                f"{name}: got {type(tree).__name__}, expected a tuple of {len(layer.layers)} for "
                f"{layer!r}"
            )
        pairs = zip(layer.layers, tree, strict=True)
        return [found for part, branch in pairs for found in _row_of(name, part, branch)]
    if isinstance(layer, Repeat):
        layer.check(name, tree)
        return [
            found
            for k in range(layer.n)
            for found in _row_of(name, layer.layer, jax.tree.map(lambda leaf, k=k: leaf[k], tree))
        ]
    return [tree]


def carry_of_row(layer: Any, row: list[Any]) -> Carry:
    """`row_of_carry` undone."""
    carry, left = _gather(layer, row)
    assert not left
    return carry


def _gather(layer: Any, row: list[Any]) -> tuple[Any, list[Any]]:
    if isinstance(layer, Stack):
        carries = []
        for part in layer.layers:
            carry, row = _gather(part, row)
            carries.append(carry)
        return tuple(carries), row
    if isinstance(layer, Repeat):
        carries = []
        for _ in range(layer.n):
            carry, row = _gather(layer.layer, row)
            carries.append(carry)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries), row
    return row[0], row[1:]


def joined(layers: list[Any], params: list[Any]) -> tuple[Any, Any]:
    """One layer and its parameters as they are, several as a stack of them."""
    if len(layers) == 1:
        return layers[0], params[0]
    return Stack(tuple(layers)), tuple(params)


def runs(layer: Recurrent | Bidirectional, params: Any) -> tuple[Run, ...]:
    """The one or two directions of a recurrent layer.

    Raises:
      ValueError: `params` are those of another layer.
    """
    if isinstance(layer, Bidirectional):
        if not isinstance(params, tuple) or len(params) != 2:
            raise ValueError(
                f"params: got {type(params).__name__}, expected Directions(forward, backward)"
            )
        both = zip((layer.forward, layer.backward), params, strict=True)
        return tuple(run for one, p in both for run in runs(one, p))
    layer.check(params)
    return (Run(layer.cell, params.cell, params.initial),)


def check_params(cell: Cell, params: Params) -> None:
    """Raise unless `params` are those of `cell`, for as many inputs as their kernel has rows."""
    kernel: Any = getattr(params, "kernel", None)
    if kernel is None or jnp.ndim(kernel) != 2:
        raise ValueError(f"params: got {type(params).__name__}, expected those of {cell!r}")
    row: Any = jax.ShapeDtypeStruct(kernel.shape[:1], kernel.dtype)
    validation.check_params(cell, params, row, "a column of params.kernel")


def recurrent_of(runs: tuple[Run, ...], merge: str = "concat") -> tuple[Any, Any]:
    """A recurrent or bidirectional layer and its parameters; `runs` undone."""
    layers = [Recurrent(run.cell, initial=_initial(run)) for run in runs]
    params = [RecurrentParams(run.params, run.initial) for run in runs]
    if len(runs) == 1:
        return layers[0], params[0]
    return Bidirectional(layers[0], layers[1], merge), Directions(*params)


def _initial(run: Run) -> str:
    return "zeros" if run.initial is None else "learned"
