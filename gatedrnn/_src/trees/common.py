"""A single node of a cell that has a rule, by the functions of the rule; layouts of children.

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
    """Return the state of a node, by `project` of `x [*B, I]` and `recur` of its children."""
    x = validation.as_array("x", x, "an array [*B, I]")
    if x.ndim < 1:
        raise ValueError(f"x: got shape {x.shape}, expected [*B, I]")
    validation.check_features("x", x)
    validation.check_params(cell, params, x, "x")
    children = validation.as_arrays("children", children)
    given = next((leaf.shape for leaf in jax.tree.leaves(children)), ())
    count = given[x.ndim - 1] if len(given) > x.ndim else 0
    most = places(cell)
    if most is not None and count > most:
        raise ValueError(f"children: got {count}, expected at most {most} for {cell!r}")
    expected = jax.eval_shape(lambda: cell.state((*x.shape[:-1], count), x.dtype))
    children = validation.as_expected("children", children, expected, cell)
    params = matrices_as(params, x.dtype)
    return cell.rule.recur(cell, params, children, cell.rule.project(cell, params, x))[0]


def side_by_side(h: Array) -> Array:
    """Return the children of each node in one vector: `[..., K, H] -> [..., K H]`."""
    return h.reshape(*h.shape[:-2], h.shape[-2] * h.shape[-1])


def child_by_child(vectors: Array, features: int) -> Array:
    """Return the children of each node apart: `[..., K H] -> [..., K, H]`."""
    return vectors.reshape(*vectors.shape[:-1], vectors.shape[-1] // features, features)


def padded_to(array: Array, size: int, axis: int) -> Array:
    """Return `array` with zeros at its end along `axis`, up to `size`: for absent children."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, widths)
