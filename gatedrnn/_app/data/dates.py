"""Dates as people write them, and as ISO 8601 writes them: `YYYY-MM-DD`.

`date_forms` has the forms, and says how each is read.

Nothing in the held-out parts has a date that occurs in training. `new_dates` is written in forms
that do; `new_forms` in forms that do not, though every part of them does: their language and their
template together in another case, or their template and case in another language.

Axes: S characters of what is read, T characters of what is written, B pairs.
"""

import datetime
from functools import cache
from typing import NamedTuple

import numpy as np

from gatedrnn._app.data.date_forms import FIRST, LAST, Form, all_forms, forms, sample_days, write
from gatedrnn._app.data.ragged import Ragged, pad

PAD, START, END = 0, 1, 2  # tokens; those of `characters` follow


class Pairs(NamedTuple):
    """Dates written in some form, and in ISO 8601."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    forms: tuple[Form, ...]


class Dates(NamedTuple):
    """No day occurs in two of these parts, but for the last two, which share theirs."""

    train: Pairs
    validation: Pairs  # in the forms of `train`
    new_dates: Pairs  # in the forms of `train`
    new_forms: Pairs  # in forms held out


def make(*, seed: int, train: int = 40_000, held_out: int = 1_000) -> Dates:
    """`train` pairs to learn from and `held_out` for each other part.

    Of the 36 525 days 80 % are for training, 10 % for validation and 10 % for the test. Days and
    forms are drawn evenly; training may repeat a pair.
    """
    rng = np.random.default_rng(seed)
    days = rng.permutation((LAST - FIRST).days + 1)
    cuts = [len(days) * 8 // 10, len(days) * 9 // 10]
    first, second, third = np.split(days, cuts)
    known, unknown = forms()
    return Dates(
        _draw(rng, first, known, train),
        _draw(rng, second, known, held_out),
        _draw(rng, third, known, held_out),
        _draw(rng, third, unknown, held_out),
    )


@cache
def characters() -> str:
    """Every character of a form or of ISO 8601, in order; that at place i is token END + 1 + i."""
    written = (write(day, form) for form in all_forms() for day in sample_days())
    return "".join(sorted(set("0123456789-").union(*written)))


@cache
def _tokens() -> dict[str, int]:
    return {character: token for token, character in enumerate(characters(), start=END + 1)}


def encode(text: str) -> np.ndarray:
    """The tokens of a text, without START and END: int32. Unknown characters: `ValueError`."""
    unknown = sorted(set(text) - set(characters()))
    if unknown:
        raise ValueError(f"text: got {''.join(unknown)!r} in {text!r}, which no date contains")
    table = _tokens()
    return np.array([table[character] for character in text], np.int32)


def decode(tokens: np.ndarray) -> str:
    """The text of tokens up to the first END; START and PAD are left out."""
    ends = np.flatnonzero(np.asarray(tokens) == END)
    until = tokens[: ends[0]] if len(ends) else tokens
    return "".join(characters()[token - END - 1] for token in until if token > END)


def batch(pairs: Pairs, chosen: np.ndarray, *, length: int | None = None) -> tuple[Ragged, Ragged]:
    """Sources [S, B] and targets [T, B] of the pairs at the places `chosen` [B], tokens int32.

    A target is START, ten characters, END: a decoder reads all but the last and writes all but the
    first. `length` sets S; padding is PAD.
    """
    ends = np.array([START], np.int32), np.array([END], np.int32)
    return (
        pad([encode(pairs.sources[k]) for k in chosen], length=length, fill=PAD),
        pad([np.concatenate([ends[0], encode(pairs.targets[k]), ends[1]]) for k in chosen]),
    )


def _draw(rng: np.random.Generator, days: np.ndarray, among: tuple[Form, ...], count: int) -> Pairs:
    dates = [FIRST + datetime.timedelta(int(day)) for day in rng.choice(days, count)]
    chosen = [among[k] for k in rng.integers(len(among), size=count)]
    sources = [write(date, form) for date, form in zip(dates, chosen, strict=True)]
    return Pairs(tuple(sources), tuple(date.isoformat() for date in dates), tuple(chosen))
