"""The candidates: gatedrnn, its rivals, and the floor below all of them.

A candidate's module imports its library, so it is imported only when it is asked for.
"""

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from benchmarks.problem import Problem
from benchmarks.program import Program

Builder = Callable[[Problem], dict[str, Callable[[], Program]] | None]


class Candidate(NamedTuple):
    """Where a candidate is, and what it needs."""

    name: str  # as its programs have it
    module: str
    attribute: str = "programs"
    library: str = "jax"  # to import
    package: str = "jax"  # to install


CANDIDATES = (
    Candidate("gatedrnn", "ours"),
    Candidate("lax.scan", "autodiff"),
    Candidate("flax linen", "linen", "programs", "flax", "flax"),
    Candidate("flax linen, optimised", "linen", "optimised", "flax", "flax"),
    Candidate("flax nnx", "nnx", "programs", "flax", "flax"),
    Candidate("flax nnx, optimised", "nnx", "optimised", "flax", "flax"),
    Candidate("equinox", "eqx", "programs", "equinox", "equinox"),
    Candidate("haiku", "hk", "programs", "haiku", "dm-haiku"),
    Candidate("keras", "keras_", "programs", "keras", "keras"),
    Candidate("torch", "pytorch", "programs", "torch", "torch"),
    Candidate("cuDNN", "cudnn"),
    Candidate("floor", "floor"),
)


class Available(NamedTuple):
    """The candidates that can run here, in order, and the packages that the others need."""

    builders: dict[str, Builder]
    missing: list[str]


def available(names: Sequence[str] | None = None) -> Available:
    """The candidates of these names, or all; a builder gives None for a cell it does not have."""
    known = [candidate.name for candidate in CANDIDATES]
    unknown = set(names or ()) - set(known)
    if unknown:
        raise ValueError(f"no such candidate: {sorted(unknown)}; there are {known}")
    builders: dict[str, Builder] = {}
    missing: list[str] = []
    for name, module, attribute, library, package in CANDIDATES:
        if names is not None and name not in names:
            continue
        if find_spec(library) is None:
            missing += [package] if package not in missing else []
            continue
        imported = importlib.import_module(f"benchmarks.candidates.{module}")
        builders[name] = getattr(imported, attribute)
    return Available(builders, missing)
