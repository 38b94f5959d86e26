"""What a run of the command is asked for."""

import dataclasses
from collections.abc import Iterator

from benchmarks.problem import GRID, TINY, Problem, cells


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long to measure, at which sizes, and which part of the grid; None means all of it."""

    seconds: float = 10.0  # of timed rounds for a row
    tiny: bool = False
    cells: tuple[str, ...] | None = None
    points: tuple[str, ...] | None = None
    candidates: tuple[str, ...] | None = None

    def grid(self) -> dict[str, tuple[int, int, int, int]]:
        """The chosen points: name -> `(T, B, I, H)`."""
        points = TINY if self.tiny else GRID
        # tiny points are all of one size: one of them shows as much
        default = list(points)[:1] if self.tiny else points
        return {name: points[name] for name in self.points or default}

    def problems(
        self, default: tuple[str, ...] | None = None, dtype: str = "float32"
    ) -> Iterator[tuple[dict[str, str], Problem]]:
        """`(what it is, the problem)` for each cell at each point; all cells by default."""
        for cell in self.cells or default or cells():
            for point, sizes in self.grid().items():
                yield {"cell": cell, "point": point}, Problem(cell, *sizes, dtype=dtype)
