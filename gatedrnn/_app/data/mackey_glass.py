"""The Mackey-Glass series with sensor noise, and two baselines for forecasting it.

    dx/dt = β x(t - τ) / (1 + x(t - τ)ⁿ) - γ x(t),   β = 0.2, γ = 0.1, n = 10, τ = 17

is chaotic (Mackey and Glass, 1977). It is integrated by the classical Runge-Kutta method, and read
once per unit of time. The error of a forecast is

    NRMSE = √(mean of (forecast - truth)²) / standard deviation of the truth,

the mean over forecasts, so that 1 is the error of the constant mean.

Axes: N readings of a series, B forecasts, P readings that a forecast starts from, H horizons: how
many units of time ahead, from 1.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

BETA, GAMMA, POWER, DELAY = 0.2, 0.1, 10, 17


class Series(NamedTuple):
    """One stretch of the series."""

    clean: np.ndarray  # float64 [N], x at unit steps of time
    observed: np.ndarray  # float64 [N], with the noise of the sensor


class Parts(NamedTuple):
    """A series cut in time: each part follows the one before it."""

    train: Series
    validation: Series
    test: Series


def integrate(steps: int, *, start: float = 1.2, per_unit: int = 10) -> np.ndarray:
    """Integrate for `steps` units of time, `per_unit` Runge-Kutta steps each: float64 [steps + 1].

    The history before time 0 is the constant `start`. Halfway between two grid points the delayed
    value is that of the cubic with their values and slopes, so that the method stays of order 4.
    """
    h = 1.0 / per_unit
    lag = DELAY * per_unit

    def growth(delayed: float) -> float:
        return BETA * delayed / (1.0 + delayed**POWER)

    # x[lag + k] is the value at step k; slope likewise, 0 in the constant history
    x, slope = [start] * (lag + 1), [0.0] * (lag + 1)
    for k in range(steps * per_unit):
        now, old, new = x[-1], x[k], x[k + 1]
        # the slope jumps at time 0, where the history ends: on its side of the jump it is 0
        ahead = slope[k + 1] if k + 1 != lag else 0.0
        middle = 0.5 * (old + new) + h / 8 * (slope[k] - ahead)
        first, half, last = growth(old), growth(middle), growth(new)
        k1 = first - GAMMA * now
        slope[-1] = k1
        k2 = half - GAMMA * (now + 0.5 * h * k1)
        k3 = half - GAMMA * (now + 0.5 * h * k2)
        k4 = last - GAMMA * (now + h * k3)
        x.append(now + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
        slope.append(0.0)  # until the next step knows it
    return np.array(x[lag::per_unit])


def generate(length: int, *, seed: int, snr_db: float = 30.0, burn_in: int = 500) -> Series:
    """`length` readings of the series, after `burn_in` units of time that are dropped.

    `seed` sets the constant history, in [0.8, 1.3], and the noise: white, Gaussian, independent of
    the series, with a power `snr_db` decibels below the variance of the stretch.
    """
    rng = np.random.default_rng(seed)
    clean = integrate(burn_in + length - 1, start=rng.uniform(0.8, 1.3))[burn_in:]
    deviation = clean.std() * 10.0 ** (-snr_db / 20.0)
    return Series(clean, clean + deviation * rng.standard_normal(length))


def split(series: Series, *, validation_fraction: float = 0.1, test_fraction: float = 0.2) -> Parts:
    """The last `test_fraction` for the test, what lies before it for validation, the rest first."""
    length = len(series.clean)
    end = length - round(length * test_fraction)
    middle = end - round(length * validation_fraction)
    edges = pairwise((0, middle, end, length))
    return Parts(*(Series(*(x[a:b] for x in series)) for a, b in edges))


def nrmse(forecast: np.ndarray, truth: np.ndarray, *, deviation: float) -> np.ndarray:
    """The error of each horizon, [H], of forecasts [B, H] against the truth [B, H].

    `deviation` is the standard deviation to divide by: of the whole part that is tested, so that
    every horizon has the same unit.
    """
    return np.sqrt(np.mean((forecast - truth) ** 2, axis=0)) / deviation


def forecasts(
    part: Series, *, context: int, horizon: int, stride: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Contexts of forecasts, `observed` [B, P], and the readings after them, `clean` [B, H].

    One starts every `stride` readings, P = `context`, H = `horizon`. The truth is without noise: a
    forecast is not blamed for a sensor. Raises `ValueError` where the part holds no forecast.
    """
    if len(part.clean) < context + horizon:
        raise ValueError(
            f"part: got {len(part.clean)} readings, expected at least context + horizon ="
            f" {context + horizon}"
        )
    starts = np.arange(0, len(part.clean) - context - horizon + 1, stride)[:, None]
    return (
        part.observed[starts + np.arange(context)],
        part.clean[starts + np.arange(context, context + horizon)],
    )


def persistence(contexts: np.ndarray, horizon: int) -> np.ndarray:
    """The last reading for ever: contexts [B, P] to forecasts [B, H]."""
    return np.repeat(contexts[:, -1:], horizon, axis=1)


def fit_autoregression(observed: np.ndarray, order: int) -> np.ndarray:
    """Least squares of a reading on the `order` = P before it and a constant: float64 [P + 1].

    The weights are in the order of time, the oldest first, and the constant last.
    """
    windows = np.lib.stride_tricks.sliding_window_view(observed, order + 1)
    design = np.concatenate([windows[:, :-1], np.ones((len(windows), 1))], axis=1)
    return np.linalg.lstsq(design, windows[:, -1], rcond=None)[0]


def autoregression(weights: np.ndarray, contexts: np.ndarray, horizon: int) -> np.ndarray:
    """Forecasts [B, H] by `weights` [P + 1] that run freely, on their own output.

    Of contexts [B, ≥ P] the last P readings count. The first horizon is the one-step forecast.
    """
    order = len(weights) - 1
    window = contexts[:, contexts.shape[1] - order :]
    outputs = []
    for _ in range(horizon):
        outputs.append(window @ weights[:-1] + weights[-1])
        window = np.concatenate([window[:, 1:], outputs[-1][:, None]], axis=1)
    return np.stack(outputs, axis=1)
