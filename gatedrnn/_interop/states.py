"""States as torch, cuDNN and ONNX stack them, and as our carries hold them.

Axes: `L` layers, `D` directions, `*B` batch, `R` recurrent features.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import as_array
from gatedrnn._interop.parts import carry_of_row, is_cell, is_row, row, row_of_carry
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.recurrent import Recurrent, lift
from gatedrnn._src.numerics import accumulator
from gatedrnn._src.rule import Carry, Cell


def carry_from_states(layer: Any, states: list[Array]) -> Carry:
    """The carry of `layer` from the leaves of all its carries, each stacked `[L·D, *B, R]`.

    Layers in order, in each the forward direction before the backward one; without that first axis
    for a bare cell.

    Raises:
      ValueError: as many states, layers or directions as `layer` does not have, or other sizes.
    """
    if is_cell(layer):
        return _cell_carry(layer, states)
    layers = row(layer)
    runs = sum(len(_cells(part)) for part in layers)
    for k, state in enumerate(states):
        if jnp.ndim(state) < 2 or len(state) != runs:
            raise ValueError(
                f"states[{k}]: got shape {jnp.shape(state)}, expected {runs} layers and directions "
                f"on the first axis for {layer!r}"
            )
    carries: list[Any] = []
    position = 0
    for part in layers:
        cells = _cells(part)
        own = [
            _cell_carry(cell, [state[position + k] for state in states])
            for k, cell in enumerate(cells)
        ]
        position += len(cells)
        if len(cells) == 0:
            carries.append(part.carry(()))
        else:
            carries.append(Directions(*own) if len(cells) == 2 else own[0])
    return carry_of_row(layer, carries)


def states_from_carry(layer: Any, carry: Carry) -> list[Array]:
    """`carry_from_states` undone."""
    if is_cell(layer):
        return list(carry)
    flat = []
    for part, own in zip(row(layer), row_of_carry(layer, carry), strict=True):
        if isinstance(part, Bidirectional):
            flat += [own.forward, own.backward]
        elif isinstance(part, Recurrent):
            flat.append(own)
    return [jnp.stack(leaves) for leaves in zip(*flat, strict=True)]


def _cells(layer: Any) -> tuple[Cell, ...]:
    """The cells of a layer, one for each direction; none where it has no state."""
    if isinstance(layer, Bidirectional):
        return layer.forward.cell, layer.backward.cell
    return (layer.cell,) if isinstance(layer, Recurrent) else ()


def _cell_carry(cell: Cell, leaves: list[Array]) -> Carry:
    """The carry of one cell from its leaves in our order."""
    batch_shape = jnp.shape(leaves[0])[:-1]
    like = cell.carry(batch_shape, leaves[0].dtype)
    if len(leaves) != len(like):
        raise ValueError(
            f"states: got {len(leaves)}, expected {', '.join(type(like)._fields)} for {cell!r}"
        )
    for name, leaf, want in zip(type(like)._fields, leaves, like, strict=True):
        if jnp.shape(leaf) != want.shape:
            raise ValueError(
                f"states, {name}: got shape {jnp.shape(leaf)}, expected {want.shape} for {cell!r}"
            )
    # an LSTM's memory is in at least float32
    cast = [leaf.astype(accumulator(leaf.dtype)) if k else leaf for k, leaf in enumerate(leaves)]
    return type(like)(*cast)


def carry_from_cells(layer: Any, states: Any) -> Carry:
    """The carry of `layer` from the state of each of its cells, an array or a tuple of leaves.

    That state itself for a cell or its layer, a sequence of them for a stack or repeat.

    Raises:
      ValueError: states that do not fit.
    """
    if not is_row(layer):
        return _cell_carry(_cell_of(lift(layer)), _leaves("states", states))
    layers = row(layer)
    if not isinstance(states, tuple | list) or len(states) != len(layers):
        got = len(states) if isinstance(states, tuple | list) else type(states).__name__
        raise ValueError(
            f"states: got {got}, expected {len(layers)}, one for each cell of {layer!r}"
        )
    carries = [
        _cell_carry(_cell_of(part), _leaves(f"states[{k}]", state))
        for k, (part, state) in enumerate(zip(layers, states, strict=True))
    ]
    return carry_of_row(layer, carries)


def cells_from_carry(layer: Any, carry: Carry) -> list[tuple[Array, ...]]:
    """The leaves of the carry of each cell of `layer`, in order.

    Raises:
      ValueError: `carry` is that of another network.
    """
    pairs = zip(row(layer), row_of_carry(layer, carry), strict=True)
    return [_leaves_of(_cell_of(part), own) for part, own in pairs]


def _cell_of(layer: Any) -> Cell:
    if not isinstance(layer, Recurrent):
        raise ValueError(f"layer: got {layer!r}, expected a cell or gr.recurrent(cell)")
    return layer.cell


def _leaves(name: str, state: Any) -> list[Array]:
    if isinstance(state, tuple | list):
        return [as_array(f"{name}[{k}]", leaf) for k, leaf in enumerate(state)]
    return [as_array(name, state)]


def _leaves_of(cell: Cell, carry: Any) -> tuple[Array, ...]:
    like = jax.eval_shape(lambda: cell.carry(()))
    if type(carry) is not type(like):
        raise ValueError(
            f"carry: got {type(carry).__name__}, expected {type(like).__name__} for {cell!r}"
        )
    return tuple(carry)
