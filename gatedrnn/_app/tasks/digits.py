"""Handwritten digits, read row by row or pixel by pixel: many to one.

Axes: N images, T steps, B images of a batch, I features of a step.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import optax  # type: ignore[import-untyped]
from matplotlib.figure import Figure
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

import gatedrnn as gr
from gatedrnn._app import config
from gatedrnn._app.config import Count, Fraction, Rate, one_of
from gatedrnn._app.errors import CommandError
from gatedrnn._app.figures import confusion
from gatedrnn._app.task import Criterion
from gatedrnn._app.tasks.common import CELLS, Cells, digest, shuffled

STEPS = {"rows": 8, "pixels": 64}  # of an image of 8 × 8
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Data:
    """scikit-learn's digits, of which `held_out_fraction` are for the evaluation."""

    read_by: Annotated[str, one_of(*STEPS)]
    held_out_fraction: Fraction


@dataclasses.dataclass(frozen=True)
class Model:
    """For each of `cells`, one layer of `features` units; the last output is classified."""

    cells: Cells
    features: Count
    dropout: Rate


@dataclasses.dataclass(frozen=True)
class Config(config.Config):
    """The configuration of a classifier of digits."""

    data: Data
    model: Model

    def make(self) -> "Digits":
        """Load and split the images."""
        return Digits(self)


class Batch(NamedTuple):
    """Images and what they show."""

    xs: np.ndarray  # float32 [T, B, I]
    labels: np.ndarray  # int32 [B]


@dataclasses.dataclass(frozen=True)
class Classifier:
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

    def init(self, key: jax.Array) -> Any:
        """New parameters."""
        return self.net.init(key, self.in_features)

    def carry(self, params: Any, batch: int) -> tuple[()]:
        """None: an image stands alone."""
        return ()

    def loss(
        self, params: Any, carry: Any, batch: Any, key: jax.Array
    ) -> tuple[jax.Array, tuple[()]]:
        """The mean cross-entropy."""
        _, logits = self.net.apply(params, batch.xs, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean(), ()


@partial(jax.jit, static_argnames="model")
def predict(params: Any, xs: jax.Array, *, model: Classifier) -> jax.Array:
    """The likeliest digit of each of `xs` [T, B, I], int32 [B]."""
    return model.net.apply(params, xs)[1].argmax(axis=-1)


class Digits:
    """The images in two parts, and the classifiers that read them."""

    criterion = Criterion("accuracy", "held-out accuracy", higher=True, format=".1%")
    unit = "image"

    def __init__(self, settings: Config) -> None:
        data, model, train = settings.data, settings.model, settings.train
        images, labels = load_digits(return_X_y=True)
        count = round(len(labels) * data.held_out_fraction)
        if not 0 < count < len(labels):
            raise CommandError(
                f"data.held_out_fraction: got {data.held_out_fraction}, which parts the"
                f" {len(labels)} images into {len(labels) - count} and {count}"
            )
        order = np.random.default_rng(0).permutation(len(labels))  # the same for every seed
        images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int32)
        self.held, self.rest = (images[:count], labels[:count]), (images[count:], labels[count:])
        self._steps = STEPS[data.read_by]
        features = images.shape[1] // self._steps
        self.models = {
            cell: Classifier(cell, model.features, model.dropout, features) for cell in model.cells
        }
        self.amount, self._seed = train.batch, train.seed
        self.data = (
            f"scikit-learn's digits by {data.read_by}, {self._steps} × {features}:"
            f" {len(labels) - count:,} to train on"
        )
        self.held_out = f"{count:,} digits that were not trained on"
        self.stored = {"sha256": digest(images, labels)}

    def batch(self, step: int) -> Batch:
        """The images of a step."""
        images, labels = self.rest
        chosen = shuffled(len(labels), self.amount, step, self._seed)
        return Batch(self._sequences(images[chosen]), labels[chosen])

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """The accuracy on the held-out images."""
        return {"accuracy": float(np.mean(self.predictions(name, params) == self.held[1]))}

    def predictions(self, name: str, params: Any) -> np.ndarray:
        """What the model makes of each of the held-out images, int32 [N]."""
        return np.asarray(predict(params, self._sequences(self.held[0]), model=self.models[name]))

    def baselines(self) -> dict[str, float]:
        """The most frequent digit, and logistic regression on all the pixels at once."""
        images, labels = self.held
        frequent = np.bincount(self.rest[1]).argmax()
        logistic = LogisticRegression(max_iter=1000).fit(*self.rest)
        return {
            "the most frequent digit": float(np.mean(labels == frequent)),
            "logistic regression": float(np.mean(labels == logistic.predict(images))),
        }

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """What is taken for what, and the images that are taken for something else."""
        pictures: dict[str, Figure | str] = {}
        images, labels = self.held
        for name, values in params.items():
            got = self.predictions(name, values)
            pictures[f"{name}_confusion.png"] = confusion(labels, got, list("0123456789"), name)
            wrong = np.flatnonzero(got != labels)
            if len(wrong):
                pictures[f"{name}_mistakes.png"] = mistakes(
                    images[wrong], labels[wrong], got[wrong], f"{name}: {len(wrong)} mistakes"
                )
        return pictures

    def commands(self, folder: str) -> list[str]:
        """None."""
        return []

    def _sequences(self, images: np.ndarray) -> np.ndarray:
        """Images [B, 64] -> [T, B, I]."""
        return np.moveaxis(images.reshape(len(images), self._steps, -1), 0, 1)


def mistakes(images: np.ndarray, labels: np.ndarray, got: np.ndarray, title: str) -> Figure:
    """At most 24 of `images` [N, 64], each with its digit and the one it was taken for."""
    shown, columns, tile = min(len(images), 24), 8, 11  # pixels, with a margin
    rows = -(-shown // columns)
    sheet = np.zeros((rows * tile, columns * tile), np.float32)
    figure = Figure(figsize=(8.0, rows + 0.5), layout="constrained")
    axes = figure.add_subplot()
    for index in range(shown):
        top, left = (tile * place for place in divmod(index, columns))
        sheet[top + 3 : top + tile, left : left + 8] = images[index].reshape(8, 8)
        words = f"{labels[index]} taken for {got[index]}"
        axes.text(left + 3.5, top + 1, words, ha="center", va="center", fontsize=8)
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, loc="left")
    axes.set_axis_off()
    return figure
