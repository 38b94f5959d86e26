"""A batch of trees as one forest, laid out for the loop over steps. NumPy, on the host.

Axes: `B` trees, `N` nodes, `L` leaves, `S` steps, `W` nodes of a step, `K` children of a node; all
of them those of one shard where there are `D` shards.

States live in slots: leaves first, then step after step, `W` slots each, so that a step writes a
slice and gathers only its inputs; after them, slot `L + S W` holds zeros, the state of an absent
child. A node has one parent, so cotangents are gathered as well: every slot of a step has `K`
places, in which a parent leaves the cotangents of its children, and one more place holds zeros.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from gatedrnn._src import checks
from gatedrnn._src.describe import documented, shown
from gatedrnn._src.trees.balance import balanced
from gatedrnn._src.trees.indexes import Joined, chosen, joined
from gatedrnn._src.trees.legal import check_forest
from gatedrnn._src.trees.schedule import Levels, least_width, levels_of, steps_of

Indexes = np.ndarray | Array  # int32; on the host, and inside `jit`


@documented
class ForestSizes(NamedTuple):
    """The shapes of a forest: forests of equal sizes share a compiled program.

    They are those of one shard where a forest has shards.

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

    A forest of `D` shards has an axis `D` in front of every array, along which it is divided over
    devices. Each shard is a forest by itself, of some of the trees: all other numbers count
    within the shard.

    Attributes:
      tree: `[N]`, the number of each node's tree in the batch; −1 for padding.
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
        steps, width, children = self.children.shape[-3:]
        of_nodes = (self.roots.shape[-1], self.tree.shape[-1], self.leaves.shape[-1])
        return ForestSizes(*of_nodes, steps, width, children)

    @property
    def shards(self) -> int | None:
        """`D`, None for a forest without shards."""
        return len(self.tree) if self.tree.ndim > 1 else None

    def place(self, values: Sequence[Any]) -> np.ndarray:
        """Return the values of each tree's nodes, `[n, ...]` each, as one array `[N, ...]`.

        The values are inputs, labels or masks; the padding is zeros. With shards: `[D, N, ...]`.
        Runs on the host.

        Raises:
          ValueError: not an array for each tree, or not a row for each of its nodes; a forest that
            `gr.forest` would not make.
        """
        check_forest("forest", self)
        of_trees = np.asarray(self.tree)
        is_node = of_trees >= 0
        counts = np.bincount(of_trees[is_node])
        arrays = [np.asarray(value) for value in values]
        if len(arrays) != len(counts):
            raise ValueError(f"values: got {len(arrays)}, expected one for each of {len(counts)}")
        for i, (array, count) in enumerate(zip(arrays, counts, strict=True)):
            if array.ndim < 1 or len(array) != count:
                raise ValueError(
                    f"values[{i}]: got shape {array.shape}, expected a row for each of the "
                    f"{count} nodes of the tree"
                )
        starts = np.cumsum(counts) - counts
        rows = starts[of_trees[is_node]] + np.asarray(self.position)[is_node]
        return _spread(is_node, np.concatenate(arrays)[rows])

    def place_roots(self, values: Any) -> np.ndarray:
        """Return a value for each tree, `[B, ...]`, beside the states of the roots.

        The values are labels or weights, in the order of the batch; the padding is zeros. With
        shards: `[D, B, ...]`. Runs on the host.

        Raises:
          ValueError: not a value for each tree; a forest that `gr.forest` would not make.

        Example:
          >>> forest = gr.forest([(0, 1), ((0, 1), 2), (1, 2), (2, 2)], shards=2)
          >>> forest.place_roots([10, 20, 30, 40]).tolist()
          [[20, 40], [10, 30]]
        """
        check_forest("forest", self)
        values, roots, of_trees = map(np.asarray, (values, self.roots, self.tree))
        is_tree = roots < self.sizes.nodes
        count = int(np.sum(is_tree))
        if values.ndim < 1 or len(values) != count:
            raise ValueError(
                f"values: got shape {values.shape}, expected one for each of {count} trees"
            )
        trees = np.take_along_axis(of_trees, np.where(is_tree, roots, 0), axis=-1)
        return _spread(is_tree, values[trees[is_tree]])


