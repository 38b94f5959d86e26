"""Gradients and Jacobians over time and distance.

Axes: `T` time, `*B` any batch axes (the median as a line, the 10th to 90th percentile as a band),
`K` elements of a carry. Logarithmic axes leave zeros out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from gatedrnn._plot.style import (
    COLOURS,
    DASHES,
    GREY,
    axes_or_new,
    legend,
    line,
    numbers,
    plain,
    samples,
    spread,
)
from gatedrnn._src import checks
from gatedrnn._src.describe import shown

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from matplotlib.axes import Axes


def gradient_norms(norms: Any, *, ax: Axes | None = None) -> Axes:
    """Draw `‖δh_t‖` (and `‖δc_t‖`) over time, on a logarithmic axis.

    Args:
      norms: a carry with leaves `[T, *B]`, as `gr.diagnostics.gradient_norms` returns it.
      ax: where to draw; None: a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: leaves without steps.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> from matplotlib.figure import Figure
      >>> norms = gr.LSTMCarry(h=jnp.array([0.1, 1.0]), c=jnp.array([0.2, 0.5]))
      >>> ax = gr.plot.gradient_norms(norms, ax=Figure().subplots())
      >>> [line.get_label() for line in ax.get_lines()]
      ['‖δh‖', '‖δc‖']
    """
    if not jax.tree.leaves(norms):
        raise TypeError(f"norms: got {shown(norms)}, expected a carry with leaves [T, *B]")
    leaves = [
        (jax.tree_util.keystr(path, simple=True, separator="."), samples("norms", leaf))
        for path, leaf in jax.tree.leaves_with_path(norms)
    ]
    ax = axes_or_new(ax)
    for i, (name, values) in enumerate(leaves):
        line(ax, np.arange(1, len(values) + 1), values, i, f"‖δ{name}‖")
    _logarithmic(ax, "step t", "norm of the gradient at step t")
    return ax


def gradient_reach(reach: Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Axes:
    """Draw the norm of the last output's gradient over the distance back, a line for each cell.

    Args:
      reach: for each name `[T, *B]`, as `gr.diagnostics.gradient_reach` returns it.
      ax: where to draw; None: a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: values without steps.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> from matplotlib.figure import Figure
      >>> reach = {"LSTM": [1.0, 0.9, 0.8], "Elman": [1.0, 0.5, 0.25]}
      >>> ax = gr.plot.gradient_reach(reach, ax=Figure().subplots())
      >>> ax.get_xlabel(), ax.get_yscale()
      ('distance T − t, in steps', 'log')
    """
    checks.mapping("reach", reach, "arrays [T, *B]")
    lines = {name: samples(f"reach[{name!r}]", values) for name, values in reach.items()}
    ax = axes_or_new(ax)
    for i, (name, values) in enumerate(lines.items()):
        line(ax, np.arange(len(values)), values, i, name)
    _logarithmic(ax, "distance T − t, in steps", "norm of the gradient of y at T")
    return ax


def jacobian_norms(
    norms: ArrayLike, bound: ArrayLike | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw the spectral norm of `∂h_T/∂h_t` over the distance `T − t`, beside its bound.

    Args:
      norms: `[T, *B]`, `singular_values(product_jacobians(jacobians))[..., 0]`.
      bound: `[T]`, as `gr.diagnostics.jacobian_bound` returns it.
      ax: where to draw; None: a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: norms without steps, or a bound of another length.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> from matplotlib.figure import Figure
      >>> norms, bound = [0.1, 0.2, 0.4], [0.125, 0.25, 0.5]
      >>> ax = gr.plot.jacobian_norms(norms, bound, ax=Figure().subplots())
      >>> ax.get_ylabel(), ax.get_lines()[1].get_xdata().tolist()
      ('spectral norm', [3, 2, 1])
    """
    values = samples("norms", norms)
    distance = np.arange(len(values), 0, -1)
    bound = None if bound is None else numbers("bound", bound)
    if bound is not None and bound.shape != distance.shape:
        raise ValueError(f"bound: got shape {bound.shape}, expected {distance.shape}")
    ax = axes_or_new(ax)
    line(ax, distance, values, 0, r"$\|\partial h_T / \partial h_t\|$")
    if bound is not None:
        ax.plot(
            distance,
            bound,
            color=COLOURS[1],
            ls="--",
            lw=1.8,
            label=r"bound $(\gamma\lambda)^{T-t}$",
        )
    _logarithmic(ax, "distance T − t, in steps", "spectral norm")
    return ax


