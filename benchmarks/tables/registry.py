"""The candidates, each imported and built only when it is asked for."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.candidates import CANDIDATES, available
from benchmarks.measure import Build
from benchmarks.problem import Problem
from benchmarks.program import Program, Source

NAMES = tuple(candidate.name for candidate in CANDIDATES)
OURS = "gatedrnn"
FLOOR = "floor"
LEAN = "flax linen, optimised"  # of flax, what comes nearest where one is enough
TORCH = "torch"
CUDNN = "cuDNN"


def builds(names: Sequence[str] | None, problem: Problem, kind: str) -> Iterator[tuple[str, Build]]:
    """`(name, build)` of every candidate, or of those that are asked for."""
    # always in this order: ours, if it is there, is what the others are compared with
    for name in (name for name in NAMES if names is None or name in names):
        yield name, partial(_build, name, problem, kind)


def sources(
    names: Sequence[str], problem: Problem, kind: str
) -> Iterator[tuple[str, Callable[[], Source | None]]]:
    """`(name, find)` of JAX candidates: what is to be compiled, None if it has no such cell."""
    for name in names:
        yield name, partial(_source, name, problem, kind)


def _source(name: str, problem: Problem, kind: str) -> Callable[[], Program] | None:
    builders, missing = available([name])
    if missing:
        raise ModuleNotFoundError(f"{', '.join(missing)} is not installed")
    programs = builders[name](problem)
    return None if programs is None else programs[kind]


def _build(name: str, problem: Problem, kind: str) -> Program | None:
    source = _source(name, problem, kind)
    return None if source is None else source()
