"""Python source, of which every character is labelled with the kind of its token.

What a character is may be decided far away on either side: by the quote that opened a string, or by
the parenthesis that makes a name the name of a call. The network reads in both directions.

Axes: T characters of a piece of a file, B pieces.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import gatedrnn as gr
from gatedrnn._app import config
from gatedrnn._app.config import Count, Settings
from gatedrnn._app.data import highlight, tagger
from gatedrnn._app.data.tagger import CHARACTERS, KINDS, Source
from gatedrnn._app.errors import CommandError
from gatedrnn._app.tasks.labelling import Corpus, Guess, Labeller, Part, Width, bidirectional
from gatedrnn._app.tasks.labelling_task import LabellingTask

SYMBOLS = len(CHARACTERS) + 1  # 0 is any other character
OUTSIDE = SYMBOLS  # before and after a piece


class Data(Settings, frozen=True):
    """The standard library: `characters` to train on, and `held_out` for validation and test each.

    At most `per_file` are of one file; it is read in pieces of up to `piece`.
    """

    characters: Count
    held_out: Count
    per_file: Count
    piece: Count


class Model(Width, frozen=True):
    """Bidirectional LSTM layers on embeddings of `embedding` features."""

    embedding: Count


class Config(config.Config, frozen=True):
    """The configuration of a tagger."""

    data: Data
    model: Model

    def make(self) -> "Tagger":
        """Read the files."""
        return Tagger(self)


class Tagger(LabellingTask):
    """The files in three parts, and the network that tags them."""

    unit = "char"
    drawn = ("a table of trigrams",)

    def __init__(self, settings: Config) -> None:
        data, model, train = settings.data, settings.model, settings.train
        *parts, _ = tagger.load(
            characters=data.characters, held_out=data.held_out, per_file=data.per_file
        )
        for part, key in zip(parts, ("characters", "held_out", "held_out"), strict=True):
            if not part:
                raise CommandError(
                    f"data.{key}: got {getattr(data, key)}, in which no line of the standard"
                    " library's files fits"
                )
        self.files: tuple[Source, ...] = parts[2]  # of the test
        self._piece = data.piece
        learn, validate, test = map(self._part, parts)
        corpus = Corpus(learn, validate, test, KINDS, train.batch)
        super().__init__(corpus, train.seed)
        body = gr.stack(gr.embed(SYMBOLS, model.embedding), *bidirectional(model))
        self.models = {"LSTM": Labeller(body, None, len(KINDS))}
        counts = corpus.counts()
        self.data = (
            f"this Python's standard library: {counts[0]:,} characters of {len(parts[0])} files to"
            f" train on, {len(KINDS)} kinds"
        )
        self.held_out = (
            f"the {counts[1]:,} characters of {len(parts[1])} validation files; what is called"
            f" test: {counts[2]:,} of {len(parts[2])} others"
        )

    @cached_property
    def guesses(self) -> dict[str, Guess]:
        """Guesses from a character, or from it and its two neighbours."""
        train = self.corpus.train
        return {
            "the most frequent kind": self.corpus.most_frequent,
            "a table of characters": Table(train, neighbours=False),
            "a table of trigrams": Table(train, neighbours=True),
        }

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """All scores, the confusion of kinds, and a file of the test in colour."""
        networks = self.networks(params).items()
        pages = {f"{name}_source.html": self._rendered(network) for name, network in networks}
        return {**super().pictures(params), **pages}

    def _part(self, files: tuple[Source, ...]) -> Part:
        sequences, labels = [], []
        for file in files:
            tokens, kinds = tagger.encode(file.text), file.kinds.astype(np.int32)
            for piece in tagger.pieces(file, self._piece):
                sequences.append(tokens[piece])
                labels.append(kinds[piece])
        return Part(sequences, labels)

    def _rendered(self, network: Guess) -> str:
        """The file of the test that is the middle one by accuracy."""
        found = []
        for file in self.files:
            got = np.concatenate(network(self._part((file,)).sequences))
            found.append((float(np.mean(got == file.kinds)), file, got))
        _, file, got = sorted(found, key=lambda entry: entry[0])[len(found) // 2]
        return highlight.to_html(file.text, got, file.kinds, title=f"{file.path}, as it was tagged")


class Table:
    """The most frequent kind of each character, with its two neighbours or without.

    A trigram that is new is labelled by its character, a new character as most characters are.
    """

    def __init__(self, train: Part, *, neighbours: bool) -> None:
        labels = np.concatenate(train.labels)
        base = SYMBOLS + 1
        self._base, self._neighbours = base, neighbours
        everywhere = np.full(base, np.bincount(labels).argmax())
        characters = np.concatenate(train.sequences)
        self._kinds = _most_frequent(characters, labels, everywhere)
        if neighbours:
            # the character changes fastest, so that the fallback is its row, repeated
            fallback = np.tile(self._kinds, base * base)
            trigrams = np.concatenate([self._trigrams(tokens) for tokens in train.sequences])
            self._kinds = _most_frequent(trigrams, labels, fallback)

    def __call__(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        """The kinds of every character of each piece, int32 [T] each."""
        key = self._trigrams if self._neighbours else np.asarray
        return [self._kinds[key(tokens)].astype(np.int32) for tokens in sequences]

    def _trigrams(self, tokens: np.ndarray) -> np.ndarray:
        """Each character with its neighbours as one number, int64 [T]."""
        padded = np.pad(tokens.astype(np.int64), 1, constant_values=OUTSIDE)
        return (padded[:-2] * self._base + padded[2:]) * self._base + padded[1:-1]


def _most_frequent(keys: np.ndarray, labels: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """The most frequent of `labels` for every key, `fallback` for keys that there are not."""
    size = len(KINDS)
    counts = np.bincount(keys * size + labels, minlength=len(fallback) * size).reshape(-1, size)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), fallback)
