"""Cells that draw masks, and how what they draw reaches their rules.

Axes: `T` time, `*B` batch, `I` input features.

Without a key a cell that draws is a function like any other. With one, its `draw` binds all that
follows from the key before the engine runs: what stays for the whole sequence to the parameters, a
key for each step to the inputs. The masks of a step are drawn from its key where `project` needs
them, a chunk at a time, and drawn again in the backward pass: none is stored for a whole sequence.
"""

from typing import Any, NamedTuple, Protocol, TypeGuard

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell, Params, rule_of


class Keyed(NamedTuple):
    """The inputs of steps that each have a key of their own."""

    xs: Array  # [T, *B, I], or [*B, I] for a single step
    keys: Array | None  # [T], or no axes; None in a cotangent


class DrawingCell(Protocol):
    """A cell that draws where it is given a key."""

    def step(
        self,
        params: Params,
        carry: Carry,
        x: Array,
        *,
        key: Array | None = None,
        first_step: int | Array = 0,
    ) -> tuple[Carry, Array]:
        """One time step; with a key, `first_step` is its number since the initial carry."""
        ...

    def draw(self, key: Array, params: Params, xs: Array, steps: Array) -> tuple[Params, Any]:
        """What its rule gets for `params` and `xs [T, *B, I]`, of the `steps [T]` of a key."""
        ...


def draws(cell: Any) -> TypeGuard[DrawingCell]:
    """Whether there is something that the cell draws."""
    return hasattr(cell, "draw")


def draws_each_step(cell: Any) -> bool:
    """Whether what it draws depends on the number of the step."""
    return getattr(cell, "draws_each_step", False)


def draw(cell: Cell, key: Array, params: Params, xs: Array, steps: Array) -> tuple[Params, Any]:
    """`params` and `xs` with what `cell` draws for these steps bound to them."""
    if not draws(cell):
        raise ValueError(f"key: got one for {cell!r}, expected None: it draws nothing")
    if not jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.shape != ():
        raise ValueError(f"key: got keys of shape {key.shape}, expected a single key")
    return cell.draw(key, params, xs, steps)


def check_inner(cell: Any, *, fits: bool, expected: str) -> None:
    """Raise unless `cell` is one that has a rule, so that its output is in its carry, and fits."""
    validation.check_cell(cell)
    if rule_of(cell) is None or not fits:
        raise TypeError(f"cell: got {cell!r}, expected {expected}")
