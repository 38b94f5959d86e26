"""What is timed on a device: our scan, our kernel, flax, `jax.experimental.rnn`, torch's cuDNN.

Axes: `T` time, `B` batch, `n` heads, `I` input features and `H` features of a head.
"""

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from jax import Array

import gatedrnn as gr
from benchmarks import candidates
from benchmarks.device.cases import Case
from benchmarks.problem import Problem
from benchmarks.program import Program, jax_programs

Programs = dict[str, Callable[[], Program]]  # kind of task -> to be compiled

REFERENCE = "reference"  # our scan in float32 at the highest precision: not timed
SCAN, PALLAS = "gatedrnn, scan", "gatedrnn, pallas"
KERNELS = {SCAN: "scan", PALLAS: "pallas"}
LINEN, OPTIMISED = "flax linen", "flax linen, optimised"
FLAX = (LINEN, OPTIMISED)
CUDNN, TORCH, HALF = "cuDNN", "torch", "torch, float16"
CANDIDATES = (REFERENCE, SCAN, PALLAS, *FLAX, CUDNN, TORCH, HALF)


def missing() -> list[str]:
    """The packages that are not installed; their candidates are left out."""
    needed = [c for c in candidates.CANDIDATES if c.name in CANDIDATES]
    return sorted({c.package for c in needed if find_spec(c.library) is None})


def builders(case: Case) -> dict[str, Callable[[], Programs | None]]:
    """By candidate, what makes the programs of a case; None for what it does not have."""
    problems = case.problems()
    made: dict[str, Callable[[], Programs | None]] = {REFERENCE: lambda: _reference(problems)}
    for name, kernel in KERNELS.items():
        made[name] = lambda name=name, kernel=kernel: _ours(name, problems, kernel)
    for name, builder in candidates.available((*FLAX, CUDNN)).builders.items():
        if case.heads == 1:
            made[name] = lambda builder=builder: builder(problems[0])
        elif name in FLAX:
            made[name] = lambda name=name: _linen(name, problems)
    if find_spec("torch") is not None:
        made[TORCH] = lambda: _torch(TORCH, problems, case.dtype)
        if case.dtype == "bfloat16":  # the half precision that cuDNN's figures are published for
            made[HALF] = lambda: _torch(HALF, problems, "float16")
    return made


def _reference(problems: Sequence[Problem]) -> Programs:
    params = [_float32(problem.weights()) for problem in problems]
    inputs = _float32(_inputs(problems))
    programs = _side_by_side(REFERENCE, _unrolled(problems[0], "scan"), params, inputs)
    return {kind: _highest(make) for kind, make in programs.items()}


def _highest(make: Callable[[], Program]) -> Callable[[], Program]:
    def build() -> Program:
        with jax.default_matmul_precision("highest"):
            return make()

    return build


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), tree)


def _ours(name: str, problems: Sequence[Problem], kernel: str) -> Programs:
    params = [problem.weights() for problem in problems]
    return _side_by_side(name, _unrolled(problems[0], kernel), params, _inputs(problems))


def _unrolled(problem: Problem, kernel: str) -> Callable[[Any, Array], Array]:
    cell, bptt = problem.ours(), gr.BPTT(kernel=kernel)
    return lambda params, xs: gr.unroll(cell, params, xs, bptt=bptt)[1]


def _linen(name: str, problems: Sequence[Problem]) -> Programs | None:
    linen = importlib.import_module("benchmarks.candidates.linen")
    layer = linen.layer(problems[0], name)
    if layer is None:
        return None
    params = [linen.params(problem) for problem in problems]
    return _side_by_side(name, layer.apply, params, _inputs(problems))


def _torch(name: str, problems: Sequence[Problem], dtype: str) -> Programs | None:
    pytorch = importlib.import_module("benchmarks.candidates.pytorch")
    return pytorch.side_by_side(problems, name, dtype)


def _inputs(problems: Sequence[Problem]) -> np.ndarray:
    """The features of all heads `[T, B, nI]`."""
    return np.concatenate([problem.inputs() for problem in problems], axis=-1)


def _side_by_side(
    name: str, one: Callable[[Any, Array], Array], params: list[Any], xs: np.ndarray
) -> Programs:
    """The programs of `one(params, xs) -> ys` for each head, mapped over the heads."""
    if len(params) == 1:
        return jax_programs(name, one, params[0], xs)

    def apply(params: Any, xs: Array) -> Array:
        parts = xs.reshape(*xs.shape[:2], heads, -1)
        ys = jax.vmap(one, in_axes=(0, 2), out_axes=2)(params, parts)
        return ys.reshape(*ys.shape[:2], -1)

    heads = len(params)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
    kernels = lambda tree: [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim > 2]  # noqa: E731
    return jax_programs(name, apply, stacked, xs, kernels=kernels)
