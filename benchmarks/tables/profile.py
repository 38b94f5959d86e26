"""Profile: an LSTM's training step by the phases of the engine, and what the system has to do."""

from collections.abc import Iterator
from typing import Any

from benchmarks import markdown as md
from benchmarks.profiling import PARTS, profile
from benchmarks.settings import Settings
from benchmarks.tables import registry
from benchmarks.tables.task import Task
from benchmarks.tables.variants import figure

TITLE = "Profile"
OPTIONS = {"cells", "points"}
NAMES = (registry.OURS, registry.LEAN)
RUNS = 10
TEXT = (
    "Where the time of our training step goes: milliseconds of each operation under XLA's "
    "profiler, summed by the phase of the engine that its last operation comes from. *Recompute* "
    "is `project` and `recur` once more, for a chunk at once; *moving* is all without a phase: "
    "slices of scanned arrays, copies, zeros, shifts, the loss. Two threads at work count twice, "
    "and the profiler adds about a microsecond to every operation."
)
SYSTEM = (
    "The same step and the leanest flax's, without the profiler: time, processor time of the user "
    "and of the system over it, and minor page faults (of 4 kB each, as a rule)."
)


def tasks(settings: Settings) -> Iterator[Task]:
    for of, problem in settings.problems(("LSTM",)):
        yield Task(of, lambda problem=problem: _measure(problem, 2 if settings.tiny else RUNS))


def _measure(problem: Any, runs: int) -> dict[str, Any]:
    figures = {}
    for name, build in registry.builds(NAMES, problem, "train"):
        program = build()
        if program is not None:
            figures[name] = profile(program, runs)
    return {"candidates": figures, "failed": {}}


def markdown(rows: list[dict]) -> list[str]:
    ours, system = [], []
    for row in rows:
        label = ", ".join(row["of"].values())
        phases = figure(row, registry.OURS, "phases") or {}
        products, all_of_it = figure(row, registry.OURS, "products"), sum(phases.values())
        line = [label, *(md.milliseconds(phases.get(part)) for part in PARTS)]
        ours.append([*line, md.plain(md.over(products, all_of_it))])
        for name in NAMES:
            wall = figure(row, name)
            shares = [md.plain(md.over(figure(row, name, k), wall)) for k in ("user", "system")]
            faults = md.number(figure(row, name, "faults"))
            system.append([f"{label}, {name}", md.milliseconds(wall), *shares, faults])
    header = ["", *PARTS, "products' share"]
    return [
        *(TEXT, "", *md.table(header, ours)),
        *(SYSTEM, "", *md.table(["", "[ms]", "user", "system", "faults"], system)),
    ]
