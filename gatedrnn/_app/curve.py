"""The learning curve of a run, as a PNG."""

import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gatedrnn._app.run_folder import CURVE, RunFolder

BLUE, ORANGE, GREY = "#1f6fb2", "#d9622b", "#666666"
POINTS = 200  # at most, of the training curve: each the mean of neighbouring steps


def draw(folder: RunFolder) -> None:
    """Draw the metrics of `folder` into its PNG: bits per character over steps."""
    figure = plot(folder.metrics())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    folder.write(CURVE, buffer.getvalue())


def plot(metrics: list[dict[str, Any]]) -> Figure:
    """The figure: training and validation as curves, the baselines as horizontal lines."""
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.add_subplot()

    steps, bits = _series(metrics, "train")
    if len(steps):
        means = [(s.mean(), b.mean()) for s, b in zip(*_binned(steps, bits), strict=True)]
        axes.plot(*zip(*means, strict=True), color=BLUE, lw=1.4, alpha=0.85, label="training")
    steps, bits = _series(metrics, "validation")
    if len(steps):
        axes.plot(steps, bits, color=ORANGE, lw=2.0, marker="o", ms=4, label="validation")
        best = int(np.argmin(bits))
        axes.annotate(
            f"{bits[best]:.3f}",
            (steps[best], bits[best]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=ORANGE,
            fontweight="bold",
        )
    for record in metrics:
        if record["kind"] == "baseline":
            axes.axhline(record["bits"], color=GREY, lw=1.0, ls="--", zorder=0)
            axes.annotate(
                f"{record['name']} {record['bits']:.3f}",
                (1.0, record["bits"]),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 3),
                textcoords="offset points",
                ha="right",
                color=GREY,
                fontsize=9,
            )
    axes.set(xlabel="step", ylabel="bits per character")
    axes.set_title("Character-level LSTM", loc="left")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        # beside the title, where no curve can be
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def _series(metrics: list[dict[str, Any]], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and the bits per character of the records of one kind, float64 [n] each."""
    pairs = [(record["step"], record["bits"]) for record in metrics if record["kind"] == kind]
    steps, bits = np.array(pairs, np.float64).reshape(-1, 2).T
    return steps, bits


def _binned(*series: np.ndarray) -> list[list[np.ndarray]]:
    return [np.array_split(values, min(POINTS, len(values))) for values in series]
