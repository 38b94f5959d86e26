"""The style that all pictures share: new axes, colours, the spread over a batch.

Axes: `T` points along the horizontal axis, `N` samples at each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from gatedrnn._src.describe import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): told apart by colour-blind readers; without yellow, which is faint on white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ("-", "--", "-.", ":")
GREY, FAINT = "#666666", "#e6e6e6"


def pyplot() -> Any:
    """Import `matplotlib.pyplot`; raise with the command that installs matplotlib."""
    try:
        return importlib.import_module("matplotlib.pyplot")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            'gr.plot needs matplotlib, which is not installed: pip install "gatedrnn[plot]"',
            name="matplotlib",
        ) from None


def check_axes(ax: Any) -> None:
    """Raise unless `ax` are axes of matplotlib."""
    if not hasattr(ax, "plot") or not hasattr(ax, "figure"):
        raise TypeError(f"ax: got {shown(ax)}, expected axes of matplotlib, or None")


def axes_or_new(ax: Axes | None, size: tuple[float, float] = (7.0, 4.2)) -> Axes:
    """Return `ax`, or the axes of a new figure in place of None."""
    if ax is not None:
        check_axes(ax)
        return ax
    _, new = pyplot().subplots(figsize=size, layout="constrained")
    axes: Axes = new
    return axes


def plain(ax: Axes, *, grid: str = "y") -> None:
    """Remove the box and draw faint grid lines behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color=FAINT, lw=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def legend(ax: Axes, **options: Any) -> None:
    """Draw a legend above the data, where no line can be, if any line has a name."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        place: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        ax.legend(**(place | {"frameon": False, "ncols": min(len(labels), 4)} | options))


def line(ax: Axes, x: Any, values: np.ndarray, index: int, label: str) -> None:
    """Draw the median over samples `[T, N]` as a line, the 10th to 90th percentile as a band."""
    colour, dash = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
    low, middle, high = spread(values)
    ax.plot(x, middle, color=colour, ls=dash, lw=1.8, label=label)
    if values.shape[1] > 1:
        ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def spread(values: np.ndarray, levels: tuple[float, ...] = (0.1, 0.5, 0.9)) -> np.ndarray:
    """Return the quantiles of the positive samples `[T, N]`, those on a logarithmic axis."""
    quantiles = np.full((len(levels), len(values)), np.nan)
    for t, of_point in enumerate(values):
        positive = of_point[np.isfinite(of_point) & (of_point > 0)]
        if positive.size:
            quantiles[:, t] = np.quantile(positive, levels)
    return quantiles


def numbers(name: str, values: Any) -> np.ndarray:
    """Return `values` as float64; raise for what is no array of real numbers."""
    try:
        array = None if values is None else np.asarray(values)
    except ValueError:  # a ragged list
        array = None
    # bfloat16, which NumPy itself does not know, too
    if array is None or not (array.dtype == bool or jnp.issubdtype(array.dtype, jnp.number)):
        raise TypeError(f"{name}: got {shown(values)}, expected an array of real numbers")
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name}: got dtype {array.dtype.name}, expected an array of real numbers")
    return np.asarray(array, np.float64)


def samples(name: str, values: Any, axes: int = 1) -> np.ndarray:
    """Return `values`, with at least `axes` axes, as float64 samples `[T, N]`."""
    array = numbers(name, values)
    if array.ndim < axes or array.shape[0] == 0:
        expected = "[T, *B]" if axes == 1 else "[T, *B, K]"
        raise ValueError(f"{name}: got shape {array.shape}, expected {expected}")
    return array.reshape(array.shape[0], -1)
