"""Hidden folders beside the folder of a run, which killed processes left behind.

A new run is in one until it has been saved, an older one that was replaced until it has been
removed. A run in one of them that can be gone on with is never removed: it is named, with the
command that brings it back.
"""

import os
import re
import secrets
import shlex
from contextlib import suppress
from pathlib import Path

from gatedrnn._app import record
from gatedrnn._app.errors import CommandError, notice


def hidden(home: Path) -> Path:
    """The place of a new run before it is at `home`, a folder that is not there yet."""
    return home.with_name(f".{home.name}.{secrets.token_hex(4)}.new")


def settle(folder: str) -> None:
    """Remove what never became a run; name all others. For the holder of the lock."""
    home = Path(folder).resolve()
    for root in _beside(home):
        clean(root)
        if os.path.lexists(root) and not is_whole(root):
            notice(f"{_shown(root)} is left as it is: {_others(root)}")
    for words in _whole(home):
        notice(words)


def clean(root: Path) -> None:
    """Remove what was written to `root` of a run that has never been saved.

    A folder whose record cannot be read may hold a run: it is left alone.
    """
    with suppress(OSError, CommandError):  # something else is in it
        if root.is_symlink():
            return
        found = record.read(root)
        if found is not None:
            if found.latest is None:
                record.discard(root, found)
            return
        ours, others = record.split(root, record.Record())
        if not others:
            record.remove(root, ours)
            root.rmdir()


def named(folder: Path) -> str:
    """The whole runs that were left behind beside `folder`, in words, each after a semicolon."""
    return "".join(f"; {words}" for words in _whole(folder.resolve()))


def is_whole(root: Path) -> bool:
    """True if the run in `root` has been saved."""
    found = _read(root)
    return found is not None and found.latest is not None


def _whole(home: Path) -> list[str]:
    """Each whole run beside `home`, with the command that brings it back, to a place of its own."""
    free, said = not home.exists(), []
    for root in filter(is_whole, _beside(home)):
        _, token, kind = root.name.rsplit(".", 2)
        target = home if free else home.with_name(f"{home.name}-{token}-{kind}")
        command = shlex.join(["mv", _shown(root), _shown(target)])
        said.append(f"a command that was ended early left a whole run, which is kept: {command}")
        free = False
    return said


def _beside(home: Path) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(home.name)}\.[0-9a-f]{{8}}\.(new|old)")
    try:
        names = os.listdir(home.parent)
    except OSError:
        return []
    return [home.with_name(name) for name in sorted(names) if pattern.fullmatch(name)]


def _read(root: Path) -> record.Record | None:
    try:
        return record.read(root)
    except CommandError:
        return None


def _others(root: Path) -> str:
    """The reason why `root`, which holds no whole run, was not removed."""
    try:
        record.read(root)
    except CommandError as error:
        return str(error)
    return "a run that was ended early, and other files or links are there"


def _shown(path: Path) -> str:
    here = Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)
