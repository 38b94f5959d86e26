"""The folder of a run.

config.toml          the configuration as run, after overrides
data.json            what identifies the data, and what the task needs to read them again
metrics.jsonl        one line per baseline, and per model's training step and validation
best/<model>/<step>/ the parameters of the best validation of each model (orbax)
latest/<step>/       what --resume goes on from (orbax)
curve.png            the learning curves
pictures/            what the task draws
"""

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatedrnn._app import config as configuration
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError, reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG, DATA, METRICS, CURVE = "config.toml", "data.json", "metrics.jsonl", "curve.png"
BEST, LATEST, PICTURES = "best", "latest", "pictures"
# what reading a file that is not as it was written raises
DAMAGED = (OSError, ValueError, LookupError, TypeError, RecursionError)
NAMES = frozenset({CONFIG, DATA, METRICS, CURVE, BEST, LATEST, PICTURES})


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run: `home` is where it belongs, `path` where it is now.

    A new run is pending, in a hidden folder beside its home, until it has been saved once.
    """

    home: Path
    path: Path
    replaces: bool = False  # whether an older run is at home
    made: tuple[Path, ...] = ()  # the folders around it that were made for it, the innermost first

    @property
    def pending(self) -> bool:
        """True while the run is not at home yet."""
        return self.path != self.home

    def append(self, *records: dict[str, Any]) -> None:
        """Add a line for each record to the metrics."""
        with (
            _writing(self.path / METRICS),
            open(self.path / METRICS, "a", encoding="utf-8") as file,
        ):
            file.write("".join(json.dumps(record) + "\n" for record in records))

    def metrics(self, criterion: str) -> list[dict[str, Any]]:
        """The metrics so far; a last line that was cut short (by a crash) is left out.

        Baselines and validations have a number for `criterion`.
        """
        try:
            lines = (self.path / METRICS).read_text(encoding="utf-8").split("\n")
            return [_record(line, criterion) for line in lines[:-1]]
        except FileNotFoundError:
            return []
        except DAMAGED as error:
            raise CommandError(f"cannot read {self.path / METRICS}: {reason(error)}") from error

    def forget_after(self, step: int, criterion: str) -> None:
        """Drop the metrics of steps after `step`, which are about to be run again."""
        kept = [record for record in self.metrics(criterion) if record.get("step", 0) <= step]
        self.write(METRICS, "".join(json.dumps(record) + "\n" for record in kept).encode())

    def write(self, name: str, content: bytes) -> None:
        """Write the file `name`, whole or not at all."""
        write_whole(self.path / name, content)

    def write_config(self, config: Config) -> None:
        """Write the configuration as run."""
        import tomli_w

        self.write(CONFIG, tomli_w.dumps(configuration.to_table(config)).encode())

    def stored(self) -> dict[str, Any]:
        """The JSON that the task keeps with the run."""
        try:
            table = json.loads((self.path / DATA).read_text(encoding="utf-8"))
            if not isinstance(table, dict):
                raise ValueError("it does not hold an object")
            return table
        except DAMAGED as error:
            raise CommandError(f"cannot read {self.path / DATA}: {reason(error)}") from error

    def write_pictures(self, pictures: "dict[str, Figure | str]") -> None:
        """Write the pictures of a task in the place of older ones; figures as PNG."""
        folder = self.path / PICTURES
        with _writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            if pictures:
                folder.mkdir()
        for name, picture in pictures.items():
            content = picture.encode() if isinstance(picture, str) else png(picture)
            self.write(f"{PICTURES}/{name}", content)

    def publish(self) -> "RunFolder":
        """Move the run to its home, and remove the older run that it replaces, if there is one."""
        if not self.pending:
            return self
        old = self.path.with_suffix(".old")
        with _writing(self.home):
            if self.replaces:
                os.rename(self.home, old)
            try:
                os.rename(self.path, self.home)  # fails if another run is at home by now
            except OSError:
                if self.replaces:
                    os.rename(old, self.home)
                raise
        shutil.rmtree(old, ignore_errors=True)
        return RunFolder(self.home, self.home)

    def discard_pending(self) -> None:
        """Remove what was written of a run that has never been saved."""
        if self.pending:
            shutil.rmtree(self.path, ignore_errors=True)
            for folder in self.made:
                with suppress(OSError):  # something else is in it
                    folder.rmdir()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; one that is there is replaced."""
    part = path.with_name(f".{path.name}.part")
    with _writing(path):
        try:
            part.write_bytes(content)
            os.replace(part, path)
        except BaseException:
            with suppress(OSError, ValueError):
                part.unlink()
            raise


