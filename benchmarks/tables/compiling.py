"""Compilation of a training step: over depth, and over length with and without a remainder."""

from collections.abc import Iterator
from typing import Any

import gatedrnn as gr
from benchmarks import markdown as md
from benchmarks.measure import Build, measure_compiling
from benchmarks.problem import Problem
from benchmarks.settings import Settings
from benchmarks.tables import registry
from benchmarks.tables.task import Task
from benchmarks.tables.variants import figure, layer_params, training

TITLE = "Compilation"
OPTIONS: set[str] = set()
ONE, REPEAT = "one layer", "gr.repeat of 8"
DEPTH = {"of": "depth"}


def tasks(settings: Settings) -> Iterator[Task]:
    B, H = (3, 8) if settings.tiny else (16, 64)
    rounds = 1 if settings.tiny else 5
    yield Task(
        DEPTH,
        lambda: measure_compiling(
            _depths(Problem("LSTM", 12 if settings.tiny else 100, B, H, H)), rounds
        ),
    )
    # 997 is prime: no chunk divides it
    for T in (12, 13) if settings.tiny else (100, 997, 1000, 10_000):
        problem = Problem("LSTM", T, B, H, H)
        yield Task(
            {"of": "length", "T": T},
            lambda problem=problem: measure_compiling(
                dict(registry.builds((registry.OURS, registry.LEAN), problem, "train")), rounds
            ),
        )


def _depths(problem: Problem) -> dict[str, Build]:
    cell = problem.ours()

    def step(name: str, net: Any) -> tuple[str, Build]:
        params, xs = layer_params(net, problem.I), problem.inputs()
        return training(name, lambda params, xs: net.apply(params, xs)[1], params, xs)

    return dict([step(ONE, gr.recurrent(cell)), step(REPEAT, gr.repeat(cell, 8))])


def markdown(rows: list[dict]) -> list[str]:
    lines = []
    for row in rows:
        of = row["of"]
        ours, other = (ONE, REPEAT) if of == DEPTH else (registry.LEAN, registry.OURS)
        what = f"{REPEAT} over {ONE}" if of == DEPTH else f"T = {of['T']:,}, ours over {ours}"
        times = [figure(row, name, "compile_seconds") for name in (other, ours)]
        lines.append([what, *map(md.number, times), md.plain(md.over(*times))])
    text = "Seconds to trace, lower and compile the training step of LSTMs, medians."
    return [text, "", *md.table(["", "[s]", "[s]", "ratio"], lines)]
