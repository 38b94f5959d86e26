"""A single step of a cell that has a rule, by the functions of the rule."""

import jax
from jax import Array

from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Params, RuledCell
from gatedrnn._src.masks import check_draws, draw, first_steps
from gatedrnn._src.numerics import matrices_as


def ruled_step(
    cell: RuledCell,
    params: Params,
    carry: Carry,
    x: Array,
    *,
    key: Array | None = None,
    first_step: int | Array = 0,
) -> tuple[Carry, Array]:
    """Return the new carry and its first leaf, by `project` and `recur` of `x [*B, I]`."""
    x = validation.as_array("x", x, "an array [*B, I]")
    carry = validation.check_step(cell, params, carry, x)
    params = matrices_as(params, x.dtype)
    if key is not None or not (isinstance(first_step, int) and first_step == 0):
        steps = first_steps(first_step, x.shape[:-1])
    if key is not None:
        check_draws(cell)
        params, x = draw(cell, validation.as_key(key), params, x, steps, steps.shape)
    carry, _ = cell.rule.recur(cell, params, carry, cell.rule.project(cell, params, x))
    return carry, jax.tree.leaves(carry)[0]
