"""Sung syllables, of which every frame is labelled with its phone.

An LSTM that reads in both directions, beside a classifier of single frames. Closures are silent,
nasals nearly alike, and the vowels of a long and of a short vocal tract overlap: the frames around
decide.

Axes: T frames of an utterance, B utterances, I inputs and F outputs of a layer.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import numpy as np
from matplotlib.figure import Figure

import gatedrnn as gr
from gatedrnn._app import config
from gatedrnn._app.config import Count, Rule, Seed
from gatedrnn._app.data import frames
from gatedrnn._app.data.frames import BANDS, FRAME, SAMPLE_RATE, Utterance
from gatedrnn._app.data.phones import PHONES
from gatedrnn._app.figures import confusion
from gatedrnn._app.task import Criterion
from gatedrnn._app.tasks import label_figures
from gatedrnn._app.tasks.common import digest
from gatedrnn._app.tasks.labelling import (
    Batch,
    Corpus,
    Guess,
    Labeller,
    Part,
    Width,
    accuracy,
    bidirectional,
    score_table,
    scores,
)

Syllables = Annotated[
    tuple,
    Rule(
        "an array of two integers from 1 to 100, the smaller first",
        lambda v: [type(n) for n in v] == [int, int] and 1 <= v[0] <= v[1] <= 100,
    ),
]


@dataclasses.dataclass(frozen=True)
class Data:
    """`utterances` to train on, and `held_out` for validation and for the test each.

    An utterance has as many `syllables` as the first number at least, as the second at most.
    """

    seed: Seed
    utterances: Count
    held_out: Count
    syllables: Syllables


@dataclasses.dataclass(frozen=True)
class Config(config.Config):
    """The configuration of two labellers of frames.

    `model` is the LSTM, with `features` in each direction; `classifier` has dense layers.
    """

    data: Data
    model: Width
    classifier: Width

    def make(self) -> "Frames":
        """Sing the utterances."""
        return Frames(self)


@dataclasses.dataclass(frozen=True)
class Perceptron:
    """Frames [T, B, I] -> [T, B, F], each by itself: dense layers with rectifiers."""

    width: Width

    def out_features(self, in_features: int | None) -> int:
        """`F`."""
        return self.width.features

    def init(self, key: jax.Array, in_features: int | None) -> tuple[gr.DenseParams, ...]:
        """The parameters of each layer."""
        sizes = [in_features, *[self.width.features] * (self.width.layers - 1)]
        keys = jax.random.split(key, len(sizes))
        return tuple(
            gr.dense(self.width.features).init(k, size) for k, size in zip(keys, sizes, strict=True)
        )

    def apply(
        self,
        params: tuple[gr.DenseParams, ...],
        xs: jax.Array,
        *,
        lengths: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[tuple[()], jax.Array]:
        """`xs [T, B, I]` -> `((), ys [T, B, F])`."""
        dense, dropout = gr.dense(self.width.features), gr.dropout(self.width.dropout)
        for layer, p in enumerate(params):
            _, xs = dense.apply(p, xs, lengths=lengths)
            new = None if key is None else jax.random.fold_in(key, layer)
            _, xs = dropout.apply((), jax.nn.relu(xs), key=new)
        return (), xs


class Frames:
    """The utterances in three parts, and what labels their frames."""

    criterion = Criterion("accuracy", "validation accuracy", higher=True, format=".1%")
    unit = "frame"

    def __init__(self, settings: Config) -> None:
        data, train = settings.data, settings.train
        parts = frames.make(
            seed=data.seed,
            train=data.utterances,
            held_out=data.held_out,
            syllables=data.syllables,
        )
        mean, deviation = frames.standardisation(parts.train)

        def part(utterances: tuple[Utterance, ...]) -> Part:
            return Part(
                [(utterance.bands - mean) / deviation for utterance in utterances],
                [utterance.labels for utterance in utterances],
            )

        learn, validate, test = map(part, parts)
        self.corpus = Corpus(learn, validate, test, PHONES, train.batch)
        self.test = parts.test
        self._seed = train.seed
        self.models = {
            "LSTM": Labeller(gr.stack(*bidirectional(settings.model)), BANDS, len(PHONES)),
            "MLP": Labeller(Perceptron(settings.classifier), BANDS, len(PHONES)),
        }
        counts = self.corpus.counts()
        self.amount = round(counts[0] / data.utterances * train.batch)
        self.data = (
            f"{data.utterances:,} sung utterances to train on: {counts[0]:,} frames, {len(PHONES)}"
            " phones"
        )
        self.held_out = (
            f"{data.held_out:,} utterances, {counts[1]:,} frames; what is called test:"
            f" {data.held_out:,} others, {counts[2]:,}"
        )
        self.stored = {"sha256": digest(*self.corpus.arrays())}

    def batch(self, step: int) -> Batch:
        """The utterances of a step."""
        return self.corpus.batch(step, self._seed)

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """Accuracy and F1, by frames."""
        return self.corpus.measures(self._network(name, params))

    def baselines(self) -> dict[str, float]:
        """The most frequent phone; what is to be beaten is the model that sees a single frame."""
        pair = self.corpus.pair(self.corpus.validation, self.corpus.most_frequent)
        return {"the most frequent phone": accuracy(pair)}

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """An utterance with its labels, what is taken for what, and all scores."""
        networks = {name: self._network(name, values) for name, values in params.items()}
        guesses = {"the most frequent phone": self.corpus.most_frequent, **networks}
        pairs = {name: self.corpus.pair(self.corpus.test, guess) for name, guess in guesses.items()}
        f1 = {name: scores(pairs[name], len(PHONES)).f1 for name in networks}
        pictures: dict[str, Figure | str] = {
            "utterance.png": self._utterance(networks),
            "scores.png": label_figures.per_class(f1, PHONES, "F1, test"),
            "scores.md": score_table(pairs, PHONES),
        }
        for name in networks:
            pictures[f"{name}_confusion.png"] = confusion(*pairs[name], PHONES, f"{name}, test")
        return pictures

    def commands(self, folder: str) -> list[str]:
        """None."""
        return []

    def _network(self, name: str, params: Any) -> Guess:
        return lambda sequences: self.corpus.label(self.models[name], params, sequences)

    def _utterance(self, networks: Mapping[str, Guess]) -> Figure:
        """The utterance of the test that is the middle one by accuracy of the LSTM."""
        sequences, labels = self.corpus.test
        found = {name: network(sequences) for name, network in networks.items()}
        right = [np.mean(a == b) for a, b in zip(found["LSTM"], labels, strict=True)]
        middle = int(np.argsort(right, kind="stable")[len(right) // 2])
        return label_figures.labelled(
            self.test[middle].bands,
            labels[middle],
            {name: got[middle] for name, got in found.items()},
            PHONES,
            seconds=FRAME / SAMPLE_RATE,
            title="the test utterance of middle accuracy",
        )
