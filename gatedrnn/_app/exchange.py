"""Two folders that change places, at once where the system can."""

import ctypes
import errno
import os
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}  # an older kernel, or another file system


def exchange(new: Path, home: Path) -> Path:
    """Put the folder `new` in the place of `home`; the place where the older one is now.

    It is that of `new` where both change places at once. Where the system cannot, the older folder
    goes aside first, and comes back if `new` cannot take its place.
    """
    if _at_once(new, home):
        return new
    aside = new.with_suffix(".old")
    os.rename(home, aside)
    try:
        os.rename(new, home)
    except OSError:
        os.rename(aside, home)
        raise
    return aside


def _at_once(one: Path, other: Path) -> bool:
    """Exchange two folders in one call of the system; False where there is no such call."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # TypeError: on Windows
        return False
    if call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number))
