"""States as torch, cuDNN and ONNX stack them, and as our carries hold them.

Axes: `L` layers, `D` directions, `*B` batch, `R` recurrent features.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import as_array
from gatedrnn._interop.parts import carry_of_row, is_cell, is_row, row, row_of_carry
from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.pointwise import Dense, Dropout, Embed
from gatedrnn._src.layers.recurrent import Recurrent, as_layer
from gatedrnn._src.masks import draws_each_step
from gatedrnn._src.numerics import accumulator


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
    runs = sum(len(cells_of(part)) for part in layers)
    for k, state in enumerate(states):
        if jnp.ndim(state) < 2 or len(state) != runs:
            raise ValueError(
                f"states[{k}]: got shape {jnp.shape(state)}, expected {runs} layers and directions "
                f"on the first axis for {layer!r}"
            )
    carries: list[Any] = []
    position = 0
    for part in layers:
        cells = cells_of(part)
        own = [
            _cell_carry(cell, [state[position + k] for state in states])
            for k, cell in enumerate(cells)
        ]
        position += len(cells)
        carries.append(carry_of_part(part, own))
    return carry_of_row(layer, carries)


def carry_of_part(part: Any, carries: list[Carry]) -> Carry:
    """The carry of a layer of a row from those of its cells, one for each direction."""
    if len(carries) == 2:
        return Directions(*carries)
    return carries[0] if carries else part.carry(())


def states_from_carry(layer: Any, carry: Carry) -> list[Array]:
    """`carry_from_states` undone.

    Raises:
      ValueError: `carry` is that of another network, or `layer` has no such states.
    """
    if is_cell(layer):
        return list(leaves_of(layer, carry))
    flat = leaves_of_cells(layer, carry)
    if len({len(leaves) for leaves in flat}) != 1:
        raise ValueError(f"layer: got {layer!r}, expected recurrent layers of the same kind")
    return [jnp.stack(leaves) for leaves in zip(*flat, strict=True)]


def leaves_of_cells(layer: Any, carry: Carry) -> list[tuple[Array, ...]]:
    """The leaves of the carry of each cell, layers in order, forward before backward.

    Raises:
      ValueError: `carry` is that of another network, or `layer` has no such states.
    """
    found = []
    for part, own in zip(row(layer), row_of_carry(layer, carry), strict=True):
        cells = cells_of(part)
        if len(cells) == 2 and not isinstance(own, Directions):
            raise ValueError(
                f"carry: got {type(own).__name__}, expected Directions(forward, backward)"
            )
        each = own if len(cells) == 2 else (own,)
        found += [leaves_of(cell, leaves) for cell, leaves in zip(cells, each, strict=False)]
    return found


def cells_of(layer: Any) -> tuple[Cell, ...]:
    """The cells of a layer of a row, one for each direction; none where it has no state.

    Raises:
      ValueError: a layer with states of another kind.
    """
    if isinstance(layer, Dense | Embed | Dropout):
        return ()
    both = isinstance(layer, Bidirectional)
    directions = (layer.forward, layer.backward) if both else (layer,)
    for one in directions:
        if not isinstance(one, Recurrent) or draws_each_step(one.cell):
            raise ValueError(f"layer: got {one!r}, whose states no other library has")
    return tuple(one.cell for one in directions)


def leaves_of(cell: Cell, carry: Carry) -> tuple[Array, ...]:
    """The leaves of the carry of a cell.

    Raises:
      ValueError: it is that of another cell.
    """
    leaves = jax.tree.leaves(carry)
    batch_shape = jnp.shape(leaves[0])[:-1] if leaves else ()
    expected = jax.eval_shape(lambda: cell.carry(batch_shape))
    validation.check_shapes("carry", carry, expected, cell)
    return tuple(carry)


def _cell_carry(cell: Cell, leaves: list[Array]) -> Carry:
    """The carry of one cell from its leaves in our order."""
    like: Any = jax.eval_shape(lambda: cell.carry(jnp.shape(leaves[0])[:-1] if leaves else ()))
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
        return _cell_carry(_cell_of(as_layer(layer)), _leaves("states", states))
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
    return [leaves_of(_cell_of(part), own) for part, own in pairs]


def _cell_of(layer: Any) -> Cell:
    cells = cells_of(layer)
    if len(cells) != 1:
        raise ValueError(f"layer: got {layer!r}, expected a cell or gr.recurrent(cell)")
    return cells[0]


def _leaves(name: str, state: Any) -> list[Array]:
    if isinstance(state, tuple | list):
        return [as_array(f"{name}[{k}]", leaf) for k, leaf in enumerate(state)]
    return [as_array(name, state)]
