"""What a run leaves behind.

config.toml        the configuration as run, after overrides
vocabulary.json    the characters, and the SHA-256 of the text they come from
metrics.jsonl      one line per baseline, training step and validation, as they come
best/<step>/       the parameters of the best validation (orbax)
latest/<step>/     what --resume goes on from (orbax)
curve.png          the learning curve
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gatedrnn._app import config as configuration
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError, reason
from gatedrnn._app.text import Corpus, Vocabulary

CONFIG, VOCABULARY, METRICS, CURVE = "config.toml", "vocabulary.json", "metrics.jsonl", "curve.png"
BEST, LATEST = "best", "latest"
NAMES = frozenset({CONFIG, VOCABULARY, METRICS, CURVE, BEST, LATEST})


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run: `home` is where it belongs, `path` where it is now.

    They differ while a run that is to replace another has not saved any parameters yet.
    """

    home: Path
    path: Path

    @property
    def pending(self) -> bool:
        """Whether an older run is still in its place."""
        return self.path != self.home

    def append(self, **record: Any) -> None:
        """Add one line to the metrics."""
        with (
            _writing(self.path / METRICS),
            open(self.path / METRICS, "a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics so far; a last line that was cut short (by a crash) is left out."""
        try:
            lines = (self.path / METRICS).read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []
        try:
            return [json.loads(line) for line in lines[:-1]]
        except ValueError as error:
            raise CommandError(f"cannot read {self.path / METRICS}: {reason(error)}") from error

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps after `step`, which are about to be run again."""
        kept = [record for record in self.metrics() if record.get("step", 0) <= step]
        self.write(METRICS, "".join(json.dumps(record) + "\n" for record in kept).encode())

    def write(self, name: str, content: bytes) -> None:
        """Write the file `name`, whole or not at all."""
        part = self.path / f".{name}.part"
        with _writing(self.path / name):
            part.write_bytes(content)
            os.replace(part, self.path / name)

    def write_config(self, config: Config) -> None:
        """Write the configuration as run."""
        import tomli_w

        self.write(CONFIG, tomli_w.dumps(configuration.to_table(config)).encode())

    def config(self) -> Config:
        """The configuration that was run."""
        return configuration.load(self.path / CONFIG)

    def vocabulary(self) -> tuple[Vocabulary, str]:
        """The vocabulary, and the SHA-256 of the text it comes from."""
        try:
            table = json.loads((self.path / VOCABULARY).read_text(encoding="utf-8"))
            return Vocabulary(table["characters"]), table["text_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CommandError(f"cannot read {self.path / VOCABULARY}: {reason(error)}") from error

    def publish(self) -> "RunFolder":
        """Move the run to its home, and remove the older run that it replaces, if there is one."""
        if not self.pending:
            return self
        old = self.home.with_name(f".{self.home.name}.old")
        shutil.rmtree(old, ignore_errors=True)  # left by a crash
        with _writing(self.home):
            os.rename(self.home, old)
            os.rename(self.path, self.home)
            shutil.rmtree(old)
        return RunFolder(self.home, self.home)

    def discard_pending(self) -> None:
        """Remove what was written of a run that was to replace another, and has saved nothing."""
        if self.pending:
            shutil.rmtree(self.path, ignore_errors=True)


def check_free(folder: str, *, overwrite: bool) -> None:
    """Raise unless a run may be written to `folder`: new, or a run that is to be overwritten."""
    path = Path(folder)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise CommandError(
            f"run.folder: {folder} exists; --resume goes on with that run, --overwrite replaces it,"
            " --set run.folder=FOLDER keeps it"
        )
    foreign = sorted(_foreign(path)) if path.is_dir() else [path.name]
    if foreign:
        raise CommandError(
            f"run.folder: {folder} is not to be overwritten: it holds what is no part of a run"
            f" ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''})"
        )


def create(config: Config, corpus: Corpus, *, overwrite: bool) -> RunFolder:
    """A new run in its folder, or beside it while there is an older run to `overwrite`."""
    home = path = Path(config.run.folder).resolve()
    if overwrite and home.exists():
        path = home.with_name(f".{home.name}.new")
        shutil.rmtree(path, ignore_errors=True)  # left by a crash
    made = [p for p in (path, *path.parents) if not p.exists()]
    run = RunFolder(home, path)
    try:
        with _writing(path):
            path.mkdir(parents=True)
        run.write_config(config)
        vocabulary = {"characters": corpus.vocabulary.characters, "text_sha256": corpus.digest}
        run.write(VOCABULARY, json.dumps(vocabulary).encode())
    except BaseException:
        if made:
            shutil.rmtree(made[-1], ignore_errors=True)
        raise
    return run


def find(folder: str) -> RunFolder:
    """The run that `folder` holds."""
    path = Path(folder).resolve()
    if not path.is_dir():
        raise CommandError(f"{folder}: there is no such folder, and so no run")
    for name in (CONFIG, VOCABULARY):
        if not (path / name).is_file():
            raise CommandError(f"{folder} holds no run: it has no {name}")
    return RunFolder(path, path)


def _foreign(path: Path) -> Iterator[str]:
    """The entries of `path` that no run writes."""
    for name in os.listdir(path):
        if name not in NAMES and not (name.startswith(".") and name.endswith(".part")):
            yield name


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot write {path}: {reason(error)}", exit_code=1) from error
