"""Checks of a forest that somebody may have changed after `gr.forest` made it. NumPy, on the host.

Axes: `B` trees, `N` nodes, `L` leaves, `S` steps, `W` nodes of a step, `K` children of a node, `D`
shards.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gatedrnn._src import validation

SHAPES = {
    "tree": "N",
    "position": "N",
    "roots": "B",
    "slots": "N",
    "leaves": "L",
    "inner": "SW",
    "children": "SWK",
    "leaf_parents": "L",
    "inner_parents": "SW",
}


def check_forest(name: str, forest: Any) -> None:
    """Raise unless the arrays of `forest` go together: shapes, dtypes and, where known, values."""
    sizes: dict[str, int] = {}
    sharded = getattr(forest.tree, "ndim", 1) > 1
    for field, axes in SHAPES.items():
        axes = "D" + axes if sharded else axes
        array = getattr(forest, field)
        shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
        expected = f"int32 [{', '.join(axes)}], as gr.forest makes it"
        if shape is None or dtype != np.int32:
            got = type(array).__name__ if shape is None else f"dtype {dtype}"
            raise TypeError(f"{name}.{field}: got {got}, expected {expected}")
        if len(shape) != len(axes):
            raise ValueError(f"{name}.{field}: got shape {shape}, expected {expected}")
        wanted = [sizes.setdefault(axis, size) for axis, size in zip(axes, shape, strict=True)]
        if list(shape) != wanted:
            raise ValueError(
                f"{name}.{field}: got shape {shape}, expected {tuple(wanted)}, beside the others"
            )
    known = {field: validation.concrete(getattr(forest, field)) for field in SHAPES}
    if all(array is not None for array in known.values()):
        _check_numbers(name, forest._replace(**known))


def _check_numbers(name: str, forest: Any) -> None:
    """Raise unless every tree is in one shard, and every shard is legal."""
    if forest.shards is None:
        _check_values(partial(_require, name, ()), forest, forest.sizes.trees)
        return
    of_shards = [np.unique(shard[shard >= 0]) for shard in forest.tree]
    trees = np.sort(np.concatenate([*of_shards, np.empty(0, int)]))
    for i in range(forest.shards):
        shard = type(forest)(*(array[i] for array in forest))
        _check_values(partial(_require, name, (i,)), shard, len(trees))
    if np.any(trees != np.arange(len(trees))):
        raise ValueError(
            f"{name}.tree: got the trees {trees.tolist()} in {forest.shards} shards, expected "
            f"those from 0 to {len(trees) - 1}, each in one shard, as gr.forest makes it"
        )


def _require(
    name: str, shard: tuple, field: str, array: np.ndarray, legal: np.ndarray, expected: str
) -> None:
    """Raise for the first value of the field that is not legal."""
    wrong = np.argwhere(~legal)
    if len(wrong):
        index = tuple(map(int, wrong[0]))
        raise ValueError(
            f"{name}.{field}{[*shard, *index]}: got {array[index]}, expected {expected}, as "
            "gr.forest makes it"
        )


def _check_values(require: Callable[..., None], forest: Any, batch: int) -> None:
    """Raise unless each tree, of a `batch` of them, is whole, in its place, and children first."""
    sizes = forest.sizes
    absent, no_parent = sizes.leaves + sizes.steps * sizes.width, forest.children.size
    for field, least, most in (
        ("tree", -1, batch - 1),
        ("roots", 0, sizes.nodes),
        ("slots", 0, absent),
        ("leaves", 0, sizes.nodes),
        ("inner", 0, sizes.nodes),
        ("children", 0, absent),
        ("leaf_parents", 0, no_parent),
        ("inner_parents", 0, no_parent),
    ):
        array = getattr(forest, field)
        legal = (least <= array) & (array <= most)
        require(field, array, legal, f"a number from {least} to {most}")

    # the trees follow one another, padding comes last
    is_node = forest.tree >= 0
    numbers, which, of_trees = np.unique(
        forest.tree[is_node], return_inverse=True, return_counts=True
    )
    legal = ~is_node
    legal[is_node] = which < sizes.trees
    require("tree", forest.tree, legal, f"at most {sizes.trees} trees, the number of roots")
    trees = np.repeat(np.arange(len(numbers)), of_trees)
    trees = np.concatenate([trees, np.full(sizes.nodes - len(trees), -1)])
    of_trees = np.pad(of_trees, (0, sizes.trees - len(of_trees)))
    ends = np.cumsum(of_trees)
    starts = np.concatenate([ends - of_trees, [0]])
    positions = np.arange(sizes.nodes) - starts[trees]
    roots = np.where(of_trees > 0, ends - 1, sizes.nodes)
    in_order = np.concatenate([numbers, [-1]])[trees]
    require("tree", forest.tree, forest.tree == in_order, "tree after tree, and -1 for padding")
    expected = "the number of the node in its tree, and -1 for padding"
    positions = np.where(is_node, positions, -1)
    require("position", forest.position, forest.position == positions, expected)
    expected = f"the last node of each tree, and {sizes.nodes} for padding"
    require("roots", forest.roots, forest.roots == roots, expected)

    # every node has a slot, and every slot that is no padding a node
    in_slots = np.concatenate([forest.leaves, forest.inner.ravel(), [sizes.nodes]])
    numbers = np.where(is_node, np.arange(sizes.nodes), sizes.nodes)
    expected = f"the slot of the node among leaves and inner, and {absent} for padding"
    legal = (in_slots[forest.slots] == numbers) & (is_node | (forest.slots == absent))
    require("slots", forest.slots, legal, expected)
    back = np.concatenate([forest.slots, [absent]])[in_slots]
    legal = (in_slots == sizes.nodes) | (back == np.arange(absent + 1))
    expected = f"a node in its only slot, and {sizes.nodes} for padding"
    require("leaves", forest.leaves, legal[: sizes.leaves], expected)
    require("inner", forest.inner, legal[sizes.leaves : -1].reshape(forest.inner.shape), expected)

    # children are nodes of the same tree, in slots that are computed before
    of_slots = np.concatenate([forest.tree, [-1]])[in_slots]  # the tree of each
    first = sizes.leaves + sizes.width * np.arange(sizes.steps).reshape(-1, 1, 1)
    none = forest.children == absent
    parents = of_slots[sizes.leaves : -1].reshape(*forest.inner.shape, 1)
    of_children = of_slots[forest.children]
    legal = none | ((forest.children < first) & (of_children >= 0) & (of_children == parents))
    expected = f"the slot of a node of the same tree in an earlier step, or {absent} for no child"
    require("children", forest.children, legal, expected)

    # each but the roots has one parent, which it knows
    children, places = forest.children.ravel(), np.flatnonzero(~none)
    counts = np.bincount(children[places], minlength=absent + 1)
    legal = none | (counts[forest.children] == 1)
    require("children", forest.children, legal, "each child once, of one parent")
    of_parents = np.full(absent + 1, no_parent)
    of_parents[children[places]] = places
    is_root = np.isin(in_slots, roots[roots < sizes.nodes])
    for field, own in (
        ("leaf_parents", slice(sizes.leaves)),
        ("inner_parents", slice(sizes.leaves, absent)),
    ):
        array = getattr(forest, field)
        expected = f"the place of the node with its parent, and {no_parent} without one"
        legal = (array == of_parents[own].reshape(array.shape)) & (
            (array < no_parent) != (is_root | (in_slots == sizes.nodes))[own].reshape(array.shape)
        )
        require(field, array, legal, expected)