def _spread(where: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows in the places where `where` is True, zeros elsewhere."""
    placed = np.zeros((*where.shape, *rows.shape[1:]), rows.dtype)
    placed[where] = rows
    return placed


def forest(
    trees: Sequence[Any], sizes: ForestSizes | None = None, *, shards: int | None = None
) -> Forest:
    """Lay out a batch of trees, of any shapes and sizes, for `gr.fold_tree`.

    The leaves of all trees are computed at once, then the other nodes in as many steps as the
    tallest tree is high, however many nodes there are. A step has a fixed width, the least with
    which that many steps suffice. Runs on the host, in NumPy; the result goes into `jit` as an
    argument, and forests of equal sizes share a compiled program.

    For several devices the trees are shared out to `shards`, each tree to one of them, which get
    about as many nodes each, and `B / D` trees, rounded up; padding makes them equal. Every array
    then has the axis `D` of shards in front, and so have the inputs that `place` makes and the
    states that come back. That axis is divided over devices, by a `NamedSharding` with
    `PartitionSpec("data")` for all arrays alike.

    Args:
      trees: a list. Each is nested tuples or a leaf, as in `gr.flatten_tree` (labels are ignored),
        or an index array `[n, K]` of integers: row `j` has the children of node `j`, each below
        `j`, −1 for a place that is empty. Every node has one parent but the root, which is the
        last.
      sizes: the sizes to pad to, as from `gr.forest_sizes`; None: the least. Those of one shard.
      shards: `D`, a multiple of the devices; None: a forest without that axis.

    Raises:
      TypeError: a value that is no list of trees, or indexes that are not integers.
      ValueError: a cycle or forward reference, an index out of range, a node with two parents, two
        roots, or trees that do not fit in `sizes`; fewer than 1 shard.

    Example:
      >>> forest = gr.forest([((0, 1), 2), (0, 1)])
      >>> forest.tree.tolist(), forest.position.tolist()
      ([0, 0, 0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 0, 1, 2])
      >>> forest.roots.tolist()
      [4, 7]
      >>> gr.forest([((0, 1), 2), (0, 1)], shards=2).tree.tolist()
      [[0, 0, 0, 0, 0], [1, 1, 1, -1, -1]]
    """
    _check_shards(shards)
    parts = _measured(joined(trees), shards)
    if sizes is None:
        sizes = _least(parts)
    else:
        _check_fit(parts, sizes)
    sizes = ForestSizes(*sizes)
    if shards is None:
        return _laid_out(parts[0], sizes)
    laid_out = [_laid_out(part, sizes) for part in parts]
    return Forest(*map(np.stack, zip(*laid_out, strict=True)))


def forest_sizes(batches: Iterable[Sequence[Any]], *, shards: int | None = None) -> ForestSizes:
    """Return the least sizes to which every batch of trees can be padded.

    With these sizes, `gr.forest` makes forests that share one compiled program.

    Args:
      batches: batches of trees, each as in `gr.forest`, whose errors it raises.
      shards: as in `gr.forest`.

    Raises:
      ValueError: no batches; fewer than 1 shard.

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
    _check_shards(shards)
    parts: list[_Part] = []
    for i, batch in enumerate(batches):
        parts += _measured(joined(batch, f"batches[{i}]"), shards)
    if not parts:
        raise ValueError("batches: got none, expected at least one")
    return _least(parts)


def _check_shards(shards: int | None) -> None:
    if shards is not None:
        checks.size("shards", shards)


class _Part(NamedTuple):
    """The trees of one shard."""

    trees: np.ndarray  # their numbers in the batch, ascending
    nodes: Joined
    levels: Levels
    needed: ForestSizes  # the least, with a width of 0, since the width depends on the steps


def _measured(nodes: Joined, shards: int | None) -> list[_Part]:
    """Return the trees of each shard; of one, without shards."""
    shares = balanced(nodes.sizes, 1 if shards is None else shards)
    parts = [(trees, chosen(nodes, trees)) for trees in shares]
    levels = [levels_of(part.children) for _, part in parts]
    return [_Part(*part, of, _needed(part[1], of)) for part, of in zip(parts, levels, strict=True)]


def _least(parts: Sequence[_Part]) -> ForestSizes:
    """Return the least sizes to which all parts can be padded."""
    most = ForestSizes(*map(max, zip(*(part.needed for part in parts), strict=True)))
    # wide enough for each part, which may take as many steps as the tallest needs
    return most._replace(width=max(_width(part.levels, most.steps) for part in parts))


def _width(levels: Levels, steps: int) -> int:
    """Return the least width, but 2 where 1 would do.

    On a CPU, XLA makes a slice of the one row that a step of width 1 gathers, fuses it with the
    write, and then copies all states in every step.
    """
    width = least_width(levels, steps)
    return max(width, 2) if width else 0


def _needed(nodes: Joined, levels: Levels) -> ForestSizes:
    """Return the least sizes, with a width of 0."""
    return ForestSizes(
        trees=len(nodes.sizes),
        nodes=len(nodes.children),
        leaves=int(np.sum(levels.height == 0)),
        steps=int(np.max(levels.height, initial=0)),
        width=0,
        children=nodes.children.shape[1],
    )


def _check_fit(parts: Sequence[_Part], sizes: ForestSizes) -> None:
    """Raise unless the trees can be padded to `sizes`."""
    if not isinstance(sizes, ForestSizes):
        raise TypeError(f"sizes: got {shown(sizes)}, expected a gr.ForestSizes")
    needed = ForestSizes(*map(max, zip(*(part.needed for part in parts), strict=True)))
    if sizes.steps >= needed.steps:
        width = max(least_width(part.levels, sizes.steps) for part in parts)
        needed = needed._replace(width=width)
    of = "these trees" if len(parts) == 1 else f"these trees in {len(parts)} shards"
    for name, has, needs in zip(ForestSizes._fields, sizes, needed, strict=True):
        if has < needs:
            raise ValueError(f"sizes.{name}: got {has}, expected at least {needs} for {of}")


def _laid_out(part: _Part, sizes: ForestSizes) -> Forest:
    """Return the trees, laid out and padded to `sizes`."""
    trees, nodes, levels, _ = part
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
        tree=padded(np.repeat(trees, nodes.sizes), sizes.nodes, -1),
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
