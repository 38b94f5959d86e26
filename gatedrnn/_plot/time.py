"""Gradients and Jacobians over time and distance.

Axes: `T` time, `*B` any batch axes (the median as a line, the 10th to 90th percentile as a band),
`K` elements of a carry. On logarithmic axes what is zero is left out.
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
    plain,
    samples,
    spread,
)

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from matplotlib.axes import Axes


def gradient_norms(norms: Any, *, ax: Axes | None = None) -> Axes:
    """`‖δh_t‖` (and `‖δc_t‖`) over time, on a logarithmic axis.

    Args:
      norms: a carry with leaves `[T, *B]`, as `gr.diagnostics.gradient_norms` returns it.
      ax: where to draw; None: a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: leaves without steps.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> norms = gr.LSTMCarry(h=jnp.ones((5, 2)), c=jnp.ones((5, 2)))
      >>> gr.plot.gradient_norms(norms).get_yscale()
      'log'
    """
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
    """The norm of the last output's gradient over the distance back, a line for each cell.

    Args:
      reach: for each name `[T, *B]`, as `gr.diagnostics.gradient_reach` returns it.
      ax: where to draw; None: a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: values without steps.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> gr.plot.gradient_reach({"LSTM": jnp.ones((5, 2))}).get_xlabel()
      'distance T − t, in steps'
    """
    lines = {name: samples(f"reach[{name!r}]", values) for name, values in reach.items()}
    ax = axes_or_new(ax)
    for i, (name, values) in enumerate(lines.items()):
        line(ax, np.arange(len(values)), values, i, name)
    _logarithmic(ax, "distance T − t, in steps", "norm of the gradient of y at T")
    return ax


def jacobian_norms(
    norms: ArrayLike, bound: ArrayLike | None = None, *, ax: Axes | None = None
) -> Axes:
    """The spectral norm of `∂h_T/∂h_t` over the distance `T − t`, beside its bound.

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
      >>> gr.plot.jacobian_norms(jnp.ones((5, 2)), bound=jnp.ones(5)).get_ylabel()
      'spectral norm'
    """
    values = samples("norms", norms)
    distance = np.arange(len(values), 0, -1)
    if bound is not None and np.shape(bound) != distance.shape:
        raise ValueError(f"bound: got shape {np.shape(bound)}, expected {distance.shape}")
    ax = axes_or_new(ax)
    line(ax, distance, values, 0, r"$\|\partial h_T / \partial h_t\|$")
    if bound is not None:
        ax.plot(
            distance,
            np.asarray(bound),
            color=COLOURS[1],
            ls="--",
            lw=1.8,
            label=r"bound $(\gamma\lambda)^{T-t}$",
        )
    _logarithmic(ax, "distance T − t, in steps", "spectral norm")
    return ax


def singular_values(values: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """The singular values of the step Jacobians over time: how each step stretches and shrinks.

    Lines for the median over the batch of the largest, the middle and the smallest value of every
    step, a band from the smallest to the largest; above 1 a direction grows.

    Args:
      values: `[T, *B, K]`, as `gr.diagnostics.singular_values` returns them.
      ax: where to draw; None: a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: values of another rank or without steps.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> gr.plot.singular_values(jnp.ones((5, 2, 3))).get_xlabel()
      'step t'
    """
    samples("values", values, axes=2)
    array = np.asarray(values, np.float64)
    array = array.reshape(len(array), -1, array.shape[-1])
    ax = axes_or_new(ax)
    steps = np.arange(1, len(array) + 1)
    middle = array.shape[-1] // 2
    chosen = {"largest": array[..., 0], "median": array[..., middle], "smallest": array[..., -1]}
    medians = {name: spread(each, (0.5,))[0] for name, each in chosen.items()}
    ax.fill_between(
        steps, medians["smallest"], medians["largest"], color=COLOURS[0], alpha=0.1, lw=0
    )
    for i, (name, each) in enumerate(medians.items()):
        ax.plot(steps, each, color=COLOURS[i], ls=DASHES[i], lw=1.8, label=name)
    _unity(ax)
    _logarithmic(ax, "step t", "singular values of the step")
    return ax


def lyapunov_exponents(exponents: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """The spectrum of Lyapunov exponents: above the line at 0 perturbations grow.

    Args:
      exponents: `[*B, K]`, as `gr.diagnostics.lyapunov_exponents` returns them.
      ax: where to draw; None: a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: a scalar.
      ModuleNotFoundError: matplotlib is not installed.

    Example:
      >>> gr.plot.lyapunov_exponents(jnp.zeros((2, 3))).get_xlabel()
      'index of the exponent'
    """
    array = np.asarray(exponents, np.float64)
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
