"""Carries of flax, linen's and nnx's: `(c, h)` of an LSTM, `h` of the others.

A Bidirectional has a pair of them, forward and backward; a Sequential has none of its own, so that
of a network of several layers is a tuple, with `()` for a dense one.
"""

from typing import Any

from gatedrnn._interop.arrays import as_array
from gatedrnn._interop.parts import carry_of_row, is_cell, row, row_of_carry
from gatedrnn._interop.states import carry_from_states, carry_of_part, cells_of, leaves_of
from gatedrnn._src.base import Carry, Cell
from gatedrnn._src.cells.lstm import LSTM
from gatedrnn._src.layers.bidirectional import Directions


def from_flax_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for flax's `states`."""
    if is_cell(layer):
        return _from_cell("states", layer, states)
    parts = row(layer)
    if len(parts) == 1:
        return carry_of_row(layer, [_from_layer("states", parts[0], states)])
    each = enumerate(zip(parts, _several("states", states, len(parts)), strict=True))
    return carry_of_row(layer, [_from_layer(f"states[{k}]", part, own) for k, (part, own) in each])


def _from_layer(name: str, layer: Any, states: Any) -> Carry:
    cells = cells_of(layer)
    if len(cells) == 1:
        return _from_cell(name, cells[0], states)
    each = zip(Directions._fields, cells, _several(name, states, len(cells)), strict=False)
    own = [_from_cell(f"{name}, {direction}", cell, state) for direction, cell, state in each]
    return carry_of_part(layer, own)


def _from_cell(name: str, cell: Cell, states: Any) -> Carry:
    if not isinstance(cell, LSTM):
        return carry_from_states(cell, [as_array(name, states)])
    c, h = _several(name, states, 2)
    return carry_from_states(cell, [as_array(f"{name}, h", h), as_array(f"{name}, c", c)])


def _several(name: str, states: Any, count: int) -> Any:
    if not isinstance(states, tuple | list) or len(states) != count:
        several = isinstance(states, tuple | list)
        got = f"{len(states)} of them" if several else type(states).__name__
        raise ValueError(f"{name}: got {got}, expected a tuple of {count}")
    return states


def to_flax_carry(layer: Any, carry: Carry) -> Any:
    """Flax's states for a `carry` of `layer`; `from_flax_carry` undone."""
    if is_cell(layer):
        return _to_cell(layer, carry)
    pairs = zip(row(layer), row_of_carry(layer, carry), strict=True)
    states = tuple(_to_layer(part, own) for part, own in pairs)
    return states if len(states) > 1 else states[0]


def _to_layer(layer: Any, carry: Carry) -> Any:
    cells = cells_of(layer)
    if len(cells) == 1:
        return _to_cell(cells[0], carry)
    each = zip(cells, _several("carry", carry, len(cells)), strict=True) if cells else ()
    return tuple(_to_cell(cell, own) for cell, own in each)


def _to_cell(cell: Cell, carry: Carry) -> Any:
    leaves = leaves_of(cell, carry)
    if not isinstance(cell, LSTM):
        return leaves[0]
    h, c = leaves
    return c.astype(h.dtype), h  # flax's scan needs one dtype
