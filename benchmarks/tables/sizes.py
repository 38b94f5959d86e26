"""Sizes: an LSTM's training step over the number of features and over the batch."""

from collections.abc import Iterator
from functools import partial

from benchmarks import agreement
from benchmarks import markdown as md
from benchmarks.measure import measure
from benchmarks.problem import Problem
from benchmarks.settings import Settings
from benchmarks.tables import registry
from benchmarks.tables.grid_markdown import against
from benchmarks.tables.task import Task
from benchmarks.tables.variants import figure, names_in

TITLE = "Sizes"
OPTIONS = {"seconds"}

CANDIDATES = (registry.OURS, registry.LEAN, registry.TORCH)
FEATURES = (16, 64, 128, 256, 512, 1024)
BATCHES = (1, 4, 16, 64, 256)


def tasks(settings: Settings) -> Iterator[Task]:
    if settings.tiny:
        sizes = [(12, 3, 8), (12, 1, 8)]
    else:
        sizes = [(100, 32, H) for H in FEATURES] + [(100, B, 128) for B in BATCHES]
    for T, B, H in sizes:
        problem = Problem("LSTM", T, B, H, H)
        builds = partial(registry.builds, CANDIDATES, problem, "train")
        check = partial(agreement.check, tolerance=agreement.tolerance(problem.dtype))
        yield Task(
            {"T": T, "B": B, "H": H},
            lambda builds=builds, check=check: measure(builds(), settings, check),
        )


def markdown(rows: list[dict]) -> list[str]:
    others = [name for name in names_in(rows) if name != registry.OURS]
    lines = []
    for row in rows:
        times = [md.ratio(against(row, name)) for name in others]
        memory = md.ratio(against(row, registry.LEAN, "temporary_bytes"))
        sizes = [str(row["of"][axis]) for axis in "TBH"]
        lines.append([*sizes, md.milliseconds(figure(row, registry.OURS)), *times, memory])
    header = ["T", "B", "I = H", f"{registry.OURS} [ms]", *others, f"memory, {registry.LEAN}"]
    return ["Training step of an LSTM, ours over each candidate's.", "", *md.table(header, lines)]
