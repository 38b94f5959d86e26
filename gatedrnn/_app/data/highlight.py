"""Source coloured by the kind of each character, as a page of HTML or for a terminal.

Axes: N characters.
"""

import html
from itertools import groupby
from typing import NamedTuple

import numpy as np

from gatedrnn._app.data.tagger import KINDS

COLOURS = {  # on paper, on a dark screen, and of the 256 colours of a terminal
    "space": ("#24292f", "#d0d7de", 250),
    "keyword": ("#b3134b", "#ff7b9c", 204),
    "definition": ("#7a3fc4", "#d2a8ff", 183),
    "call": ("#0a58b5", "#79b8ff", 75),
    "name": ("#24292f", "#d0d7de", 253),
    "number": ("#a85600", "#ffb270", 215),
    "string": ("#1a7430", "#7ee2a0", 114),
    "comment": ("#6b7480", "#8b98a5", 245),
    "operator": ("#007278", "#6fd6d6", 80),
}
STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #24292f; --faint: #9aa2ab;
  --line: #e4e4de; --wrong: #e01020; %s }
@media (prefers-color-scheme: dark) { :root { --paper: #15181d; --ink: #d0d7de; --faint: #59636e;
  --line: #2b313a; --wrong: #ff5560; %s } }
body { margin: 2.5rem auto; max-width: 64rem; padding: 0 1.5rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: 0 0 .25rem; }
p { color: var(--faint); margin: 0 0 1rem; }
ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: .75rem 0;
  margin: 0; border: solid var(--line); border-width: 1px 0; font-weight: 600; }
pre { font: 13px/1.55 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; tab-size: 8;
  overflow-x: auto; counter-reset: line; }
.l::before { counter-increment: line; content: counter(line); display: inline-block; width: 3.5em;
  margin-right: 1.5em; text-align: right; color: var(--faint); user-select: none; }
.e { background: color-mix(in srgb, var(--wrong) 14%%, transparent);
  text-decoration: underline wavy var(--wrong); text-underline-offset: 3px; }
%s
"""


class Stretch(NamedTuple):
    """Characters of one line that are alike."""

    text: str
    kind: int  # predicted, a place in KINDS
    actual: int  # what it should be


def to_html(text: str, predicted: np.ndarray, actual: np.ndarray, *, title: str) -> str:
    """A page of HTML that needs nothing else: `text` in the colours of its `predicted` kinds [N].

    Characters whose `actual` kind [N] is another are underlined, and say which when pointed at.
    """
    sheets = [
        " ".join(f"--{kind}: {colours[sheet]};" for kind, colours in COLOURS.items())
        for sheet in (0, 1)
    ]
    classes = "\n".join(
        f".k{place} {{ color: var(--{kind}); }}" for place, kind in enumerate(KINDS)
    )
    right = float(np.mean(predicted == actual)) if len(text) else 1.0
    legend = "".join(
        f'<li class="k{place}">{kind}</li>' for place, kind in enumerate(KINDS) if kind != "space"
    )
    lines = "\n".join(
        '<span class="l"></span>' + "".join(map(_span, line))
        for line in _lines(text, predicted, actual)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE % (*sheets, classes)}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n<p>{right:.2%} of {len(text):,} characters are"
        ' labelled right; <span class="e">the others</span> are underlined.</p>\n'
        f"<ul>{legend}</ul>\n<pre>{lines}</pre></body></html>\n"
    )


def to_ansi(text: str, predicted: np.ndarray, actual: np.ndarray) -> str:
    """The same for a terminal, in escape sequences for 256 colours."""
    out = []
    for line in _lines(text, predicted, actual):
        for stretch in line:
            colour = COLOURS[KINDS[stretch.kind]][2]
            wrong = ";4;48;5;52" if stretch.kind != stretch.actual else ""
            out.append(f"\x1b[38;5;{colour}{wrong}m{_visible(stretch.text)}\x1b[0m")
        out.append("\n")
    return "".join(out[:-1])


def _lines(text: str, predicted: np.ndarray, actual: np.ndarray) -> list[list[Stretch]]:
    """The stretches of each line; a line break with a wrong label shows as a sign of its own."""
    for name, kinds in (("predicted", predicted), ("actual", actual)):
        if np.shape(kinds) != (len(text),):
            raise ValueError(f"{name}: got shape {np.shape(kinds)}, expected ({len(text)},)")
    lines: list[list[Stretch]] = [[]]
    labelled = zip(text, predicted.tolist(), actual.tolist(), strict=True)
    for (end, kind, truth), group in groupby(labelled, lambda x: (x[0] == "\n", x[1], x[2])):
        characters = "".join(character for character, _, _ in group)
        if not end:
            lines[-1].append(Stretch(characters, kind, truth))
            continue
        for _ in characters:
            if kind != truth:
                lines[-1].append(Stretch("↵", kind, truth))
            lines.append([])
    return lines


def _span(stretch: Stretch) -> str:
    written = html.escape(_visible(stretch.text))
    if stretch.kind != stretch.actual:
        says = f"{KINDS[stretch.kind]}, in truth {KINDS[stretch.actual]}"
        return f'<span class="k{stretch.kind} e" title="{says}">{written}</span>'
    return (
        written
        if KINDS[stretch.kind] == "space"
        else f'<span class="k{stretch.kind}">{written}</span>'
    )


def _visible(text: str) -> str:
    """Without control characters, which would act on a page or on a terminal."""
    return "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in text)
