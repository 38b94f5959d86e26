"""Carries of ours and the states of other libraries, in the ways that several of them share.

Axes: `L` layers, `D` directions, `*B` batch, `R` recurrent features.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import as_array, check_leaves
from gatedrnn._interop.networks import (
    check_network,
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
from gatedrnn._src.describe import shown
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.pointwise import Dense, Dropout, Embed
from gatedrnn._src.masks import draws_each_step
from gatedrnn._src.numerics import accumulator


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
            raise ValueError(f"layer: got {shown(one)}, whose states no other library has")
    return tuple(one.cell for one in directions)


def check_stateless(layer: Any, carry: Carry) -> None:
    """Raise unless this is the carry of a layer without cells, what a dropout has counted at most.

    Raises:
      ValueError: it is that of another layer.
    """
    structure: Any = jax.tree.structure(jax.eval_shape(lambda: layer.carry(())))
    if jax.tree.structure(carry) != structure:
        raise ValueError(f"carry: got {type(carry).__name__}, expected that of {layer!r}")


def leaves_of(cell: Cell, carry: Carry) -> tuple[Array, ...]:
    """The leaves of the carry of a cell.

    Raises:
      ValueError: it is that of another cell.
    """
    check_leaves("carry", carry)
    leaves = jax.tree.leaves(carry)
    batch_shape = jnp.shape(leaves[0])[:-1] if leaves else ()
    expected: Any = jax.eval_shape(lambda: cell.carry(batch_shape))
    validation.check_shapes("carry", carry, expected, cell)
    pairs = zip(type(expected)._fields, carry, strict=True)
    return tuple(as_array(f"carry, {name}", leaf) for name, leaf in pairs)


def carry_of(cell: Cell, leaves: list[Array]) -> Carry:
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


# A network: the leaves of all its cells, layers in order, in each the forward direction first -----


def leaves_of_cells(network: Any, carry: Carry) -> list[tuple[Array, ...]]:
    """The leaves of the carry of each cell.

    Raises:
      ValueError: `carry` is that of another network, or a layer has other states.
    """
    found = []
    for layer, own in zip(layers_of(network), split_network(network, carry, "carry"), strict=True):
        cells = cells_of(layer)
        if not cells:
            check_stateless(layer, own)
        each = split(layer, own, "carry")[: len(cells)]
        found += [leaves_of(cell, leaves) for cell, leaves in zip(cells, each, strict=True)]
    return found


def carry_of_cells(network: Any, leaves: Iterable[list[Array]]) -> Carry:
    """The carry of a network from the leaves of each of its cells; `leaves_of_cells` undone.

    Raises:
      ValueError: other leaves than a cell has.
    """
    each, carries = list(leaves), []
    batch_shape = jnp.shape(each[0][0])[:-1] if each and each[0] else ()
    left = iter(each)
    for layer in layers_of(network):
        own = [carry_of(cell, next(left)) for cell in cells_of(layer)]
        if len(own) == 2:
            carries.append(Directions(*own))
        else:
            carries.append(own[0] if own else layer.carry(batch_shape))
    return carries[0] if is_cell(network) else join_network(network, carries)


def carry_from_states(network: Any, states: list[Array]) -> Carry:
    """The carry of a network from the leaves of all its carries, each stacked `[L·D, *B, R]`.

    Layers in order, in each the forward direction before the backward one; without that first axis
    for a bare cell.

    Raises:
      ValueError: as many states, layers or directions as the network does not have, or other sizes.
    """
    check_network(network)
    if is_cell(network):
        return carry_of(network, states)
    count = sum(len(cells_of(layer)) for layer in layers_of(network))
    for k, state in enumerate(states):
        if jnp.ndim(state) < 2 or len(state) != count:
            raise ValueError(
                f"states[{k}]: got shape {jnp.shape(state)}, expected {count} layers and "
                f"directions on the first axis for {network!r}"
            )
    return carry_of_cells(network, ([state[k] for state in states] for k in range(count)))


def states_from_carry(network: Any, carry: Carry) -> list[Array]:
    """`carry_from_states` undone.

    Raises:
      ValueError: `carry` is that of another network, or a layer has other states.
    """
    check_network(network)
    if is_cell(network):
        return list(leaves_of(network, carry))
    cells = leaves_of_cells(network, carry)
    if len({len(leaves) for leaves in cells}) != 1:
        raise ValueError(f"layer: got {shown(network)}, expected recurrent layers of the same kind")
    return [jnp.stack(leaves) for leaves in zip(*cells, strict=True)]


# A network of one direction, as equinox and haiku have it: a state for each cell ------------------


def carry_from_cells(network: Any, states: Any) -> Carry:
    """The carry of a network from the state of each of its cells, an array or a tuple of leaves.

    That state itself for a cell or its layer, a sequence of them for a stack or repeat.

    Raises:
      ValueError: states that do not fit.
    """
    layers = layers_of(network)
    each, names = [states], ["states"]
    if is_sequence(network):
        each, names = states, [f"states[{k}]" for k in range(len(layers))]
        if not isinstance(states, tuple | list) or len(states) != len(layers):
            got = len(states) if isinstance(states, tuple | list) else type(states).__name__
            raise ValueError(
                f"states: got {got}, expected {len(layers)}, one for each cell of {network!r}"
            )
    _check_single(layers)
    return carry_of_cells(network, map(_leaves, names, each))


def cells_from_carry(network: Any, carry: Carry) -> list[tuple[Array, ...]]:
    """The leaves of the carry of each cell of a network, in order; `carry_from_cells` undone.

    Raises:
      ValueError: `carry` is that of another network.
    """
    _check_single(layers_of(network))
    return leaves_of_cells(network, carry)


def _check_single(layers: list[Any]) -> None:
    """Raise unless every layer has one cell."""
    for layer in layers:
        if len(cells_of(layer)) != 1:
            raise ValueError(f"layer: got {shown(layer)}, expected a cell or gr.recurrent(cell)")


def _leaves(name: str, state: Any) -> list[Array]:
    if isinstance(state, tuple | list):
        return [as_array(f"{name}[{k}]", leaf) for k, leaf in enumerate(state)]
    return [as_array(name, state)]
