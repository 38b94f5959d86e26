"""Dates as people write them into ISO 8601, character by character: sequence to sequence.

Axes: S characters that are read, T tokens that are written, B dates.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from matplotlib.figure import Figure

import gatedrnn as gr
from gatedrnn._app import config, memory, task
from gatedrnn._app.config import Count, Rate, Seed, Settings
from gatedrnn._app.data import date_forms, dates
from gatedrnn._app.task import Criterion, Input, Served, Task
from gatedrnn._app.tasks.common import compiled, demand_batch, digest, shuffled
from gatedrnn._app.tasks.figures import looks

VOCABULARY = dates.END + 1 + len(dates.characters())
WRITTEN = 11  # tokens of a date in ISO 8601: ten characters and END
EXAMPLES = 6  # of which the attention is drawn
PAIR = 1000  # bytes of memory at least, two texts and their tokens
MISTAKES = 50  # at most, which are listed

# what the baseline can read: figures, and the English names that `strptime` knows
FORMATS = (
    *("%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%m/%d/%y", "%Y-%m-%d", "%y-%m-%d", "%d-%b-%Y"),
    *("%d %B %Y", "%d %b %Y", "%d %b '%y", "%B %d, %Y", "%b %d, %Y"),
    *("%A, %d %B %Y", "%a %d %b %Y", "%A, %d.%m.%Y", "%a %d.%m.%y", "%a, %b %d '%y"),
)


class Data(Settings, frozen=True):
    """Pairs to learn from, and how many for each of three held-out parts, drawn from `seed`."""

    train: Count
    held_out: Count
    seed: Seed


class Model(Settings, frozen=True):
    """A bidirectional encoder of `encoder` units each way, a decoder of `decoder` units.

    `attention` is the size of the comparison in the model that has it; `beams` are those of the
    search beside greedy decoding.
    """

    embedding: Count
    encoder: Count
    decoder: Count
    attention: Count
    dropout: Rate
    beams: Count


class Config(config.Config, frozen=True):
    """The configuration of readers of dates."""

    data: Data
    model: Model

    def make(self) -> "Dates":
        """Generate the dates."""
        return Dates(self)


class Batch(NamedTuple):
    """Dates in two ways of writing, tokens int32."""

    sources: np.ndarray  # [S, B], padded
    lengths: np.ndarray  # [B], of the sources
    targets: np.ndarray  # [T, B]: START, ten characters, END


@dataclasses.dataclass(frozen=True)
class Reader(task.Model):
    """Tokens [S, B] that are read and [T - 1, B] that were written -> logits [T - 1, B, V]."""

    settings: Model
    looks_back: bool  # whether with attention, or through the encoder's last state only

    @property
    def net(self) -> gr.Seq2Seq:
        """The network."""
        sizes = self.settings
        embed = gr.embed(VOCABULARY, sizes.embedding)
        drop = gr.dropout(sizes.dropout)
        cell: Any = gr.GRU(sizes.decoder)
        if self.looks_back:
            cell = gr.Attention(cell, memory_features=2 * sizes.encoder, features=sizes.attention)
        return gr.seq2seq(
            gr.stack(embed, drop, gr.bidirectional(gr.GRU(sizes.encoder))),
            gr.stack(embed, cell, drop, gr.dense(VOCABULARY)),
        )

    @property
    def served(self) -> Served:
        """Dates as they were written [S, B], of `lengths` [B] -> the tokens of ISO 8601."""
        sources = Input("S, B", "int32", below=VOCABULARY)
        inputs = {"sources": sources, "lengths": Input("B", "int32", below="S")}
        return Served(partial(self.write, length=WRITTEN, beams=1), inputs)

    def init(self, key: jax.Array) -> Any:
        """New parameters."""
        return self.net.init(key)

    def mean_loss(self, params: Any, batch: Any, key: jax.Array) -> jax.Array:
        """The mean cross-entropy of a token after the right ones before it."""
        targets = batch.targets
        _, logits = self.net.apply(
            params, batch.sources, targets[:-1], source_lengths=batch.lengths, key=key
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets[1:]).mean()

    @partial(jax.jit, static_argnames=("self", "length", "beams"))
    def write(
        self, params: Any, sources: jax.Array, lengths: jax.Array, *, length: int, beams: int
    ) -> jax.Array:
        """The tokens [length, B] that are written for `sources` [S, B]; one beam is greedy."""
        carry, bound = self.net.encode(params, sources, lengths=lengths)
        step = jax.tree_util.Partial(self.net.step, bound)
        start = jnp.full(lengths.shape, dates.START)
        if beams == 1:
            return gr.greedy(step, carry, start, max_length=length, end=dates.END).tokens
        found = gr.beam_search(
            step, carry, start, beams=beams, max_length=length, end=dates.END, alpha=0.0
        )
        return found.tokens[..., 0]

    @compiled
    def attention(
        self, params: Any, sources: jax.Array, lengths: jax.Array, read: jax.Array
    ) -> jax.Array:
        """The weights [T - 1, B, S] of `sources` after each token of `read`."""
        return self.net.attention(params, sources, read, source_lengths=lengths)


class Dates(Task):
    """The dates in four parts, and the networks that read them."""

    criterion = Criterion("exact", "exact match", higher=True, format=".1%")
    unit = "date"
    batch_axes = (1, 0, 1)
    models: dict[str, Reader]

    def __init__(self, settings: Config) -> None:
        data, train = settings.data, settings.train
        memory.demand("the dates", PAIR * data.train, {"data.train": data.train})
        memory.demand("the dates", PAIR * data.held_out, {"data.held_out": data.held_out})
        beams = {"model.beams": settings.model.beams, "data.held_out": data.held_out}
        found = 4 * VOCABULARY * data.held_out * settings.model.beams
        memory.demand("the beams of a search", found, beams)
        self.pairs = dates.make(seed=data.seed, train=data.train, held_out=data.held_out)
        longest = max(len(source) for part in self.pairs for source in part.sources)
        made = [_encoded(part, longest) for part in self.pairs]
        demand_batch(train.batch, 4 * longest)
        self._train, self._validation, self.new_dates, self.new_forms = made
        self.models = {
            "attention": Reader(settings.model, looks_back=True),
            "no attention": Reader(settings.model, looks_back=False),
        }
        self.amount, self._seed = train.batch, train.seed
        known, unknown = date_forms.forms()
        self.data = f"{data.train:,} dates in {len(known)} forms, up to {longest} characters"
        self.held_out = (
            f"{data.held_out:,} dates on other days; {data.held_out:,} more in the same forms and"
            f" {data.held_out:,} in {len(unknown)} others"
        )
        self.stored = {"sha256": digest(*(array for part in made for array in part))}

    def batch(self, step: int) -> Batch:
        """The dates of a step."""
        chosen = shuffled(len(self._train.lengths), self.amount, step, self._seed)
        return _columns(self._train, chosen)

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """The share of dates that are wholly right: validation, new dates and new forms."""
        model = self.models[name]
        beams = model.settings.beams
        return {
            "exact": self._exact(model, params, self._validation),
            "new dates": self._exact(model, params, self.new_dates),
            "new forms": self._exact(model, params, self.new_forms),
            f"new forms, {beams} beams": self._exact(model, params, self.new_forms, beams),
        }

    def _exact(self, model: Reader, params: Any, part: Batch, beams: int = 1) -> float:
        right = (self.written(model, params, part, beams) == part.targets[1:]).all(axis=0)
        return float(right.mean())

    def written(self, model: Reader, params: Any, part: Batch, beams: int = 1) -> np.ndarray:
        """The tokens [T - 1, B] that the model writes for the dates of `part`."""
        length = len(part.targets) - 1
        return np.asarray(model.write(params, *part[:2], length=length, beams=beams))

    def baselines(self) -> dict[str, float]:
        """The most frequent date, and the formats of `datetime.strptime`."""
        validation = self.pairs.validation
        (frequent, _), *_ = Counter(self.pairs.train.targets).most_common(1)
        pairs = list(zip(validation.sources, validation.targets, strict=True))
        return {
            "the most frequent date": float(np.mean([frequent == iso for _, iso in pairs])),
            "strptime": float(np.mean([by_format(text) == iso for text, iso in pairs])),
        }

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """The attention over dates in new forms, and those that are written wrongly."""
        pictures: dict[str, Figure | str] = {}
        part, pairs = self.new_forms, self.pairs.new_forms
        for name, values in params.items():
            model = self.models[name]
            got = self.written(model, values, part)
            pictures[f"{name.replace(' ', '_')}_mistakes.txt"] = mistakes(pairs, got)
            if not model.looks_back:
                continue
            chosen = first_of_languages(pairs.forms)[:EXAMPLES]
            some = _columns(part, chosen)
            read = np.concatenate([some.targets[:1], got[:-1, chosen]])
            weights = np.asarray(model.attention(values, *some[:2], read))
            pictures["attention.png"] = looks(
                [
                    (weights[: len(wrote), k, : some.lengths[k]], pairs.sources[example], wrote)
                    for k, example in enumerate(chosen)
                    if (wrote := dates.decode(got[:, example]))
                ]
            )
        return pictures


def _encoded(pairs: dates.Pairs, length: int) -> Batch:
    sources, targets = dates.batch(pairs, np.arange(len(pairs.sources)), length=length)
    return Batch(*sources, targets.values)


def _columns(part: Batch, chosen: np.ndarray) -> Batch:
    return Batch(part.sources[:, chosen], part.lengths[chosen], part.targets[:, chosen])


def first_of_languages(forms: tuple[date_forms.Form, ...]) -> np.ndarray:
    """The place of the first form of each language."""
    _, first = np.unique([form.language for form in forms], return_index=True)
    return np.sort(first)


def by_format(text: str) -> str:
    """The ISO 8601 of a date in one of `FORMATS`, or nothing."""
    for form in FORMATS:
        try:
            found = datetime.strptime(text, form).date()
        except ValueError:
            continue
        # two figures of a year: `strptime` parts the centuries at 69
        return found.replace(year=found.year - 100 * (found > date_forms.LAST)).isoformat()
    return ""


def mistakes(pairs: dates.Pairs, got: np.ndarray) -> str:
    """The number of wrong dates, and the first of them as they were read, wanted and written."""
    wrote = [dates.decode(tokens) for tokens in got.T]
    wrong = [
        row for row in zip(pairs.sources, pairs.targets, wrote, strict=True) if row[1] != row[2]
    ]
    lines = [f"{len(wrong):,} of {len(wrote):,} dates in new forms are wrong", ""]
    lines += [f"{source:40} {wanted}  {written}" for source, wanted, written in wrong[:MISTAKES]]
    return "\n".join(lines).rstrip() + "\n"
