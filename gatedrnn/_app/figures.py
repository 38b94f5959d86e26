"""Figures that several tasks draw."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure


def confusion(labels: np.ndarray, got: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """How often each class, a row, is taken for each, a column.

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
