"""gatedrnn itself, as `gr.unroll` does it by default."""

from collections.abc import Callable

import gatedrnn as gr
from benchmarks.problem import Problem
from benchmarks.program import Program, jax_programs

NAME = "gatedrnn"


def programs(problem: Problem) -> dict[str, Callable[[], Program]]:
    cell = problem.ours()
    return jax_programs(
        NAME,
        lambda params, xs: gr.unroll(cell, params, xs)[1],
        problem.weights(),
        problem.inputs(),
    )
