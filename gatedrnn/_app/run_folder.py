"""The folder of a run.

run.json             the record: what of all this has been committed
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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gatedrnn._app import checkpoints, files, leftovers
from gatedrnn._app import config as configuration
from gatedrnn._app import record as records
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError, notice, reason
from gatedrnn._app.exchange import exchange
from gatedrnn._app.files import reading, writing
from gatedrnn._app.record import (
    BEST,
    CONFIG,
    DATA,
    LATEST,
    LOCK,
    METRICS,
    PICTURES,
    RECORD,
    Best,
    Record,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# what reading a file that is not as it was written raises
DAMAGED = (OSError, ValueError, LookupError, TypeError, RecursionError)
MOST = 2**28  # bytes of what the task keeps with the run


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run: `home` is where it belongs, `path` where it is now.

    A new run is pending, in a hidden folder beside its home, until it has been saved once.
    """

    home: Path
    path: Path
    record: Record
    replaces: bool = False  # whether an older run is at home

    @property
    def pending(self) -> bool:
        """True while the run is not at home yet."""
        return self.path != self.home

    def append(self, *lines: dict[str, Any]) -> None:
        """Add a line for each of `lines` to the metrics."""
        path = self.path / METRICS
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def metrics(self, criterion: str) -> list[dict[str, Any]]:
        """The metrics that were committed, as far as they are there.

        Baselines and validations have a number for `criterion`.
        """
        return self._metrics(criterion)[0]

    def _metrics(self, criterion: str) -> tuple[list[dict[str, Any]], int]:
        """The committed lines that are there, and their bytes; a notice says if any are missing."""
        path, committed = self.path / METRICS, self.record.metrics
        try:
            content = b""
            with suppress(FileNotFoundError):
                content = files.read_beginning(path, committed)
            content = content[: content.rfind(b"\n") + 1]
            lines = [_line(line, criterion) for line in content.decode().split("\n")[:-1]]
        except DAMAGED as error:
            raise CommandError(f"cannot read {path}: {reason(error)}") from error
        if len(content) < committed:
            notice(
                f"metrics were lost: {path} has {len(content):,} of {committed:,} bytes; the best"
                f" validations are in {RECORD}, and the curves lack what is missing"
            )
        return lines, len(content)

    def save(self, step: int, state: Any, best: Mapping[str, tuple[Best, Any]]) -> "RunFolder":
        """Save the state after `step`, and new best parameters of models, all at once.

        Whatever interrupts, the record names complete checkpoints of one moment.
        """
        new, places = self.next(step, state, best)
        self._commit(msgspec.structs.replace(self.record, writing=tuple(places)))
        for place, tree in places.items():
            checkpoints.save(self.path / place, tree)
        with writing(self.path):
            written = [name for place in places for name in records.contents(self.path, place)]
            size = (self.path / METRICS).stat().st_size
            names = records.listing(self.path, self.record, written)
        saved = self._commit(msgspec.structs.replace(new, metrics=size, files=names))
        saved._drop_what_does_not_count()
        return saved._publish()

    def next(
        self, step: int, state: Any, best: Mapping[str, tuple[Best, Any]]
    ) -> tuple[Record, dict[str, Any]]:
        """The record after a save, but for its files, and what is saved, by its place."""
        kept = {name: found for name, (found, _) in best.items()}
        new = msgspec.structs.replace(self.record, latest=step, best={**self.record.best, **kept})
        trees = {LATEST: state, **{f"{BEST}/{name}": params for name, (_, params) in best.items()}}
        return new, {new.checkpoints[kind]: tree for kind, tree in trees.items()}

    def restore(self, kind: str, like: Any) -> Any:
        """The checkpoint `kind`, `"latest"` or `"best/<model>"`, shaped as `like`."""
        place = self.record.checkpoints.get(kind)
        if place is None:
            raise CommandError(f"{self.path} has no saved {kind.split('/')[-1]} parameters")
        try:
            return checkpoints.restore(self.path / place, like)
        except CommandError:
            now = records.read(self.path)
            if now is None or now.checkpoints.get(kind) in (None, place):
                raise
            # a run under way has just saved a newer one
            return dataclasses.replace(self, record=now).restore(kind, like)

    def rewind(self, criterion: str) -> "RunFolder":
        """Go back to what was committed: what was written after that is removed."""
        for name, best in self.record.best.items():
            if best.measures and criterion not in best.measures:
                raise CommandError(f"{self.path / RECORD}: no {criterion} of the best {name}")
        _, size = self._metrics(criterion)
        back = self._commit(msgspec.structs.replace(self.record, metrics=size))
        back._drop_what_does_not_count()
        path = back.path / METRICS
        with writing(path), open(path, "ab") as file:
            file.truncate(size)
        return back._commit(msgspec.structs.replace(back.record, writing=()))

    def write(self, name: str, content: bytes) -> None:
        """Write the file `name`, whole or not at all."""
        files.write_whole(self.path / name, content)

    def write_config(self, config: Config) -> None:
        """Write the configuration as run."""
        import tomli_w

        self.write(CONFIG, tomli_w.dumps(configuration.to_table(config)).encode())

    def stored(self) -> dict[str, Any]:
        """The JSON that the task keeps with the run."""
        try:
            table = json.loads(files.read(self.path / DATA, most=MOST))
            if not isinstance(table, dict):
                raise ValueError("it does not hold an object")
            return table
        except DAMAGED as error:
            raise CommandError(f"cannot read {self.path / DATA}: {reason(error)}") from error

    def write_pictures(self, pictures: "dict[str, Figure | str]") -> None:
        """Write the pictures of a task in the place of older ones; figures as PNG.

        A file that this run did not write is left, and named in an error after the others.
        """
        drawn = {
            f"{PICTURES}/{name}": picture.encode() if isinstance(picture, str) else png(picture)
            for name, picture in pictures.items()
        }
        with writing(self.path / PICTURES):
            there = {name for name in drawn if os.path.lexists(self.path / name)}
            others = sorted(
                n for n in there if n not in self.record.files or (self.path / n).is_symlink()
            )
            ours = [name for name in drawn if name not in others]
            listed = records.listing(self.path, self.record, ours)
            self._commit(msgspec.structs.replace(self.record, files=listed))
            if ours:
                (self.path / PICTURES).mkdir(exist_ok=True)
            for name in ours:
                self.write(name, drawn[name])
            older = {name for name in listed if name.startswith(f"{PICTURES}/")} - {*drawn}
            records.remove(
                self.path, [n for n in sorted(older) if not (self.path / n).is_symlink()]
            )
        if others:
            raise CommandError(
                f"{', '.join(others)} in {self.path}: left as it is, since this run did not write"
                " it; the picture of that name is missing",
                exit_code=1,
            )

    def _publish(self) -> "RunFolder":
        """Move the run to its home, and remove the older run that it replaces, if there is one."""
        if not self.pending:
            return self
        with writing(self.home):
            older = records.read(self.home) if self.replaces else None
            if older is None:
                os.rename(self.path, self.home)  # fails if anything is at home by now
            else:
                _remove_older(exchange(self.path, self.home), older)
        return RunFolder(self.home, self.home, self.record)

    def discard_pending(self) -> None:
        """Remove what was written of a run that has never been saved."""
        if self.pending:
            leftovers.clean(self.path)

    def _commit(self, record: Record) -> "RunFolder":
        records.write(self.path, record)
        return dataclasses.replace(self, record=record)

    def _drop_what_does_not_count(self) -> None:
        """Remove our checkpoints that the record does not name, and files half written."""
        with writing(self.path):
            there, _ = records.split(self.path, self.record)
            parts = [name for name in there if name not in (*self.record.files, LOCK)]
            records.remove(
                self.path, dict.fromkeys((*parts, *(n for n in there if not self.record.counts(n))))
            )


