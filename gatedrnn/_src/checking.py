"""Compare a hand-derived backward rule with automatic differentiation and finite differences.

Axes: `T` time, `*B` any batch axes, `I` input features.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Cell, Route, rule_of
from gatedrnn._src.time.bptt import BPTT
from gatedrnn._src.time.unroll import trajectory
from gatedrnn._src.trees.base import State, TreeCell, places
from gatedrnn._src.trees.fold import fold_tree
from gatedrnn._src.trees.forest import Forest, forest
from gatedrnn._src.trees.indexes import joined

# the five-point formula's error is of order step⁴, its rounding of order ε / step
STEP = 1e-3
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


class RuleReport(NamedTuple):
    """The errors of a rule's gradients, each relative to the largest element of its leaf.

    Attributes:
      autodiff: for every leaf of the parameters, the inputs and the initial carry, by its path, the
        largest difference between the rule's gradient and autodiff's.
      differences: the same between the rule's derivative along a random direction of the leaf and
        finite differences; None where what was asked for is not the exact gradient.
      step: the largest difference between the carries that `cell.step` makes, one after another,
        and those that the rule's `project` and `recur` make.
    """

    autodiff: dict[str, float]
    differences: dict[str, float] | None
    step: float

    @property
    def largest(self) -> float:
        """The largest error against autodiff and of `step`; NaN if any is."""
        return float(np.max([self.step, *self.autodiff.values()]))

    @property
    def largest_difference(self) -> float | None:
        """The largest error against finite differences; NaN if any is."""
        return None if self.differences is None else float(np.max([*self.differences.values()]))

    def __str__(self) -> str:
        """A table with a line for each leaf."""
        lines = [f"{'gradient of':<34}{'vs autodiff':>14}{'vs differences':>18}"]
        for name, error in self.autodiff.items():
            difference = "-" if self.differences is None else f"{self.differences[name]:.1e}"
            lines.append(f"{name:<34}{error:>14.1e}{difference:>18}")
        return "\n".join([*lines, f"{'step, carry by carry':<34}{self.step:>14.1e}"])


def check_rule(
    cell: Cell,
    *,
    in_features: int = 3,
    steps: int = 5,
    batch_shape: tuple[int, ...] = (2,),
    bptt: BPTT = BPTT(),
    seed: int = 0,
) -> RuleReport:
    """Compare the hand-derived rule of `cell` with autodiff, in float64 whatever the configuration.

    Parameters, inputs `[T, *B, I]` and initial carry are random; the loss is a random linear
    function of the outputs and of the carry of every step.

    Args:
      cell: a cell with a `rule`.
      in_features: `I`.
      steps: `T`.
      batch_shape: `*B`.
      bptt: how the backward pass runs (its `rule` is not looked at).
      seed: of the random values.

    Returns:
      The error of each gradient. For an exact rule those against autodiff are near 1e-15 and stay
      below 1e-10; finite differences agree to about 1e-9.

    Raises:
      ValueError: a cell without a rule, or sizes below 1.
    """
    validation.check_cell(cell)
    checks.size("in_features", in_features)
    checks.size("steps", steps)
    if rule_of(cell) is None:
        raise ValueError(f"cell: got {cell!r}, expected a cell with a rule")
    with jax.enable_x64(True):
        shapes = {
            "params": jax.eval_shape(
                lambda: cell.init(jax.random.key(0), in_features, jnp.float64)
            ),
            "xs": jax.ShapeDtypeStruct((steps, *batch_shape, in_features), jnp.float64),
            "carry": jax.eval_shape(lambda: cell.carry(batch_shape, jnp.float64)),
        }
    exact = bptt.truncate is None and bptt.clip is None and not bptt.cell_path_only
    reached, of_step = partial(_reached, cell, bptt), partial(_error_of_step, cell)
    return report(shapes, reached, of_step, exact=exact, seed=seed)


def report(
    shapes: dict,
    reached: Callable[[str, dict], Any],
    error_of_step: Callable[[dict, Any], Array],
    *,
    exact: bool,
    seed: int,
) -> RuleReport:
    """Measure the gradients of all that a loss can reach, `reached(rule, point)`.

    The point is random, of the `shapes` given; `error_of_step(point, reached)` is that of a step by
    itself; where the gradient is not `exact`, differences are left out.
    """
    noise = np.random.default_rng(seed)
    with jax.enable_x64(True):
        point, along = _normal(noise, shapes), _normal(noise, shapes)
        weights = _normal(noise, jax.eval_shape(partial(reached, "hand"), point))
        measure = jax.jit(partial(_errors, reached, error_of_step))
        # it runs once: optimise it little, and compile it twice as fast
        little: dict[str, Any] = {"xla_backend_optimization_level": 0}
        arguments = (point, _moved(point, along), along, weights)
        quickly = measure.lower(*arguments).compile(little)
        by_autodiff, by_differences, step = quickly(*arguments)
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree.leaves_with_path(point)
    ]
    return RuleReport(
        autodiff=dict(zip(names, map(float, by_autodiff), strict=True)),
        differences=dict(zip(names, map(float, by_differences), strict=True)) if exact else None,
        step=float(step),
    )


def _normal(noise: np.random.Generator, tree: Any) -> Any:
    """Normal numbers shaped as `tree`, of half the usual size, so that few gates saturate."""
    return jax.tree.map(lambda leaf: 0.5 * noise.normal(size=leaf.shape), tree)


def _reached(cell: Cell, bptt: BPTT, rule: Route, point: dict) -> Any:
    """All that a loss can reach: the carry and the output of every step."""
    bptt = dataclasses.replace(bptt, rule=rule)
    return trajectory(cell, point["params"], point["xs"], point["carry"], bptt=bptt)


def _moved(point: dict, along: dict) -> dict:
    """`point`, with one leaf at a time moved along its direction, by each step of the stencil."""
    leaves, structure = jax.tree.flatten(point)
    moved = [
        jax.tree.unflatten(structure, [*leaves[:i], leaf + move * STEP * way, *leaves[i + 1 :]])
        for i, (leaf, way) in enumerate(zip(leaves, jax.tree.leaves(along), strict=True))
        for move, _ in STENCIL
    ]
    return jax.tree.map(lambda *copies: np.stack(copies), *moved)


def _errors(
    reached: Callable[[str, dict], Any],
    error_of_step: Callable[[dict, Any], Array],
    point: dict,
    moved: dict,
    along: dict,
    weights: Any,
) -> tuple[list[Array], list[Array], Array]:
    """The error of each leaf's gradient, against autodiff and differences, and of `step`."""

    def loss(rule: str, point: dict) -> Array:
        products = jax.tree.map(jnp.vdot, reached(rule, point), weights)
        return jnp.sum(jnp.stack(jax.tree.leaves(products)))

    gradients = jax.tree.leaves(jax.grad(partial(loss, "hand"))(point))
    by_autodiff = jax.tree.leaves(jax.grad(partial(loss, "autodiff"))(point))
    losses = jax.vmap(partial(loss, "hand"))(moved).reshape(len(gradients), len(STENCIL))
    slopes = losses @ jnp.array([weight for _, weight in STENCIL]) / STEP
    return (
        [error(g, a) for g, a in zip(gradients, by_autodiff, strict=True)],
        [
            error(jnp.vdot(g, way), slope, scale=jnp.linalg.norm(g * way))
            for g, way, slope in zip(gradients, jax.tree.leaves(along), slopes, strict=True)
        ],
        error_of_step(point, reached("hand", point)),
    )


