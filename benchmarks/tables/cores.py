"""All cores of a CPU: the training step with the batch divided over them, and as it is.

XLA gives the few rows of a recurrent step to one core. With as many CPU devices as there are cores,
and a part of the batch for each, all of them compute.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from benchmarks import markdown as md
from benchmarks.environment import cores
from benchmarks.settings import Settings
from benchmarks.tables import registry
from benchmarks.tables.task import Task, described
from benchmarks.tables.variants import figure
from benchmarks.worker import on_cpu_devices

TITLE = "All cores"
OPTIONS = {"seconds", "cells", "points"}
CELL = "LSTM"
LIBRARIES = (registry.OURS, "flax linen", "flax linen, optimised", "flax nnx")
LIBRARIES += ("flax nnx, optimised",)
JIT, SHARD_MAP = "jit", "shard_map"
WORKER = "benchmarks.tables.cores_worker"


def divided(library: str, how: str) -> str:
    """The name of a library's step with the batch divided."""
    return f"{library}, {how}"


def tasks(settings: Settings) -> Iterator[Task]:
    devices = cores()
    for of, problem in settings.problems((CELL,)):
        B = problem.B + -problem.B % devices  # as many rows for each
        request = {"cell": problem.cell, "sizes": [problem.T, B, problem.I, problem.H]}
        request |= {"seconds": settings.seconds, "tiny": settings.tiny, "devices": devices}
        yield Task(of, partial(on_cpu_devices, WORKER, request, devices))


class Ratios(NamedTuple):
    """Ratios of one row; `default` is a step as it is, `divided` the faster way to divide it."""

    divided: float | None  # ours over ours by default
    flax_divided: float | None  # the same of flax
    over_flax: float | None  # ours over flax's fastest, both by default
    divided_over_flax: float | None  # both divided
    over_torch: float | None  # ours divided over torch, which uses all cores by itself


HEADER = [
    "divided / default",
    "flax: divided / default",
    "ours / flax, default",
    "ours / flax, divided",
    "ours divided / torch",
]


def ratios(row: dict) -> Ratios:
    """Return the ratios of a row, None where a candidate is missing."""
    ways = (JIT, SHARD_MAP)
    ours, flax = LIBRARIES[:1], LIBRARIES[1:]
    default, flax_default = _least(row, ours), _least(row, flax)
    split, flax_split = (
        _least(row, [divided(name, how) for name in names for how in ways])
        for names in (ours, flax)
    )
    return Ratios(
        md.over(split, default),
        md.over(flax_split, flax_default),
        md.over(default, flax_default),
        md.over(split, flax_split),
        md.over(split, figure(row, registry.TORCH)),
    )


def _least(row: dict, names: Sequence[str]) -> float | None:
    times = [time for name in names if (time := figure(row, name)) is not None]
    return min(times, default=None)


def markdown(rows: Sequence[dict]) -> list[str]:
    text = (
        "The training step by default, which leaves it to XLA how many cores compute, and with the "
        "batch divided over as many CPU devices as there are cores, under `jit` and in "
        "`shard_map`; the faster of the two is held against the others. Ratios below 1 (bold): the "
        "first is faster. flax is the fastest of its four at that point, each way; torch uses all "
        "cores by itself."
    )
    names = [registry.OURS, *(divided(registry.OURS, how) for how in (JIT, SHARD_MAP))]
    found = [(row, ratios(row)) for row in rows]
    lines = [
        [
            described(row["of"]),
            *(md.milliseconds(figure(row, name)) for name in names),
            *map(md.ratio, of_row),
        ]
        for row, of_row in found
    ]
    means = [md.geometric_mean(each) for each in zip(*(of_row for _, of_row in found), strict=True)]
    lines.append(["geometric mean", "", "", "", *map(md.ratio, means)])
    header = ["", "default [ms]", "jit [ms]", "shard_map [ms]", *HEADER]
    return [text, "", *md.table(header, lines)]
