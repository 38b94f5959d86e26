"""Tasks that label every step of ragged sequences: their evaluation, baselines and pictures.

Axes: T steps.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from matplotlib.figure import Figure

from gatedrnn._app import memory
from gatedrnn._app.task import Criterion, Task
from gatedrnn._app.tasks import label_figures
from gatedrnn._app.tasks.common import demand_batch, digest
from gatedrnn._app.tasks.figures import confusion
from gatedrnn._app.tasks.labelling import (
    Batch,
    Corpus,
    Guess,
    Labeller,
    accuracy,
    score_table,
    scores,
)


class LabellingTask(Task):
    """A corpus, and the labellers that are compared on it."""

    criterion = Criterion("accuracy", "validation accuracy", higher=True, format=".1%")
    batch_axes = (1, 1, 0)
    models: dict[str, Labeller]
    drawn: tuple[str, ...] = ()  # baselines that are in the figure of scores

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self.corpus, self._seed = corpus, seed
        sequence = corpus.train.sequences[0]
        step = memory.size_of(sequence) // max(len(sequence), 1) + 4  # and its label
        demand_batch(corpus.batch_size, step * corpus.steps)
        steps, *_ = corpus.counts()
        self.amount = round(steps / len(corpus.train.labels) * corpus.batch_size)
        self.stored = {"sha256": digest(*corpus.arrays())}

    @cached_property
    def guesses(self) -> dict[str, Guess]:
        """The baselines."""
        raise NotImplementedError

    def batch(self, step: int) -> Batch:
        """The sequences of a step."""
        return self.corpus.batch(step, self._seed)

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """Accuracy and F1, by steps."""
        return self.corpus.measures(self._network(name, params))

    def baselines(self) -> dict[str, float]:
        """The accuracy of guesses in the validation part."""
        corpus = self.corpus
        pairs = {name: corpus.pair(corpus.validation, g) for name, g in self.guesses.items()}
        return {name: accuracy(pair) for name, pair in pairs.items()}

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """All scores, and the confusion of classes, in the test part."""
        corpus, networks = self.corpus, self.networks(params)
        guesses = self.guesses | networks
        pairs = {name: corpus.pair(corpus.test, guess) for name, guess in guesses.items()}
        shown = (*self.drawn, *networks)
        f1 = {name: scores(pairs[name], len(corpus.classes)).f1 for name in shown}
        pictures: dict[str, Figure | str] = {
            "scores.png": label_figures.per_class(f1, corpus.classes, "F1, test"),
            "scores.md": score_table(pairs, corpus.classes),
        }
        for name in networks:
            title = f"{name}, test"
            pictures[f"{name}_confusion.png"] = confusion(*pairs[name], corpus.classes, title)
        return pictures

    def networks(self, params: Mapping[str, Any]) -> dict[str, Guess]:
        """The models with their parameters."""
        return {name: self._network(name, values) for name, values in params.items()}

    def _network(self, name: str, params: Any) -> Guess:
        return lambda sequences: self.corpus.label(self.models[name], params, sequences)
