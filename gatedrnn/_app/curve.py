"""The learning curves of a run, as a PNG."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from gatedrnn._app.record import CURVE
from gatedrnn._app.run_folder import RunFolder, png
from gatedrnn._app.task import Criterion

COLOURS = ("#1f6fb2", "#d9622b", "#3a8f5c", "#8a5bb0", "#b0902a", "#c2497e")
GREY = "#666666"
POINTS = 200  # at most, of a training curve: each the mean of neighbouring steps

Records = list[dict[str, Any]]


def draw(folder: RunFolder, criterion: Criterion) -> None:
    """Draw the metrics of `folder` into its PNG."""
    folder.write(CURVE, drawn(folder, criterion))


def drawn(folder: RunFolder, criterion: Criterion) -> bytes:
    """The metrics of `folder` as a PNG."""
    return png(plot(folder.metrics(criterion.name), criterion))


def plot(metrics: Records, criterion: Criterion) -> Figure:
    """The figure: the criterion of every model over steps, and the training loss.

    Both on the same axes where they are the same measure; baselines are horizontal lines.
    """
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    if criterion.of_loss is None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        bottom.set(xlabel="step", ylabel="training loss")
    else:
        top = bottom = figure.add_subplot()
        top.set(xlabel="step")
    top.set(ylabel=criterion.unit)
    if criterion.format.endswith("%"):
        top.yaxis.set_major_formatter(PercentFormatter(1.0))

    names = list(dict.fromkeys(r["model"] for r in metrics if "model" in r))
    for name, colour in zip(names, np.resize(COLOURS, len(names)), strict=True):
        records = [record for record in metrics if record.get("model") == name]
        _training(bottom, records, criterion.of_loss or 1.0, colour)
        _validation(top, records, criterion, colour, name)
    for record in metrics:
        if record["kind"] == "baseline":
            _baseline(top, record["name"], record[criterion.name], criterion)
    for axes in {top, bottom}:
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", lw=0.8)
        axes.set_axisbelow(True)
    if top.get_legend_handles_labels()[0]:
        # above, where no curve can be
        top.legend(frameon=False, ncols=len(names), loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def _training(axes: Axes, records: Records, scale: float, colour: str) -> None:
    steps, losses = _series(records, "train", "loss")
    if len(steps):
        means = [(s.mean(), b.mean()) for s, b in zip(*_binned(steps, losses * scale), strict=True)]
        axes.plot(*zip(*means, strict=True), color=colour, lw=1.2, alpha=0.5)


def _validation(axes: Axes, records: Records, criterion: Criterion, colour: str, name: str) -> None:
    steps, values = _series(records, "validation", criterion.name)
    if len(steps):
        best = criterion.show(values.max() if criterion.higher else values.min())
        axes.plot(steps, values, color=colour, lw=2.0, marker="o", ms=4, label=f"{name} {best}")


def _baseline(axes: Axes, name: str, value: float, criterion: Criterion) -> None:
    axes.axhline(value, color=GREY, lw=1.0, ls="--", zorder=0)
    axes.annotate(
        f"{name}\n{criterion.show(value)}",
        (1.0, value),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",  # to the right, where no curve can be
        color=GREY,
        fontsize=9,
    )


def _series(records: Records, kind: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and the values of the records of one kind, float64 [n] each."""
    pairs = [(record["step"], record[key]) for record in records if record["kind"] == kind]
    steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
    return steps, values


def _binned(*series: np.ndarray) -> list[list[np.ndarray]]:
    return [np.array_split(values, min(POINTS, len(values))) for values in series]
