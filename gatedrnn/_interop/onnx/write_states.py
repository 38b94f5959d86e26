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

from gatedrnn._interop.arrays import Arrays, as_array, check_leaves, check_mapping
from gatedrnn._interop.carries import carry_of, check_stateless
from gatedrnn._interop.conventions import ONNX
from gatedrnn._interop.networks import check_network, children, join, split
from gatedrnn._interop.supported import row_of
from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell
from gatedrnn._src.layers.recurrent import Recurrent, as_layer

Path = tuple[str, ...]
BEFORE, AFTER = "carry", "final"


def state_name(kind: str, path: Path, leaf: str) -> str:
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

    Example:
      >>> layer = gr.stack(gr.GRU(4), gr.GRU(4))
      >>> sorted(gr.interop.to_onnx_carry(layer, layer.carry((2,))))
      ['carry.0.h', 'carry.1.h']
    """
    check_network(layer)
    check_leaves("carry", carry)
    return {
        state_name(BEFORE, path, name): np.asarray(leaf)
        for path, cell, own in _carries(as_layer(layer), carry, ())
        for name, leaf in _leaves(path, cell, own)
    }


def _leaves(path: Path, cell: Cell, carry: Carry) -> Iterator[tuple[str, Array]]:
    """The carry of one cell, checked, leaf by leaf."""
    shape = jnp.shape(next(iter(jax.tree.leaves(carry)), 0.0))
    if len(shape) != 2:
        raise ValueError(
            f"carry, {'.'.join(path) or 'its only layer'}: got a leaf of shape {shape}, expected "
            "[B, F]: a graph has one batch axis"
        )
    like = jax.eval_shape(lambda: cell.carry((shape[0],), jnp.float32))
    validation.check_shapes(".".join(("carry", *path)), carry, like, cell)
    for name, leaf in zip(type(like)._fields, carry, strict=True):
        yield name, as_array(".".join(("carry", *path, name)), leaf)


def from_onnx_carry(layer: Any, states: Mapping[str, Any]) -> Carry:
    """The carry of `layer` from the states of its graph; `to_onnx_carry` undone.

    Args:
      layer: the network that was written.
      states: arrays `[B, F]` by name, all of them and no others: the graph's outputs but `ys`
        (`final.0.h`), or the inputs that `to_onnx_carry` gives (`carry.0.h`).

    Raises:
      TypeError: states that are not floating-point arrays.
      ValueError: states that are missing or too many, shapes that do not fit.

    Example:
      >>> states = {"final.h": jnp.zeros((2, 4))}
      >>> gr.interop.from_onnx_carry(gr.recurrent(gr.GRU(4)), states).h.shape
      (2, 4)
    """
    check_network(layer)
    check_mapping("states", states)
    kind = AFTER if any(name.startswith(f"{AFTER}.") for name in states) else BEFORE
    arrays = Arrays("states", states)
    batch_shape = next((jnp.shape(state)[:1] for state in jax.tree.leaves(dict(states))), ())
    carry = _taken(as_layer(layer), arrays, kind, (), batch_shape)
    arrays.close()
    return carry


def _taken(
    layer: Any, arrays: Arrays, kind: str, path: Path, batch_shape: tuple[int, ...]
) -> Carry:
    """The carry of a layer whose states have names from this path on."""
    if isinstance(layer, Recurrent):
        row_of(ONNX, layer.cell)
        fields = type(layer.cell.carry(()))._fields
        leaves = [arrays.take(state_name(kind, path, f), (None, None)) for f in fields]
        return carry_of(layer.cell, leaves)
    inside = children(layer)
    if not inside:
        return layer.carry(batch_shape)
    return join(
        layer,
        [_taken(part, arrays, kind, _below(path, name), batch_shape) for name, part in inside],
    )


def _carries(layer: Any, carry: Carry, path: Path) -> Iterator[tuple[Path, Cell, Carry]]:
    """The path, the cell and the carry of every recurrence."""
    if isinstance(layer, Recurrent):
        row_of(ONNX, layer.cell)
        yield path, layer.cell, carry
    elif inside := children(layer):
        for (name, part), own in zip(inside, split(layer, carry, "carry"), strict=True):
            yield from _carries(part, own, _below(path, name))
    else:
        check_stateless(layer, carry)


def _below(path: Path, name: str) -> Path:
    return (*path, name) if name else path
