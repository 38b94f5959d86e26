"""The loss over a line or a plane of parameters, with paths of descent."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gatedrnn._plot.style import COLOURS, axes_or_new, legend, plain
from gatedrnn._src import checks
from gatedrnn._src.describe import shown
from gatedrnn._src.diagnostics.surface import DescentPath, LossSlice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOGARITHMIC_FROM = 30.0  # a loss that spans a larger ratio is drawn on a logarithmic scale
COLOUR_RATIO = 1e4  # the ratio over which a map has colours
MARKERS = ("o", "s", "^", "D")
ON_MAP = ("#d55e00", "#ffffff", "#56b4e9", "#e69f00")  # seen on every shade of the colour map


def loss_slice(
    surface: LossSlice,
    paths: Mapping[str, DescentPath] | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss over one direction as a line, over two as a map, with paths of descent.

    A ring marks the start of a path. The picture keeps the extent of the slice: a step that leaves
    the slice leads out of the frame. A positive loss that spans more than a factor of 30 is on a
    logarithmic scale.

    Args:
      surface: as `gr.diagnostics.loss_slice` returns it.
      paths: by name, as `gr.diagnostics.descent_path` returns them, in the same directions.
      ax: where to draw; None: a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: a path in another number of directions.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> from matplotlib.figure import Figure
      >>> w, along, points = jnp.zeros(1), [jnp.ones(1)], [jnp.linspace(-1.0, 1.0, 5)]
      >>> found = gr.diagnostics.loss_slice(lambda w: jnp.sum(w**2), w, along, points)
      >>> ax = gr.plot.loss_slice(found, ax=Figure().subplots())
      >>> ax.get_xlabel(), ax.get_ylabel()
      ('distance along the direction', 'loss')
    """
    if not isinstance(surface, LossSlice):
        raise TypeError(f"surface: got {shown(surface)}, expected a gr.diagnostics.LossSlice")
    paths = {} if paths is None else paths
    checks.mapping("paths", paths, "a gr.diagnostics.DescentPath each")
    for name, path in paths.items():
        if not isinstance(path, DescentPath):
            raise TypeError(
                f"paths[{name!r}]: got {shown(path)}, expected a gr.diagnostics.DescentPath"
            )
        if np.shape(path.coordinates)[-1] != len(surface.coordinates):
            raise ValueError(
                f"paths[{name!r}]: got coordinates of shape {np.shape(path.coordinates)}, expected "
                f"[S + 1, {len(surface.coordinates)}], as the slice"
            )
    if len(surface.coordinates) == 1:
        return _line(surface, paths, axes_or_new(ax))
    return _map(surface, paths, axes_or_new(ax, (6.6, 5.0)))


def _line(surface: LossSlice, paths: Mapping[str, DescentPath], ax: Axes) -> Axes:
    (u,), losses = _in_numpy(surface)
    ax.plot(u, losses, color=COLOURS[-1], lw=1.4)
    for i, (name, path) in enumerate(paths.items()):
        x, y = np.asarray(path.coordinates)[:, 0], np.asarray(path.losses)
        _path(ax, x, y, COLOURS[i % len(COLOURS)], i, name)
    if _needs_logarithm(losses):
        ax.set_yscale("log")
    ax.set_xlim(u.min(), u.max())
    ax.set(xlabel="distance along the direction", ylabel="loss")
    plain(ax)
    legend(ax)
    return ax


def _map(surface: LossSlice, paths: Mapping[str, DescentPath], ax: Axes) -> Axes:
    colors = importlib.import_module("matplotlib.colors")
    (u, v), losses = _in_numpy(surface)
    values = np.ma.masked_invalid(losses.T)
    norm, below = colors.Normalize(), "neither"
    if _needs_logarithm(losses):
        # a minimum that is nearly exact would take all colours for itself
        least = max(values.min(), values.max() / COLOUR_RATIO)
        norm = colors.LogNorm(least, values.max())
        below = "min" if values.min() < least else below
    image = ax.pcolormesh(u, v, values, norm=norm, cmap="cividis", shading="nearest")
    image.set_rasterized(True)
    ax.figure.colorbar(image, ax=ax, label="loss", extend=below)
    for i, (name, path) in enumerate(paths.items()):
        x, y = np.asarray(path.coordinates).T
        _path(ax, x, y, ON_MAP[i % len(ON_MAP)], i, name)
    ax.set_xlim(u.min(), u.max())
    ax.set_ylim(v.min(), v.max())
    ax.set(xlabel="distance along direction 1", ylabel="distance along direction 2")
    legend(ax)
    return ax


def _path(ax: Axes, x: np.ndarray, y: np.ndarray, colour: str, index: int, name: str) -> None:
    marker = MARKERS[index % len(MARKERS)]
    effects = importlib.import_module("matplotlib.patheffects")
    outline = [effects.withStroke(linewidth=2.4, foreground="black")]
    style: Any = {"color": colour, "marker": marker, "ms": 3.5, "lw": 1.2, "path_effects": outline}
    ax.plot(x, y, label=name, **style)
    ax.plot(x[:1], y[:1], marker="o", ms=10, mfc="none", mec=colour, mew=1.6)


def _needs_logarithm(losses: np.ndarray) -> bool:
    finite = losses[np.isfinite(losses)]
    if finite.size == 0 or finite.min() <= 0:
        return False
    return bool(finite.max() > LOGARITHMIC_FROM * finite.min())


def _in_numpy(surface: LossSlice) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return the coordinates and the losses in float64."""
    return (
        tuple(np.asarray(axis, np.float64) for axis in surface.coordinates),
        np.asarray(surface.losses, np.float64),
    )
