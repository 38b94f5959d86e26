"""The loss over a line or a plane of parameters, and gradient descent on it.

Axes: `D` directions (1 or 2), `N_1`, `N_2` points along each, `S` steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gatedrnn._src import checks
from gatedrnn._src.base import Params

POINTS_AT_ONCE = 64  # how many points of a slice are computed side by side


class LossSlice(NamedTuple):
    """The loss on a grid of points `params + Σ_d u_d direction_d`.

    Attributes:
      coordinates: for each direction its `u_d`, `[N_d]`.
      losses: `[N_1]`, or `[N_1, N_2]`.
    """

    coordinates: tuple[Array, ...]
    losses: Array


class DescentPath(NamedTuple):
    """Gradient descent within a line or plane of parameters; index 0 is the start.

    Attributes:
      coordinates: `[S + 1, D]`.
      losses: `[S + 1]`.
      gradient_norms: before clipping, `[S + 1]`.
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

    Recurrent networks have cliffs there, where the gradient explodes, between plateaus, where it
    vanishes (Doya 1993; Pascanu et al. 2013).

    Args:
      loss: `params -> scalar`.
      params: the point with coordinates 0.
      directions: one or two, each shaped as `params`.
      coordinates: for each direction, `[N_d]`, where to look.

    Returns:
      The losses and where they are.

    Raises:
      ValueError: directions or coordinates of another number, structure or shape.
    """
    _check_directions(params, directions)
    if len(coordinates) != len(directions):
        raise ValueError(
            f"coordinates: got {len(coordinates)}, expected {len(directions)}, as directions"
        )
    axes = tuple(map(jnp.asarray, coordinates))
    for axis in axes:
        if axis.ndim != 1:
            raise ValueError(f"coordinates: got shape {axis.shape}, expected [N] for a direction")
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
    shape = points.shape[:-1]
    losses = lax.map(
        lambda point: _scalar(loss(_at(params, directions, point))),
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
    """Gradient descent over the coordinates of a slice, so that the path lies on its surface.

    With `clip`, a gradient whose norm is larger is scaled down to that norm: at a cliff the step
    keeps its direction, and not its length (Pascanu et al. 2013, algorithm 1).

    Args:
      loss: `params -> scalar`.
      params: the point with coordinates 0.
      directions: one or two, each shaped as `params`.
      start: `[D]`, coordinates.
      learning_rate: `α` of `u ← u − α ∂J/∂u`.
      steps: `S`.
      clip: the largest norm of `∂J/∂u`, or None.

    Returns:
      The coordinates, losses and gradient norms before each step, and after the last.

    Raises:
      ValueError: directions or a start that do not fit, or numbers out of range.
    """
    _check_directions(params, directions)
    start = jnp.asarray(start)
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
            lambda point: _scalar(loss(_at(params, directions, point)))
        )(point)
        norm = jnp.linalg.norm(gradient)
        if clip is not None:
            gradient = gradient * (clip / jnp.maximum(norm, clip))
        return point - learning_rate * gradient, DescentPath(point, value, norm)

    return lax.scan(step, start, length=steps + 1)[1]


def _at(params: Params, directions: Sequence[Params], point: Array) -> Params:
    def move(leaf: Array, *ways: Array) -> Array:
        leaf = jnp.asarray(leaf)
        for u, way in zip(point, ways, strict=True):
            leaf = leaf + u.astype(leaf.dtype) * jnp.asarray(way, leaf.dtype)
        return leaf

    return jax.tree.map(move, params, *directions)


def _scalar(value: Array) -> Array:
    if jnp.shape(value) != ():
        raise ValueError(f"loss: got a value of shape {jnp.shape(value)}, expected a scalar")
    return value


def _check_directions(params: Params, directions: Sequence[Params]) -> None:
    if len(directions) not in (1, 2):
        raise ValueError(f"directions: got {len(directions)}, expected 1 or 2")
    for i, direction in enumerate(directions):
        got, expected = _shapes(direction), _shapes(params)
        if got != expected:
            raise ValueError(f"directions[{i}]: got {got}, expected {expected}, as in params")


def _shapes(tree: Any) -> Any:
    return jax.tree.map(np.shape, tree)
