"""gatedrnn itself, as `gr.unroll` does it by default."""

import gatedrnn as gr
from benchmarks.problem import Problem
from benchmarks.program import Source, jax_programs

NAME = "gatedrnn"


def programs(problem: Problem) -> dict[str, Source]:
    cell = problem.ours()
    return jax_programs(
        NAME,
        lambda params, xs: gr.unroll(cell, params, xs)[1],
        problem.weights(),
        problem.inputs(),
    )
