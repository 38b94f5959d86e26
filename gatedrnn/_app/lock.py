"""A run that one process at a time writes to.

The lock is a file beside the folder of the run, `.<name>.gatedrnn.lock`, which a folder that takes
the place of another does not touch; within the folder where nothing can be written beside it. The
holder removes it; one that a killed process left is taken over, since the system ended the lock
with that process.
"""

import errno
import os
import platform
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gatedrnn._app.errors import CommandError, notice, reason
from gatedrnn._app.files import read, writing
from gatedrnn._app.record import LOCK

OURS = re.compile(r"(process \d+ of .*)?")
SOFT = re.compile(r"(\d+)\n(.+)\n(\d+\n)?")  # of filelock, where the system has no locks
PATIENCE = 0.2  # seconds: a holder that is just leaving
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def held(folder: str, *, surely: bool = False) -> Iterator[None]:
    """Hold the lock of the run in `folder`; folders that are made for it go if they stay empty.

    A file system without locks gets a notice instead, or an error if the lock is needed `surely`.
    """
    with writing(folder):
        home = Path(folder).resolve()
        path = home.with_name(f".{home.name}.gatedrnn.lock")
        made = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            with writing(folder):
                try:
                    _take(stack, folder, path, home / LOCK)
                except OSError as error:
                    if surely or error.errno not in UNSUPPORTED:
                        raise
                    notice(
                        f"{folder} cannot be locked: {reason(error)}; let no other process write"
                        " to it"
                    )
            yield
    finally:
        for parent in made:
            with suppress(OSError):  # something is in it
                parent.rmdir()


def _take(stack: ExitStack, folder: str, beside: Path, within: Path) -> None:
    """Have `stack` hold the lock `beside` a folder, and the one `within` it where that is used."""
    try:
        stack.enter_context(_locked(folder, beside))
    except OSError as error:
        if error.errno not in READ_ONLY or not within.parent.is_dir():
            raise
        if os.path.lexists(beside):  # of one who may write there
            raise CommandError(
                f"{folder} is in use by {_holder(beside)}, or else {beside} is to be removed",
                exit_code=1,
            ) from None
        stack.enter_context(_locked(folder, within))
    else:
        if os.path.lexists(within):
            stack.enter_context(_locked(folder, within))


@contextmanager
def _locked(folder: str, path: Path) -> Iterator[None]:
    from filelock import SoftFileLock

    _demand_ours(path)
    lock = _acquired(folder, path)
    try:
        yield
    finally:
        try:
            # while it is held: whoever opened this very file finds it without a name, and opens
            # the next
            if not isinstance(lock, SoftFileLock):
                with suppress(OSError):
                    path.unlink()
        finally:  # a signal here interrupts the removal, and must not keep the lock
            lock.release()


def _acquired(folder: str, path: Path) -> Any:
    """The lock of the system on the file `path`, or else the file itself as a lock."""
    from filelock import FileLock, SoftFileLock, Timeout

    fresh = not os.path.lexists(path)
    lock: Any = FileLock(path, poll_interval=0.05, fallback_to_soft=False, on_acquired=_sign)
    try:
        try:
            lock.acquire(timeout=PATIENCE)
        except OSError as error:
            if error.errno in UNSUPPORTED and fresh:
                path.unlink(missing_ok=True)
            if error.errno != errno.ENOSYS:
                raise
            lock = SoftFileLock(path, poll_interval=0.05)
            lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise CommandError(f"{folder} is in use by {_holder(path)}", exit_code=1) from None
    except BaseException:  # a signal, perhaps while the holder's name was written
        lock.release()
        raise
    return lock


def _sign(descriptor: int) -> None:
    """Write the holder's name into the file of a lock, which is open as `descriptor`.

    On Windows nobody else can, not even the holder by another descriptor.
    """
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f"process {os.getpid()} of {platform.node()}".encode())


def _demand_ours(path: Path) -> None:
    """Raise if `path` is there, and holds anything but what a holder writes."""
    with writing(path):
        try:
            content = read(path, most=1000).decode()
        except (FileNotFoundError, PermissionError):  # it is held, on Windows
            return
        if not (OURS.fullmatch(content) or SOFT.fullmatch(content)):
            raise ValueError("it is no lock of gatedrnn")


def _holder(path: Path) -> str:
    """The process that holds the lock `path`, as far as it is known, in words."""
    with suppress(OSError, ValueError):
        content = read(path, most=1000).decode()
        soft = SOFT.fullmatch(content)
        if soft:
            return f"process {soft[1]} of {soft[2]}, or else {path} is to be removed"
        return content or "another process"
    return "another process"
