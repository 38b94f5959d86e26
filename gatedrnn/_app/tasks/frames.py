"""Sung syllables, of which every frame is labelled with its phone.

An LSTM that reads in both directions, beside a classifier of single frames. Closures are silent,
nasals nearly alike, and the vowels of a long and of a short vocal tract overlap: the frames around
decide.

Axes: T frames of an utterance, B utterances, I inputs and F outputs of a layer.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import gatedrnn as gr
from gatedrnn._app import config, memory
from gatedrnn._app.config import Count, Seed, Settings, rule
from gatedrnn._app.data import frames
from gatedrnn._app.data.frames import BANDS, FRAME, SAMPLE_RATE, Utterance
from gatedrnn._app.data.phones import PHONES
from gatedrnn._app.tasks import label_figures
from gatedrnn._app.tasks.labelling import Corpus, Guess, Labeller, Part, Width, bidirectional
from gatedrnn._app.tasks.labelling_task import LabellingTask

Syllables = Annotated[
    tuple[int, int],
    rule(
        "an array of two integers from 1 to 100, the smaller first",
        lambda v: 1 <= v[0] <= v[1] <= 100,
    ),
]


class Data(Settings, frozen=True):
    """`utterances` to train on, and `held_out` for validation and for the test each.

    An utterance has as many `syllables` as the first number at least, as the second at most.
    """

    seed: Seed
    utterances: Count
    held_out: Count
    syllables: Syllables


class Config(config.Config, frozen=True):
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
class Rectifier(gr.Layer):
    """`max(x, 0)` of every feature."""

    def out_features(self, in_features: int | None) -> int | None:
        """Return as many as come in."""
        return in_features

    def init(self, key: jax.Array, in_features: int | None, dtype: Any = jnp.float32) -> Any:
        """Make nothing: there are no parameters."""
        return ()

    def run(self, params: Any, xs: jax.Array, carry: Any, context: gr.Context) -> Any:
        """Rectify every step."""
        return carry, jax.nn.relu(xs)


def perceptron(width: Width) -> gr.Layer:
    """Frames [T, B, I] -> [T, B, F], each by itself: dense layers with rectifiers."""
    layer = (gr.dense(width.features), Rectifier(), gr.dropout(width.dropout))
    return gr.stack(*layer * width.layers)


class Frames(LabellingTask):
    """The utterances in three parts, and the models that label their frames."""

    unit = "frame"

    def __init__(self, settings: Config) -> None:
        data = settings.data
        for name in ("utterances", "held_out"):
            count = getattr(data, name)
            sung = count * data.syllables[0] * frames.SYLLABLE
            memory.demand("the sung utterances", sung, {f"data.{name}": count})
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
        corpus = Corpus(learn, validate, test, PHONES, settings.train.batch)
        super().__init__(corpus, settings.train.seed)
        self.test = parts.test
        self.models = {
            "LSTM": Labeller(gr.stack(*bidirectional(settings.model)), BANDS, len(PHONES)),
            "MLP": Labeller(perceptron(settings.classifier), BANDS, len(PHONES)),
        }
        counts = corpus.counts()
        self.data = (
            f"{data.utterances:,} sung utterances to train on: {counts[0]:,} frames, {len(PHONES)}"
            " phones"
        )
        self.held_out = (
            f"{data.held_out:,} utterances, {counts[1]:,} frames; what is called test:"
            f" {data.held_out:,} others, {counts[2]:,}"
        )

    @cached_property
    def guesses(self) -> dict[str, Guess]:
        """The most frequent phone; the rival of the LSTM is the model that sees a single frame."""
        return {"the most frequent phone": self.corpus.most_frequent}

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """All scores, the confusion of phones, and an utterance with its labels."""
        utterance = self._utterance(self.networks(params))
        return {**super().pictures(params), "utterance.png": utterance}

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
