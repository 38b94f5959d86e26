"""Labels of every step of ragged sequences: data, models, scores.

Axes: T steps, B sequences, N labelled steps in all, K classes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr
from gatedrnn._app.config import Count, Layers, Rate, Settings
from gatedrnn._app.data import ragged
from gatedrnn._app.task import Model
from gatedrnn._app.tasks.common import compiled, shuffled


class Batch(NamedTuple):
    """Sequences in one array; what lies at and after a sequence's length is padding."""

    xs: np.ndarray  # [T, B, ...]
    labels: np.ndarray  # int32 [T, B]
    lengths: np.ndarray  # int32 [B]


class Width(Settings, frozen=True):
    """`layers` layers of `features` units, each with dropout of its output."""

    features: Count
    layers: Layers
    dropout: Rate


def bidirectional(width: Width) -> list[Any]:
    """LSTM layers, each of which has `features` units in either direction."""
    layer = gr.bidirectional(gr.LSTM(width.features))
    return [layer, gr.dropout(width.dropout)] * width.layers


@dataclasses.dataclass(frozen=True)
class Labeller(Model):
    """Sequences [T, B, ...] -> the class of every step, one of K = `classes`.

    A dense layer on what `body` makes of them; in training it is fused with the loss.
    """

    body: gr.Layer
    in_features: int | None  # None of tokens
    classes: int

    @property
    def net(self) -> gr.Layer:
        """The network with its read-out."""
        return gr.stack(self.body, gr.dense(self.classes))

    def init(self, key: jax.Array) -> tuple[Any, gr.DenseParams]:
        """New parameters."""
        body = self.body.init(jax.random.fold_in(key, 0), self.in_features)
        features = self.body.out_features(self.in_features)
        return body, gr.dense(self.classes).init(jax.random.fold_in(key, 1), features)

    def mean_loss(self, params: Any, batch: Any, key: jax.Array) -> jax.Array:
        """The mean cross-entropy over the steps that are no padding."""
        body, dense = params
        _, hs = self.body.apply(body, batch.xs, lengths=batch.lengths, key=key)
        valid = jnp.arange(len(hs), dtype=batch.lengths.dtype)[:, None] < batch.lengths[None]
        losses = gr.softmax_cross_entropy(dense, hs, batch.labels, valid)
        return losses.sum() / jnp.maximum(valid.sum(), 1).astype(losses.dtype)

    @compiled
    def label(self, params: Any, xs: jax.Array, lengths: jax.Array) -> jax.Array:
        """The likeliest class of every step, int32 [T, B]."""
        body, dense = params
        _, hs = self.body.apply(body, xs, lengths=lengths)
        return gr.dense(self.classes).apply(dense, hs)[1].argmax(axis=-1)


class Part(NamedTuple):
    """Sequences of different lengths, and the label of every step."""

    sequences: list[np.ndarray]  # [T, ...] each
    labels: list[np.ndarray]  # int32 [T] each


class Pair(NamedTuple):
    """The true classes and those found, of the steps of a part one after another."""

    labels: np.ndarray  # int32 [N]
    got: np.ndarray  # int32 [N]


