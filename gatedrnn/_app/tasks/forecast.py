"""Forecasting a chaotic series from readings with noise: one step ahead, and free-running.

A network reads a context, and from its end on feeds on its own outputs. It is trained as it is
used: the gradient goes back through the free run into the context. Training sees the sensor alone,
with its noise; the errors that are reported are from the series without noise.

Axes: P readings of a context, H horizons, B forecasts.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import gatedrnn as gr
from gatedrnn._app import config, memory
from gatedrnn._app.config import Count, Seed, Settings, between
from gatedrnn._app.curve import COLOURS, GREY
from gatedrnn._app.data import mackey_glass
from gatedrnn._app.errors import CommandError
from gatedrnn._app.task import Criterion, Model, Task
from gatedrnn._app.tasks.common import CELLS, Cells, compiled, demand_batch, digest, shuffled

Length = Annotated[int, between(100, 1_000_000)]
Decibels = Annotated[float, between(-20, 100, "a number")]
SHOWN = 3  # forecasts in the picture


class Data(Settings, frozen=True):
    """A Mackey-Glass series of `length` readings: 70 % to train on, 10 % to validate, 20 % to test.

    The evaluation forecasts the `horizon` readings after every stretch of `context` that starts at
    a multiple of `every`.
    """

    length: Length
    seed: Seed
    snr_db: Decibels
    context: Count
    horizon: Count
    every: Count


class Config(config.Config, frozen=True):
    """The configuration of a forecaster."""

    data: Data
    model: Cells

    def make(self) -> "Forecast":
        """Generate the series."""
        return Forecast(self)


@dataclasses.dataclass(frozen=True)
class Forecaster(Model):
    """Contexts [P, B, 1] -> the H = `horizon` readings after them, [H, B, 1]; standardised.

    The layers give the change of the series in a step.
    """

    cell: str
    features: int
    horizon: int
    in_features = 1

    @property
    def net(self) -> Any:
        """The network: a reading [B, 1] to the next."""
        return gr.residual(gr.stack(CELLS[self.cell](self.features), gr.dense(1)))

    def mean_loss(self, params: Any, batch: Any, key: jax.Array) -> jax.Array:
        """The mean squared error of the forecasts, over all horizons."""
        contexts, truth = jnp.split(batch, [len(batch) - self.horizon])
        return ((self.forecast(params, contexts) - truth) ** 2).mean()

    @compiled
    def forecast(self, params: Any, contexts: jax.Array) -> jax.Array:
        """The H outputs from the end of `contexts` [P, B, 1] on, [H, B, 1]."""
        carry, ys = self.net.apply(params, contexts)
        step = jax.tree_util.Partial(self.net.step, params)
        _, more = gr.generate(step, carry, ys[-1], steps=self.horizon - 1)
        return jnp.concatenate([ys[-1:], more])


class Forecast(Task):
    """The series in three parts, and the networks that forecast it."""

    criterion = Criterion("error", "free-running NRMSE")
    unit = "forecast"
    batch_axes = (1,)
    models: dict[str, Forecaster]

    def __init__(self, settings: Config) -> None:
        data, model, train = settings.data, settings.model, settings.train
        self._context, self._horizon = data.context, data.horizon
        series = mackey_glass.generate(data.length, seed=data.seed, snr_db=data.snr_db)
        self.parts = mackey_glass.split(series)
        shortest = min(len(part.clean) for part in self.parts)
        if data.context + data.horizon > shortest:
            raise CommandError(
                f"data.context, data.horizon: got {data.context} and {data.horizon}, expected a sum"
                f" of at most {shortest}, the readings of the shortest part of the series"
            )
        windows = {"data.context": data.context, "data.horizon": data.horizon}
        count = max(len(part.clean) for part in self.parts[1:]) // data.every
        both = 8 * count * (data.context + data.horizon)
        regressed = 8 * len(self.parts.train.clean) * data.context
        memory.demand("the forecasts of the evaluation", max(both, regressed), windows)
        demand_batch(train.batch, 8 * (data.context + data.horizon))
        observed = self.parts.train.observed
        self._mean, self._deviation = float(observed.mean()), float(observed.std())
        self._train = self._standardised(observed)
        self.models = {cell: Forecaster(cell, model.features, data.horizon) for cell in model.cells}
        self._cut = partial(
            mackey_glass.forecasts, context=data.context, horizon=data.horizon, stride=data.every
        )
        self.amount, self._seed = train.batch, train.seed
        self.data = (
            f"the Mackey-Glass series, noise at {data.snr_db:g} dB:"
            f" {len(observed):,} readings to train on"
        )
        self.held_out = (
            f"{len(self._cut(self.parts.validation)[0])} forecasts of {data.horizon} steps"
            " of what comes later"
        )
        self.stored = {"sha256": digest(*series)}

    def batch(self, step: int) -> np.ndarray:
        """Contexts and the readings after them, float32 [P + H, B, 1]."""
        length = self._context + self._horizon
        starts = shuffled(len(self._train) - length + 1, self.amount, step, self._seed)
        return self._train[starts + np.arange(length)[:, None]][..., None]

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """The mean over horizons, that of one step and of the last; for the test part, too."""
        measures: dict[str, float] = {}
        for label, part in (("", self.parts.validation), ("test: ", self.parts.test)):
            errors = self._errors(self.predictions(name, params, part), part)
            measures |= {
                f"{label}error": float(errors.mean()),
                f"{label}one step": float(errors[0]),
                f"{label}{self._horizon} steps": float(errors[-1]),
            }
        return measures

    def predictions(self, name: str, params: Any, part: mackey_glass.Series) -> np.ndarray:
        """The forecasts of a part, float64 [B, H], in the units of the series."""
        contexts = self._standardised(self._cut(part)[0]).T[..., None]
        forecasts = np.asarray(self.models[name].forecast(params, contexts), np.float64)
        return forecasts[..., 0].T * self._deviation + self._mean

    def baselines(self) -> dict[str, float]:
        """Persistence, and a linear autoregression on as many readings as the networks see."""
        part = self.parts.validation
        return {
            name: float(self._errors(simple(self._cut(part)[0]), part).mean())
            for name, simple in self._simple.items()
        }

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """Some forecasts of the test part over the truth, and the error over the horizon."""
        part = self.parts.test
        contexts, truth = self._cut(part)
        forecasts = {name: simple(contexts) for name, simple in self._simple.items()}
        forecasts |= {name: self.predictions(name, values, part) for name, values in params.items()}
        errors = {name: self._errors(values, part) for name, values in forecasts.items()}
        shown = np.linspace(0, len(truth) - 1, SHOWN).round().astype(int)
        some = {name: values[shown] for name, values in forecasts.items()}
        return {
            "forecasts.png": over_the_truth(contexts[shown], truth[shown], some),
            "horizon.png": over_the_horizon(errors),
        }

    @cached_property
    def _simple(self) -> dict[str, Callable]:
        """The baselines, functions from contexts [B, P] to forecasts [B, H]."""
        weights = mackey_glass.fit_autoregression(self.parts.train.observed, self._context)
        return {
            "persistence": partial(mackey_glass.persistence, horizon=self._horizon),
            "linear autoregression": partial(
                mackey_glass.autoregression, weights, horizon=self._horizon
            ),
        }

    def _standardised(self, readings: np.ndarray) -> np.ndarray:
        return ((readings - self._mean) / self._deviation).astype(np.float32)

    def _errors(self, forecasts: np.ndarray, part: mackey_glass.Series) -> np.ndarray:
        """NRMSE of each horizon, [H]."""
        return mackey_glass.nrmse(forecasts, self._cut(part)[1], deviation=part.clean.std())


def over_the_truth(
    contexts: np.ndarray, truth: np.ndarray, forecasts: Mapping[str, np.ndarray]
) -> Figure:
    """A panel for each of the `contexts` [B, P], with the `truth` and the `forecasts` [B, H]."""
    figure = Figure(figsize=(9.0, 2.2 * len(truth) + 0.5), layout="constrained")
    panels = figure.subplots(len(truth), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    ahead = np.arange(1, truth.shape[1] + 1)
    for index, axes in enumerate(panels):
        context = contexts[index, -len(ahead) :]
        before = np.arange(1 - len(context), 1)
        axes.plot(before, context, ".", ms=3, color=GREY, label="readings")
        axes.plot(ahead, truth[index], color="black", lw=3.5, alpha=0.25, label="truth")
        for (name, values), style in zip(forecasts.items(), styles(forecasts), strict=True):
            axes.plot(ahead, values[index], label=name, **style)
        axes.axvline(0.5, color="#e6e6e6", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set(xlabel="units of time after the last reading")
    panels[0].legend(
        frameon=False, ncols=len(forecasts) + 2, loc="lower right", bbox_to_anchor=(1.0, 1.0)
    )
    return figure


def over_the_horizon(errors: Mapping[str, np.ndarray]) -> Figure:
    """NRMSE of each horizon, [H], by name."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, values), style in zip(errors.items(), styles(errors), strict=True):
        axes.semilogy(np.arange(1, len(values) + 1), values, label=name, **style)
    axes.set(xlabel="units of time ahead", ylabel="NRMSE on the test part")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", lw=0.8)
    axes.legend(frameon=False, ncols=len(errors), loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def styles(names: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The style of each line: the two baselines, which come first, in grey."""
    simple = [{"color": GREY, "lw": 1.2, "ls": dashes} for dashes in (":", "--")]
    models = np.resize(COLOURS, len(names) - len(simple))
    return [*simple, *({"color": colour, "lw": 1.8} for colour in models)]
