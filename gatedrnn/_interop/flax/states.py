"""Carries of flax, linen's and nnx's: `(c, h)` of an LSTM, `h` of the others.

A Bidirectional has a pair of them, forward and backward; a Sequential has none of its own, so that
of a network of several layers is a tuple, with `()` for a dense one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gatedrnn._interop.arrays import as_array
from gatedrnn._interop.parts import carry_of_row, is_cell, row, row_of_carry
from gatedrnn._interop.states import carry_from_states
from gatedrnn._src import inputs
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.recurrent import Recurrent
from gatedrnn._src.lstm import LSTM
from gatedrnn._src.rule import Carry, Cell


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
    if isinstance(layer, Recurrent):
        return _from_cell(name, layer.cell, states)
    if isinstance(layer, Bidirectional):
        both = zip(Directions._fields, (layer.forward, layer.backward), strict=True)
        pair = _several(name, states, 2)
        return Directions(
            *(
                _from_cell(f"{name}, {direction}", one.cell, own)
                for (direction, one), own in zip(both, pair, strict=True)
            )
        )
    _several(name, states, 0)
    return ()


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
    if isinstance(layer, Recurrent):
        return _to_cell(layer.cell, carry)
    if isinstance(layer, Bidirectional):
        forward, backward = _several("carry", carry, 2)
        return _to_cell(layer.forward.cell, forward), _to_cell(layer.backward.cell, backward)
    return ()


def _to_cell(cell: Cell, carry: Carry) -> Any:
    leaves = jax.tree.leaves(carry)
    batch_shape = jnp.shape(leaves[0])[:-1] if leaves else ()
    expected = jax.eval_shape(lambda: cell.carry(batch_shape, jnp.float32))
    inputs.check_shapes("carry", carry, expected, cell)
    if not isinstance(cell, LSTM):
        return carry[0]
    return carry.c.astype(carry.h.dtype), carry.h  # flax's scan needs one dtype
