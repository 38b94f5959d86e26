"""Figures of sequences and their labels.

Axes: T steps, F features, K classes.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gatedrnn._app.tasks.figures import coloured

RIGHT, WRONG = "#dfe9f3", "#d9622b"


def per_class(values: Mapping[str, np.ndarray], classes: Sequence[str], measure: str) -> Figure:
    """A `measure` from 0 to 1 of every class, [K], of several that are compared."""
    figure = Figure(figsize=(6.0, 1.2 + 0.28 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(classes))
    rows = np.array(list(values.values()))
    axes.hlines(places, rows.min(axis=0), rows.max(axis=0), color="#cccccc", lw=1.5, zorder=1)
    for name, row, colour in coloured(values):
        axes.plot(row, places, "o", ms=6, color=colour, label=name)
    axes.set_yticks(places, classes)
    axes.set(xlabel=measure, xlim=(-0.02, 1.02), ylim=(len(classes) - 0.5, -0.5))
    axes.grid(axis="x", color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    figure.legend(frameon=False, ncols=2, loc="outside upper right")
    return figure


def labelled(
    features: np.ndarray,
    truth: np.ndarray,
    found: Mapping[str, np.ndarray],
    classes: Sequence[str],
    *,
    seconds: float,
    title: str,
) -> Figure:
    """A sequence [T, F] of steps of `seconds`, its labels [T], and those that each model found."""
    rows = {"true": truth, **found}
    figure = Figure(figsize=(11.0, 3.2 + 0.45 * len(rows)), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3.0, 0.5 * len(rows)))
    end = len(truth) * seconds
    top.imshow(
        features.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(0.0, end, 0.0, features.shape[1]),
        interpolation="nearest",
    )
    top.set(ylabel="mel band")
    top.set_title(title, loc="left")
    for place, labels in enumerate(rows.values()):
        _strip(bottom, place, labels, truth, classes, seconds)
    for boundary in np.flatnonzero(np.diff(truth)) + 1:
        top.axvline(boundary * seconds, color="white", lw=0.6, alpha=0.6)
    names = [f"{name}\n{np.mean(labels == truth):.0%}" for name, labels in found.items()]
    bottom.set_yticks(range(len(rows)), ["true", *names])
    bottom.set(xlabel="seconds", xlim=(0.0, end), ylim=(len(rows) - 0.55, -0.45))
    bottom.tick_params(left=False)
    for axes in (top, bottom):
        axes.spines[:].set_visible(False)
    return figure


def _strip(
    axes: Axes,
    place: int,
    labels: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str],
    seconds: float,
) -> None:
    """A row of bars, one for each run of a label; what is wrong stands out."""
    start = 0
    for (label, right), group in groupby(
        zip(labels.tolist(), (labels == truth).tolist(), strict=True)
    ):
        steps = len(list(group))
        axes.barh(
            place,
            steps * seconds,
            left=start * seconds,
            height=0.8,
            color=RIGHT if right else WRONG,
            edgecolor="white",
            lw=0.8,
        )
        if steps >= 2 + len(classes[label]):
            axes.text(
                (start + steps / 2) * seconds,
                place,
                classes[label],
                ha="center",
                va="center_baseline",
                fontsize=8,
                color="black" if right else "white",
            )
        start += steps
