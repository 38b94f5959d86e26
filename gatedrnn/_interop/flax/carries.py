"""Carries of flax, linen's and nnx's: `(c, h)` of an LSTM, `h` of the others.

A Bidirectional has a pair of them, forward and backward; a Sequential has none of its own, so that
of a network of several layers is a tuple, with `()` for a dense one.
"""

from typing import Any

from jax import Array

from gatedrnn._interop.arrays import as_array
from gatedrnn._interop.carries import carry_of_cells, cells_of, check_stateless, leaves_of
from gatedrnn._interop.conventions import LINEN
from gatedrnn._interop.networks import layers_of, split_network
from gatedrnn._src.base import Carry, Cell
from gatedrnn._src.cells.lstm import LSTM, LSTMCarry
from gatedrnn._src.layers.bidirectional import Directions

ORDER = LINEN.row("LSTMCell").carry  # nnx's too


def from_flax_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for flax's `states`."""
    layers = layers_of(layer)
    each, names = [states], ["states"]
    if len(layers) > 1:
        each = _several("states", states, len(layers))
        names = [f"states[{k}]" for k in range(len(layers))]
    leaves = []
    for name, one, own in zip(names, layers, each, strict=True):
        cells = cells_of(one)
        if len(cells) == 1:
            leaves.append(_leaves(name, cells[0], own))
        else:
            pairs = zip(Directions._fields, cells, _several(name, own, len(cells)), strict=False)
            leaves += [_leaves(f"{name}, {way}", cell, state) for way, cell, state in pairs]
    return carry_of_cells(layer, leaves)


def _leaves(name: str, cell: Cell, states: Any) -> list[Array]:
    if not isinstance(cell, LSTM):
        return [as_array(name, states)]
    leaves = dict(zip(ORDER, _several(name, states, 2), strict=True))
    return [as_array(f"{name}, {leaf}", leaves[leaf]) for leaf in LSTMCarry._fields]


def _several(name: str, states: Any, count: int) -> Any:
    if not isinstance(states, tuple | list) or len(states) != count:
        several = isinstance(states, tuple | list)
        got = f"{len(states)} of them" if several else type(states).__name__
        raise ValueError(f"{name}: got {got}, expected a tuple of {count}")
    return states


def to_flax_carry(layer: Any, carry: Carry) -> Any:
    """Flax's states for a `carry` of `layer`; `from_flax_carry` undone."""
    pairs = zip(layers_of(layer), split_network(layer, carry, "carry"), strict=True)
    states = tuple(_states(one, own) for one, own in pairs)
    return states if len(states) > 1 else states[0]


def _states(layer: Any, carry: Carry) -> Any:
    """Those of one layer."""
    cells = cells_of(layer)
    if not cells:
        check_stateless(layer, carry)
    each = _several("carry", carry, 2) if len(cells) == 2 else [carry]
    states = tuple(_state(*leaves_of(cell, own)) for cell, own in zip(cells, each, strict=False))
    return states[0] if len(states) == 1 else states


def _state(h: Array, c: Array | None = None) -> Any:
    """The state of one cell."""
    if c is None:
        return h
    carry = LSTMCarry(h, c.astype(h.dtype))  # in one dtype, for flax's scan
    return tuple(getattr(carry, leaf) for leaf in ORDER)
