"""Text as training data: reading it, the split, the vocabulary, and windows of parallel streams.

Axes: N characters of a text, T steps of a window, B streams, W windows.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

import gatedrnn as gr
from gatedrnn._app import files, memory
from gatedrnn._app.errors import CommandError, reason

BYTES = 200  # of memory for a character: its token, and the n-grams that are counted
UNKNOWN = 0  # the token of every character that the training text does not contain


class Vocabulary(NamedTuple):
    """Characters and their tokens: token 0 is the unknown symbol, `characters[i]` is i + 1."""

    characters: str

    @property
    def size(self) -> int:
        """The number of tokens, with the unknown symbol."""
        return len(self.characters) + 1

    @property
    def start(self) -> str:
        """The prompt of a sample that has none: a line break, or else the first character."""
        return "\n" if "\n" in self.characters else self.characters[0]

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text`, int32 [N]."""
        table = {character: token for token, character in enumerate(self.characters, start=1)}
        return np.array([table.get(character, UNKNOWN) for character in text], np.int32)

    def decode(self, token: int) -> str:
        """The character of one token; U+FFFD for the unknown symbol."""
        return "\ufffd" if token == UNKNOWN else self.characters[token - 1]


class Corpus(NamedTuple):
    """A text made ready: its tokens in two parts, and what identifies it."""

    train: np.ndarray  # int32 [N_train]
    validation: np.ndarray  # int32 [N_validation], what follows in the text
    vocabulary: Vocabulary  # of the training part alone
    digest: str  # SHA-256 of the whole text, hexadecimal


class Windows(NamedTuple):
    """A text cut for evaluation; the pair of one character and the next occurs exactly once."""

    inputs: np.ndarray  # int32 [W, T, B]
    targets: np.ndarray  # int32 [W, T, B]: the character after each input
    weights: np.ndarray  # float32 [W, T, B]: 1, and 0 where a stream has run out of text


def load_text(path: str | None) -> str:
    """The text of the UTF-8 file `path`, or CPython's help pages in the order of their names."""
    if path is None:
        try:
            from pydoc_data.topics import topics
        except ImportError as error:  # some distributions pack it apart
            raise CommandError("this Python has no help pages: expected data.path=FILE") from error
        return "\n".join(topics[name] for name in sorted(topics))
    try:
        text = files.read_text(Path(path), most=memory.available() // BYTES)
    except UnicodeDecodeError as error:
        raise CommandError(
            f"data.path: {path} is not UTF-8 (byte {error.object[error.start]:#04x} at position"
            f" {error.start}: {error.reason})"
        ) from error
    except (OSError, ValueError) as error:
        raise CommandError(f"data.path: cannot read {path}: {reason(error)}") from error
    if not text:
        raise CommandError(f"data.path: {path} is empty")
    return text


def prepare(text: str, *, validation_fraction: float, window: int, batch: int) -> Corpus:
    """Split `text`, the last `validation_fraction` for validation, and number its characters.

    Each part must hold one window of `window` characters, and the one that follows it; the `batch`
    streams of the training must start at a character each.
    """
    cut = len(text) - round(len(text) * validation_fraction)
    for part, length in (("training", cut), ("validation", len(text) - cut)):
        if length < window + 1:
            raise CommandError(
                f"data.window: got {window}, but the {part} part has {length} characters, expected"
                f" at least {window + 1} (data.window + 1)"
            )
    if batch > cut:
        raise CommandError(
            f"train.batch: got {batch}, expected at most the {cut} characters to train on"
        )
    sizes = {"data.window": window, "train.batch": batch}
    memory.demand("the windows of a batch", 16 * (window + 1) * batch, sizes)
    vocabulary = Vocabulary("".join(sorted(set(text[:cut]))))
    return Corpus(
        train=vocabulary.encode(text[:cut]),
        validation=vocabulary.encode(text[cut:]),
        vocabulary=vocabulary,
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def training_window(
    tokens: np.ndarray, step: int, *, window: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """The inputs and targets of one step, int32 [T, B] each.

    The text `tokens` [N] is read as a circle. The B streams start at equal distances and go
    round for ever, so that step s continues every stream where step s - 1 left it, no text is
    dropped, and a window is a function of its step alone.
    """
    starts = np.arange(batch) * len(tokens) // batch
    index = starts + (step * window + np.arange(window + 1))[:, None]  # [T + 1, B]
    block = tokens[index % len(tokens)]
    return block[:-1], block[1:]


def evaluation_windows(tokens: np.ndarray, *, window: int, batch: int) -> Windows:
    """Cut `tokens` [N] into at most `batch` streams that together predict tokens 1 to N - 1.

    There are fewer streams where `batch` of them would be shorter than one window each.
    """
    targets = len(tokens) - 1
    cut = gr.windows(targets, window=window, batch=min(batch, max(1, targets // window)))
    return Windows(tokens[cut.steps], tokens[cut.steps + 1], cut.mask.astype(np.float32))
