"""Regular files, which are written whole or not at all."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def size(path: str | os.PathLike[str]) -> int:
    """Return the bytes of a regular file; raise for a folder, a device, a pipe and a socket."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    return status.st_size


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the name of an empty file beside `path`, to be written, which is to take its place.

    An error or an interrupt on the way removes that file and leaves an older one whole. A link
    stays: what it leads to is replaced. What is there and is no regular file, such as a device, is
    refused; an older file's permissions stay. An error of the system names `path`.
    """
    target, older = Path(os.path.realpath(path)), None
    with suppress(FileNotFoundError):
        size(path)
        older = os.stat(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            mode = stat.S_IMODE((older or os.stat(file.fileno())).st_mode)
        yield part
        os.chmod(part, mode)  # a library may have put a file of its own there
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
