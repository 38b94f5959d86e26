"""What is timed: a cell, its sizes, and the weights and inputs that every candidate is given.

Axes: `T` time, `B` batch, `I` input features, `H` features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gatedrnn._registry.cells import over_time

REFUSED = {
    "Jordan": "no other library has one, and the floor has not its products",
    "LayerNormLSTM": "no other library has one",
    "LayerNormGRU": "no other library has one",
    "Attention": "it is around another cell, and needs a memory",
    "Zoneout": "it is around another cell",
    "RecurrentDropout": "it is around another cell",
}
"""Cells for sequences that are not timed, and why; all others in the registry are."""


def cells() -> dict[str, Callable[[int], Any]]:
    """Return, by name, what makes each cell that is timed, of so many features."""
    return {
        name: make
        for row in over_time()
        if row.name not in REFUSED
        for name, make in row.timed().items()
    }


GRID: dict[str, tuple[int, int, int, int]] = {
    "long-small": (1000, 16, 64, 64),
    "small-batch": (500, 4, 64, 256),
    "speech": (100, 32, 40, 256),
    "large": (100, 128, 128, 512),
    "pixels": (784, 64, 1, 128),
}

TINY = dict.fromkeys(("long-small", "large"), (12, 3, 4, 8))


@dataclasses.dataclass(frozen=True)
class Problem:
    """A cell of the grid at one point of it."""

    cell: str
    T: int
    B: int
    I: int
    H: int
    dtype: str = "float32"
    seed: int = 0

    def ours(self) -> Any:
        """Our cell."""
        return cells()[self.cell](self.H)

    def weights(self) -> Any:
        """Our parameters for it, random, the biases too: every candidate converts these."""
        shapes = jax.eval_shape(lambda: self.ours().init(jax.random.key(0), self.I))
        draw = np.random.default_rng(self.seed)

        def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
            width = leaf.shape[0] if len(leaf.shape) > 1 else 10
            return (draw.normal(size=leaf.shape) / np.sqrt(width)).astype(self.dtype)

        weights = jax.tree.map(fill, shapes)
        if self.cell == "GRU after":  # zero, since flax nnx has none; the others train theirs
            weights = weights._replace(recurrent_bias=np.zeros_like(weights.recurrent_bias))
        return weights

    def inputs(self) -> np.ndarray:
        """`xs [T, B, I]`, standard normal."""
        draw = np.random.default_rng(1 + self.seed)
        return draw.normal(size=(self.T, self.B, self.I)).astype(self.dtype)
