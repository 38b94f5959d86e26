"""Depth: LSTM layers in a `gr.stack`, against `gr.repeat`, which is one scan over depth."""

from collections.abc import Iterator
from typing import Any

import gatedrnn as gr
from benchmarks import markdown as md
from benchmarks.measure import measure
from benchmarks.problem import Problem
from benchmarks.settings import Settings
from benchmarks.tables.task import Task
from benchmarks.tables.variants import figure, layer_params, side_by_side, training

TITLE = "Depth"
OPTIONS = {"seconds"}
STACK, REPEAT = "gr.stack", "gr.repeat"


def tasks(settings: Settings) -> Iterator[Task]:
    problem = Problem("LSTM", *((12, 3, 8, 8) if settings.tiny else (100, 16, 64, 64)))
    for n in (1, 2) if settings.tiny else (1, 2, 4, 8):
        yield Task({"layers": n}, lambda n=n: _measure(problem, n, settings))


def _measure(problem: Problem, n: int, settings: Settings) -> dict[str, Any]:
    cell, xs = problem.ours(), problem.inputs()

    def step(name: str, net: Any) -> Any:
        params = layer_params(net, problem.I)
        return training(name, lambda params, xs: net.apply(params, xs)[1], params, xs)

    nets = {STACK: gr.stack(*[cell] * n), REPEAT: gr.repeat(cell, n)}
    return measure([step(name, net) for name, net in nets.items()], settings)


def markdown(rows: list[dict]) -> list[str]:
    compiling = [
        [str(row["of"]["layers"])]
        + [md.number(figure(row, name, "compile_seconds")) for name in (STACK, REPEAT)]
        for row in rows
    ]
    return [
        "Training step of LSTM layers.",
        "",
        *side_by_side(rows, (STACK, REPEAT)),
        *md.table(["layers", f"{STACK}, compilation [s]", f"{REPEAT}, compilation [s]"], compiling),
    ]
