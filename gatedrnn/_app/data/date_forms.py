"""The forms in which people write dates, and which of them are held out.

A form is a language, a template and a case. What is written has one reading: figures with dots are
day.month.year, with slashes month/day/year, with dashes year-month-day; years lie between 1950 and
2049, and two figures of a year mean the one of them that ends so (pivot 50).
"""

import datetime
import hashlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from gatedrnn._app.data.languages import LANGUAGES

FIRST, LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)
# {d}: day, {dd}: of two figures, {o}: ordinal, {n}: month as a figure, {m}: by name, {w}: weekday;
# {sm}, {sw}: short, {bm}: short without its dot
NAMED = {
    "day month year": "{d}{of}{m}{of}{y}",
    "short month": "{d} {sm} {y}",
    "dashes": "{dd}-{bm}-{y}",
    "short year": "{d} {sm} '{yy}",
    "weekday": "{w}, {d}{of}{m}{of}{y}",
    "short weekday": "{sw} {d} {sm} {y}",
    "ordinal": "{the} {o}{of}{m}{of}{y}",
    "weekday ordinal": "{w} {the} {o}{of}{m}{of}{y}",
    "year first": "{y}, {the} {o}{of}{m}",
    "weekday, dots": "{w}, {dd}.{mm}.{y}",
    "short weekday, dots": "{sw} {d}.{n}.{yy}",
}
ENGLISH = {
    "month first": "{m} {d}, {y}",
    "short month first": "{sm} {d}, {y}",
    "month first, ordinal": "{m} {o}, {y}",
    "month the ordinal": "{m} {the} {o}, {y}",
    "the ordinal of": "{the} {o} of {m}, {y}",
    "weekday, month first": "{w}, {m} {o}, {y}",
    "short, month first": "{sw}, {sm} {d} '{yy}",
}
FIGURES = {"dots": "{D}.{M}.{Y}", "slashes": "{M}/{D}/{Y}", "dashes": "{Y}-{M}-{D}"}
WIDTHS = {
    "plain": ("{d}", "{n}", "{y}"),
    "padded": ("{dd}", "{mm}", "{y}"),
    "plain, short year": ("{d}", "{n}", "{yy}"),
    "padded, short year": ("{dd}", "{mm}", "{yy}"),
}
CASES: dict[str, Callable[[str], str]] = {"as usual": str, "lower": str.lower, "upper": str.upper}


class Form(NamedTuple):
    """One way to write dates; for figures alone, the language is the name of what is between."""

    language: str
    template: str
    case: str


def write(date: datetime.date, form: Form) -> str:
    """The date in this form."""
    fields = {"d": str(date.day), "dd": f"{date.day:02}", "n": str(date.month)}
    fields |= {"mm": f"{date.month:02}", "y": str(date.year), "yy": f"{date.year % 100:02}"}
    if form.language in FIGURES:
        names = zip("DMY", WIDTHS[form.template], strict=True)
        parts = {name: width.format(**fields) for name, width in names}
        return FIGURES[form.language].format(**parts)
    words = LANGUAGES[form.language]
    month, weekday = date.month - 1, date.weekday()
    template = (NAMED | ENGLISH)[form.template]
    if "{n}" not in template:  # among figures a day is a figure too
        fields["d"] = words.day(date.day)
    fields |= {
        "o": words.ordinal(date.day),
        "m": words.months[month],
        "sm": words.short_months[month],
        "bm": words.short_months[month].rstrip("."),
        "w": words.weekdays[weekday],
        "sw": words.short_weekdays[weekday],
        "the": words.article,
        "of": words.of,
    }
    return CASES[form.case](template.format(**fields))


@cache
def all_forms() -> tuple[Form, ...]:
    """Every language with every template and case; some write alike."""
    named = [
        Form(language, template, case)
        for language in LANGUAGES
        for template in NAMED | (ENGLISH if language == "English" else {})
        for case in CASES
    ]
    return (*named, *(Form(between, width, "as usual") for between in FIGURES for width in WIDTHS))


@cache
def sample_days() -> tuple[datetime.date, ...]:
    """Days with every month, weekday and day of the month."""
    return tuple(FIRST + datetime.timedelta(days) for days in range(0, 36_525, 97))


@cache
def forms() -> tuple[tuple[Form, ...], tuple[Form, ...]]:
    """The forms to train on, and those held out: a tenth, by a hash of their names.

    A form is left out where it writes every one of some sample days as one before it does; it can
    be held out only where no other form writes any of them in the same way.
    """
    found: dict[Form, tuple[str, ...]] = {}
    for form in all_forms():
        written = tuple(write(day, form) for day in sample_days())
        if written not in found.values():
            found[form] = written
    owners: dict[str, set[Form]] = {}
    for form, written in found.items():
        for text in written:
            owners.setdefault(text, set()).add(form)
    unique = {form for form, written in found.items() if all(len(owners[t]) == 1 for t in written)}
    train = list(found)
    held_out: list[Form] = []
    for form in sorted(unique, key=_rank):
        rest = [other for other in train if other != form]
        pairs = {(other.language, other.template) for other in rest}
        across = {(other.template, other.case) for other in rest}
        if form[:2] in pairs or (form[1:] in across and form.language in dict(pairs)):
            train, held_out = rest, [*held_out, form]
        if 10 * len(held_out) >= len(found):
            break
    return tuple(train), tuple(held_out)


def _rank(form: Form) -> str:
    return hashlib.sha256("/".join(form).encode()).hexdigest()