Guess = Callable[[list[np.ndarray]], list[np.ndarray]]  # sequences -> labels


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Labelled sequences in three parts, read in batches of one shape."""

    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]  # K of them
    batch_size: int  # B

    @cached_property
    def steps(self) -> int:
        """T, the length of the longest sequence."""
        return max(len(labels) for part in self._parts for labels in part.labels)

    def counts(self) -> tuple[int, int, int]:
        """The number of steps in each part."""
        train, validation, test = (sum(map(len, part.labels)) for part in self._parts)
        return train, validation, test

    def arrays(self) -> list[np.ndarray]:
        """All sequences in one array, and all labels in another."""
        return [
            np.concatenate([values for part in self._parts for values in part[kind]])
            for kind in (0, 1)
        ]

    def batch(self, step: int, seed: int) -> Batch:
        """The sequences of a step, in a new order in every epoch."""
        chosen = shuffled(len(self.train.labels), self.batch_size, step, seed)
        xs, lengths = self._pad([self.train.sequences[k] for k in chosen])
        return Batch(xs, self._pad([self.train.labels[k] for k in chosen]).values, lengths)

    def label(
        self, model: Labeller, params: Any, sequences: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The class that `model` gives every step of each sequence, int32 [T] each."""
        found: list[np.ndarray] = []
        nothing = sequences[0][:0]
        for start in range(0, len(sequences), self.batch_size):
            some = sequences[start : start + self.batch_size]
            full = [*some, *[nothing] * (self.batch_size - len(some))]
            got = np.asarray(model.label(params, *self._pad(full)))
            found += [got[: len(sequence), row] for row, sequence in enumerate(some)]
        return found

    def pair(self, part: Part, guess: Guess) -> Pair:
        """All labels of a part beside those that `guess` gives its sequences."""
        return Pair(np.concatenate(part.labels), np.concatenate(guess(part.sequences)))

    def most_frequent(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """For every step the class that most steps of the training part have."""
        frequent = np.bincount(np.concatenate(self.train.labels)).argmax()
        return [np.full(len(sequence), frequent, np.int32) for sequence in sequences]

    def measures(self, guess: Guess) -> dict[str, float]:
        """The accuracy in the validation part; accuracy and F1 in the test part, which selects
        nothing.
        """
        test = self.pair(self.test, guess)
        of_classes = scores(test, len(self.classes))
        named = zip(self.classes, of_classes.f1.tolist(), strict=True)
        return {
            "accuracy": accuracy(self.pair(self.validation, guess)),
            "test accuracy": accuracy(test),
            "test F1, mean of classes": float(of_classes.f1[of_classes.total > 0].mean()),
            **{f"test F1, {name}": value for name, value in named},
        }

    @property
    def _parts(self) -> tuple[Part, Part, Part]:
        return self.train, self.validation, self.test

    def _pad(self, sequences: Sequence[np.ndarray]) -> ragged.Ragged:
        return ragged.pad(sequences, length=self.steps)


class Scores(NamedTuple):
    """Scores of each class; 0 where nothing is divided by nothing."""

    precision: np.ndarray  # float64 [K], of what was taken for the class, the share that is
    recall: np.ndarray  # float64 [K], of what is of the class, the share that was taken for it
    f1: np.ndarray  # float64 [K], the harmonic mean of the two
    total: np.ndarray  # int64 [K], what is of the class


def scores(pair: Pair, classes: int) -> Scores:
    """The scores of K = `classes`."""
    right = np.bincount(pair.labels[pair.labels == pair.got], minlength=classes)
    count = np.bincount(pair.labels, minlength=classes)
    taken = np.bincount(pair.got, minlength=classes)
    return Scores(
        right / np.maximum(taken, 1),
        right / np.maximum(count, 1),
        2 * right / np.maximum(count + taken, 1),
        count,
    )


def accuracy(pair: Pair) -> float:
    """The share that is right."""
    return float(np.mean(pair.labels == pair.got))


def score_table(pairs: Mapping[str, Pair], classes: Sequence[str]) -> str:
    """Accuracy of several that are compared, then precision, recall and F1 of each: Markdown."""
    lines = ["| | accuracy |", "|---|---|"]
    lines += [f"| {name} | {accuracy(pair):.1%} |" for name, pair in pairs.items()]
    for name, pair in pairs.items():
        lines += ["", f"| {name} | precision | recall | F1 | steps |", "|---|---|---|---|---|"]
        for row in zip(classes, *scores(pair, len(classes)), strict=True):
            lines.append("| {} | {:.3f} | {:.3f} | {:.3f} | {:,} |".format(*row))
    return "\n".join(lines) + "\n"
