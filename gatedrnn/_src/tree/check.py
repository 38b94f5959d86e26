"""Compare the backward rule of a tree cell with automatic and finite differences.

Axes: `N` nodes, `I` input features.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src import checks, inputs
from gatedrnn._src.check_rule import RuleReport, error, report
from gatedrnn._src.rule import rule_of
from gatedrnn._src.tree.cell import State, TreeCell, places
from gatedrnn._src.tree.fold import fold_tree
from gatedrnn._src.tree.forest import Forest, forest
from gatedrnn._src.tree.indexes import joined


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
    inputs.check_cell(cell, ("init", "state", "compose"), "gr.TreeLSTM(256)")
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
    reached = partial(_reached, cell, laid_out)
    return report(
        shapes, reached, partial(_error_of_compose, cell, nodes.children), exact=True, seed=seed
    )


def _trees(count: int) -> list[tuple]:
    """Three levels with all places in use, then one child at a time, and a single node."""
    full = ((),) * count
    alone = [(None,) * k + ((),) + (None,) * (count - 1 - k) for k in range(count)]
    return [(full, *full[1:]), tuple(alone), ()]


def _reached(cell: TreeCell, laid_out: Forest, rule: str, point: dict) -> State:
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
