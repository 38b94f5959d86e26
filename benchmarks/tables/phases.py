"""Phases: where the time of an LSTM's training step goes."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import gatedrnn as gr
from benchmarks import markdown as md
from benchmarks.measure import Build, measure
from benchmarks.problem import Problem
from benchmarks.program import compiled
from benchmarks.settings import Settings
from benchmarks.tables import registry
from benchmarks.tables.task import Task
from benchmarks.tables.variants import figure, unrolled

TITLE = "Phases"
OPTIONS = {"seconds", "points"}
FORWARD, SAVING, STEP = "forward", "forward, saving", "training step"
PRODUCTS = {"forward": "products, forward", "train": "products, training step"}
TEXT = (
    "Where the time of an LSTM's training step goes, in ms. Each program is compiled on its own, "
    "all are timed interleaved: the forward pass; the forward pass that saves what the backward "
    "one needs (`jax.vjp`, residuals returned, so in memory of their own); the whole step; the "
    "matrix products alone (the floor). Backward is a difference, the step less the pass that "
    "saves, not a measurement: XLA may merge the two."
)


def tasks(settings: Settings) -> Iterator[Task]:
    for point, sizes in settings.grid().items():
        problem = Problem("LSTM", *sizes)
        yield Task(
            {"point": point},
            # the step takes longest and would be dropped first: as many rounds for all
            lambda problem=problem: measure(_builds(problem), settings, fewest=15),
        )


def _builds(problem: Problem) -> Iterator[tuple[str, Build]]:
    cell = problem.ours()
    arguments = jax.tree.map(jnp.asarray, (problem.weights(), problem.inputs()))

    def outputs(params: Any, xs: jax.Array) -> jax.Array:
        return gr.unroll(cell, params, xs)[1]

    def saving(params: Any, xs: jax.Array) -> Any:
        return jax.vjp(outputs, params, xs)

    yield FORWARD, lambda: compiled(FORWARD, outputs, arguments)
    yield SAVING, lambda: compiled(SAVING, saving, arguments)
    yield unrolled(STEP, problem)
    for kind, name in PRODUCTS.items():
        for _, build in registry.builds((registry.FLOOR,), problem, kind):

            def named(build: Build = build, name: str = name) -> Any:
                program = build()
                program.name = name
                return program

            yield name, named


def markdown(rows: list[dict]) -> list[str]:
    header = ["point", FORWARD, SAVING, "backward (difference)", STEP, *PRODUCTS.values()]
    header.append("products' share of the step")
    lines = []
    for row in rows:
        saving, step = figure(row, SAVING), figure(row, STEP)
        products = [figure(row, name) for name in PRODUCTS.values()]
        backward = None if saving is None or step is None else step - saving
        times = [figure(row, FORWARD), saving, backward, step, *products]
        share = md.plain(md.over(products[-1], step))
        lines.append([row["of"]["point"], *map(md.milliseconds, times), share])
    return [TEXT, "", *md.table(header, lines)]
