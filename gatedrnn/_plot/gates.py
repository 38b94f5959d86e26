"""Gates over time, and the shares of steps at which units saturate.

Axes: `T` time, `H` features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gatedrnn._plot.style import (
    COLOURS,
    GREY,
    axes_or_new,
    check_axes,
    legend,
    numbers,
    plain,
    pyplot,
)
from gatedrnn._src import checks
from gatedrnn._src.describe import shown

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
    """Draw the gates of one sequence as maps over time and units: dark closed, bright open.

    The units of each gate are sorted by their means over time.

    Args:
      gates: for each name `[T, H]`: one row of the batch, from `gr.diagnostics.gates`, such as
        `{name: gate[:, 0] for name, gate in gates.items()}`.
      labels: `T` short strings to write along time, such as the characters that were read.
      ax: axes to draw in, one for each gate; None: a new figure.

    Returns:
      The axes, an array with one for each gate.

    Raises:
      ValueError: gates of another shape, or labels or axes of another number.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> from matplotlib.figure import Figure
      >>> values = {"r": np.ones((3, 2)), "z": np.zeros((3, 2))}  # 3 steps, 2 units
      >>> axes = gr.plot.gates(values, labels="abc", ax=Figure().subplots(2))
      >>> [text.get_text() for text in axes[-1].get_xticklabels()]
      ['a', 'b', 'c']
    """
    checks.mapping("gates", gates, "arrays [T, H]")
    arrays = {name: numbers(f"gates[{name!r}]", gate) for name, gate in gates.items()}
    for name, gate in arrays.items():
        if gate.ndim != 2:
            raise ValueError(
                f"gates[{name!r}]: got shape {gate.shape}, expected [T, H], one row of the batch"
            )
        if labels is not None and not isinstance(labels, Sequence):
            raise TypeError(f"labels: got {shown(labels)}, expected a list of strings")
        if labels is not None and len(labels) != len(gate):
            raise ValueError(f"labels: got {len(labels)}, expected {len(gate)}, one for each step")
    if ax is None:
        size = (8.0, 0.6 + 1.7 * len(arrays))
        options = {"figsize": size, "layout": "constrained", "sharex": True, "squeeze": False}
        ax = pyplot().subplots(len(arrays), 1, **options)[1]
    axes = np.atleast_1d(np.asarray(ax, object)).ravel()
    if len(axes) != len(arrays):
        raise ValueError(f"ax: got {len(axes)} axes, expected {len(arrays)}, one for each gate")
    for each in axes:
        check_axes(each)
    for gate_ax, (name, gate) in zip(axes, arrays.items(), strict=True):
        order = np.argsort(gate.mean(axis=0))
        extent = (0.5, len(gate) + 0.5, 0.5, gate.shape[1] + 0.5)
        options = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
        image = gate_ax.imshow(
            gate[:, order].T, vmin=0, vmax=1, cmap="cividis", extent=extent, **options
        )
        gate_ax.set_ylabel(f"gate {name}\nunits")
        gate_ax.set_yticks([1, gate.shape[1]])
        gate_ax.tick_params(axis="x", length=0 if labels is not None else 3)
    if labels is None:
        axes[-1].set_xlabel("step t")
    else:
        axes[-1].set_xticks(np.arange(1, len(labels) + 1), labels)
    bar = axes[0].figure.colorbar(image, ax=list(axes), ticks=[0, 0.5, 1], aspect=30)
    bar.ax.set_yticklabels(["0 closed", "0.5", "1 open"])
    return axes


def saturation(saturation: Mapping[str, Saturation], *, ax: Axes | None = None) -> Axes:
    """Draw every unit at its shares of steps nearly closed and open (Karpathy et al. 2015, fig. 3).

    Args:
      saturation: as `gr.diagnostics.saturation` returns it.
      ax: where to draw; None: a new figure.

    Returns:
      The axes; the legend has the shares of each whole gate.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> from matplotlib.figure import Figure
      >>> shares = gr.diagnostics.saturation({"z": jnp.array([[0.0, 0.5], [1.0, 0.5]])})
      >>> ax = gr.plot.saturation(shares, ax=Figure().subplots())
      >>> ax.get_legend().get_texts()[0].get_text()
      'z: 25% nearly closed, 25% nearly open'
    """
    checks.mapping("saturation", saturation, "pairs of arrays [H]")
    ax = axes_or_new(ax, (5.6, 5.4))
    for i, (name, shares) in enumerate(saturation.items()):
        if not isinstance(shares, tuple) or len(shares) != 2:
            raise TypeError(
                f"saturation[{name!r}]: got {shown(shares)}, expected a gr.diagnostics.Saturation"
            )
        low, high = (numbers(f"saturation[{name!r}]", share) for share in shares)
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
