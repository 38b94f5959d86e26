"""A kill at every write point, in one process.

A process that is killed leaves the files just as they are at that moment. So one run goes to its
end, and what its folder's parent holds is copied before each call that changes a file: whatever a
kill there would have left. Audit events tell of these calls, also of those within orbax.
"""

import functools
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import msgspec

from gatedrnn._app import config, loop, run_folder, tasks

CALLS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
_watching: list[tuple[str, Callable]] = []  # the folder, and what to call before it changes


def _hook(event, arguments):
    if not _watching:
        return
    root, tell = _watching[-1]
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
    if event == "ctypes.dlsym" and arguments[1] == "renameat2":
        _tell(tell, event, "")
    elif (event in CALLS or writes) and str(arguments[0]).startswith(root):
        _tell(tell, event, os.fspath(arguments[0]))


def _tell(tell, event, path):
    entry = _watching.pop()  # what `tell` does is not told
    try:
        tell(event, path)
    finally:
        _watching.append(entry)


sys.addaudithook(_hook)


@contextmanager
def told(root: Path, tell: Callable[[str, str], None]):
    """Have `tell(event, path)` called before every call that changes a file within `root`."""
    _watching.append((f"{root.resolve()}/", tell))
    try:
        yield
    finally:
        _watching.clear()


@contextmanager
def copied(root: Path, to: Path):
    """Copy `root` at every write point, and with a half of what is just being written.

    The list that is yielded has the copies, in order.
    """
    copies: list[Path] = []
    numbers = count()

    def copy() -> Path:
        place = to / f"{next(numbers):04}"
        _copy(root, place)
        copies.append(place)
        return place

    def tell(event, path):
        copy()
        if event == "os.rename" and path.endswith(".part"):
            part = copy() / Path(path).relative_to(root.resolve())
            os.truncate(part, part.stat().st_size // 2)

    real = run_folder.RunFolder.append

    def append(self, *lines):
        before = (self.path / "metrics.jsonl").stat().st_size if lines and self.record.latest else 0
        real(self, *lines)
        half = copy() / self.path.relative_to(root.resolve()) / "metrics.jsonl"
        os.truncate(half, (before + half.stat().st_size) // 2)

    run_folder.RunFolder.append = append
    try:
        with told(root, tell):
            yield copies
        copy()
    finally:
        run_folder.RunFolder.append = real


def _copy(source: Path, target: Path) -> None:
    """Copy a folder in which other threads write."""
    target.mkdir(parents=True)
    for entry in os.scandir(source):
        try:
            if entry.is_dir():
                _copy(Path(entry.path), target / entry.name)
            else:
                shutil.copyfile(entry.path, target / entry.name)
        except FileNotFoundError:
            continue


def tree(root: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def share_tasks(monkeypatch) -> None:
    """Make each task once, whatever its folder and number of steps; speeds are all the same."""

    @functools.cache
    def make(cls, settings):
        return cls.real_make(settings)

    def shared(self):
        train = msgspec.structs.replace(self.train, steps=1)
        return make(type(self), msgspec.structs.replace(self, run=config.Run("any"), train=train))

    cls = type(tasks.load("tiny.toml"))
    monkeypatch.setattr(cls, "real_make", cls.make, raising=False)
    monkeypatch.setattr(cls, "make", shared)
    task = tasks.load("tiny.toml").make()
    monkeypatch.setattr(task, "baselines", functools.cache(task.baselines))
    clock = count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
