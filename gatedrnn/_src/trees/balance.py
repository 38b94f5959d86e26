"""Trees shared out to devices. NumPy, on the host.

Axes: `B` trees, `D` shards.
"""

import heapq

import numpy as np


def balanced(sizes: np.ndarray, shards: int) -> list[np.ndarray]:
    """Return the numbers of each shard's trees, ascending; `sizes [B]` are their nodes.

    The largest trees first, each to the shard with the fewest nodes that has room: no shard has
    more than `B / D` trees, rounded up, so that where `D` divides `B` no root is padding.
    """
    room = -(-len(sizes) // shards)
    trees: list[list[int]] = [[] for _ in range(shards)]
    loads = [(0, shard) for shard in range(shards)]  # of those with room
    for tree in np.argsort(-sizes, kind="stable").tolist():
        nodes, shard = heapq.heappop(loads)
        trees[shard].append(tree)
        if len(trees[shard]) < room:
            heapq.heappush(loads, (nodes + int(sizes[tree]), shard))
    return [np.array(sorted(numbers), int) for numbers in trees]
