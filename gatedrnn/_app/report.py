"""The words of a run: its data and models, and its end."""

from collections.abc import Mapping

import jax

from gatedrnn._app import leftovers
from gatedrnn._app.loop import Training
from gatedrnn._app.record import Best
from gatedrnn._app.run_folder import RunFolder
from gatedrnn._app.task import Task


def introduction(
    task: Task, training: Training, baselines: Mapping[str, float], devices: str
) -> str:
    """The data, the models, what is to be beaten, and the devices in words."""
    lines = [f"data        {task.data}"]
    resumed = f", resumed at step {training.step}" if training.step else ""
    for name in task.models:
        params = training.state.learners[name].params
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        lines.append(f"model       {name}, {count:,} parameters{resumed}")
    show, unit = task.criterion.show, task.criterion.unit
    if baselines:
        named = [f"{name} {show(value)}" for name, value in _ranked(task, baselines)]
        lines.append(f"to beat     {', '.join(named)} {unit}")
    lines.append(f"devices     {devices}")
    return "\n".join(lines)


def results(task: Task, best: Mapping[str, Best], baselines: Mapping[str, float]) -> str:
    """The criterion of the baselines and of the best parameters, then the other measures."""
    criterion = task.criterion
    ranked = _ranked(task, baselines)
    rows = [(name, value, "") for name, value in reversed(ranked)]
    for name, kept in best.items():
        value, note = kept.measures[criterion.name], ""
        if ranked:
            rival, mark = ranked[0]
            side = "above" if value > mark else "below"
            gap = criterion.show(abs(value - mark)).replace("%", " points")
            note = f"{gap} {side} {rival}"
        rows.append((f"{name}, step {kept.step}", value, note))
    table = _table([(name, criterion.show(value), note) for name, value, note in rows])
    found = [validation.measures for validation in best.values()]
    others = dict.fromkeys(key for m in found for key in m if key != criterion.name)
    if others:
        figures = {key: [f"{m[key]:.4g}" if key in m else "" for m in found] for key in others}
        table += "\n\n" + _table([("", *best), *((key, *row) for key, row in figures.items())])
    return f"{criterion.unit} on {task.held_out}\n{table}"


def interruption(task: Task, training: Training, folder: str, steps: int) -> str:
    """The step at which a run was stopped, and the parameters that there are."""
    where = f"interrupted at step {training.step} of {steps}"
    if training.folder.pending:
        return f"{where}; {remains(training.folder, folder)}"
    show, unit, key = task.criterion.show, task.criterion.unit, task.criterion.name
    said = [
        f"{name}: step {best.step}, {show(best.measures[key])} {unit}"
        for name, best in training.best.items()
    ]
    best = (
        f"best parameters so far ({'; '.join(said)})" if said else "parameters, not yet validated,"
    )
    return f"{where}; the {best} are in {folder}, and --resume goes on"


def remains(run: RunFolder, folder: str) -> str:
    """The remains of a run that ends early."""
    if not run.pending:
        return "what was saved before stays"
    older = f"; {folder} holds the older run as it was" if run.replaces else ""
    if leftovers.is_whole(run.path):
        return f"the run is in {run.path}{older}"
    return f"nothing was saved yet{older}"


def _ranked(task: Task, baselines: Mapping[str, float]) -> list[tuple[str, float]]:
    """The baselines, the best first."""
    return sorted(baselines.items(), key=lambda item: item[1], reverse=task.criterion.higher)


def _table(rows: list[tuple[str, ...]]) -> str:
    """Rows of words: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        words = [w.rjust(width) for w, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(["", first.ljust(widths[0]), *words]).rstrip())
    return "\n".join(lines)
