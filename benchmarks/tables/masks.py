"""Padding: a training step with lengths, all full or ragged, against one without.

Axes: `T` time, `B` batch.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

import gatedrnn as gr
from benchmarks.measure import measure
from benchmarks.problem import Problem
from benchmarks.settings import Settings
from benchmarks.tables.task import Task
from benchmarks.tables.variants import layer_params, side_by_side, training_with

TITLE = "Padding"
OPTIONS = {"seconds", "cells", "points"}
NONE, FULL, RAGGED = "no lengths", "all full", "ragged"
LAYERS = {"gr.unroll": 1, "gr.stack of 2": 2}


def tasks(settings: Settings) -> Iterator[Task]:
    for of, problem in settings.problems(("LSTM", "GRU after")):
        for name, n in LAYERS.items():
            yield Task(
                of | {"layers": name},
                lambda problem=problem, n=n: _measure(problem, n, settings),
            )


def _measure(problem: Problem, n: int, settings: Settings) -> dict[str, Any]:
    cell, xs = problem.ours(), problem.inputs()
    lengths = {
        FULL: np.full(problem.B, problem.T, np.int32),
        RAGGED: np.random.default_rng(2).integers(1, problem.T + 1, problem.B).astype(np.int32),
    }
    if n == 1:
        params = problem.weights()
        apply = lambda params, xs, lengths=None: gr.unroll(cell, params, xs, lengths=lengths)[1]  # noqa: E731
    else:
        net = gr.stack(*[cell] * n)
        params = layer_params(net, problem.I)
        apply = lambda params, xs, lengths=None: net.apply(params, xs, lengths=lengths)[1]  # noqa: E731
    builds = [training_with(NONE, apply, params, xs)]
    builds += [training_with(name, apply, params, xs, given) for name, given in lengths.items()]
    return measure(builds, settings)


def markdown(rows: list[dict]) -> list[str]:
    text = (
        "Training step. Ragged lengths are uniform between 1 and T; padded steps run all the same."
    )
    return [text, "", *side_by_side(rows, (NONE, FULL, RAGGED))]
