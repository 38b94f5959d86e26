"""Trees as index arrays, checked and joined. NumPy, on the host.

Axes: `n` nodes of a tree, `N` of all trees, `K` children of a node, `B` trees.
"""

from collections.abc import Sequence
from types import NoneType
from typing import Any, NamedTuple

import jax
import numpy as np

from gatedrnn._src.describe import shown
from gatedrnn._src.trees.flatten import flatten_tree


class Joined(NamedTuple):
    """The nodes of several trees, tree after tree."""

    children: np.ndarray  # [N, K], indexes among all nodes, −1: absent
    sizes: np.ndarray  # [B], nodes of each tree


def joined(trees: Sequence[Any], name: str = "trees") -> Joined:
    """Return the nodes of trees, each nested tuples or an index array `[n, K]`, as one array."""
    if not isinstance(trees, Sequence) or isinstance(trees, tuple | str):
        raise TypeError(f"{name}: got {shown(trees)}, expected a list of trees")
    arrays = [_of_tree(f"{name}[{i}]", tree) for i, tree in enumerate(trees)]
    sizes = np.array([len(array) for array in arrays], int)
    children = np.full((sizes.sum(), max([a.shape[1] for a in arrays], default=0)), -1)
    start = 0
    for array in arrays:
        rows = children[start : start + len(array), : array.shape[1]]
        rows[:] = np.where(array < 0, -1, array + start)
        start += len(array)
    return Joined(children, sizes)


def chosen(nodes: Joined, trees: np.ndarray) -> Joined:
    """Return the nodes of some of the trees, given by ascending numbers."""
    ends = np.cumsum(nodes.sizes)
    sizes, before = nodes.sizes[trees], (ends - nodes.sizes)[trees]
    shift = np.repeat(np.cumsum(sizes) - sizes - before, sizes)
    rows = np.arange(len(shift)) - shift
    children = nodes.children[rows]
    return Joined(np.where(children < 0, -1, children + shift[:, None]), sizes)


def _of_tree(name: str, tree: Any) -> np.ndarray:
    """Return the children of each node of one tree: nested tuples, a leaf, or an index array."""
    is_array = hasattr(tree, "__array__") and not isinstance(tree, np.generic)
    return (
        as_indexes(name, tree)
        if is_array or isinstance(tree, list | NoneType)
        else flatten_tree(tree)[0]
    )


def as_indexes(name: str, tree: Any) -> np.ndarray:
    """Return the children of each node of one tree, `[n, K]`, checked."""
    if isinstance(tree, tuple):
        return flatten_tree(tree)[0]
    if isinstance(tree, jax.core.Tracer):
        raise TypeError(
            f"{name}: got a traced array, expected one whose values are known: "
            "make a gr.forest outside jit and pass that in"
        )
    try:
        array = np.asarray(tree)
    except ValueError:  # a ragged list
        raise TypeError(
            f"{name}: got {shown(tree)}, expected nested tuples or an index array [n, K]"
        ) from None
    if array.ndim != 2 or not len(array):
        raise ValueError(
            f"{name}: got shape {array.shape}, expected nested tuples or an index array [n, K] "
            "with a row for each of n > 0 nodes"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: got dtype {array.dtype.name}, expected integers")
    _check_order(name, array)
    array = array.astype(int)
    _check_parents(name, array)
    return array


def _check_order(name: str, array: np.ndarray) -> None:
    """Raise unless every child is −1 or a node before its parent."""
    count = len(array)
    wrong = np.argwhere((array < -1) | (array >= np.arange(count)[:, None]))
    if not len(wrong):
        return
    node, place = map(int, wrong[0])
    child = int(array[node, place])
    what = "a forward reference: children stand before their parents"
    if child == node:
        what = "the node itself: a cycle"
    elif not -1 <= child < count:
        what = f"which is out of range for {count} nodes"
    raise ValueError(
        f"{name}[{node}, {place}]: got child {child}, {what}; expected -1 (absent) or an index "
        f"below {node}"
    )


def _check_parents(name: str, array: np.ndarray) -> None:
    """Raise unless every node but the last is the child of one other."""
    parents = np.bincount(array[array >= 0], minlength=len(array))
    if np.any(parents > 1):
        node = int(np.argmax(parents > 1))
        raise ValueError(
            f"{name}: got node {node} as a child {parents[node]} times, expected a tree, in which "
            "a node has one parent"
        )
    if np.any(parents[:-1] == 0):
        node = int(np.argmax(parents == 0))
        raise ValueError(
            f"{name}: got node {node} without a parent, expected one root, the last node, "
            f"{len(array) - 1}"
        )
