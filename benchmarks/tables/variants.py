"""Ours in several variants: how they are built, and the table in which they stand side by side.

Axes: `T` time, `B` batch, `I` input features, `H` features.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr
from benchmarks import markdown as md
from benchmarks.measure import Build
from benchmarks.problem import Problem
from benchmarks.program import Program, compiled, jax_programs

Row = dict[str, Any]


def training(name: str, apply: Callable, params: Any, xs: np.ndarray) -> tuple[str, Build]:
    """The training step of `apply(params, xs) -> ys`."""
    return name, lambda: jax_programs(name, apply, params, xs)["train"]()


def unrolled(name: str, problem: Problem, **options: Any) -> tuple[str, Build]:
    """The training step of `gr.unroll` with options."""
    cell = problem.ours()

    def build() -> Program:
        apply = lambda params, xs: gr.unroll(cell, params, xs, **options)[1]  # noqa: E731
        return training(name, apply, problem.weights(), problem.inputs())[1]()

    return name, build


def training_with(
    name: str, apply: Callable, params: Any, xs: Any, *others: Any
) -> tuple[str, Build]:
    """The same of `apply(params, xs, *others)`, with more arguments, which have no gradient."""

    def loss(params: Any, xs: Any, *others: Any) -> jax.Array:
        return jnp.mean(jnp.square(apply(params, xs, *others).astype(jnp.float32)))

    def build() -> Program:
        arguments = jax.tree.map(jnp.asarray, (params, xs, *others))
        return compiled(name, jax.value_and_grad(loss, argnums=(0, 1)), arguments)

    return name, build


def layer_params(layer: Any, in_features: int) -> Any:
    """Parameters of a layer, as it draws them."""
    return jax.jit(lambda key: layer.init(key, in_features))(jax.random.key(0))


def figure(row: Row, name: str, what: str = "median") -> float | None:
    """One figure of one candidate of a row; None where there is none."""
    return row.get("candidates", {}).get(name, {}).get(what)


def names_in(rows: Sequence[Row]) -> list[str]:
    """All candidates of some rows, in order."""
    return list(dict.fromkeys(name for row in rows for name in row.get("candidates", {})))


def side_by_side(
    rows: Sequence[Row],
    names: Sequence[str] | None = None,
    *,
    of: Callable[[Row], dict[str, str]] = lambda row: {k: str(v) for k, v in row["of"].items()},
    per_step: bool = False,
) -> list[str]:
    """Time of the first variant and the others' over it, then the same for temporaries."""
    names = names_in(rows) if names is None else names
    if not rows or not names:
        return ["Nothing measured.", ""]
    first, unit = names[0], "ns/step" if per_step else "ms"
    header = list(of(rows[0]))
    header += [f"{first} [{unit}]", *(f"{n} / {first}" for n in names[1:])]
    header += [f"{first} [MB]", *(f"{n} / {first}, memory" for n in names[1:])]
    lines = []
    for row in rows:
        line = list(of(row).values())
        time, size = figure(row, first), figure(row, first, "temporary_bytes")
        scale = 1e9 / row["of"]["T"] if per_step else 1e3
        line.append(md.number(None if time is None else time * scale))
        line += [md.plain(md.over(figure(row, n), time)) for n in names[1:]]
        line.append(md.megabytes(size))
        line += [md.plain(md.over(figure(row, n, "temporary_bytes"), size)) for n in names[1:]]
        lines.append(line)
    return md.table(header, lines)
