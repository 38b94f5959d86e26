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
    """`params` as `init` makes them: None in place of every memory."""

    def without(node: Any) -> Any:
        return None if isinstance(node, Memory) else node

    return jax.tree.map(without, params, is_leaf=lambda node: isinstance(node, Memory))
