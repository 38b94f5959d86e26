"""Both directions: `gr.bidirectional`, one loop, against two `gr.unroll`, one reversed."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp

import gatedrnn as gr
from benchmarks import agreement
from benchmarks.measure import measure
from benchmarks.problem import Problem
from benchmarks.settings import Settings
from benchmarks.tables.task import Task
from benchmarks.tables.variants import layer_params, side_by_side, training

TITLE = "Both directions"
OPTIONS = {"seconds", "points"}
ONE, TWO = "gr.bidirectional", "two gr.unroll"


def tasks(settings: Settings) -> Iterator[Task]:
    for of, problem in settings.problems(("LSTM",)):
        yield Task(of, lambda problem=problem: _measure(problem, settings))


def _measure(problem: Problem, settings: Settings) -> dict[str, Any]:
    cell, xs = problem.ours(), problem.inputs()
    layer = gr.bidirectional(cell)
    params = layer_params(layer, problem.I)

    def two(params: Any, xs: Any) -> Any:
        forward = gr.unroll(cell, params.forward.cell, xs)[1]
        backward = gr.unroll(cell, params.backward.cell, xs, reverse=True)[1]
        return jnp.concatenate([forward, backward], axis=-1)

    tolerance = agreement.tolerance(problem.dtype)
    builds = [
        training(ONE, lambda params, xs: layer.apply(params, xs)[1], params, xs),
        training(TWO, two, params, xs),
    ]
    return measure(builds, settings, partial(agreement.check, tolerance=tolerance))


def markdown(rows: list[dict]) -> list[str]:
    return ["Training step of an LSTM in both directions.", "", *side_by_side(rows, (ONE, TWO))]
