"""The states of a network by name, as the graph has them.

A name is the place in our carry, joined by dots: `carry.0.h` is the leaf `h` of the first layer of
a stack, `carry.1.backward.c` of one direction of the second, `carry.2.1.h` of the second layer of a
repeat; `carry.h` where there is one layer alone. What comes out is called `final` instead.

Axes: `B` batch, `F` features of a leaf.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gatedrnn._interop.arrays import Arrays
from gatedrnn._interop.onnx.write_node import FORMS
from gatedrnn._interop.states import carry_from_states
from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.combinators import Repeat, Residual
from gatedrnn._src.layers.many_to_one import Final, Pool
from gatedrnn._src.layers.recurrent import Recurrent, as_layer
from gatedrnn._src.layers.stack import Stack

BEFORE, AFTER = "carry", "final"


def state_name(kind: str, path: tuple[str, ...], leaf: str) -> str:
    """The name of one state, before the first step or after the last."""
    return ".".join((kind, *path, leaf))


def to_onnx_carry(layer: Any, carry: Carry) -> dict[str, np.ndarray]:
    """A `carry` of `layer` as the graph of `to_onnx(..., carry=True)` is fed it.

    How many steps a `gr.dropout` has counted is no state of the graph, which drops nothing.

    Args:
      layer: the network.
      carry: one of its carries, `[B, F]` in every leaf.

    Returns:
      Arrays `[B, F]` by the names of the graph's inputs: `carry.0.h`.

    Raises:
      ValueError: a carry of another network, or with other than one batch axis.
    """
    return {
        state_name(BEFORE, path, name): np.asarray(leaf)
        for path, cell, own in _carries(as_layer(layer), carry, ())
        for name, leaf in _leaves(path, cell, own)
    }


def _leaves(path: tuple[str, ...], cell: Cell, carry: Carry) -> Iterator[tuple[str, Array]]:
    """The carry of one cell, checked, leaf by leaf."""
    shape = jnp.shape(next(iter(jax.tree.leaves(carry)), 0.0))
    if len(shape) != 2:
        raise ValueError(
            f"carry, {'.'.join(path) or 'its only layer'}: got a leaf of shape {shape}, expected "
            "[B, F]: a graph has one batch axis"
        )
    like = jax.eval_shape(lambda: cell.carry((shape[0],), jnp.float32))
    validation.check_shapes(".".join(("carry", *path)), carry, like, cell)
    return zip(type(like)._fields, carry, strict=True)


def from_onnx_carry(layer: Any, states: Mapping[str, Any]) -> Carry:
    """The carry of `layer` from the states of its graph; `to_onnx_carry` undone.

    Args:
      layer: the network that was written.
      states: arrays `[B, F]` by name, all of them and no others: the graph's outputs but `ys`
        (`final.0.h`), or the inputs that `to_onnx_carry` gives (`carry.0.h`).

    Raises:
      TypeError: states that are not floating-point arrays.
      ValueError: states that are missing or too many, shapes that do not fit.
    """
    kind = AFTER if any(name.startswith(f"{AFTER}.") for name in states) else BEFORE
    arrays = Arrays("states", states)
    carry = _taken(as_layer(layer), arrays, kind, ())
    arrays.close()
    return carry


def _taken(layer: Any, arrays: Arrays, kind: str, path: tuple[str, ...]) -> Carry:
    match layer:
        case Stack():
            return tuple(
                _taken(part, arrays, kind, (*path, str(k))) for k, part in enumerate(layer.layers)
            )
        case Repeat():
            carries = [_taken(layer.layer, arrays, kind, (*path, str(k))) for k in range(layer.n)]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries)
        case Residual() | Final() | Pool():
            return _taken(layer.layer, arrays, kind, path)
        case Bidirectional():
            return Directions(
                *(
                    _taken(getattr(layer, name), arrays, kind, (*path, name))
                    for name in Directions._fields
                )
            )
        case Recurrent():
            FORMS.check_cell(layer.cell)
            fields = type(layer.cell.carry(()))._fields
            leaves = [arrays.take(state_name(kind, path, f), (None, None)) for f in fields]
            return carry_from_states(layer.cell, leaves)
    return layer.carry(())


def _carries(
    layer: Any, carry: Carry, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Cell, Carry]]:
    """Where each cell is, and its carry."""
    match layer:
        case Stack():
            if not isinstance(carry, tuple) or len(carry) != len(layer.layers):
                raise _other(carry, layer, f"a tuple of {len(layer.layers)}")
            for k, (part, own) in enumerate(zip(layer.layers, carry, strict=True)):
                yield from _carries(part, own, (*path, str(k)))
        case Repeat():
            if any(jnp.shape(leaf)[:1] != (layer.n,) for leaf in jax.tree.leaves(carry)):
                raise _other(carry, layer, f"leaves with a leading axis of {layer.n}")
            for k in range(layer.n):
                own = jax.tree.map(lambda leaf, k=k: leaf[k], carry)
                yield from _carries(layer.layer, own, (*path, str(k)))
        case Residual() | Final() | Pool():
            yield from _carries(layer.layer, carry, path)
        case Bidirectional():
            if not isinstance(carry, Directions):
                raise _other(carry, layer, "Directions(forward, backward)")
            for name, own in zip(Directions._fields, carry, strict=True):
                yield from _carries(getattr(layer, name), own, (*path, name))
        case Recurrent():
            FORMS.check_cell(layer.cell)
            yield path, layer.cell, carry


def _other(carry: Any, layer: Any, expected: str) -> ValueError:
    return ValueError(f"carry: got {type(carry).__name__}, expected {expected} for {layer!r}")
