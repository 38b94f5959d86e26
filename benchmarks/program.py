"""One candidate, compiled: what to run, what it answers, what it cost to compile.

Axes: `T` time, `B` batch, `I` input features, `H` features.

Every candidate computes the same two things from the same weights. **Forward**: the outputs
`[T, B, H]`. **Training step**: the mean square of the outputs, and its gradients for all parameters
and the inputs.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclasses.dataclass
class Program:
    """Something to time."""

    name: str
    run: Callable[[], Any]  # returns when the work is done
    answer: Callable[[], dict[str, np.ndarray]]  # what all candidates must agree on
    compile_seconds: float | None = None
    temporary_bytes: int | None = None  # XLA's own account; None where there is none
    stablehlo: Callable[[], str] | None = None  # what XLA is given, as text
    hlo: Callable[[], str] | None = None  # what XLA made of it


@dataclasses.dataclass(frozen=True)
class Source:
    """A program that is not compiled yet; a call compiles it."""

    name: str
    function: Callable[..., Any]
    arguments: tuple  # of `function`: arrays, or their shapes where it is compiled and never run
    answer: Callable[[Any], dict[str, np.ndarray]] = lambda result: {}
    options: Mapping[str, Any] | None = None  # of XLA's compiler

    def __call__(self) -> Program:
        return compiled(self.name, self.function, self.arguments, self.answer, self.options)


def jax_programs(
    name: str,
    apply: Callable[[Any, Array], Array],
    params: Any,
    xs: np.ndarray,
    *,
    batch_major: bool = False,
    kernels: Callable[[Any], Any] = lambda params: params,
) -> dict[str, Source]:
    """The two programs of a JAX candidate, each compiled when it is asked for.

    `apply(params, xs) -> ys`, time-major unless `batch_major`: a library is given its own layout,
    so no transposition is charged to it. `kernels(params)` has the kernels as its only matrices.
    """
    params = jax.tree.map(jnp.asarray, params)
    inputs = jnp.asarray(np.swapaxes(xs, 0, 1) if batch_major else xs)

    def own(a: Array) -> np.ndarray:
        a = np.asarray(a, np.float64)
        return np.swapaxes(a, 0, 1) if batch_major else a

    def loss(params: Any, xs: Array) -> Array:
        return jnp.mean(jnp.square(apply(params, xs).astype(jnp.float32)))

    def trained(result: Any) -> dict[str, np.ndarray]:
        value, (dparams, dxs) = result
        return {
            "loss": np.asarray(value, np.float64),
            "gradient of the inputs": own(dxs),
            "norm of the kernels' gradients": norm_of_matrices(kernels(dparams)),
        }

    step = jax.value_and_grad(loss, argnums=(0, 1))
    return {
        "forward": Source(name, apply, (params, inputs), lambda ys: {"outputs": own(ys)}),
        "train": Source(name, step, (params, inputs), trained),
    }


def compiled(
    name: str,
    function: Callable[..., Any],
    arguments: tuple,
    answer: Callable[[Any], dict[str, np.ndarray]] = lambda result: {},
    options: Mapping[str, Any] | None = None,
) -> Program:
    """`function(*arguments)`, compiled ahead of time."""
    begin = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    executable = lowered.compile(options)
    seconds = time.perf_counter() - begin
    memory = executable.memory_analysis()
    return Program(
        name,
        run=lambda: jax.block_until_ready(executable(*arguments)),
        answer=lambda: answer(executable(*arguments)),
        compile_seconds=seconds,
        temporary_bytes=None if memory is None else int(memory.temp_size_in_bytes),
        stablehlo=lowered.as_text,
        hlo=executable.as_text,
    )


def norm_of_matrices(gradients: Any) -> np.ndarray:
    """The norm over all matrices: the same however a library splits or stacks its kernels."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradients)]
    return np.sqrt(sum(np.sum(leaf**2) for leaf in leaves if leaf.ndim > 1))
