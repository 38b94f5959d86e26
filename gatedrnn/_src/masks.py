"""Random masks: they follow from a key, the row and the number of that row's step.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` features of a mask.

Without a key a cell that draws is a function like any other. With one, its `draw` binds all that
follows from the key before the engine runs: what stays for the whole sequence to the parameters, a
key for each row and step to the inputs. The masks of a step are drawn from its keys where `project`
needs them, a chunk at a time, and drawn again in the backward pass: none is stored for a whole
sequence.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell, Params, rule_of
from gatedrnn._src.describe import shown
from gatedrnn._src.integers import as_int32, guarded


class Keyed(NamedTuple):
    """The inputs of steps that each have a key of their own."""

    xs: Array  # [T, *B, I], or [*B, I] for a single step
    keys: Array | None  # [T, *B], or [*B]; None in a cotangent


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
        """Run one time step, whose number in each row's episode is `first_step`."""
        ...

    def draw(self, keys: Array, params: Params, xs: Array, steps: Array) -> tuple[Params, Any]:
        """Return what the rule gets for `params` and `xs [T, *B, I]`.

        `keys [*B]` are those of the rows, `steps [T, *B]` the numbers of the steps; neither has `T`
        where `xs` is a single step.
        """
        ...


def draws(cell: Any) -> TypeGuard[DrawingCell]:
    """Return True for a cell that draws where it is given a key."""
    return hasattr(cell, "draw")


def draws_each_step(cell: Any) -> bool:
    """Return True for a cell whose masks depend on the number of the step."""
    return getattr(cell, "draws_each_step", False)


def row_keys(key: Array, batch_shape: tuple[int, ...]) -> Array:
    """A key for each row, `[*B]`: `key` folded with the number of the row."""
    fold, rows = jax.tree_util.Partial(jax.random.fold_in, key), 1
    for size in batch_shape:
        fold, rows = jax.vmap(fold), rows * size
    return fold(jnp.arange(rows, dtype=jnp.uint32).reshape(batch_shape))


def over_all_axes(function: Callable, keys: Array) -> Any:
    """`function(key)` for every key of an array of any shape."""
    for _ in keys.shape:
        function = jax.vmap(function)
    return function(keys)


def kept(keys: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """Return the features that dropout keeps, `[*keys, *shape]`, each with probability 1 − rate.

    Drawn in float32 in either mode: a Python number would be drawn in float64 in JAX's 64-bit mode,
    and the masks of a key would differ.
    """
    keep = partial(jax.random.bernoulli, p=np.float32(1 - rate), shape=shape)
    return over_all_axes(keep, keys)


def step_keys(keys: Array, steps: Array) -> Array:
    """A key for each row and step: the key of the row, `[*B]`, folded with `steps [..., *B]`."""
    keys = jnp.broadcast_to(keys, steps.shape)
    fold: Callable = jax.random.fold_in
    for _ in steps.shape:
        fold = jax.vmap(fold)
    return fold(keys, steps.astype(jnp.uint32))


def first_steps(first_step: int | Array, batch_shape: tuple[int, ...]) -> Array:
    """Return the number of each row's first step, int32 `[*B]`; raise for another shape."""
    steps, known = validation.as_known("first_step", first_step, "integers, () or [*B]")
    if not jnp.issubdtype(steps.dtype, jnp.integer):
        raise TypeError(f"first_step: got dtype {steps.dtype.name}, expected integers")
    if steps.shape not in ((), batch_shape):
        raise ValueError(f"first_step: got shape {steps.shape}, expected () or {batch_shape}")
    expected, most = "them between 0 and 2**31 - 1", jnp.iinfo(jnp.int32).max
    if known is not None and known.size and not (known.min() >= 0 and known.max() <= most):
        raise ValueError(
            f"first_step: got values from {known.min()} to {known.max()}, expected {expected}"
        )
    steps = as_int32(guarded("first_step", steps, 0, most, expected))
    return jnp.broadcast_to(steps, batch_shape)


def checked_draw(
    cell: Any, key: Any, first_step: Any, batch_shape: tuple[int, ...]
) -> tuple[Array | None, Array | None]:
    """Return the key as one typed key, and the number of each row's first step, both checked.

    Without a key no step is numbered, so the default number, 0, costs nothing.
    """
    steps = None
    if key is not None or type(first_step) is not int or first_step != 0:
        steps = first_steps(first_step, batch_shape)
    if key is None:
        return None, None
    check_draws(cell)
    return validation.as_key(key), steps


def check_draws(cell: Cell) -> None:
    """Raise unless `cell` draws masks where it is given a key."""
    if not draws(cell):
        raise ValueError(f"key: got one for {cell!r}, expected None: it draws nothing")


def draw(
    cell: Any, key: Array, params: Params, xs: Array, steps: Array, batch_shape: tuple[int, ...]
) -> tuple[Params, Any]:
    """`params` and `xs` with what `cell` draws for `steps [T, *B]` (or `[*B]`) bound to them."""
    return cell.draw(row_keys(key, batch_shape), params, xs, steps)


def check_inner(cell: Any, *, fits: bool, expected: str) -> None:
    """Raise unless `cell` is one that has a rule, so that its output is in its carry, and fits."""
    validation.check_cell(cell)
    if rule_of(cell) is None or not fits:
        raise TypeError(f"cell: got {shown(cell)}, expected {expected}")
