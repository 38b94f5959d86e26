"""Carries of ours and the states of other libraries, in the ways that several of them share.

Axes: `L` layers, `D` directions, `*B` batch, `R` recurrent features.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import as_array
from gatedrnn._interop.networks import (
    is_cell,
    is_sequence,
    join_network,
    layers_of,
    runs_forward,
    split,
    split_network,
)
from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.pointwise import Dense, Dropout, Embed
from gatedrnn._src.layers.recurrent import lift
from gatedrnn._src.masks import draws_each_step
from gatedrnn._src.numerics import accumulator

# One cell, one layer -----------------------------------------------------------------------------


def cells_of(layer: Any) -> tuple[Cell, ...]:
    """The cells of a layer, one for each direction; none where it has no state.

    Raises:
      ValueError: a layer with states of another kind.
    """
    if isinstance(layer, Dense | Embed | Dropout):
        return ()
    both = isinstance(layer, Bidirectional)
    directions = (layer.forward, layer.backward) if both else (layer,)
    for one in directions:
        if not runs_forward(one) or draws_each_step(one.cell):
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


def carry_from_leaves(cell: Cell, leaves: list[Array]) -> Carry:
    """The carry of a cell from its leaves in our order; `leaves_of` undone.

    Raises:
      ValueError: other leaves than the cell has.
    """
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


def carry_of_layer(layer: Any, carries: list[Carry], batch_shape: tuple[int, ...]) -> Carry:
    """The carry of a layer from those of its cells, one for each direction."""
    if len(carries) == 2:
        return Directions(*carries)
    return carries[0] if carries else layer.carry(batch_shape)


def leaves_of_cells(network: Any, carry: Carry) -> list[tuple[Array, ...]]:
    """The leaves of the carry of each cell, layers in order, forward before backward.

    Raises:
      ValueError: `carry` is that of another network, or a layer has other states.
    """
    found = []
    for layer, own in zip(layers_of(network), split_network(network, carry, "carry"), strict=True):
        cells = cells_of(layer)
        each = split(layer, own, "carry")[: len(cells)]
        found += [leaves_of(cell, leaves) for cell, leaves in zip(cells, each, strict=True)]
    return found


# States of all layers in one array ---------------------------------------------------------------


def carry_from_states(network: Any, states: list[Array]) -> Carry:
    """The carry of a network from the leaves of all its carries, each stacked `[L·D, *B, R]`.

    Layers in order, in each the forward direction before the backward one; without that first axis
    for a bare cell.

    Raises:
      ValueError: as many states, layers or directions as the network does not have, or other sizes.
    """
    if is_cell(network):
        return carry_from_leaves(network, states)
    layers = layers_of(network)
    count = sum(len(cells_of(layer)) for layer in layers)
    for k, state in enumerate(states):
        if jnp.ndim(state) < 2 or len(state) != count:
            raise ValueError(
                f"states[{k}]: got shape {jnp.shape(state)}, expected {count} layers and "
                f"directions on the first axis for {network!r}"
            )
    batch_shape = jnp.shape(states[0])[1:-1] if states else ()
    rows = iter(range(count))
    carries = []
    for layer in layers:
        each = zip(cells_of(layer), rows, strict=False)
        own = [carry_from_leaves(cell, [state[k] for state in states]) for cell, k in each]
        carries.append(carry_of_layer(layer, own, batch_shape))
    return join_network(network, carries)


def states_from_carry(network: Any, carry: Carry) -> list[Array]:
    """`carry_from_states` undone.

    Raises:
      ValueError: `carry` is that of another network, or a layer has other states.
    """
    if is_cell(network):
        return list(leaves_of(network, carry))
    cells = leaves_of_cells(network, carry)
    if len({len(leaves) for leaves in cells}) != 1:
        raise ValueError(f"layer: got {network!r}, expected recurrent layers of the same kind")
    return [jnp.stack(leaves) for leaves in zip(*cells, strict=True)]


# States cell by cell -----------------------------------------------------------------------------


def carry_from_cells(network: Any, states: Any) -> Carry:
    """The carry of a network from the state of each of its cells, an array or a tuple of leaves.

    That state itself for a cell or its layer, a sequence of them for a stack or repeat.

    Raises:
      ValueError: states that do not fit.
    """
    if not is_sequence(network):
        return carry_from_leaves(_cell_of(lift(network)), _arrays("states", states))
    layers = layers_of(network)
    if not isinstance(states, tuple | list) or len(states) != len(layers):
        got = len(states) if isinstance(states, tuple | list) else type(states).__name__
        raise ValueError(
            f"states: got {got}, expected {len(layers)}, one for each cell of {network!r}"
        )
    carries = [
        carry_from_leaves(_cell_of(layer), _arrays(f"states[{k}]", state))
        for k, (layer, state) in enumerate(zip(layers, states, strict=True))
    ]
    return join_network(network, carries)


def cells_from_carry(network: Any, carry: Carry) -> list[tuple[Array, ...]]:
    """The leaves of the carry of each cell of a network, in order; `carry_from_cells` undone.

    Raises:
      ValueError: `carry` is that of another network.
    """
    pairs = zip(layers_of(network), split_network(network, carry, "carry"), strict=True)
    return [leaves_of(_cell_of(layer), own) for layer, own in pairs]


def _cell_of(layer: Any) -> Cell:
    cells = cells_of(layer)
    if len(cells) != 1:
        raise ValueError(f"layer: got {layer!r}, expected a cell or gr.recurrent(cell)")
    return cells[0]


def _arrays(name: str, state: Any) -> list[Array]:
    if isinstance(state, tuple | list):
        return [as_array(f"{name}[{k}]", leaf) for k, leaf in enumerate(state)]
    return [as_array(name, state)]
