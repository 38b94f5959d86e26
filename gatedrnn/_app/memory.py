"""The memory that settings ask for, against that of the machine, before anything is allocated.

A machine that runs out of memory ends a process without a word; numbers that no memory holds, XLA
does.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from gatedrnn._app.errors import CommandError

CGROUP = Path("/sys/fs/cgroup/memory.max")  # the limit of a container


def available() -> int:
    """The bytes of memory that this process may use at most."""
    limits = [2**63]
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):  # ValueError: "max"
        limits.append(int(CGROUP.read_text()))
    with suppress(ImportError):  # not on Windows
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        limits += [limit] if limit != resource.RLIM_INFINITY else []
    return min(limits)


def of_device(count: int = 1) -> int:
    """The bytes of memory of each of `count` devices that compute; those of a CPU share its own."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or available() // count


def demand(what: str, size: int, settings: Mapping[str, int], *, most: int | None = None) -> None:
    """Raise if `what`, of at least `size` bytes, takes more than `most`, or than all memory.

    `settings` are those that decide it, of which the error names the largest.
    """
    most = available() if most is None else most
    if size > most:
        largest = max(settings.values())
        named = {name: value for name, value in settings.items() if 1000 * value >= largest}
        got = ", ".join(f"{name}: got {value}" for name, value in named.items())
        raise CommandError(
            f"{got}; with that, {what} take {_shown(size)} at least, expected at most the"
            f" {_shown(most)} of memory that this machine has"
        )


def size_of(tree: Any) -> int:
    """The bytes of the arrays of a pytree, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _shown(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size < 1e15 else f"{size / 1e9:.1e} GB"
