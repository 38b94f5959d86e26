"""Files that are written whole or not at all."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the name of an empty file beside `path`, to be written, which is to take its place.

    An error or an interrupt on the way removes that file and leaves an older one whole. A link
    stays: what it leads to is replaced. An error of the system names `path`.
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            mode = stat.S_IMODE(os.stat(file.fileno()).st_mode)
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
