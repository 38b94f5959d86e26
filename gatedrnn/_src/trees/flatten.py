"""Nested tuples as index arrays. Plain Python and NumPy, on the host.

Axes: `n` nodes of a tree, `K` children of a node.
"""

from typing import Any

import numpy as np

from gatedrnn._src import checks


def flatten_tree(tree: Any, *, labelled: bool = False) -> tuple[np.ndarray, list]:
    """Return the index array of nested tuples, the children of each node, and the labels of nodes.

    Nodes are numbered children first, left to right (post-order), so that the root is the last.

    Args:
      tree: a tuple of children, each a tree; None for a child that is absent from its place. Any
        value that is not a tuple is a leaf and its own label.
      labelled: every tuple is `(label, *children)` instead.

    Returns:
      `children [n, K]`, int32, −1 where there is none, and a list of `n` labels, None where a node
      has none. `K` is the largest number of children.

    Raises:
      TypeError: a list, which is no tree and hardly a label, or None for the whole tree.
      ValueError: an empty tuple where every tuple begins with a label.

    Example:
      >>> children, labels = gr.flatten_tree((("the", "cat"), "sat"))
      >>> children.tolist()
      [[-1, -1], [-1, -1], [0, 1], [-1, -1], [2, 3]]
      >>> labels
      ['the', 'cat', None, 'sat', None]
      >>> gr.flatten_tree(("and", "x", ("not", "y")), labelled=True)[1]
      ['x', 'y', 'not', 'and']
    """
    checks.flag("labelled", labelled)
    if tree is None:
        raise TypeError("tree: got None, expected nested tuples, of at least one node")
    rows: list[list[int]] = []
    labels: list[Any] = []
    done: list[int] = []  # finished subtrees that wait for their parent
    stack = [(tree, False)]
    while stack:
        node, ready = stack.pop()
        if node is None:
            done.append(-1)
            continue
        label, children = _parts(node, labelled)
        if children and not ready:
            stack.append((node, True))
            stack += [(child, False) for child in reversed(children)]
            continue
        first = len(done) - len(children)
        rows.append(done[first:])
        labels.append(label)
        done[first:] = [len(rows) - 1]
    array = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for row, indexes in zip(array, rows, strict=True):
        row[: len(indexes)] = indexes
    return array, labels


def _parts(node: Any, labelled: bool) -> tuple[Any, tuple]:
    """Return the label and the children of a node."""
    if isinstance(node, list):
        raise TypeError(f"tree: got a list, {node!r}, expected nested tuples")
    if not isinstance(node, tuple):
        return node, ()
    if not labelled:
        return None, node
    if not node:
        raise ValueError("tree: got an empty tuple, expected (label, *children)")
    return node[0], node[1:]
