"""Gates over time, and how many saturate.

Axes: `T` time, `H` features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gatedrnn._plot.style import COLOURS, GREY, axes_or_new, legend, plain, pyplot

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from matplotlib.axes import Axes

    from gatedrnn._src.diagnostics.gates import Saturation

MARKERS = ("o", "^", "s", "D")


def gates(
    gates: Mapping[str, ArrayLike],
    labels: Sequence[str] | None = None,
    *,
    ax: Any = None,
) -> np.ndarray:
    """The gates of one sequence as maps over time and units, dark closed, bright open.

    Units are sorted, for each gate, by how open they are on average.

    Args:
      gates: for each name `[T, H]`: one row of what `gr.diagnostics.gates` returns, such as
        `{name: gate[:, 0] for name, gate in gates.items()}`.
      labels: `T` short strings to write along time, such as the characters that were read.
      ax: axes to draw in, one for each gate; None: a new figure.

    Returns:
      The axes, an array with one for each gate.

    Raises:
      ValueError: gates of another shape, or labels or axes of another number.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> gr.plot.gates({"r": jnp.ones((5, 3)), "z": jnp.ones((5, 3))}).shape
      (2,)
    """
    arrays = {name: np.asarray(gate, np.float64) for name, gate in gates.items()}
    for name, gate in arrays.items():
        if gate.ndim != 2:
            raise ValueError(
                f"gates[{name!r}]: got shape {gate.shape}, expected [T, H], one row of the batch"
            )
        if labels is not None and len(labels) != len(gate):
            raise ValueError(f"labels: got {len(labels)}, expected {len(gate)}, one for each step")
    if ax is None:
        size = (8.0, 0.6 + 1.7 * len(arrays))
        options = {"figsize": size, "layout": "constrained", "sharex": True, "squeeze": False}
        ax = pyplot().subplots(len(arrays), 1, **options)[1]
    every = np.atleast_1d(np.asarray(ax, object)).ravel()
    if len(every) != len(arrays):
        raise ValueError(f"ax: got {len(every)} axes, expected {len(arrays)}, one for each gate")
    for each, (name, gate) in zip(every, arrays.items(), strict=True):
        order = np.argsort(gate.mean(axis=0))
        extent = (0.5, len(gate) + 0.5, 0.5, gate.shape[1] + 0.5)
        options = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
        image = each.imshow(
            gate[:, order].T, vmin=0, vmax=1, cmap="cividis", extent=extent, **options
        )
        each.set_ylabel(f"gate {name}\nunits")
        each.set_yticks([1, gate.shape[1]])
        each.tick_params(axis="x", length=0 if labels is not None else 3)
    if labels is None:
        every[-1].set_xlabel("step t")
    else:
        every[-1].set_xticks(np.arange(1, len(labels) + 1), labels)
    bar = every[0].figure.colorbar(image, ax=list(every), ticks=[0, 0.5, 1], aspect=30)
    bar.ax.set_yticklabels(["0 closed", "0.5", "1 open"])
    return every


def saturation(saturation: Mapping[str, Saturation], *, ax: Axes | None = None) -> Axes:
    """Each unit by how often it is nearly closed and nearly open (Karpathy et al. 2015, figure 3).

    Args:
      saturation: as `gr.diagnostics.saturation` returns it.
      ax: where to draw; None: a new figure.

    Returns:
      The axes; the legend has the shares of each whole gate.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> shares = gr.diagnostics.Saturation(low=jnp.zeros(3), high=jnp.ones(3))
      >>> gr.plot.saturation({"z": shares}).get_xlabel()
      'share of steps nearly closed'
    """
    ax = axes_or_new(ax, (5.6, 5.4))
    for i, (name, shares) in enumerate(saturation.items()):
        low, high = np.asarray(shares.low, np.float64), np.asarray(shares.high, np.float64)
        label = f"{name}: {low.mean():.0%} nearly closed, {high.mean():.0%} nearly open"
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        ax.plot(low, high, marker, color=colour, ms=6, alpha=0.6, mew=0, label=label)
    ax.plot([0, 1], [1, 0], color=GREY, lw=1.0, ls="--", zorder=0)
    ax.set(
        xlabel="share of steps nearly closed",
        ylabel="share of steps nearly open",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        aspect="equal",
    )
    plain(ax, grid="both")
    legend(ax, ncols=1)
    return ax
