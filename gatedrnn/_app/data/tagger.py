"""Python source, each character labelled by the kind of token that it lies in.

The tokens are those of `tokenize`. The kinds do not depend on the version of Python: an f-string is
one string, with all that is in its braces, though from Python 3.12 on `tokenize` takes it apart.

Axes: N characters of a file, T characters of a piece.
"""

import hashlib
import io
import keyword
import sysconfig
import token
import tokenize
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

KINDS = (
    "space",  # between tokens, line breaks and continuations included
    "keyword",  # reserved in every place
    "definition",  # the name after `def` or `class`
    "call",  # a name before an opening parenthesis
    "name",  # any other
    "number",
    "string",  # with its prefix and quotes
    "comment",
    "operator",  # and brackets, commas, colons, dots
)
SPACE, KEYWORD, DEFINITION, CALL, NAME, NUMBER, STRING, COMMENT, OPERATOR = range(len(KINDS))
CHARACTERS = "\n\t" + "".join(map(chr, range(32, 127)))  # one at place i is i + 1; all others are 0
OPERATORS = set(token.EXACT_TOKEN_TYPES) - {"!"}  # that is one in f-strings only
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


class Source(NamedTuple):
    """A file, or the whole lines at its beginning."""

    path: str  # relative to the folder of the library, with forward slashes
    text: str
    kinds: np.ndarray  # uint8 [N], places in KINDS
    breaks: np.ndarray  # int32, where logical lines end, the last of them at N


class Sources(NamedTuple):
    """Files in three parts. In which part a file is, its path alone decides."""

    train: tuple[Source, ...]
    validation: tuple[Source, ...]
    test: tuple[Source, ...]
    skipped: int  # files that were read and are not Python, or not text


def label(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The kinds and the breaks of a text, as in `Source`.

    Raises `SyntaxError` or `tokenize.TokenError` where the text is not tokens of Python.
    """
    starts = np.cumsum([0, *map(len, io.StringIO(text))])  # of the lines
    kinds = np.zeros(len(text), np.uint8)
    breaks: list[int] = []
    previous = ""  # the token before
    last_name: tuple[int, int] | None = None  # where it lies, if it is a name
    brackets = nested = begin = 0

    for kind, string, start, end, _ in tokenize.generate_tokens(io.StringIO(text).readline):
        if kind in (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        first, last = (int(starts[row - 1]) + column for row, column in (start, end))
        part = token.tok_name[kind]
        if part in ("FSTRING_START", "TSTRING_START"):
            begin, nested = (first if nested == 0 else begin), nested + 1
        elif part in ("FSTRING_END", "TSTRING_END"):
            nested -= 1
            if nested == 0:
                kinds[begin:last] = STRING
        if nested or part.endswith("STRING_END"):
            previous, last_name = "", None
            continue
        stray = kind == tokenize.OP and string not in OPERATORS
        if kind == tokenize.ERRORTOKEN or stray:
            raise SyntaxError(f"{string!r} at {start} is no token")
        if kind in (tokenize.NEWLINE, tokenize.NL):
            if brackets == 0:
                breaks.append(int(starts[start[0]]))
            previous, last_name = "", None
            continue
        if string == "(" and last_name and kinds[last_name[0]] == NAME:
            kinds[slice(*last_name)] = CALL
        kinds[first:last] = _kind(kind, string, previous)
        brackets += (string in ("(", "[", "{")) - (string in (")", "]", "}"))
        previous, last_name = string, (first, last) if kind == tokenize.NAME else None
    return kinds, np.unique(np.array([*breaks, len(text)], np.int32))


def _kind(kind: int, string: str, previous: str) -> int:
    """The kind of one token, as far as the token before it says."""
    if kind == tokenize.NAME:
        if keyword.iskeyword(string):
            return KEYWORD
        return DEFINITION if previous in ("def", "class") else NAME
    fixed = {tokenize.NUMBER: NUMBER, tokenize.STRING: STRING, tokenize.COMMENT: COMMENT}
    return fixed.get(kind, OPERATOR)


def load(
    *,
    characters: int = 600_000,
    held_out: int = 60_000,
    per_file: int = 10_000,
    folder: Path | None = None,
) -> Sources:
    """Files of the installed standard library, or of another `folder`, without its tests.

    A file belongs to the part that a hash of its path says: one in ten for validation, one for the
    test. Files are taken in the order of the hash, the whole lines in the first `per_file`
    characters of each, until a part has `characters` to train on, or `held_out` for the others.
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if folder is None else folder
    found = (path.relative_to(root) for path in root.rglob("*.py"))
    names = [path.as_posix() for path in found if not SKIPPED & set(path.parts)]
    parts: tuple[list[Source], ...] = ([], [], [])
    left = [characters, held_out, held_out]
    skipped = 0
    for digest, name in sorted((hashlib.sha256(name.encode()).digest(), name) for name in names):
        part = {0: 1, 1: 2}.get(digest[-1] % 10, 0)
        if left[part] <= 0:
            continue
        try:
            with tokenize.open(root / name) as file:
                text = file.read()
            source = _beginning(name, text, min(per_file, left[part]))
        except (SyntaxError, UnicodeDecodeError, tokenize.TokenError, OSError):
            skipped += 1
            continue
        if source.text:
            parts[part].append(source)
            left[part] -= len(source.text)
        elif text:
            left[part] = 0  # not even one logical line fits any more
    train, validation, test = map(tuple, parts)
    return Sources(train, validation, test, skipped)


def _beginning(name: str, text: str, limit: int) -> Source:
    """The logical lines in the first `limit` characters of a file."""
    kinds, breaks = label(text)
    breaks = breaks[breaks <= limit]
    end = int(breaks[-1]) if len(breaks) else 0
    return Source(name, text[:end], kinds[:end], breaks)


def encode(text: str) -> np.ndarray:
    """Each character as a number, 0 for those that are not in CHARACTERS: int32 [N]."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    table = np.zeros(128, np.int32)
    table[[ord(character) for character in CHARACTERS]] = np.arange(1, len(CHARACTERS) + 1)
    return np.where(points < 128, table[np.minimum(points, 127)], 0).astype(np.int32)


def pieces(source: Source, limit: int) -> list[slice]:
    """Cut a file into pieces of up to T = `limit` characters: where each of them lies.

    A piece is as many logical lines as fit, so that none starts within a string or in brackets; a
    line that is longer by itself is cut where it must be.
    """
    cuts = [0]
    end = 0
    for stop in source.breaks.tolist():
        if stop - cuts[-1] > limit and end > cuts[-1]:
            cuts.append(end)
        while stop - cuts[-1] > limit:
            cuts.append(cuts[-1] + limit)
        end = stop
    if end > cuts[-1]:
        cuts.append(end)
    return [slice(a, b) for a, b in pairwise(cuts)]
