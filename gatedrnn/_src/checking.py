"""Compare a hand-derived backward rule with automatic differentiation and finite differences.

Axes: `T` time, `*B` any batch axes, `I` input features, `N` nodes of trees.
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
from gatedrnn._src.describe import documented
from gatedrnn._src.time.bptt import BPTT, check_bptt
from gatedrnn._src.time.unroll import trajectory
from gatedrnn._src.trees.base import State, TreeCell, places
from gatedrnn._src.trees.fold import fold_tree
from gatedrnn._src.trees.forest import Forest, forest
from gatedrnn._src.trees.indexes import joined

# the five-point formula's error is of order step⁴, its rounding of order ε / step
STEP = 1e-3
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


@documented
class RuleReport(NamedTuple):
    """The errors of a rule's gradients, each relative to the largest element of its leaf.

    Attributes:
      autodiff: the largest difference between the gradients by the rule and by autodiff, for each
        leaf among parameters, inputs and initial carry, by its path.
      differences: the difference between the derivatives along a random direction by the rule and
        by finite differences, for the same leaves; None where `bptt` asks for an inexact gradient.
      step: the largest difference between the carries that `cell.step` makes, one after another,
        and the carries that the rule's `project` and `recur` make.
    """

    autodiff: dict[str, float]
    differences: dict[str, float] | None
    step: float

    @property
    def largest(self) -> float:
        """The largest error against autodiff or in `step`; NaN where any of these is NaN."""
        return float(np.max([self.step, *self.autodiff.values()]))

    @property
    def largest_difference(self) -> float | None:
        """The largest error against finite differences; NaN where any of these is NaN."""
        return None if self.differences is None else float(np.max([*self.differences.values()]))

    def __str__(self) -> str:
        """Return a table with a line for each leaf."""
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
    """Compare the hand-derived rule of `cell` with autodiff, always in float64.

    Parameters, inputs `[T, *B, I]` and initial carry are random; the loss is a random linear
    function of the outputs and carries of all steps.

    Args:
      cell: a cell with a `rule`.
      in_features: `I`.
      steps: `T`.
      batch_shape: `*B`.
      bptt: how the backward pass runs; its field `rule` is ignored.
      seed: the seed of the random values.

    Returns:
      The error of each gradient. Errors against autodiff are near 1e-15 for an exact rule, and stay
      below 1e-10; finite differences agree to about 1e-9.

    Raises:
      ValueError: a cell without a rule, or sizes below 1.

    Example:
      >>> report = gr.check_rule(gr.Elman(2), in_features=2, steps=2)
      >>> sorted(report.autodiff)
      ['carry.h', 'params.bias', 'params.kernel', 'params.recurrent_kernel', 'xs']
      >>> report.largest < 1e-10
      True
    """
    validation.check_cell(cell)
    checks.size("in_features", in_features)
    checks.size("steps", steps)
    checks.batch_shape("batch_shape", batch_shape)
    checks.count("seed", seed)
    check_bptt(cell, bptt)
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
    """Measure the errors of a rule's gradients at a random point.

    The point has the given `shapes`. `reached(rule, point)` returns all that a loss can reach, and
    `error_of_step(point, reached)` the error of single steps. Where the gradient is not `exact`,
    finite differences are left out.
    """
    noise = np.random.default_rng(seed)
    with jax.enable_x64(True):
        point, directions = _normal(noise, shapes), _normal(noise, shapes)
        weights = _normal(noise, jax.eval_shape(partial(reached, "hand"), point))
        measure: Any = jax.jit(partial(_errors, reached, error_of_step))
        arguments = (point, _perturbed(point, directions), directions, weights)
        if not getattr(jax.config, "jax_disable_jit", False):
            # the program runs once: without optimisations it compiles twice as fast
            options: dict[str, Any] = {"xla_backend_optimization_level": 0}
            measure = measure.lower(*arguments).compile(options)
        by_autodiff, by_differences, step = measure(*arguments)
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
    """Return normal numbers shaped as `tree`, half the usual size, so that few gates saturate."""
    return jax.tree.map(lambda leaf: 0.5 * noise.normal(size=leaf.shape), tree)


def _reached(cell: Cell, bptt: BPTT, rule: Route, point: dict) -> Any:
    """All that a loss can reach: the carry and the output of every step."""
    bptt = dataclasses.replace(bptt, rule=rule)
    return trajectory(cell, point["params"], point["xs"], point["carry"], bptt=bptt)


def _perturbed(point: dict, directions: dict) -> dict:
    """Return copies of `point`, stacked: each leaf in turn, moved by each step of the stencil."""
    leaves, structure = jax.tree.flatten(point)
    perturbed = [
        jax.tree.unflatten(
            structure, [*leaves[:i], leaf + steps * STEP * direction, *leaves[i + 1 :]]
        )
        for i, (leaf, direction) in enumerate(zip(leaves, jax.tree.leaves(directions), strict=True))
        for steps, _ in STENCIL
    ]
    return jax.tree.map(lambda *copies: np.stack(copies), *perturbed)


def _errors(
    reached: Callable[[str, dict], Any],
    error_of_step: Callable[[dict, Any], Array],
    point: dict,
    perturbed: dict,
    directions: dict,
    weights: Any,
) -> tuple[list[Array], list[Array], Array]:
    """Return the errors of each gradient against autodiff and differences, and of `step`."""

    def loss(rule: str, point: dict) -> Array:
        products = jax.tree.map(jnp.vdot, reached(rule, point), weights)
        return jnp.sum(jnp.stack(jax.tree.leaves(products)))

    gradients = jax.tree.leaves(jax.grad(partial(loss, "hand"))(point))
    by_autodiff = jax.tree.leaves(jax.grad(partial(loss, "autodiff"))(point))
    losses = jax.vmap(partial(loss, "hand"))(perturbed).reshape(len(gradients), len(STENCIL))
    slopes = losses @ jnp.array([weight for _, weight in STENCIL]) / STEP
    return (
        [error(g, a) for g, a in zip(gradients, by_autodiff, strict=True)],
        [
            error(jnp.vdot(g, direction), slope, scale=jnp.linalg.norm(g * direction))
            for g, direction, slope in zip(
                gradients, jax.tree.leaves(directions), slopes, strict=True
            )
        ],
        error_of_step(point, reached("hand", point)),
    )


def _error_of_step(cell: Cell, point: dict, reached: Any) -> Array:
    """Return the largest error of any carry or output that `cell.step` makes."""
    carry, steps = point["carry"], []
    for x in point["xs"]:
        carry, y = cell.step(point["params"], carry, x)
        steps.append((carry, y))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *steps)
    errors = jax.tree.map(error, stacked, reached)
    return jnp.max(jnp.stack(jax.tree.leaves(errors)))


def error(got: Array, expected: Array, scale: Array | None = None) -> Array:
    """Return the largest difference, relative to `scale` (None: the largest expected element).

    Two arrays of zeros have no error.
    """
    scale = jnp.max(jnp.abs(expected)) if scale is None else scale
    return jnp.max(jnp.abs(got - expected)) / jnp.where(scale == 0, 1, scale)


def check_tree_rule(
    cell: TreeCell,
    *,
    in_features: int = 3,
    trees: Sequence[Any] | None = None,
    seed: int = 0,
) -> RuleReport:
    """Compare the hand-derived rule of a cell of trees with autodiff, as `gr.check_rule` does.

    Parameters and inputs `[N, I]` are random; the loss is a random linear function of the states of
    all nodes. The report's `step` is the largest difference between these states and the states
    that `cell.compose` makes, node by node.

    Args:
      cell: a tree cell with a `rule`.
      in_features: `I`.
      trees: the trees to run over, as in `gr.forest`; None: small trees that use every place of the
        cell (3 where the cell takes any number), some with absent children.
      seed: the seed of the random values.

    Returns:
      The error of each gradient. Errors against autodiff are near 1e-15 for an exact rule, and stay
      below 1e-10; finite differences agree to about 1e-9.

    Raises:
      ValueError: a cell without a rule, sizes below 1, and the cases of `gr.forest`.

    Example:
      >>> report = gr.check_tree_rule(gr.TreeRNN(2), in_features=2, trees=[((), ())])
      >>> report.largest < 1e-10, report.largest_difference < 1e-6
      (True, True)
    """
    validation.check_cell(cell, ("init", "state", "compose"), "gr.TreeLSTM(256)")
    checks.size("in_features", in_features)
    checks.count("seed", seed)
    if rule_of(cell) is None:
        raise ValueError(f"cell: got {cell!r}, expected a cell with a rule")
    trees = _small_trees(places(cell) or 3) if trees is None else trees
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


def _small_trees(count: int) -> list[tuple]:
    """Return three trees: one with all places in use, one with one child a node, a single node."""
    full = ((),) * count
    alone = [(None,) * k + ((),) + (None,) * (count - 1 - k) for k in range(count)]
    return [(full, *full[1:]), tuple(alone), ()]


def _tree_reached(cell: TreeCell, laid_out: Forest, rule: Route, point: dict) -> State:
    return fold_tree(cell, point["params"], point["xs"], laid_out, rule=rule)[1]


def _error_of_compose(cell: TreeCell, children: Any, point: dict, reached: State) -> Array:
    """Return the largest error of any state that `cell.compose` makes."""
    states = cell.state((len(children) + 1,), jnp.float64)  # the last: of an absent child, −1
    for j, of_node in enumerate(children):
        child_states = jax.tree.map(lambda v, index=of_node: v[index], states)
        new = cell.compose(point["params"], child_states, point["xs"][j])
        states = jax.tree.map(lambda v, w, j=j: v.at[j].set(w), states, new)
    errors = jax.tree.map(lambda v, w: error(v[:-1], w), states, reached)
    return jnp.max(jnp.stack(jax.tree.leaves(errors)))
