"""Handwritten digits, written pixel by pixel from a label: one to many.

An image is a sequence of 64 tokens, the grey levels of its pixels row by row, and the label is the
token before the first. A network says how likely each level of the next pixel is, from the label
and the pixels so far; what it draws is fed back to it.

Axes: N images, T = 64 pixels, B images of a batch.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import gatedrnn as gr
from gatedrnn._app import config, memory, task
from gatedrnn._app.config import Count, Rate, Settings
from gatedrnn._app.data import digits
from gatedrnn._app.task import Criterion, Task
from gatedrnn._app.tasks.common import CELLS, Cells, compiled, demand_batch, digest, shuffled

LEVELS = 17  # of grey, from paper to ink: the tokens before those of the labels
PIXELS = digits.SIDE**2
COLUMNS = 10  # of either half of the sheet


class Data(Settings, frozen=True):
    """scikit-learn's digits; an evaluation draws `samples` of each digit."""

    samples: Count


class Model(Cells, frozen=True):
    """The layers, on embeddings of `embedding` features, with dropout of their outputs."""

    embedding: Count
    dropout: Rate


class Config(config.Config, frozen=True):
    """The configuration of a writer of digits."""

    data: Data
    model: Model

    def make(self) -> "DigitWriter":
        """Load and split the images."""
        return DigitWriter(self)


class Batch(NamedTuple):
    """Images, and the digits that they show."""

    levels: np.ndarray  # int32 [T, B], the tokens of the pixels
    labels: np.ndarray  # int32 [B]


@dataclasses.dataclass(frozen=True)
class Writer(task.Model):
    """A label, then levels -> logits [T, B, 17] of the next level."""

    cell: str
    embedding: int
    features: int
    dropout: float
    in_features = None

    @property
    def net(self) -> Any:
        """The network."""
        embed = gr.embed(LEVELS + digits.CLASSES, self.embedding)
        cell = CELLS[self.cell](self.features)
        return gr.stack(embed, cell, gr.dropout(self.dropout), gr.dense(LEVELS))

    @compiled
    def mean_loss(self, params: Any, batch: Any, key: Any = None) -> jax.Array:
        """The mean of -log P over pixels, in nats."""
        before = jnp.concatenate([LEVELS + batch.labels[None], batch.levels[:-1]])
        body = gr.stack(*self.net.layers[:-1])
        _, hs = body.apply(params[:-1], before, key=key)
        return gr.softmax_cross_entropy(params[-1], hs, batch.levels).mean()

    @compiled
    def write(self, params: Any, labels: jax.Array, key: jax.Array) -> jax.Array:
        """An image drawn for each of `labels` [B]: levels, int32 [T, B]."""
        step = jax.tree_util.Partial(self.net.step, params)
        carry = self.net.carry(labels.shape, params=params)
        return gr.sample(step, carry, LEVELS + labels, key, max_length=PIXELS).tokens


