"""`jax.lax.scan` over the step of our own cell, differentiated by JAX: what one writes by hand."""

from jax import Array, lax

from benchmarks.problem import Problem
from benchmarks.program import Source, jax_programs

NAME = "lax.scan"


def programs(problem: Problem) -> dict[str, Source]:
    cell = problem.ours()

    def apply(params: tuple, xs: Array) -> Array:
        start = cell.carry(xs.shape[1:-1], xs.dtype)
        return lax.scan(lambda carry, x: cell.step(params, carry, x), start, xs)[1]

    return jax_programs(NAME, apply, problem.weights(), problem.inputs())
