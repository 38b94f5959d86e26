"""The adding problem: the sum of the two marked numbers of a long sequence.

Each step has a number drawn from [0, 1) and a mark, which is 1 at one step of the first half and at
one of the second, else 0. After the last step the sum of the two marked numbers is asked for
(Hochreiter and Schmidhuber, 1997, experiment 4, in the form of Le, Jaitly and Hinton, 2015). The
constant guess 1 has the mean squared error 1/6, the variance of such a sum.

Axes: T steps, B sequences.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import gatedrnn as gr
from gatedrnn._app import config, memory
from gatedrnn._app.config import Count, Settings, between
from gatedrnn._app.curve import GREY
from gatedrnn._app.task import Criterion, Model, Task
from gatedrnn._app.tasks.common import CELLS, Cells, compiled, demand_batch, digest
from gatedrnn._app.tasks.figures import coloured

Length = Annotated[int, between(2, 100_000)]


class Data(Settings, frozen=True):
    """Sequences of `length` steps, new ones in every batch; `held_out` are for the evaluation."""

    length: Length
    held_out: Count


class Config(config.Config, frozen=True):
    """The configuration of the adding problem."""

    data: Data
    model: Cells

    def make(self) -> "Adding":
        """Generate the held-out sequences."""
        return Adding(self)


class Batch(NamedTuple):
    """Sequences and what they add up to."""

    xs: np.ndarray  # float32 [T, B, 2]: number, mark
    sums: np.ndarray  # float32 [B]


def generate(rng: np.random.Generator, length: int, batch: int) -> Batch:
    """Draw B = `batch` sequences of T = `length` steps."""
    numbers = rng.random((length, batch), np.float32)
    half, columns = length // 2, np.arange(batch)
    first, second = rng.integers(0, half, batch), rng.integers(half, length, batch)
    marks = np.zeros_like(numbers)
    marks[first, columns] = marks[second, columns] = 1
    return Batch(np.stack([numbers, marks], axis=-1), (numbers * marks).sum(axis=0))


@dataclasses.dataclass(frozen=True)
class Adder(Model):
    """Sequences [T, B, 2] -> sums [B]: a recurrent layer, and a dense one on its last output."""

    cell: str
    features: int
    in_features = 2

    @property
    def net(self) -> Any:
        """The network."""
        return gr.final(gr.stack(CELLS[self.cell](self.features), gr.dense(1)))

    def mean_loss(self, params: Any, batch: Any, key: jax.Array) -> jax.Array:
        """The mean squared error."""
        return ((self.sums(params, batch.xs) - batch.sums) ** 2).mean()

    @compiled
    def sums(self, params: Any, xs: jax.Array) -> jax.Array:
        """The sum of each of `xs` [T, B, 2] by the network, float32 [B]."""
        return self.net.apply(params, xs)[1][:, 0]


class Adding(Task):
    """The sequences, and the networks that add."""

    criterion = Criterion("error", "mean squared error", format=".4f", of_loss=1.0)
    unit = "sequence"
    batch_axes = (1, 0)
    models: dict[str, Adder]

    def __init__(self, settings: Config) -> None:
        data, model, train = settings.data, settings.model, settings.train
        self._length, self._seed, self.amount = data.length, train.seed, train.batch
        # a number, a mark, both stacked, and an output of the network
        step = 16 + 4 * model.features
        sizes = {"data.held_out": data.held_out, "data.length": data.length}
        sizes["model.features"] = model.features
        memory.demand("the held-out sequences", step * data.length * data.held_out, sizes)
        demand_batch(train.batch, 16 * data.length)
        # training draws from [seed, step], and this from three integers: never the same
        self.held = generate(np.random.default_rng([0, 0, 1]), data.length, data.held_out)
        self.models = {cell: Adder(cell, model.features) for cell in model.cells}
        self.data = f"the adding problem, {data.length} steps"
        self.held_out = f"{data.held_out:,} new sequences"
        self.stored = {"sha256": digest(*self.held)}

    def batch(self, step: int) -> Batch:
        """New sequences."""
        return generate(np.random.default_rng([self._seed, step]), self._length, self.amount)

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """The mean squared error on the held-out sequences."""
        errors = self.predictions(name, params) - self.held.sums
        return {"error": float(np.mean(errors.astype(np.float64) ** 2))}

    def predictions(self, name: str, params: Any) -> np.ndarray:
        """The sums of the held-out sequences by the model `name`, float32 [B]."""
        return np.asarray(self.models[name].sums(params, self.held.xs))

    def baselines(self) -> dict[str, float]:
        """The constant guess."""
        return {"always 1": float(np.mean((1 - self.held.sums.astype(np.float64)) ** 2))}

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """The sums by each network over the right ones."""
        figure = Figure(figsize=(3.2 * len(params), 3.6), layout="constrained")
        panels = figure.subplots(1, len(params), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (name, values, colour) in zip(panels, coloured(params), strict=True):
            axes.plot([0, 2], [0, 2], color=GREY, lw=1.0, ls="--")
            axes.plot(self.held.sums, self.predictions(name, values), ".", ms=3, color=colour)
            axes.set(xlabel="sum", aspect="equal")
            axes.set_title(name, loc="left")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("prediction")
        return {"predictions.png": figure}