class DigitWriter(Task):
    """The images in three parts, and the networks that write."""

    criterion = Criterion("bits", "bits per pixel", of_loss=1.0 / math.log(2.0))
    unit = "image"
    batch_axes = (1, 0)
    models: dict[str, Writer]

    def __init__(self, settings: Config) -> None:
        data, model, train = settings.data, settings.model, settings.train
        # grey levels, and the states of the network
        image = 4 * (PIXELS + model.features)
        sizes = {"data.samples": data.samples, "model.features": model.features}
        drawn = image * data.samples * digits.CLASSES
        memory.demand("the images that are drawn", drawn, sizes)
        demand_batch(train.batch, 4 * PIXELS)
        self._parts = digits.load()  # the same for every seed
        self.train, self.validation, self.test = map(tokens, self._parts)
        self.models = {
            cell: Writer(cell, model.embedding, model.features, model.dropout)
            for cell in model.cells
        }
        self.amount, self._seed, self._samples = train.batch, train.seed, data.samples
        self.data = (
            f"scikit-learn's digits, {PIXELS} pixels of {LEVELS} levels:"
            f" {len(self.train.labels):,} to train on, {len(self.test.labels):,} to test"
        )
        self.held_out = f"{len(self.validation.labels):,} digits that were not trained on"
        self.stored = {"sha256": digest(*self.train, *self.validation, *self.test)}

    def batch(self, step: int) -> Batch:
        """The images of a step."""
        levels, labels = self.train
        chosen = shuffled(len(labels), self.amount, step, self._seed)
        return Batch(levels[:, chosen], labels[chosen])

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """Bits per pixel, and the share of samples that a classifier reads rightly."""
        bits = [
            float(self.models[name].mean_loss(params, part)) / math.log(2.0)
            for part in (self.validation, self.test)
        ]
        labels = np.repeat(np.arange(digits.CLASSES, dtype=np.int32), self._samples)
        return {
            "bits": bits[0],
            "test: bits": bits[1],
            "samples read as their digit": self._read(
                from_tokens(self.samples(name, params, labels)), labels
            ),
            "test images read as theirs": self._read(*self._parts.test),
        }

    def samples(self, name: str, params: Any, labels: np.ndarray) -> np.ndarray:
        """Images that the model writes for `labels` [B], levels [T, B]: the same every time."""
        return np.asarray(self.models[name].write(params, labels, jax.random.key(0)))

    def baselines(self) -> dict[str, float]:
        """Bits of each pixel by itself: by its levels in all digits, and in the same digit.

        Every level counts as seen a fifth of a time more than it was.
        """
        place = np.arange(PIXELS)[:, None]
        counts = np.full((digits.CLASSES, PIXELS, LEVELS), 0.2)
        np.add.at(counts, (self.train.labels, place, self.train.levels), 1.0)

        def bits(counts: np.ndarray) -> float:
            shares = counts / counts.sum(axis=-1, keepdims=True)
            held = self.validation
            return float(-np.log2(shares[held.labels, place, held.levels]).mean())

        return {
            "pixels alone": bits(np.broadcast_to(counts.sum(axis=0), counts.shape)),
            "pixels alone, by digit": bits(counts),
        }

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """For every model, a sheet of samples beside real digits, a row for each label."""
        labels = np.repeat(np.arange(digits.CLASSES, dtype=np.int32), COLUMNS)
        images, shown = self._parts.test
        real = np.concatenate([images[shown == d][:COLUMNS] for d in range(digits.CLASSES)])
        return {
            f"{name}_sheet.png": sheet(
                {"real digits": real, name: from_tokens(self.samples(name, values, labels))}
            )
            for name, values in params.items()
        }

    @cached_property
    def _reader(self) -> Callable[[np.ndarray], np.ndarray]:
        """A classifier of real digits."""
        return digits.reader(self._parts.train)

    def _read(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The share of `images` [N, 8, 8] that the classifier reads as their labels."""
        return float(np.mean(self._reader(images) == labels))


def tokens(part: digits.Images) -> Batch:
    """Images as tokens, pixel by pixel."""
    levels = np.rint(digits.pixels(part.images)[..., 0] * (LEVELS - 1)).astype(np.int32)
    return Batch(levels, part.labels)


def from_tokens(levels: np.ndarray) -> np.ndarray:
    """Tokens [T, N] as images, float32 [N, 8, 8]."""
    return (levels.T / np.float32(LEVELS - 1)).reshape(-1, digits.SIDE, digits.SIDE)


def sheet(halves: Mapping[str, np.ndarray]) -> Figure:
    """Images [N, 8, 8] by name, side by side: the digits in order, as many of each."""
    figure = Figure(figsize=(5.2 * len(halves), 5.4), layout="constrained")
    panels = figure.subplots(1, len(halves), squeeze=False)[0]
    for axes, (name, images) in zip(panels, halves.items(), strict=True):
        tile = digits.SIDE + 2  # pixels, with a margin
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
        padded = padded.reshape(digits.CLASSES, -1, tile, tile)
        picture = padded.swapaxes(1, 2).reshape(digits.CLASSES * tile, -1)
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(name, loc="left")
        axes.set_xticks([])
        axes.set_yticks(tile * (np.arange(digits.CLASSES) + 0.5) - 0.5, range(digits.CLASSES))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure
