"""A single node of a cell that has a rule, from the rule's own pieces, and how children are laid.

Axes: `*B` batch, `...` any leading axes, `K` children of a node, `I` input features, `H` features.
"""

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src import validation
from gatedrnn._src.base import Params
from gatedrnn._src.numerics import matrices_as
from gatedrnn._src.trees.base import RuledTreeCell, State, places


def ruled_compose(cell: RuledTreeCell, params: Params, children: State, x: Array) -> State:
    """`project` and `recur` for one node: states `[*B, K, ...]`, `x [*B, I]` -> its state."""
    x = jnp.asarray(x)
    if x.ndim < 1:
        raise ValueError(f"x: got shape {x.shape}, expected [*B, I]")
    validation.check_floating("x", x)
    validation.check_params(cell, params, x, "x")
    given = jnp.shape(jax.tree.leaves(children)[0])
    count = given[x.ndim - 1] if len(given) > x.ndim else 0
    most = places(cell)
    if most is not None and count > most:
        raise ValueError(f"children: got {count}, expected at most {most} for {cell!r}")
    expected = jax.eval_shape(lambda: cell.state((*x.shape[:-1], count), x.dtype))
    children = validation.as_expected("children", children, expected, cell)
    params = matrices_as(params, x.dtype)
    return cell.rule.recur(cell, params, children, cell.rule.project(cell, params, x))[0]


def side_by_side(h: Array) -> Array:
    """The children of each node in one row: `[..., K, H] -> [..., K H]`."""
    return h.reshape(*h.shape[:-2], h.shape[-2] * h.shape[-1])


def child_by_child(rows: Array, features: int) -> Array:
    """`[..., K H] -> [..., K, H]`."""
    return rows.reshape(*rows.shape[:-1], rows.shape[-1] // features, features)


def filled(array: Array, size: int, axis: int) -> Array:
    """`array` with zeros after it along `axis`, up to `size`: for children that are absent."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, widths)