def png(figure: "Figure") -> bytes:
    """A matplotlib figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def check_free(folder: str, *, overwrite: bool) -> None:
    """Raise unless a run may be written to `folder`: new, or a run that is to be overwritten."""
    path = Path(folder)
    with reading(folder):
        if not os.path.lexists(path):
            return
        found = records.read(path) if overwrite or path.is_dir() else None
        others = records.split(path, found)[1] if found else records.contents(path)
    if not overwrite:
        advice = "--set run.folder=FOLDER names another folder"
        if found:
            advice = f"--resume goes on with that run, --overwrite replaces it, {advice}"
        raise CommandError(
            f"run.folder: {folder} exists{'' if found else ' and holds no run'}; {advice}"
        )
    if others or not found:
        lack = "" if found else f" no run ({_lack(path)}), but"
        named = f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}" or "nothing"
        raise CommandError(
            f"run.folder: {folder} is not to be overwritten: it holds{lack} what no run wrote"
            f" there: {named}"
        )


def create(config: Config, stored: Mapping[str, Any], *, overwrite: bool) -> RunFolder:
    """A new run, pending; the task keeps `stored` with it."""
    with writing(config.run.folder):
        home = Path(config.run.folder).resolve()
        run = RunFolder(home, leftovers.hidden(home), Record(), overwrite and home.exists())
        run.path.mkdir(parents=True)
    try:
        run = run._commit(run.record)
        run.write_config(config)
        run.write(DATA, json.dumps(dict(stored)).encode())
    except BaseException:
        run.discard_pending()
        raise
    return run


def find(folder: str) -> RunFolder:
    """The run that `folder` holds."""
    with reading(folder):
        path = Path(folder).resolve()
        if not path.is_dir():
            left = leftovers.named(path)
            raise CommandError(f"{folder}: there is no such folder, and so no run{left}")
    found = records.read(path)
    if found is None:
        raise CommandError(f"{folder} holds no run: {_lack(path)}")
    return RunFolder(path, path, found)


def _lack(path: Path) -> str:
    """The reason why `path` is no folder of a run, in words."""
    if (path / CONFIG).is_file() and (path / DATA).is_file():
        return f"it has no {RECORD}; runs of earlier versions are neither read nor replaced"
    return f"it has no {RECORD}"


def _remove_older(root: Path, older: Record) -> None:
    with suppress(OSError, CommandError):
        if records.discard(root, older):
            return
    notice(f"{root} keeps what is left of the older run, and what that run did not write")


def _line(line: str, criterion: str) -> dict[str, Any]:
    """The record in one line of the metrics."""
    found = json.loads(line)
    needed: dict[str, Any] = {
        "baseline": {"name": str, criterion: (int, float)},
        "train": {"step": int, "model": str, "loss": (int, float)},
        "validation": {"step": int, "model": str, criterion: (int, float)},
    }[found["kind"]]
    if not all(isinstance(found[name], kind) for name, kind in needed.items()):
        raise ValueError(f"a {found['kind']} record without {' and '.join(needed)}")
    return found
