"""bfloat16 against float32: an LSTM's training step, ours and flax's fused cell."""

from collections.abc import Iterator
from typing import Any

from benchmarks import markdown as md
from benchmarks.measure import Build, measure
from benchmarks.problem import Problem
from benchmarks.program import Program
from benchmarks.settings import Settings
from benchmarks.tables import registry
from benchmarks.tables.task import Task
from benchmarks.tables.variants import figure

TITLE = "bfloat16"
OPTIONS = {"seconds", "points"}
NAMES = (registry.OURS, registry.LEAN)


def tasks(settings: Settings) -> Iterator[Task]:
    for point, sizes in settings.grid().items():
        yield Task({"point": point}, lambda sizes=sizes: _measure(sizes, settings))


def _measure(sizes: tuple[int, int, int, int], settings: Settings) -> dict[str, Any]:
    def builds() -> Iterator[tuple[str, Build]]:
        for dtype in ("float32", "bfloat16"):
            problem = Problem("LSTM", *sizes, dtype=dtype)
            for label, build in registry.builds(NAMES, problem, "train"):
                yield f"{label}, {dtype}", lambda build=build, dtype=dtype: _named(build(), dtype)

    return measure(builds(), settings)


def _named(program: Program | None, dtype: str) -> Program | None:
    if program is not None:
        program.name = f"{program.name}, {dtype}"
    return program


def markdown(rows: list[dict]) -> list[str]:
    header = ["point"]
    for name in NAMES:
        header += [f"{name}, float32 [ms]", "bfloat16 / float32", "the same, memory"]
    lines = []
    for row in rows:
        line = [row["of"]["point"]]
        for name in NAMES:
            line.append(md.milliseconds(figure(row, f"{name}, float32")))
            for what in ("median", "temporary_bytes"):
                both = (figure(row, f"{name}, {dtype}", what) for dtype in ("bfloat16", "float32"))
                line.append(md.plain(md.over(*both)))
        lines.append(line)
    return ["Training step of an LSTM.", "", *md.table(header, lines)]
