"""The record of a run, `run.json`: the mark of a run's folder, and all that has been committed.

It is replaced by one rename. Readers follow it alone: a checkpoint that it does not name, or
metrics after those that it counts, are of a save that never came to its end. It lists every file
that the run wrote or is about to write; what it does not list belongs to somebody else.
"""

import json
import os
import re
from collections.abc import Container, Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec

from gatedrnn._app import files
from gatedrnn._app.errors import CommandError, reason

ALWAYS = ("run.json", "config.toml", "data.json", "metrics.jsonl", "curve.png")
RECORD, CONFIG, DATA, METRICS, CURVE = ALWAYS
LOCK = ".gatedrnn.lock"  # of runs beside which nothing can be written
BEST, LATEST, PICTURES = "best", "latest", "pictures"
MOST = 2**26  # bytes of a record, far more than any has
PART = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part")  # of a file that is being written


class Best(msgspec.Struct, frozen=True):
    """The best parameters of a model: their step, and their measures if they were validated."""

    step: int
    measures: dict[str, float]  # none of parameters that were saved before any validation


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that has been committed of a run."""

    format: Literal["gatedrnn run"] = "gatedrnn run"
    version: Literal[1] = 1
    latest: int | None = None  # the step that --resume goes on from; None before the first save
    best: dict[str, Best] = {}  # by model
    metrics: Annotated[int, msgspec.Meta(ge=0)] = 0  # bytes of the metrics up to that step
    files: tuple[str, ...] = ALWAYS  # relative, all that may be there of this run
    writing: tuple[str, ...] = ()  # checkpoints, whatever is in them, that are being written

    @property
    def checkpoints(self) -> dict[str, str]:
        """The folders of the checkpoints that count, by `"latest"` and `"best/<model>"`."""
        best = {f"{BEST}/{name}": f"{BEST}/{name}/{kept.step}" for name, kept in self.best.items()}
        return best if self.latest is None else {LATEST: f"{LATEST}/{self.latest}", **best}

    def lists(self, name: str) -> bool:
        """True if the file `name`, a relative path, is of this run: written by it, or a part."""
        folder, _, last = name.rpartition("/")
        part = PART.fullmatch(last)
        whole = "/".join(filter(None, (folder, part[1]))) if part else name
        return whole in (*self.files, LOCK) or any(
            _within(name, place) for place in (*self.writing, *(f for f in self.files if "/" in f))
        )

    @property
    def folders(self) -> set[str]:
        """The folders around all that this run wrote, relative paths."""
        places = (PurePosixPath(name) for name in (*self.writing, *self.files))
        return {parent.as_posix() for place in places for parent in place.parents} - {"."}

    def counts(self, name: str) -> bool:
        """True unless `name` is of a checkpoint that counts no more, or not yet."""
        kept = any(_within(name, folder) for folder in self.checkpoints.values())
        return kept or name.partition("/")[0] not in (BEST, LATEST)


def _within(name: str, folder: str) -> bool:
    """True of what lies in `folder`, and in one beside it that is named after it."""
    return name.startswith((f"{folder}/", f"{folder}."))


def read(root: Path) -> Record | None:
    """The record of the run in the folder `root`; None where there is none."""
    try:
        content = files.read(root / RECORD, most=MOST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read {root / RECORD}: {reason(error)}") from error
    try:
        record = msgspec.convert(json.loads(content), Record)
        paths = (*record.files, *record.writing, *record.checkpoints.values())
        for name in paths:
            if PurePosixPath(name).as_posix() != name or {"", ".", ".."} & {*name.split("/")}:
                raise ValueError(f"{name!r} is no path within it")
    except (ValueError, RecursionError) as error:
        raise CommandError(
            f"{root} holds no run that can be read: {RECORD}: {reason(error)}"
        ) from error
    return record


def write(root: Path, record: Record) -> None:
    """Commit `record`."""
    files.write_whole(root / RECORD, json.dumps(msgspec.to_builtins(record), indent=1).encode())


def listing(root: Path, record: Record, new: Iterable[str]) -> tuple[str, ...]:
    """The files that `record` lists, as far as they are there, and `new` ones."""
    there = [name for name in record.files if name in ALWAYS or os.path.lexists(root / name)]
    return tuple(dict.fromkeys((*there, *new)))


def contents(root: Path, within: str = "", follow: Container[str] = ()) -> list[str]:
    """The relative paths of all files and links within `root`, and of its empty folders, in order.

    Links to folders are followed where `follow` names them.
    """
    found = []
    for place, folders, names in os.walk(root / within):
        here = Path(place).relative_to(root)
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        found += [(here / name).as_posix() for name in (*names, *links)]
        for link in ((here / name).as_posix() for name in links):
            found += contents(root, link, follow) if link in follow else []
        if not (folders or names or os.path.islink(place)) and place != os.fspath(root):
            found.append(here.as_posix())
    return sorted(found)


def split(root: Path, record: Record) -> tuple[list[str], list[str]]:
    """The contents of `root`: what the run of `record` wrote there, and what it did not.

    A run makes no links. It writes through those that its user put in the place of its folders.
    """
    folders = record.folders
    ours: list[str] = []
    others: list[str] = []
    for name in contents(root, follow=folders):
        path = root / name
        empty = name in folders and path.is_dir()
        own = (empty or record.lists(name)) and not path.is_symlink()
        (ours if own else others).append(name)
    return ours, others


def remove(root: Path, names: Iterable[str]) -> None:
    """Remove the files `names` of `root`, and the folders that are empty without them."""
    for name in names:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        for parent in list(path.parents)[: name.count("/")]:
            try:
                parent.rmdir()
            except OSError:  # something is in it
                break


def discard(root: Path, record: Record) -> bool:
    """Remove a run, of which nothing counts from now on; False if anything else is in `root`."""
    if record.latest is not None:
        record = msgspec.structs.replace(record, latest=None, best={})
        write(root, record)
    ours, _ = split(root, record)
    remove(root, [name for name in ours if name != RECORD])
    remove(root, [RECORD])
    try:
        root.rmdir()
    except OSError:
        return False
    return True
