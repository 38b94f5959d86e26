"""The grid: every cell at every point, forward and training step, all candidates interleaved."""

from collections.abc import Iterator
from functools import partial

from benchmarks import agreement
from benchmarks.measure import measure
from benchmarks.settings import Settings
from benchmarks.tables import registry
from benchmarks.tables.grid_markdown import markdown as markdown
from benchmarks.tables.task import Task

TITLE = "The grid"
OPTIONS = {"seconds", "cells", "points", "candidates"}
KINDS = ("forward", "train")


def tasks(settings: Settings) -> Iterator[Task]:
    for of, problem in settings.problems():
        for kind in KINDS:
            builds = partial(registry.builds, settings.candidates, problem, kind)
            check = partial(agreement.check, tolerance=agreement.tolerance(problem.dtype))
            yield Task(
                of | {"kind": kind},
                lambda builds=builds, check=check: measure(builds(), settings, check),
            )