def singular_values(values: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw the singular values of step Jacobians over time: the growth of perturbations in a step.

    The lines are medians over the batch: of the largest, the middle and the smallest singular value
    at every step. A band lies between the smallest and the largest; above 1 a direction grows.

    Args:
      values: `[T, *B, K]`, as `gr.diagnostics.singular_values` returns them.
      ax: where to draw; None: a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: values of another rank or without steps.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> from matplotlib.figure import Figure
      >>> values = gr.diagnostics.singular_values(jnp.stack([jnp.eye(3), 2 * jnp.eye(3)]))
      >>> ax = gr.plot.singular_values(values, ax=Figure().subplots())
      >>> [text.get_text() for text in ax.get_legend().get_texts()]
      ['largest', 'median', 'smallest']
    """
    samples("values", values, axes=2)
    array = numbers("values", values)
    array = array.reshape(len(array), -1, array.shape[-1])
    ax = axes_or_new(ax)
    steps = np.arange(1, len(array) + 1)
    middle = array.shape[-1] // 2
    chosen = {"largest": array[..., 0], "median": array[..., middle], "smallest": array[..., -1]}
    medians = {name: spread(rows, (0.5,))[0] for name, rows in chosen.items()}
    ax.fill_between(
        steps, medians["smallest"], medians["largest"], color=COLOURS[0], alpha=0.1, lw=0
    )
    for i, (name, median) in enumerate(medians.items()):
        ax.plot(steps, median, color=COLOURS[i], ls=DASHES[i], lw=1.8, label=name)
    _unity(ax)
    _logarithmic(ax, "step t", "singular values of the step")
    return ax


def lyapunov_exponents(exponents: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw the spectrum of Lyapunov exponents; above the line at 0 perturbations grow.

    Args:
      exponents: `[*B, K]`, as `gr.diagnostics.lyapunov_exponents` returns them.
      ax: where to draw; None: a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: a scalar.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> from matplotlib.figure import Figure
      >>> ax = gr.plot.lyapunov_exponents([0.1, 0.0, -0.4], ax=Figure().subplots())
      >>> ax.get_xlabel(), ax.get_lines()[0].get_ydata().tolist()
      ('index of the exponent', [0.1, 0.0, -0.4])
    """
    array = numbers("exponents", exponents)
    if array.ndim < 1:
        raise ValueError(f"exponents: got shape {array.shape}, expected [*B, K]")
    rows = array.reshape(-1, array.shape[-1])
    ax = axes_or_new(ax)
    index = np.arange(1, rows.shape[1] + 1)
    for row in rows if len(rows) > 1 else []:
        ax.plot(index, row, color=COLOURS[0], lw=0.8, alpha=0.3)
    ax.plot(index, np.median(rows, axis=0), color=COLOURS[0], lw=1.2, marker="o", ms=3.5)
    ax.axhline(0.0, color=GREY, lw=1.0, ls="--", zorder=0)
    ax.set(xlabel="index of the exponent", ylabel="exponent, per unit of time")
    plain(ax)
    return ax


def _unity(ax: Axes) -> None:
    ax.axhline(1.0, color=GREY, lw=1.0, ls="--", zorder=0)


def _logarithmic(ax: Axes, x: str, y: str) -> None:
    ax.set_yscale("log")
    ax.set(xlabel=x, ylabel=y)
    plain(ax)
    legend(ax)
