"""Operations of a time step on devices that are only described, an NVIDIA H100 and a TPU v5e."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks import hlo
from benchmarks import markdown as md
from benchmarks.accelerators import TARGETS, Target, compiled_for
from benchmarks.measure import forget, reason
from benchmarks.problem import Problem
from benchmarks.settings import Settings
from benchmarks.tables import registry
from benchmarks.tables.grid import KINDS
from benchmarks.tables.grid_markdown import against, against_least, by_point, least_of, rivals
from benchmarks.tables.task import Task
from benchmarks.tables.variants import figure, names_in

TITLE = "Operations of a time step"
OPTIONS = {"cells", "points", "candidates"}
FILE, DEVICE = "launches", "devices that are described"
INTRO = (
    "Made by `python -m benchmarks launches`, without a GPU or a TPU: XLA's own compilers for them",
    "compile for devices that are described to them. Nothing was run, and no figure is a time.",
    "",
    "An operation is an instruction in the body of a loop that the device has to start: a kernel",
    "launch on the H100, a step of the sequencer on the v5e, those on numbers included. All loops",
    "count, each as often as it runs, over the number of time steps; what stands outside of loops",
    "does not. Fewer operations are faster only where each is short: a small one costs a launch of",
    "some microseconds on a GPU, whatever it computes, and a large one costs what it computes.",
    "Temporary memory is XLA's own account: on the v5e that of the main memory, without what XLA",
    "keeps in the 128 MiB of vector memory. Seconds of compilation are of one compilation each, on",
    "the machine that is named below. Without a device, XLA cannot try which of its products is",
    "fastest there, and may make other programs where it can. A training step is the mean square",
    "of the outputs with its gradients for all parameters and the inputs.",
)
PICTURE = "Operations of a time step, training step"
NAMES = (
    *(registry.OURS, "lax.scan", "flax linen", "flax linen, optimised", "flax nnx"),
    *("flax nnx, optimised", "haiku", "equinox"),
)


def missing() -> str:
    """What has to be installed before, `""` if nothing has."""
    return next((target.missing for target in TARGETS.values() if target.missing), "")


def tasks(settings: Settings) -> Iterator[Task]:
    names = [n for n in NAMES if settings.candidates is None or n in settings.candidates]
    for target in TARGETS.values():
        for of, problem in settings.problems():
            for kind in KINDS:
                run = partial(_measure, target, names, problem, kind, settings.tiny)
                yield Task({"target": target.name} | of | {"kind": kind}, run)


def _measure(
    target: Target, names: Sequence[str], problem: Problem, kind: str, tiny: bool
) -> dict[str, Any]:
    figures, failed = {}, {}
    for name, find in registry.sources(names, problem, kind):
        if not tiny:
            forget()
        try:
            source = find()
            if source is None:
                continue
            program = compiled_for(target, source)
            operations = hlo.per_step(program.hlo(), problem.T)
        except Exception as error:  # the others are still to come
            failed[name] = reason(error)
        else:
            figures[name] = {
                "operations": operations,
                "compile_seconds": program.compile_seconds,
                "temporary_bytes": program.temporary_bytes,
            }
    return {"candidates": figures, "failed": failed}


def markdown(rows: list[dict]) -> list[str]:
    lines = []
    for target in dict.fromkeys(row["of"]["target"] for row in rows):
        here = [row for row in rows if row["of"]["target"] == target]
        for kind in KINDS:
            title = "training step" if kind == "train" else kind
            lines += [f"### {target}, {title}", ""]
            lines += _operations([row for row in here if row["of"]["kind"] == kind])
        lines += [f"### {target}, temporary memory", "", "Ours over the leanest flax.", ""]
        lines += by_point(here, "temporary_bytes")
        lines += [f"### {target}, compilation", "", "Ours over the flax that compiles fastest.", ""]
        lines += by_point(here, "compile_seconds")
    return lines


def _operations(rows: list[dict]) -> list[str]:
    """Counts; the last column is ours over the least of the others."""
    names = names_in(rows)
    lines = []
    for row in rows:
        counts = [md.count(figure(row, name, "operations")) for name in names]
        least = least_of(row, rivals(row), "operations")
        best = md.NONE
        if least is not None:
            best = f"{md.ratio(against(row, least, 'operations'))} ({least})"
        lines.append([f"{row['of']['cell']}, {row['of']['point']}", *counts, best])
    best = md.geometric_mean(against_least(row, rivals(row), "operations") for row in rows)
    lines.append(["geometric mean", *[""] * len(names), md.ratio(best)])
    return md.table(["", *names, "ours over the least rival's"], lines)
