"""Carries of flax, linen's and nnx's: `(c, h)` of an LSTM, `h` of the others.

A Bidirectional has a pair of them, forward and backward; a Sequential has none of its own, so that
of a network of several layers is a tuple, with `()` for a dense one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gatedrnn._interop.arrays import as_array
from gatedrnn._interop.carries import (
    carry_from_leaves,
    carry_of_layer,
    cells_of,
    leaves_of,
)
from gatedrnn._interop.conventions import LINEN
from gatedrnn._interop.networks import is_cell, join_network, layers_of, split_network
from gatedrnn._src.base import Carry, Cell
from gatedrnn._src.cells.lstm import LSTM, LSTMCarry
from gatedrnn._src.layers.bidirectional import Directions

ORDER = LINEN.row("LSTMCell").carry  # nnx's too


def from_flax_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for flax's `states`."""
    if is_cell(layer):
        return _from_cell("states", layer, states)
    layers = layers_of(layer)
    each, names = [states], ["states"]
    if len(layers) > 1:
        each = _several("states", states, len(layers))
        names = [f"states[{k}]" for k in range(len(layers))]
    batch_shape = next((jnp.shape(leaf)[:-1] for leaf in jax.tree.leaves(states)), ())
    carries = []
    for name, one, own in zip(names, layers, each, strict=True):
        cells = cells_of(one)
        if len(cells) == 1:
            found = [_from_cell(name, cells[0], own)]
        else:
            pairs = zip(Directions._fields, cells, _several(name, own, len(cells)), strict=False)
            found = [_from_cell(f"{name}, {way}", cell, state) for way, cell, state in pairs]
        carries.append(carry_of_layer(one, found, batch_shape))
    return join_network(layer, carries)


def _from_cell(name: str, cell: Cell, states: Any) -> Carry:
    if not isinstance(cell, LSTM):
        return carry_from_leaves(cell, [as_array(name, states)])
    leaves = dict(zip(ORDER, _several(name, states, 2), strict=True))
    own = [as_array(f"{name}, {leaf}", leaves[leaf]) for leaf in LSTMCarry._fields]
    return carry_from_leaves(cell, own)


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
    pairs = zip(layers_of(layer), split_network(layer, carry, "carry"), strict=True)
    states = tuple(_to_layer(one, own) for one, own in pairs)
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
    own = LSTMCarry(*leaves)  # in one dtype, for flax's scan
    return tuple(getattr(own, leaf).astype(own.h.dtype) for leaf in ORDER)
