"""The loss over a line or a plane of parameters, and gradient descent on it.

Axes: `D` directions (1 or 2), `N_1`, `N_2` points along each, `S` steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Params
from gatedrnn._src.describe import documented
from gatedrnn._src.diagnostics.vectors import as_scalar

POINTS_AT_ONCE = 64  # points of a slice that are computed side by side


@documented
class LossSlice(NamedTuple):
    """The loss on a grid of points `params + Σ_d u_d direction_d`.

    Attributes:
      coordinates: the coordinates `u_d` of the grid, `[N_d]` for each direction.
      losses: the loss at each point, `[N_1]`, or `[N_1, N_2]` for two directions.
    """

    coordinates: tuple[Array, ...]
    losses: Array


@documented
class DescentPath(NamedTuple):
    """The path of gradient descent in a line or plane of parameters; index 0 is the start.

    Attributes:
      coordinates: the points, `[S + 1, D]`.
      losses: the loss at each point, `[S + 1]`.
      gradient_norms: the norm of the gradient at each point, before clipping, `[S + 1]`.
    """

    coordinates: Array
    losses: Array
    gradient_norms: Array


def loss_slice(
    loss: Callable[[Params], Array],
    params: Params,
    directions: Sequence[Params],
    coordinates: Sequence[Array],
) -> LossSlice:
    """The loss along one direction, or over the plane of two, from `params`.

    The loss of a recurrent network has plateaus, where the gradient vanishes, and cliffs between
    them, where the gradient explodes (Doya 1993; Pascanu et al. 2013).

    Args:
      loss: `params -> scalar`.
      params: the point with coordinates 0.
      directions: one or two, each shaped as `params`.
      coordinates: for each direction, the coordinates of the grid, `[N_d]`.

    Returns:
      The losses and their coordinates.

    Raises:
      ValueError: directions or coordinates of another number, structure or shape.

    Example:
      >>> loss = lambda w: jnp.sum(w**2)
      >>> direction, distances = jnp.array([1.0, 0.0]), jnp.array([-1.0, 0.0, 2.0])
      >>> found = gr.diagnostics.loss_slice(loss, jnp.zeros(2), [direction], [distances])
      >>> found.losses.tolist()
      [1.0, 0.0, 4.0]
    """
    _check(loss, params, directions)
    checks.sequence("coordinates", coordinates, "an array for each direction")
    if len(coordinates) != len(directions):
        raise ValueError(
            f"coordinates: got {len(coordinates)}, expected {len(directions)}, as directions"
        )
    axes = tuple(validation.as_array("coordinates", axis) for axis in coordinates)
    axes = tuple(map(_as_floats, axes))
    for axis in axes:
        validation.check_floating("coordinates", axis)
        if axis.ndim != 1:
            raise ValueError(f"coordinates: got shape {axis.shape}, expected [N] for a direction")
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
    shape = points.shape[:-1]
    losses = lax.map(
        lambda point: as_scalar(loss(_moved(params, directions, point))),
        points.reshape(-1, len(axes)),
        batch_size=POINTS_AT_ONCE,
    )
    return LossSlice(axes, losses.reshape(shape))


def descent_path(
    loss: Callable[[Params], Array],
    params: Params,
    directions: Sequence[Params],
    start: Array,
    *,
    learning_rate: float,
    steps: int,
    clip: float | None = None,
) -> DescentPath:
    """Run gradient descent over the coordinates of a slice, so that its path lies on the slice.

    With `clip`, a larger gradient is scaled down to the norm `clip`: at a cliff the step keeps its
    direction, but not its length (Pascanu et al. 2013, algorithm 1).

    Args:
      loss: `params -> scalar`.
      params: the point with coordinates 0.
      directions: one or two, each shaped as `params`.
      start: `[D]`, coordinates.
      learning_rate: `α` in `u ← u − α ∂J/∂u`.
      steps: `S`.
      clip: the largest norm of `∂J/∂u`, or None.

    Returns:
      The coordinates, losses and gradient norms before each step, and after the last.

    Raises:
      ValueError: directions or a start that do not fit, or numbers out of range.

    Example:
      >>> loss, params, start = lambda w: jnp.sum(w**2) / 2, jnp.zeros(2), jnp.array([4.0])
      >>> along = [jnp.array([1.0, 0.0])]
      >>> path = gr.diagnostics.descent_path(loss, params, along, start, learning_rate=0.5, steps=2)
      >>> path.coordinates.tolist(), path.losses.tolist()
      ([[4.0], [2.0], [1.0]], [8.0, 2.0, 0.5])
    """
    _check(loss, params, directions)
    start = validation.as_array("start", start)
    start = _as_floats(start)
    validation.check_floating("start", start)
    if start.shape != (len(directions),):
        raise ValueError(
            f"start: got shape {start.shape}, expected {(len(directions),)}, as directions"
        )
    checks.number("learning_rate", learning_rate, above=0)
    checks.size("steps", steps)
    if clip is not None:
        checks.number("clip", clip, above=0)

    def step(point: Array, _: None) -> tuple[Array, DescentPath]:
        value, gradient = jax.value_and_grad(
            lambda point: as_scalar(loss(_moved(params, directions, point)))
        )(point)
        norm = jnp.linalg.norm(gradient)
        if clip is not None:
            gradient = gradient * (clip / jnp.maximum(norm, clip))
        return point - learning_rate * gradient, DescentPath(point, value, norm)

    return lax.scan(step, start, length=steps + 1)[1]


def _moved(params: Params, directions: Sequence[Params], point: Array) -> Params:
    """Return `params + Σ_d u_d direction_d`, `u` being the coordinates of `point [D]`."""

    def move(leaf: Array, *parts: Array) -> Array:
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf  # a counter, say, which no direction moves
        for u, part in zip(point, parts, strict=True):
            leaf = leaf + u.astype(leaf.dtype) * jnp.asarray(part, leaf.dtype)
        return leaf

    return jax.tree.map(move, params, *directions)


def _as_floats(coordinates: Array) -> Array:
    """Return integers as floating-point numbers, anything else as it is."""
    is_integer = jnp.issubdtype(coordinates.dtype, jnp.integer)
    return coordinates.astype(float) if is_integer else coordinates


def _check(loss: Any, params: Params, directions: Sequence[Params]) -> None:
    """Raise unless the arguments that both functions have fit each other."""
    checks.function("loss", loss, ("params",), "scalar")
    checks.sequence("directions", directions, "one or two, each shaped as params")
    validation.as_arrays("params", params)
    if len(directions) not in (1, 2):
        raise ValueError(f"directions: got {len(directions)}, expected 1 or 2")
    for i, direction in enumerate(directions):
        got, expected = _shapes(direction), _shapes(params)
        if got != expected:
            raise ValueError(f"directions[{i}]: got {got}, expected {expected}, as in params")


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: validation.as_array("directions", leaf).shape, tree)
