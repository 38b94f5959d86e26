"""A single step of a cell that has a rule, by the functions of the rule."""

import jax
from jax import Array

from gatedrnn._src import placement, validation
from gatedrnn._src.base import Carry, Params, RuledCell
from gatedrnn._src.masks import checked_draw, draw
from gatedrnn._src.numerics import matrices_as
from gatedrnn._src.placement import ROWS, WHOLE


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
    key, steps = checked_draw(cell, key, first_step, x.shape[:-1])
    rows = placement.rows_of("x", x, 0, x.ndim - 1, (params, carry))
    arguments, roles = (params, carry, x, key, steps), (WHOLE, ROWS, ROWS, WHOLE, ROWS)
    return placement.on_mesh(_step, (cell,), arguments, roles, (placement.Like(1), ROWS), rows)


def _step(
    cell: RuledCell, params: Params, carry: Carry, x: Array, key: Array | None, steps: Array | None
) -> tuple[Carry, Array]:
    """Do what `ruled_step` does, of arguments that are checked."""
    params = matrices_as(params, x.dtype)
    if key is not None:
        assert steps is not None
        params, x = draw(cell, key, params, x, steps, steps.shape)
    carry, _ = cell.rule.recur(cell, params, carry, cell.rule.project(cell, params, x))
    return carry, jax.tree.leaves(carry)[0]
