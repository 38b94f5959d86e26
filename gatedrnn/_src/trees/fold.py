"""A cell over a batch of trees: the public function of the tree engine.

Axes: `N` nodes, `B` trees, `*B` any batch axes, `K` children of a node, `I` input features, `D`
shards.
"""

from typing import Any

import numpy as np
from jax import Array

from gatedrnn._src import checks, validation
from gatedrnn._src.base import C, P, Route, rule_of
from gatedrnn._src.trees import shards
from gatedrnn._src.trees.base import TreeCell, places
from gatedrnn._src.trees.forest import Forest
from gatedrnn._src.trees.forest import forest as forest_of
from gatedrnn._src.trees.indexes import as_indexes
from gatedrnn._src.trees.legal import check_forest


def fold_tree(
    cell: TreeCell[P, C],
    params: P,
    xs: Array,
    children: Forest | np.ndarray,
    *,
    rule: Route | None = None,
) -> tuple[C, C]:
    """Compose every node of a batch of trees from its children, leaves first.

    The number of sequential steps is the height of the tallest tree. The gradient is the cell's
    hand-derived rule where it has one; the forward pass then saves nothing but the states.
    For more batch axes (the same trees with other inputs, an ensemble of parameters, forests of
    equal sizes) use `jax.vmap`.

    A forest with shards may lie on several devices, divided along its axis `D` together with `xs`
    (see `gr.forest`). Each device then computes its own shards; the gradients of the parameters
    are added up once, outside the loops.

    Args:
      cell: any tree cell; hashable.
      params: its parameters, in the dtype of `xs`, or float32 where `xs` is a 16-bit float.
      xs: `[N, I]`, the input of every node in the order of the forest (see `gr.Forest`); zeros for
        a node without one. Rows of padding are not read and may hold NaN. `[D, N, I]` for a forest
        with shards.
      children: a `gr.forest`, or the index array `[N, K]` of one tree, whose values must be known:
        under `jit`, pass a forest.
      rule: None takes the cell's hand-derived rule if it has one and autodiff if not; `"hand"`
        insists on the rule; `"autodiff"` differentiates the loop itself, which `jax.jvp` and
        `jax.jacfwd` straight through need.

    Returns:
      The states of the roots, `[B, ...]`, one for each tree, and of all nodes, `[N, ...]`; zeros
      for padding. With the axis `D` in front for a forest with shards.

    Raises:
      ValueError: a shape or an option that does not fit, more children than the cell has places,
        what `gr.forest` raises of an index array, or a forest that `gr.forest` would not make,
        where its values are known; a mesh with explicit axes that divides other axes than `D`.
      TypeError: a dtype that does not fit, or a value that is no tree cell.

    Example:
      >>> cell = gr.TreeLSTM(3)
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> trees = [(("the", "cat"), "sat"), ("it", "sat")]
      >>> forest = gr.forest(trees)  # on the host, once for each batch
      >>> words = [gr.flatten_tree(tree)[1] for tree in trees]  # None at inner nodes
      >>> vectors = {None: (0, 0), "the": (0, 1), "cat": (1, 0), "sat": (1, 1), "it": (2, 0)}
      >>> xs = forest.place([[vectors[word] for word in tree] for tree in words])
      >>> roots, states = gr.fold_tree(cell, params, jnp.asarray(xs, "float32"), forest)
      >>> xs.shape, roots.h.shape, states.h.shape
      ((8, 2), (2, 3), (8, 3))
    """
    validation.check_cell(cell, ("init", "state", "compose"), "gr.TreeLSTM(256)")
    checks.option("rule", rule, Route | None)
    if rule == "hand" and rule_of(cell) is None:
        raise ValueError(f"rule: got 'hand', expected None or 'autodiff': {cell!r} has no rule")
    if isinstance(children, Forest):
        check_forest("children", children)
    forest = children if isinstance(children, Forest) else _one_tree(children)
    xs = validation.as_array("xs", xs, "an array [N, I]")
    if xs.ndim < 1 or xs.shape[:-1] != forest.tree.shape:
        raise ValueError(f"xs: got shape {xs.shape}, expected {_shape_of_xs(forest)}")
    validation.check_features("xs", xs)
    validation.check_params(cell, params, xs)
    most, given = places(cell), forest.children.shape[-1]
    if most is not None and given > most:
        raise ValueError(
            f"children: got nodes of up to {given} children, expected at most {most} for {cell!r}"
        )
    by_hand = rule != "autodiff" and rule_of(cell) is not None
    return shards.run(cell, by_hand, params, xs, forest)


def _shape_of_xs(forest: Forest) -> str:
    nodes = f"N = {forest.sizes.nodes} nodes"
    if forest.shards is None:
        return f"[N, I] with {nodes}"
    return f"[D, N, I] with D = {forest.shards} shards of {nodes}"


def _one_tree(children: Any) -> Forest:
    """Return the forest of one index array."""
    if isinstance(children, list):
        raise TypeError("children: got a list, expected a gr.forest or one index array [N, K]")
    return forest_of([as_indexes("children", children)])