def _error_of_step(cell: Cell, point: dict, reached: Any) -> Array:
    """The largest error of any carry or output that `step` makes."""
    carry, made = point["carry"], []
    for x in point["xs"]:
        carry, y = cell.step(point["params"], carry, x)
        made.append((carry, y))
    stacked = jax.tree.map(lambda *steps: jnp.stack(steps), *made)
    errors = jax.tree.map(error, stacked, reached)
    return jnp.max(jnp.stack(jax.tree.leaves(errors)))


def error(got: Array, expected: Array, scale: Array | None = None) -> Array:
    """The largest difference, relative to the largest element (0 where both are 0 throughout)."""
    scale = jnp.max(jnp.abs(expected)) if scale is None else scale
    return jnp.max(jnp.abs(got - expected)) / jnp.where(scale == 0, 1, scale)


def check_tree_rule(
    cell: TreeCell,
    *,
    in_features: int = 3,
    trees: Sequence[Any] | None = None,
    seed: int = 0,
) -> RuleReport:
    """`gr.check_rule` for a cell of trees, in float64 whatever the configuration.

    Parameters and inputs `[N, I]` are random; the loss is a random linear function of the states of
    all nodes. The report's `step` is the largest difference between those and the states that
    `cell.compose` makes, node by node.

    Args:
      cell: a tree cell with a `rule`.
      in_features: `I`.
      trees: what to run over, as in `gr.forest`; None: small trees that use every place of the
        cell (3 where it takes any number), with children absent here and there.
      seed: of the random values.

    Returns:
      The error of each gradient. For an exact rule those against autodiff are near 1e-15 and stay
      below 1e-10; finite differences agree to about 1e-9.

    Raises:
      ValueError: a cell without a rule, sizes below 1, and what `gr.forest` raises.
    """
    validation.check_cell(cell, ("init", "state", "compose"), "gr.TreeLSTM(256)")
    checks.size("in_features", in_features)
    if rule_of(cell) is None:
        raise ValueError(f"cell: got {cell!r}, expected a cell with a rule")
    trees = _trees(places(cell) or 3) if trees is None else trees
    laid_out, nodes = forest(trees), joined(trees)
    with jax.enable_x64(True):
        shapes = {
            "params": jax.eval_shape(
                lambda: cell.init(jax.random.key(0), in_features, jnp.float64)
            ),
            "xs": jax.ShapeDtypeStruct((len(nodes.children), in_features), jnp.float64),
        }
    reached = partial(_tree_reached, cell, laid_out)
    return report(
        shapes, reached, partial(_error_of_compose, cell, nodes.children), exact=True, seed=seed
    )


def _trees(count: int) -> list[tuple]:
    """Three levels with all places in use, then one child at a time, and a single node."""
    full = ((),) * count
    alone = [(None,) * k + ((),) + (None,) * (count - 1 - k) for k in range(count)]
    return [(full, *full[1:]), tuple(alone), ()]


def _tree_reached(cell: TreeCell, laid_out: Forest, rule: Route, point: dict) -> State:
    return fold_tree(cell, point["params"], point["xs"], laid_out, rule=rule)[1]


def _error_of_compose(cell: TreeCell, children: Any, point: dict, reached: State) -> Array:
    """The largest error of any state that `compose` makes."""
    states = cell.state((len(children) + 1,), jnp.float64)  # the last: of the child −1
    for j, below in enumerate(children):
        of_children = jax.tree.map(lambda v, below=below: v[below], states)
        new = cell.compose(point["params"], of_children, point["xs"][j])
        states = jax.tree.map(lambda v, w, j=j: v.at[j].set(w), states, new)
    errors = jax.tree.map(lambda v, w: error(v[:-1], w), states, reached)
    return jnp.max(jnp.stack(jax.tree.leaves(errors)))
