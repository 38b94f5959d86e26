"""Hidden folders beside the folder of a run, which killed processes left behind.

A new run is in one until it has been saved, an older one that was replaced until it has been
removed. A run in one of them that can be gone on with is never removed: it is named, with the
command that brings it back.
"""

import os
import re
import secrets
import shlex
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
        found = _read(root)
        try:
            if found is None:
                record.remove(root, [n for n in record.contents(root) if record.Record().lists(n)])
                root.rmdir()
                continue
            if found.latest is None and record.discard(root, found):
                continue
        except (OSError, CommandError):  # something else is in it
            pass
        notice(described(root, home))


def named(folder: Path) -> str:
    """The whole runs that were left behind beside `folder`, in words, each after a semicolon."""
    home = folder.resolve()
    return "".join(f"; {described(root, home)}" for root in _beside(home) if is_whole(root))


def is_whole(root: Path) -> bool:
    """True if the run in `root` has been saved."""
    found = _read(root)
    return found is not None and found.latest is not None


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


def described(root: Path, home: Path) -> str:
    """The remains of a run of `home` in the hidden folder `root`, in words."""
    found = _read(root)
    if found is None or found.latest is None:
        return f"{_shown(root)} is left of a run that ended early, and holds other files"
    target = home if not home.exists() else home.with_name(f"{home.name}-{root.name[-12:-4]}")
    command = shlex.join(["mv", _shown(root), _shown(target)])
    steps = f"{found.latest:,} step{'s' if found.latest != 1 else ''}"
    return f"a command that was ended early left a whole run of {steps}, which is kept: {command}"


def _shown(path: Path) -> str:
    here = Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)
