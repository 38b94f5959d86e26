"""States as torch, cuDNN and ONNX stack them, and as our carries hold them.

Axes: `L` layers, `D` directions, `*B` batch, `R` recurrent features.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.parts import carry_of_row, is_cell, row, row_of_carry
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.recurrent import Recurrent
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
