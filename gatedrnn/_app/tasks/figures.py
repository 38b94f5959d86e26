"""Figures that several tasks draw."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gatedrnn._app.curve import COLOURS


def coloured(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """The name, the value and the colour of each of several models."""
    return zip(values, values.values(), np.resize(COLOURS, len(values)), strict=True)


def confusion(labels: np.ndarray, got: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """The counts of each class, a row, taken for each, a column.

    `labels` and `got` are integers [N] below the number of `names`. The colour is the share of
    the row.
    """
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (labels, got), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.0 + 0.4 * len(names)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=8)
    rotation = 0 if max(map(len, names)) <= 2 else 90
    axes.set_xticks(range(len(names)), names, rotation=rotation)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, loc="left")
    axes.spines[:].set_visible(False)
    return figure


def looks(examples: Sequence[tuple[np.ndarray, str, str]]) -> Figure:
    """The attention of a network as it writes: for each example a panel of its weights.

    An example is weights [T, S], the S characters that are read and the T that are written; the
    darker, the more weight.
    """
    rows = -(-len(examples) // 2)
    figure = Figure(figsize=(13.0, 2.9 * max(rows, 1)), layout="constrained")
    for place, (weights, read, written) in enumerate(examples, start=1):
        axes = figure.add_subplot(rows, 2, place)
        axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(read)), read)
        axes.set_yticks(range(len(written)), written)
        axes.tick_params(length=0, labelsize=9)
        axes.set_title(f"{read} → {written}", loc="left", fontsize=10)
        axes.spines[:].set_visible(False)
    return figure
