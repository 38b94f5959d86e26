"""Files that are read within a bound, and written whole or not at all."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gatedrnn._app.errors import CommandError, reason
from gatedrnn._saving.whole import replacing, size


def read(path: Path, *, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises `OSError` where it cannot be read or is anything else (a device, or a pipe without a
    writer, would be read without an end), `ValueError` where it is larger.
    """
    found = size(path)
    if found > most:
        raise ValueError(f"it has {found:,} bytes, expected at most {most:,}")
    with open(path, "rb") as file:
        return file.read(most)


def read_beginning(path: Path, most: int) -> bytes:
    """Return the first `most` bytes of a regular file, or all where it has fewer."""
    found = size(path)
    with open(path, "rb") as file:
        return file.read(min(most, found))


def read_text(path: Path, *, most: int) -> str:
    """Return the text of such a file in UTF-8, each end of a line a line break alone."""
    return io.TextIOWrapper(io.BytesIO(read(path, most=most)), encoding="utf-8-sig").read()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; one that is there is replaced, a link to it stays."""
    with writing(path), replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turn an error of the system into one that says that `name` cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CommandError(f"cannot read {name}: {reason(error)}") from error


@contextmanager
def writing(name: str | Path) -> Iterator[None]:
    """Turn an error of the system into one that says that `name` cannot be written."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot write {name}: {reason(error)}", exit_code=1) from error
