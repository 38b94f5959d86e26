"""The two models to beat: a unigram, and a trigram interpolated with shorter contexts.

    P(c | a, b) = λ₀ / V + λ₁ P₁(c) + λ₂ P₂(c | b) + λ₃ P₃(c | a, b),   λ ≥ 0, Σ λ = 1

with relative frequencies Pₙ of the training text. A context that the training text does not contain
takes the next shorter one's frequencies, so that each Pₙ sums to 1. The weights λ maximise the
likelihood of the last tenth of the training text under frequencies of the rest (deleted
interpolation; Jelinek and Mercer, 1980); the validation text takes no part in it. The unigram model
is λ₂ = λ₃ = 0, fitted in the same way.

Axes: N characters, V tokens, K = 4 components of the mixture.
"""

from typing import NamedTuple

import numpy as np

HELD_OUT = 0.1  # of the training text, for the weights
COMPONENTS = {"unigram": 2, "trigram": 4}


class Counts(NamedTuple):
    """The n-grams of a text for one n, each as one integer, with how often it occurs."""

    codes: np.ndarray  # int64 [distinct], sorted
    counts: np.ndarray  # int64 [distinct]

    def of(self, codes: np.ndarray) -> np.ndarray:
        """The number of times that each of `codes` occurs, int64, in the shape of `codes`."""
        if not len(self.codes):
            return np.zeros(codes.shape, np.int64)
        place = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[place] == codes, self.counts[place], 0)


class Frequencies(NamedTuple):
    """The n-grams of a text for n = 1, 2, 3, and those of their contexts."""

    grams: tuple[Counts, Counts, Counts]
    contexts: tuple[Counts, Counts, Counts]
    vocabulary: int


def bits_per_character(
    train: np.ndarray, validation: np.ndarray, vocabulary: int
) -> dict[str, float]:
    """Mean of -log₂ P over `validation[1:]`, for each model, fitted on `train`.

    `train` [N] and `validation` [N'] are tokens below `vocabulary`, one text in two parts:
    the first character that counts has the end of `train` in its context.
    """
    kept = len(train) - max(1, int(len(train) * HELD_OUT))
    rest = count(train[:kept], vocabulary)
    tuning = components(rest, train[max(kept - 2, 0) :])
    final = components(count(train, vocabulary), np.concatenate([train[-1:], validation]))
    return {
        name: float(-np.log2(final[:, :k] @ fit_weights(tuning[:, :k])).mean())
        for name, k in COMPONENTS.items()
    }


def count(tokens: np.ndarray, vocabulary: int) -> Frequencies:
    """Count the n-grams of `tokens` [N]."""
    grams, contexts = [], []
    for n in (1, 2, 3):
        gram, context = _codes(tokens, n, vocabulary), _codes(tokens[:-1], n - 1, vocabulary)
        grams.append(Counts(*np.unique(gram, return_counts=True)))
        contexts.append(Counts(*np.unique(context, return_counts=True)))
    return Frequencies(tuple(grams), tuple(contexts), vocabulary)  # type: ignore[arg-type]


def components(frequencies: Frequencies, tokens: np.ndarray) -> np.ndarray:
    """The K probabilities of each of `tokens[2:]` that the mixture weighs: float64 [N - 2, K]."""
    columns = [np.full(len(tokens) - 2, 1.0 / frequencies.vocabulary)]
    for n in (1, 2, 3):
        gram = _codes(tokens[3 - n :], n, frequencies.vocabulary)
        context = _codes(tokens[3 - n : -1], n - 1, frequencies.vocabulary)
        seen = frequencies.contexts[n - 1].of(context)
        relative = frequencies.grams[n - 1].of(gram) / np.maximum(seen, 1)
        columns.append(np.where(seen > 0, relative, columns[-1]))
    return np.stack(columns, axis=1)


def fit_weights(probabilities: np.ndarray, iterations: int = 100) -> np.ndarray:
    """The mixture weights [K] that fit `probabilities` [N, K] best, by EM.

    Each component counts as having explained one character more than it did, so that none vanishes:
    the uniform one alone can explain a character that is new.
    """
    n, k = probabilities.shape
    weights = np.full(k, 1.0 / k)
    for _ in range(iterations):
        share = probabilities * weights
        share /= share.sum(axis=1, keepdims=True)
        weights = (share.sum(axis=0) + 1.0) / (n + k)
    return weights


def _codes(tokens: np.ndarray, n: int, vocabulary: int) -> np.ndarray:
    """Each run of `n` tokens as one integer in base `vocabulary`: int64 [N - n + 1].

    The empty run, n = 0, is 0, and there is one before every token and one after the last.
    """
    length = max(len(tokens) - n + 1, 0)
    codes = np.zeros(length, np.int64)
    for k in range(n):
        codes = codes * vocabulary + tokens[k : k + length]
    return codes
