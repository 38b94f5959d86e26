"""A character-level language model: the next character of a text, from all before it.

Axes: T steps of a window, B streams, V tokens, W windows. Losses are in nats per character, what is
reported is in bits.
"""

import dataclasses
import math
import shlex
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr
from gatedrnn._app import config, task
from gatedrnn._app.config import Count, Fraction, Layers, Rate, Settings
from gatedrnn._app.errors import CommandError
from gatedrnn._app.record import DATA
from gatedrnn._app.task import Criterion, StoredRun, Task
from gatedrnn._app.tasks.common import compiled
from gatedrnn._app.tasks.language import ngram
from gatedrnn._app.tasks.language.text import (
    UNKNOWN,
    Vocabulary,
    evaluation_windows,
    load_text,
    prepare,
    training_window,
)

BITS_PER_NAT = 1.0 / math.log(2.0)


class Data(Settings, frozen=True):
    """The text, read in windows of `window` characters, as far as the gradient goes back.

    `path` names a UTF-8 file; without it, the text is the help of the running CPython.
    """

    validation_fraction: Fraction
    window: Count
    path: config.Text | None = None


class Model(Settings, frozen=True):
    """`layers` LSTM layers of `features` units on embeddings of `embedding` features."""

    embedding: Count
    features: Count
    layers: Layers
    dropout: Rate


class Config(config.Config, frozen=True):
    """The configuration of a language model."""

    may_change = config.Config.may_change | {"data.path"}

    data: Data
    model: Model

    def make(self) -> "Language":
        """Read the text."""
        return Language(self)

    def models_of(self, run: StoredRun) -> "dict[str, LanguageModel]":
        """The model of a run, whose text may be elsewhere by now: the vocabulary is stored."""
        return {"LSTM": LanguageModel(self.model, vocabulary_of(run).size)}


class Batch(NamedTuple):
    """A window of every stream."""

    inputs: np.ndarray  # int32 [T, B]
    targets: np.ndarray  # int32 [T, B]: the character after each input


@dataclasses.dataclass(frozen=True)
class LanguageModel(task.Model):
    """Tokens int32 [T, B] -> logits float32 [T, B, V], with V = `vocabulary`.

    The last layer of `net` is the read-out, which is fused with the loss: no logits [T, B, V].
    """

    settings: Model
    vocabulary: int
    in_features = None

    @property
    def net(self) -> Any:
        """The network."""
        layers = []
        for _ in range(self.settings.layers):
            layers += [
                gr.recurrent(gr.LSTM(self.settings.features)),
                gr.dropout(self.settings.dropout),
            ]
        embed = gr.embed(self.vocabulary, self.settings.embedding)
        return gr.stack(embed, *layers, gr.dense(self.vocabulary))

    def carry(self, params: Any, batch: int) -> Any:
        """The state of B = `batch` streams before their first character."""
        return self.net.carry((batch,), params=params)

    def loss(self, params: Any, carry: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        """The mean over the characters of a window, and the carry after it."""
        carry, nats = self.losses(params, carry, batch.inputs, batch.targets, key)
        return nats.mean(), carry

    def losses(
        self, params: Any, carry: Any, inputs: jax.Array, targets: jax.Array, key: Any = None
    ) -> tuple[Any, jax.Array]:
        """The carry after a window, and the loss at each of `targets` [T, B]."""
        body = gr.stack(*self.net.layers[:-1])
        new, hs = body.apply(params[:-1], inputs, carry[:-1], key=key)
        return (*new, carry[-1]), gr.softmax_cross_entropy(params[-1], hs, targets)

    def step(self, params: Any, carry: Any, token: jax.Array) -> tuple[Any, jax.Array]:
        """The carry after one token [B], and the logits [B, V] to draw the next from.

        The unknown symbol is never drawn: its logit is minus infinity.
        """
        carry, logits = self.net.step(params, carry, token)
        return carry, logits.at[..., UNKNOWN].set(-jnp.inf)

    @compiled
    def weighted_loss(
        self, params: Any, carry: Any, inputs: jax.Array, targets: jax.Array, weights: jax.Array
    ) -> tuple[Any, jax.Array]:
        """The carry after a window [T, B], and the sum of `weights` times the losses, a scalar."""
        carry, nats = self.losses(params, carry, inputs, targets)
        return carry, (nats * weights).sum()


class Language(Task):
    """A text, and the LSTM that learns it in parallel streams, whose state goes on."""

    criterion = Criterion("bits", "bits per character", of_loss=BITS_PER_NAT)
    unit = "char"
    batch_axes = (1, 1)

    def __init__(self, settings: Config) -> None:
        data, batch = settings.data, settings.train.batch
        self.corpus = prepare(
            load_text(data.path),
            validation_fraction=data.validation_fraction,
            window=data.window,
            batch=batch,
        )
        vocabulary = self.corpus.vocabulary
        self.model = LanguageModel(settings.model, vocabulary.size)
        self.models = {"LSTM": self.model}
        self.amount = data.window * batch
        self.data = (
            f"{data.path or 'the help pages of this Python'}: {len(self.corpus.train):,} characters"
            f" to train on, {len(self.corpus.validation):,} to validate, {vocabulary.size} symbols"
        )
        self.held_out = f"the {len(self.corpus.validation) - 1:,} validation characters"
        self.stored = {"characters": vocabulary.characters, "text_sha256": self.corpus.digest}
        self._windows = evaluation_windows(self.corpus.validation, window=data.window, batch=batch)
        self._shape = {"window": data.window, "batch": batch}

    def batch(self, step: int) -> Batch:
        """The window that goes on where the one of the step before ended."""
        return Batch(*training_window(self.corpus.train, step, **self._shape))

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """Bits per character, each stream from a fresh state, no dropout."""
        windows = self._windows
        carry = self.model.carry(params, windows.inputs.shape[-1])
        total = 0.0
        for inputs, targets, weights in zip(*windows, strict=True):
            carry, nats = self.model.weighted_loss(params, carry, inputs, targets, weights)
            total += float(nats)
        return {"bits": total / float(np.sum(windows.weights)) * BITS_PER_NAT}

    def baselines(self) -> dict[str, float]:
        """Two mixtures of n-grams."""
        corpus = self.corpus
        return ngram.bits_per_character(corpus.train, corpus.validation, corpus.vocabulary.size)

    def commands(self, folder: str) -> list[str]:
        """A sample that continues the first word of the text."""
        head = "".join(map(self.corpus.vocabulary.decode, self.corpus.train[:1000].tolist()))
        word = next((word for word in head.split() if word.isprintable()), "")
        prompt = f" --prompt={shlex.quote(word[:20])}" if word else ""
        return [f"gatedrnn sample {shlex.quote(folder)}{prompt}"]


def vocabulary_of(run: StoredRun) -> Vocabulary:
    """The vocabulary that is stored with a run."""
    characters = run.stored().get("characters")
    if not (isinstance(characters, str) and characters):
        raise CommandError(
            f"cannot read {run.path / DATA}: it does not hold the characters of a text"
        )
    return Vocabulary(characters)