def png(figure: "Figure") -> bytes:
    """A matplotlib figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def check_free(folder: str, *, overwrite: bool) -> None:
    """Raise unless a run may be written to `folder`: new, or a run that is to be overwritten."""
    path = Path(folder)
    with _reading(folder):
        if not os.path.lexists(path):
            return
        foreign = sorted(_foreign(path)) if path.is_dir() else [path.name]
        missing = _missing(path)
    if not overwrite:
        advice = "--set run.folder=FOLDER names another folder"
        if not missing:
            advice = f"--resume goes on with that run, --overwrite replaces it, {advice}"
        kind = " and holds no run" if missing else ""
        raise CommandError(f"run.folder: {folder} exists{kind}; {advice}")
    if foreign:
        raise CommandError(
            f"run.folder: {folder} is not to be overwritten: it holds what is no part of a run"
            f" ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''})"
        )


def create(config: Config, stored: Mapping[str, Any], *, overwrite: bool) -> RunFolder:
    """A new run, pending; the task keeps `stored` with it."""
    with _writing(Path(config.run.folder)):
        home = Path(config.run.folder).resolve()
        path = home.with_name(f".{home.name}.{os.getpid()}.new")
        made = tuple(parent for parent in path.parents if not parent.exists())
        run = RunFolder(home, path, replaces=overwrite and home.exists(), made=made)
        shutil.rmtree(path, ignore_errors=True)  # left by a crash
    try:
        with _writing(home):
            path.mkdir(parents=True)
        run.write_config(config)
        run.write(DATA, json.dumps(dict(stored)).encode())
    except BaseException:
        run.discard_pending()
        raise
    return run


def find(folder: str) -> RunFolder:
    """The run that `folder` holds."""
    with _reading(folder):
        path = Path(folder).resolve()
        if not path.is_dir():
            raise CommandError(f"{folder}: there is no such folder, and so no run")
        missing = _missing(path)
    if missing:
        raise CommandError(f"{folder} holds no run: it has no {missing[0]}")
    return RunFolder(path, path)


def _missing(path: Path) -> list[str]:
    """The files of a run that `path` lacks."""
    return [name for name in (CONFIG, DATA) if not (path / name).is_file()]


def _foreign(path: Path) -> Iterator[str]:
    """The entries of `path` that no run writes."""
    for name in os.listdir(path):
        if name not in NAMES and not (name.startswith(".") and name.endswith(".part")):
            yield name


def _record(line: str, criterion: str) -> dict[str, Any]:
    """The record in one line of the metrics."""
    record = json.loads(line)
    needed: dict[str, Any] = {
        "baseline": {"name": str, criterion: (int, float)},
        "train": {"step": int, "model": str, "loss": (int, float)},
        "validation": {"step": int, "model": str, criterion: (int, float)},
    }[record["kind"]]
    if not all(isinstance(record[name], kind) for name, kind in needed.items()):
        raise ValueError(f"a {record['kind']} record without {' and '.join(needed)}")
    return record


@contextmanager
def _reading(folder: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CommandError(f"cannot read {folder}: {reason(error)}") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot write {path}: {reason(error)}", exit_code=1) from error
