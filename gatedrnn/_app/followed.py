"""The folder of a run as processes see it, of which process 0 alone writes its files."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatedrnn._app import checkpoints, processes, run_folder
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError
from gatedrnn._app.record import RECORD, Best, Record
from gatedrnn._app.run_folder import RunFolder


class Followed(RunFolder):
    """A folder that process 0 keeps: this process writes its part of the checkpoints alone."""

    def append(self, *lines: dict[str, Any]) -> None:
        """Leave the metrics to process 0."""

    def save(self, step: int, state: Any, best: Mapping[str, tuple[Best, Any]]) -> "Followed":
        """Save this process's part of the state, and of new best parameters."""
        new, places = self.next(step, state, best)
        for place, tree in places.items():
            checkpoints.save(self.path / place, tree)
        return dataclasses.replace(self, path=self.home, record=new, replaces=False)

    def rewind(self, criterion: str) -> "Followed":
        """Leave it to process 0 to go back to what was committed."""
        return self

    def write(self, name: str, content: bytes) -> None:
        """Leave files to process 0."""

    def discard_pending(self) -> None:
        """Leave what was written to process 0."""


def create(config: Config, stored: Mapping[str, Any], *, overwrite: bool) -> RunFolder:
    """A new run, pending, which process 0 makes; in all processes."""
    made: list[RunFolder] = []

    def make() -> list[Any]:
        run = run_folder.create(config, stored, overwrite=overwrite)
        made.append(run)
        return [str(run.home), str(run.path), run.replaces]

    home, path, replaces = processes.of_first(make)
    run = made[0] if made else Followed(Path(home), Path(path), Record(), replaces)
    try:
        processes.each(lambda: _demand_shared(run))
    except BaseException:
        run.discard_pending()
        raise
    return run


def find(folder: str) -> RunFolder:
    """The run that `folder` holds; in all processes."""
    run = run_folder.find(folder)
    return run if processes.is_first() else Followed(run.home, run.path, run.record)


def _demand_shared(run: RunFolder) -> None:
    if not (run.path / RECORD).is_file():
        raise CommandError(
            f"run.folder: what process 0 writes to {run.path.parent} is not there in another"
            " process: all need the same file system"
        )
