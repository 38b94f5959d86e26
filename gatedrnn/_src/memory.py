"""What a cell looks back at: encoded positions, bound to its parameters for the length of a run.

Axes: `S` positions, `*B` any batch axes, `M` memory features, `A` attention features.
"""

from typing import Any, NamedTuple

import jax
from jax import Array


class Memory(NamedTuple):
    """Encoded positions, in the layout that each step reads: batch axes first.

    It stands among the parameters, not in the carry: a loop over time reads it without saving it
    at every step, its gradient is summed as that of a weight is, and beams share it.
    """

    values: Array  # [*B, S, M]
    keys: Array  # [*B, S, A]
    valid: Array  # [*B, S], 1 or 0, in the dtype of the parameters


def unbound(params: Any) -> Any:
    """`params` as `init` makes them: None in place of every memory; without one, as they are."""

    def is_memory(node: Any) -> bool:
        return isinstance(node, Memory)

    if not any(map(is_memory, jax.tree.leaves(params, is_leaf=is_memory))):
        return params
    return jax.tree.map(lambda node: None if is_memory(node) else node, params, is_leaf=is_memory)
