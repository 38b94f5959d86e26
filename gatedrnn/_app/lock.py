"""A run that one process at a time writes to.

The lock is a file beside the folder of the run, `.<name>.gatedrnn.lock`, which a folder that takes
the place of another does not touch. The holder removes it; one that a killed process left is taken
over, since the system ended the lock with that process.
"""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gatedrnn._app.errors import CommandError
from gatedrnn._app.files import read, writing

OURS = re.compile(r"(process \d+ of .*)?")
PATIENCE = 0.2  # seconds: a holder that is just leaving


@contextmanager
def held(folder: str) -> Iterator[None]:
    """Hold the lock of the run in `folder`; folders that are made for it go if they stay empty."""
    from filelock import FileLock, Timeout

    with writing(folder):
        home = Path(folder).resolve()
        path = home.with_name(f".{home.name}.gatedrnn.lock")
        made = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, poll_interval=0.05)
    try:
        with writing(folder):
            try:
                lock.acquire(timeout=PATIENCE)
            except Timeout:
                raise CommandError(f"{folder} is in use by {_holder(path)}", exit_code=1) from None
        try:
            _demand_ours(path)
        except CommandError:
            lock.release()
            raise
        try:
            with writing(folder):
                path.write_text(f"process {os.getpid()} of {platform.node()}", encoding="utf-8")
            yield
        finally:
            # while it is held: whoever opened this very file finds it without a name, and opens
            # the next
            with suppress(OSError):
                path.unlink()
            lock.release()
    finally:
        for parent in made:
            with suppress(OSError):  # something is in it
                parent.rmdir()


def _demand_ours(path: Path) -> None:
    """Raise if `path` holds anything but what a holder writes."""
    with writing(path):
        if not OURS.fullmatch(read(path, most=1000).decode()):
            raise ValueError("it is no lock of gatedrnn")


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError):
        return read(path, most=1000).decode() or "another process"
    return "another process"
