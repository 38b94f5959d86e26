"""A batch of trees as one forest, laid out for the loop over steps. NumPy, on the host.

Axes: `B` trees, `N` nodes, `L` leaves, `S` steps, `W` nodes of a step, `K` children of a node.

States live in slots: leaves first, then step after step, `W` slots each, so that a step writes a
slice and gathers only its inputs; after them, slot `L + S W` holds zeros, the state of an absent
child. A node has one parent, so cotangents are gathered as well: every slot of a step has `K`
places, in which a parent leaves the cotangents of its children, and one more place holds zeros.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from gatedrnn._src.describe import documented, shown
from gatedrnn._src.trees.indexes import Joined, joined
from gatedrnn._src.trees.legal import check_forest
from gatedrnn._src.trees.schedule import Levels, least_width, levels_of, steps_of

Indexes = np.ndarray | Array  # int32; on the host, and inside `jit`


@documented
class ForestSizes(NamedTuple):
    """The shapes of a forest: forests of equal sizes share a compiled program.

    Attributes:
      trees: `B`, the trees.
      nodes: `N`, the nodes of all trees.
      leaves: `L`, the leaves of all trees.
      steps: `S`, the steps of the loop, at least the height of the tallest tree.
      width: `W`, the nodes that a step computes together.
      children: `K`, the places for children of a node.

    Example:
      >>> sizes = gr.forest([((0, 1), 2), (0, 1)]).sizes
      >>> sizes.trees, sizes.nodes, sizes.leaves, sizes.steps, sizes.children
      (2, 8, 5, 2, 2)
      >>> sizes.rounded().leaves
      8
    """

    trees: int
    nodes: int
    leaves: int
    steps: int
    width: int
    children: int

    def rounded(self) -> "ForestSizes":
        """Return the sizes, all but `children` rounded up to a power of two, to serve a stream."""
        up = ForestSizes(*(1 << (n - 1).bit_length() if n else 0 for n in self))
        return up._replace(children=self.children)


@documented
class Forest(NamedTuple):
    """Trees and the order in which their nodes are computed: arrays of int32, made by `gr.forest`.

    Row `j` of `xs`, and of the states that come back, belongs to node `position[j]` of tree
    `tree[j]`; trees follow one another, and padding comes last. The states of nodes are computed in
    slots: those of the leaves, then those of the steps.

    Attributes:
      tree: `[N]`, the tree of each node; −1 for padding.
      position: `[N]`, the number of each node in its tree; −1 for padding.
      roots: `[B]`, the root of each tree, a node; N for padding.
      slots: `[N]`, the slot of each node; L + S W for padding.
      leaves: `[L]`, the node in each slot of the leaves; N for padding.
      inner: `[S, W]`, the node in each slot of the steps; N for padding.
      children: `[S, W, K]`, for each node of `inner` the slots of its children; L + S W for a child
        that is absent.
      leaf_parents: `[L]`, for each leaf its place with the parent; S W K without a parent.
      inner_parents: `[S, W]`, the same for each node of `inner`.

    Example:
      >>> forest = gr.forest([(("the", "cat"), "sat"), ("it", "sat")])
      >>> forest.roots.tolist(), forest.place([[0, 0, 1, 0, 2], [0, 0, 3]]).tolist()
      ([4, 7], [0, 0, 1, 0, 2, 0, 0, 3])
    """

    tree: Indexes
    position: Indexes
    roots: Indexes
    slots: Indexes
    leaves: Indexes
    inner: Indexes
    children: Indexes
    leaf_parents: Indexes
    inner_parents: Indexes

    @property
    def sizes(self) -> ForestSizes:
        """The shapes that `gr.forest` can be asked for again."""
        steps, width, children = self.children.shape
        of_nodes = (len(self.roots), len(self.tree), len(self.leaves))
        return ForestSizes(*of_nodes, steps, width, children)

    def place(self, values: Sequence[Any]) -> np.ndarray:
        """Return the values of each tree's nodes, `[n, ...]` each, as one array `[N, ...]`.

        The values are inputs, labels or masks; the padding is zeros. Runs on the host.

        Raises:
          ValueError: not an array for each tree, or not a row for each of its nodes; a forest that
            `gr.forest` would not make.
        """
        check_forest("forest", self)
        of_trees = np.asarray(self.tree)
        counts = np.bincount(of_trees[of_trees >= 0])
        arrays = [np.asarray(value) for value in values]
        if len(arrays) != len(counts):
            raise ValueError(f"values: got {len(arrays)}, expected one for each of {len(counts)}")
        for i, (array, count) in enumerate(zip(arrays, counts, strict=True)):
            if array.ndim < 1 or len(array) != count:
                raise ValueError(
                    f"values[{i}]: got shape {array.shape}, expected a row for each of the "
                    f"{count} nodes of the tree"
                )
        rows = np.concatenate(arrays)
        placed = np.zeros((len(of_trees), *rows.shape[1:]), rows.dtype)
        placed[: len(rows)] = rows
        return placed


def forest(trees: Sequence[Any], sizes: ForestSizes | None = None) -> Forest:
    """Lay out a batch of trees, of any shapes and sizes, for `gr.fold_tree`.

    The leaves of all trees are computed at once, then the other nodes in as many steps as the
    tallest tree is high, however many nodes there are. A step has a fixed width, the least with
    which that many steps suffice. Runs on the host, in NumPy; the result goes into `jit` as an
    argument, and forests of equal sizes share a compiled program.

    Args:
      trees: a list. Each is nested tuples or a leaf, as in `gr.flatten_tree` (labels are ignored),
        or an index array `[n, K]` of integers: row `j` has the children of node `j`, each below
        `j`, −1 for a place that is empty. Every node has one parent but the root, which is the
        last.
      sizes: the sizes to pad to, as from `gr.forest_sizes`; None: the least.

    Raises:
      TypeError: a value that is no list of trees, or indexes that are not integers.
      ValueError: a cycle or forward reference, an index out of range, a node with two parents, two
        roots, or trees that do not fit in `sizes`.

    Example:
      >>> forest = gr.forest([((0, 1), 2), (0, 1)])
      >>> forest.tree.tolist(), forest.position.tolist()
      ([0, 0, 0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 0, 1, 2])
      >>> forest.roots.tolist()
      [4, 7]
    """
    nodes = joined(trees)
    levels = levels_of(nodes.children)
    needed = _needed(nodes, levels)
    if sizes is None:
        sizes = needed._replace(width=_width(levels, needed.steps))
    else:
        _check_fit(nodes, levels, needed, sizes)
    return _laid_out(nodes, levels, ForestSizes(*sizes))


def forest_sizes(batches: Iterable[Sequence[Any]]) -> ForestSizes:
    """Return the least sizes to which every batch of trees can be padded.

    With these sizes, `gr.forest` makes forests that share one compiled program.

    Args:
      batches: batches of trees, each as in `gr.forest`, whose errors it raises.

    Raises:
      ValueError: no batches.

    Example:
      >>> batches = [[((0, 1), 2), (0, 1)], [(0, 1), (0, (1, (2, 3)))]]
      >>> sizes = gr.forest_sizes(batches)
      >>> sizes.nodes, sizes.leaves, sizes.steps
      (10, 6, 3)
      >>> all(gr.forest(trees, sizes).sizes == sizes for trees in batches)
      True
    """
    if not isinstance(batches, Iterable) or isinstance(batches, str | bytes | Mapping):
        raise TypeError(f"batches: got {shown(batches)}, expected batches of trees")
    measured = []
    for i, batch in enumerate(batches):
        nodes = joined(batch, f"batches[{i}]")
        levels = levels_of(nodes.children)
        measured.append((levels, _needed(nodes, levels)))
    if not measured:
        raise ValueError("batches: got none, expected at least one")
    most = ForestSizes(*map(max, zip(*(needed for _, needed in measured), strict=True)))
    # wide enough for each batch, which may take as many steps as the tallest needs
    width = max(_width(levels, most.steps) for levels, _ in measured)
    return most._replace(width=width)


def _width(levels: Levels, steps: int) -> int:
    """Return the least width, but 2 where 1 would do.

    On a CPU, XLA makes a slice of the one row that a step of width 1 gathers, fuses it with the
    write, and then copies all states in every step.
    """
    width = least_width(levels, steps)
    return max(width, 2) if width else 0


def _needed(nodes: Joined, levels: Levels) -> ForestSizes:
    """Return the least sizes, with a width of 0, since the width depends on the steps."""
    return ForestSizes(
        trees=len(nodes.sizes),
        nodes=len(nodes.children),
        leaves=int(np.sum(levels.height == 0)),
        steps=int(np.max(levels.height, initial=0)),
        width=0,
        children=nodes.children.shape[1],
    )


def _check_fit(nodes: Joined, levels: Levels, needed: ForestSizes, sizes: ForestSizes) -> None:
    """Raise unless the trees can be padded to `sizes`."""
    if not isinstance(sizes, ForestSizes):
        raise TypeError(f"sizes: got {shown(sizes)}, expected a gr.ForestSizes")
    if sizes.steps >= needed.steps:
        needed = needed._replace(width=least_width(levels, sizes.steps))
    for name, has, needs in zip(ForestSizes._fields, sizes, needed, strict=True):
        if has < needs:
            raise ValueError(f"sizes.{name}: got {has}, expected at least {needs} for these trees")


def _laid_out(nodes: Joined, levels: Levels, sizes: ForestSizes) -> Forest:
    """Return the trees, laid out and padded to `sizes`."""
    count, zero_slot = len(nodes.children), sizes.leaves + sizes.steps * sizes.width
    is_leaf = levels.height == 0
    step, place = steps_of(levels, sizes.steps, sizes.width)
    in_steps = step * sizes.width + place  # of the other nodes, among the slots of steps
    leaves, inner = np.nonzero(is_leaf)[0], np.nonzero(~is_leaf)[0]

    slots = np.full(sizes.nodes + 1, zero_slot)  # the last: that of the child −1
    slots[leaves] = np.arange(len(leaves))
    slots[inner] = sizes.leaves + in_steps[inner]

    # the place that each node has with its parent
    none = sizes.steps * sizes.width * sizes.children
    parents = np.full(count, none)
    node, nth = np.nonzero(nodes.children >= 0)
    parents[nodes.children[node, nth]] = in_steps[node] * sizes.children + nth

    def spread(values: np.ndarray, empty: int) -> np.ndarray:
        """Return the values `[n, ...]` of the nodes of steps, by slot: `[S, W, ...]`."""
        made = np.full((sizes.steps * sizes.width, *values.shape[1:]), empty)
        made[in_steps[inner]] = values
        return made.reshape(sizes.steps, sizes.width, *values.shape[1:])

    def padded(values: np.ndarray, length: int, empty: int) -> np.ndarray:
        return np.concatenate([values, np.full(length - len(values), empty)])

    ends = np.cumsum(nodes.sizes)
    of_children = np.full((len(inner), sizes.children), -1)
    of_children[:, : nodes.children.shape[1]] = nodes.children[inner]
    made = Forest(
        tree=padded(np.repeat(np.arange(len(ends)), nodes.sizes), sizes.nodes, -1),
        position=padded(
            np.arange(count) - np.repeat(ends - nodes.sizes, nodes.sizes), sizes.nodes, -1
        ),
        roots=padded(ends - 1, sizes.trees, sizes.nodes),
        slots=slots[:-1],
        leaves=padded(leaves, sizes.leaves, sizes.nodes),
        inner=spread(inner, sizes.nodes),
        children=spread(slots[of_children], zero_slot),
        leaf_parents=padded(parents[leaves], sizes.leaves, none),
        inner_parents=spread(parents[inner], none),
    )
    return Forest(*(np.asarray(array, np.int32) for array in made))
