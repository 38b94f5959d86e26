"""Handwritten digits, read row by row or pixel by pixel: many to one.

Axes: N images, T steps, B images of a batch, I features of a step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import optax  # type: ignore[import-untyped]
from matplotlib.figure import Figure

import gatedrnn as gr
from gatedrnn._app import config, task
from gatedrnn._app.config import Rate, Settings, one_of
from gatedrnn._app.data import digits
from gatedrnn._app.data.digits import CLASSES, Images
from gatedrnn._app.task import Criterion, Task
from gatedrnn._app.tasks.common import CELLS, Cells, compiled, demand_batch, digest, shuffled
from gatedrnn._app.tasks.figures import confusion

READ = {"rows": digits.rows, "pixels": digits.pixels}


class Data(Settings, frozen=True):
    """scikit-learn's digits: 70 % to train on, 10 % to validate, 20 % to test."""

    read_by: Annotated[str, one_of(*READ)]


class Model(Cells, frozen=True):
    """The layers, with dropout of their outputs, the last of which is classified."""

    dropout: Rate


class Config(config.Config, frozen=True):
    """The configuration of a classifier of digits."""

    data: Data
    model: Model

    def make(self) -> "Digits":
        """Load and split the images."""
        return Digits(self)


class Batch(NamedTuple):
    """Images, and the digits that they show."""

    xs: np.ndarray  # float32 [T, B, I]
    labels: np.ndarray  # int32 [B]


@dataclasses.dataclass(frozen=True)
class Classifier(task.Model):
    """Images [T, B, I] -> logits [B, 10]."""

    cell: str
    features: int
    dropout: float
    in_features: int

    @property
    def net(self) -> Any:
        """The network."""
        cell = CELLS[self.cell](self.features)
        return gr.final(gr.stack(cell, gr.dropout(self.dropout), gr.dense(CLASSES)))

    def mean_loss(self, params: Any, batch: Any, key: jax.Array) -> jax.Array:
        """The mean cross-entropy."""
        _, logits = self.net.apply(params, batch.xs, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

    @compiled
    def classify(self, params: Any, xs: jax.Array) -> jax.Array:
        """The likeliest digit of each of `xs` [T, B, I], int32 [B]."""
        return self.net.apply(params, xs)[1].argmax(axis=-1)


class Digits(Task):
    """The images in three parts, and the classifiers that read them."""

    criterion = Criterion("accuracy", "held-out accuracy", higher=True, format=".1%")
    unit = "image"
    batch_axes = (1, 0)
    models: dict[str, Classifier]

    def __init__(self, settings: Config) -> None:
        data, model, train = settings.data, settings.model, settings.train
        self.train, self.validation, self.test = digits.load()  # the same for every seed
        self._sequences = READ[data.read_by]
        steps, _, features = self._sequences(self.train.images).shape
        self.models = {
            cell: Classifier(cell, model.features, model.dropout, features) for cell in model.cells
        }
        self.amount, self._seed = train.batch, train.seed
        demand_batch(train.batch, 4 * steps * features)
        self.data = (
            f"scikit-learn's digits by {data.read_by}, {steps} × {features}:"
            f" {len(self.train.labels):,} to train on, {len(self.test.labels):,} to test"
        )
        self.held_out = f"{len(self.validation.labels):,} digits that were not trained on"
        self.stored = {"sha256": digest(*self.train, *self.validation, *self.test)}

    def batch(self, step: int) -> Batch:
        """The images of a step."""
        images, labels = self.train
        chosen = shuffled(len(labels), self.amount, step, self._seed)
        return Batch(self._sequences(images[chosen]), labels[chosen])

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """The accuracy on the validation and on the test images."""
        return {
            measure: float(np.mean(self.predictions(name, params, part) == part.labels))
            for measure, part in (("accuracy", self.validation), ("test: accuracy", self.test))
        }

    def predictions(self, name: str, params: Any, part: Images) -> np.ndarray:
        """The digits that the model `name` takes the images of `part` for, int32 [N]."""
        return np.asarray(self.models[name].classify(params, self._sequences(part.images)))

    def baselines(self) -> dict[str, float]:
        """The most frequent digit, and logistic regression on all the pixels at once."""
        images, labels = self.validation
        frequent = np.bincount(self.train.labels).argmax()
        read = digits.reader(self.train)(images)
        return {
            "the most frequent digit": float(np.mean(labels == frequent)),
            "logistic regression": float(np.mean(labels == read)),
        }

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """The confusion of digits, and the images that are taken for another digit."""
        pictures: dict[str, Figure | str] = {}
        images, labels = self.test
        for name, values in params.items():
            got = self.predictions(name, values, self.test)
            pictures[f"{name}_confusion.png"] = confusion(labels, got, list("0123456789"), name)
            wrong = np.flatnonzero(got != labels)
            if len(wrong):
                pictures[f"{name}_mistakes.png"] = mistakes(
                    images[wrong], labels[wrong], got[wrong], f"{name}: {len(wrong)} mistakes"
                )
        return pictures


def mistakes(images: np.ndarray, labels: np.ndarray, got: np.ndarray, title: str) -> Figure:
    """At most 24 of `images` [N, 8, 8], each with its digit and the one it was taken for."""
    shown, columns, tile = min(len(images), 24), 8, 11  # pixels, with a margin
    rows = -(-shown // columns)
    sheet = np.zeros((rows * tile, columns * tile), np.float32)
    figure = Figure(figsize=(8.0, rows + 0.5), layout="constrained")
    axes = figure.add_subplot()
    for index in range(shown):
        top, left = (tile * place for place in divmod(index, columns))
        sheet[top + 3 : top + tile, left : left + 8] = images[index]
        words = f"{labels[index]} taken for {got[index]}"
        axes.text(left + 3.5, top + 1, words, ha="center", va="center", fontsize=8)
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, loc="left")
    axes.set_axis_off()
    return figure
