"""Length: time per step and memory of an LSTM as sequences get longer, by what is saved."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import gatedrnn as gr
from benchmarks import markdown as md
from benchmarks.measure import measure
from benchmarks.problem import Problem
from benchmarks.program import Program, compiled
from benchmarks.settings import Settings
from benchmarks.tables import registry
from benchmarks.tables.task import Task
from benchmarks.tables.variants import figure, side_by_side, unrolled
from benchmarks.worker import in_subprocess

TITLE = "Length"
OPTIONS = {"seconds"}

SAVES = ("carries", "boundaries", "gates")
LENGTHS = (100, 300, 1000, 3000, 10_000, 30_000)
FINAL, LONGEST = 10_000, 100_000
SIZES = (16, 64, 64)  # B, I, H
ALL, LAST = "all outputs", "final carry"


def tasks(settings: Settings) -> Iterator[Task]:
    lengths, final, longest = ((12, 24), 24, 100) if settings.tiny else (LENGTHS, FINAL, LONGEST)
    B, I, H = (3, 4, 8) if settings.tiny else SIZES

    def every_output(T: int) -> dict[str, Any]:
        problem = Problem("LSTM", T, B, I, H)
        builds = [unrolled(save, problem, bptt=gr.BPTT(save=save)) for save in SAVES]
        builds += registry.builds((registry.LEAN,), problem, "train")
        return measure(builds, settings, fewest=3)

    def final_carry(T: int) -> dict[str, Any]:
        problem = Problem("LSTM", T, B, I, H)
        builds = [
            (save, lambda save=save: last_only(save, problem)) for save in ("carries", "boundaries")
        ]
        return measure(builds, settings, fewest=3)

    for T in lengths:
        yield Task({"T": T, "loss": ALL}, lambda T=T: every_output(T))
    yield Task({"T": final, "loss": LAST}, lambda: final_carry(final))
    yield Task(
        {"T": longest, "loss": LAST, "process": "its own"},
        lambda: in_subprocess("benchmarks.tables.longest", {"T": longest, "B": B, "I": I, "H": H}),
    )


def last_only(save: str, problem: Problem) -> Program:
    """The gradient of a loss on the final carry, for the parameters alone."""
    arguments = jax.tree.map(jnp.asarray, (problem.weights(), problem.inputs()))
    return compiled(save, jax.value_and_grad(final_loss(problem, save)), arguments)


def final_loss(problem: Problem, save: str) -> Any:
    """`(params, xs) -> loss`, the mean square of the final carry's output."""
    cell, bptt = problem.ours(), gr.BPTT(save=save)
    return lambda params, xs: jnp.mean(jnp.square(gr.unroll(cell, params, xs, bptt=bptt)[0].h))


def markdown(rows: list[dict]) -> list[str]:
    def of(row: dict) -> dict[str, str]:
        return {"T": f"{row['of']['T']:,}"}

    every = [row for row in rows if row["of"]["loss"] == ALL]
    last = [row for row in rows if row["of"]["loss"] == LAST and "process" not in row["of"]]
    lines = ["Training step of an LSTM, loss on all outputs, by what the forward pass saves.", ""]
    lines += side_by_side(every, of=of, per_step=True)
    lines += ["Loss on the final carry, gradient for the parameters alone.", ""]
    lines += side_by_side(last, of=of, per_step=True)
    for row in rows:
        if "process" in row["of"] and row.get("candidates"):
            lines += _longest(row)
    return lines


def _longest(row: dict) -> list[str]:
    get = lambda what: figure(row, "boundaries", what)  # noqa: E731
    needed = get("temporary_bytes") + get("output_bytes")
    text = (
        f'The same at T = {row["of"]["T"]:,} with `save="boundaries"`, in a process of its own: '
        f"{md.megabytes(needed)} MB of temporaries and outputs, besides "
        f"{md.megabytes(get('input_bytes'))} MB of inputs; one run takes "
        f"{md.number(get('median'))} s."
    )
    if get("peak_resident_bytes") is not None:
        text += (
            f" Resident memory of the process on the host, all of JAX included, goes from "
            f"{md.megabytes(get('resident_bytes_before'))} MB before it to at most "
            f"{md.megabytes(get('peak_resident_bytes'))} MB."
        )
    return [text, ""]
