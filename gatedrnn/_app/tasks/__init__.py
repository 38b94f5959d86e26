"""Tasks by name: those of every installed package that has an entry point in the group `GROUP`.

The entry point names the class of the task's configurations, which is imported when a configuration
asks for it: `parity = "my_package.parity:Config"`.
"""

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gatedrnn._app import config_file
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError, reason

GROUP = "gatedrnn.tasks"


def names() -> list[str]:
    """The names of all tasks, in order."""
    return sorted(entry_points(group=GROUP).names)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in the TOML file `path`, with `overrides` (each `"a.b=value"`)."""
    return config_file.read(path, overrides, _class_of)


def _class_of(task: Any) -> type[Config]:
    """The class of the configurations of a task, by the name that a configuration gives."""
    found = list(entry_points(group=GROUP, name=task)) if isinstance(task, str) else []
    if not found:
        got = "nothing" if task is None else config_file.shown(task)
        expected = ", ".join(names()) or "the tasks of gatedrnn, which has to be installed for them"
        raise CommandError(f"task: got {got}, expected one of {expected}")
    if len(found) > 1:
        values = ", ".join(entry.value for entry in found)
        raise CommandError(f"task: got {task!r}, which several packages register: {values}")
    (entry,) = found
    try:
        cls = entry.load()
    except Exception as error:  # whatever its module raises
        raise CommandError(
            f"task: cannot import {entry.value}, which {task!r} is registered as:"
            f" {type(error).__name__}: {reason(error)}"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Config)):
        raise CommandError(
            f"task: got {task!r}, registered as {entry.value}, expected a class of configurations,"
            " derived from Config"
        )
    return cls
