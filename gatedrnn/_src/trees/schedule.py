"""The schedule of a forest: steps of equal width for its nodes. NumPy, on the host.

Axes: `N` nodes, `K` children of a node, `S` steps, `W` nodes of a step.

Leaves are half of all nodes and wait for nothing: they are one call of their own. The others take
`S` steps, `S` the height of the tallest tree, and a loop over steps has one width. A step for each
level of heights would make that the width of the first: on batches of random binary trees 3 to 24
times as many cells as nodes. But only a node on a longest path has no choice of its step. Another
may wait, and at a given number of steps the least width is known, as is a schedule that has it: the
node furthest from its root first (Hu 1961, "Parallel sequencing and assembly line problems"). That
makes 1.0 to 1.6 times as many cells as nodes, in one loop, whatever the mixture of trees; perfectly
balanced trees alone gain nothing (5 times for one of 1024 leaves, in its 10 steps).
"""

from typing import NamedTuple

import numpy as np


class Levels(NamedTuple):
    """The parent, height and depth of each node of a forest."""

    parent: np.ndarray  # [N], −1: a root
    height: np.ndarray  # [N], above the deepest leaf below it; 0: a leaf
    depth: np.ndarray  # [N], below its root; 0: a root


def levels_of(children: np.ndarray) -> Levels:
    """Return the levels of a forest `children [N, K]`, each node after its children, −1: absent."""
    count = len(children)
    node, place = np.nonzero(children >= 0)
    parent = np.full(count, -1)
    parent[children[node, place]] = node
    parents = parent.tolist()
    height, depth = [0] * count, [0] * count
    for j, p in enumerate(parents):
        if p >= 0 and height[p] <= height[j]:
            height[p] = height[j] + 1
    for j in range(count - 1, -1, -1):
        if parents[j] >= 0:
            depth[j] = depth[parents[j]] + 1
    return Levels(parent, np.array(height, int), np.array(depth, int))


def least_width(levels: Levels, steps: int) -> int:
    """Return the least `W` with which `steps` suffice.

    A node at depth `d` must be done by step `S − 1 − d`, so `W` times the steps until then must be
    as many as the nodes that are due; for trees that is enough (Hu 1961).
    """
    due = steps - 1 - levels.depth[levels.height > 0]
    counts = np.cumsum(np.bincount(due, minlength=steps))
    return int(np.max(-(-counts // np.arange(1, steps + 1)), initial=0))


def steps_of(levels: Levels, steps: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the step of each node and its place in the step, `[N]` each; −1 for leaves.

    The deepest nodes first, each as early as its children allow and there is room.
    """
    inner = np.nonzero(levels.height > 0)[0]
    order = inner[np.argsort(-levels.depth[inner], kind="stable")]
    parents = levels.parent.tolist()
    ready, load = [0] * len(parents), [0] * steps
    free = list(range(steps + 1))  # a step with room, or one nearer to one
    step, place = np.full(len(parents), -1), np.full(len(parents), -1)
    for j in order.tolist():
        t = ready[j]
        while free[t] != t:
            free[t] = t = free[free[t]]
        step[j], place[j] = t, load[t]
        load[t] += 1
        if load[t] == width:
            free[t] = t + 1
        if parents[j] >= 0 and ready[parents[j]] <= t:
            ready[parents[j]] = t + 1
    return step, place
