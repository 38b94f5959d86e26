"""The rows of the grid: a cell at one point, in one type, with one or several heads."""

import dataclasses
from collections.abc import Iterator

from benchmarks.problem import GRID, TINY, Problem

# the most telling ones first: time may run out
CELLS = ("LSTM", "GRU after")
DTYPES = ("bfloat16", "float32")
KINDS = ("forward", "train")
ORDER = ("speech", "long-small", "pixels", "small-batch", "large")

# `T`, `B`, features of one head, heads; each head is a network with weights and inputs of its own
PUBLISHED = {
    "1 x 768": (1024, 16, 768, 1),
    "6 x 128": (1024, 16, 128, 6),
    "12 x 64": (1024, 16, 64, 12),
}
# few rows that fill no block of a kernel, and more than it takes at once
ROWS = {"3 rows": (100, 3, 64, 1), "2048 rows": (100, 2048, 64, 1)}
TINY_PUBLISHED = {"2 x 8": (12, 3, 8, 2)}

# Published for an H100, LSTM, 768 features in all, T=1024 B=16: ms forward, forward and backward
FIGURES = {
    "cuDNN, float16, one head": (2.01, 5.19),
    "FlashRNN, fused, one head": (4.87, 13.6),
    "FlashRNN, fused, 12 heads": (3.10, 8.64),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One cell at one point; `I` and `H` are those of a head."""

    cell: str
    point: str
    T: int
    B: int
    I: int
    H: int
    dtype: str
    heads: int = 1

    def described(self) -> str:
        """The case in a few words."""
        return f"{self.cell}, {self.point}, {self.dtype}"

    def problems(self) -> list[Problem]:
        """The network of each head."""
        sizes = self.T, self.B, self.I, self.H
        return [Problem(self.cell, *sizes, self.dtype, seed=head) for head in range(self.heads)]


def cases(tiny: bool) -> Iterator[Case]:
    """All cases, in the order in which they are measured."""
    for cell in CELLS:
        for dtype in DTYPES:
            for point in list(TINY)[:1] if tiny else ORDER:
                yield Case(cell, point, *(TINY if tiny else GRID)[point], dtype)
            if (cell, dtype) == ("LSTM", "bfloat16"):
                for point, (T, B, H, heads) in (
                    TINY_PUBLISHED if tiny else PUBLISHED | ROWS
                ).items():
                    yield Case(cell, point, T, B, H, H, dtype, heads)


def at(cell: str, point: str, dtype: str, tiny: bool) -> Case:
    """One case of the grid; the tiny one where all are tiny."""
    point = next(iter(TINY)) if tiny else point
    return Case(cell, point, *(TINY if tiny else GRID)[point], dtype)
