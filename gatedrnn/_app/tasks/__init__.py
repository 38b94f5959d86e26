"""The tasks, each a module of this package with a `Config`, imported when it is asked for."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from gatedrnn._app import config
from gatedrnn._app.config import Config

NAMES = (
    "adding",
    "dates",
    "digit_writer",
    "digits",
    "forecast",
    "formulas",
    "frames",
    "language",
    "tagger",
)

Name = Annotated[str, config.one_of(*NAMES)]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in the TOML file `path`, with `overrides` (each `"a.b=value"`)."""
    table = config.read(path, overrides)
    name = config.setting(table, "task", Name)
    return config.build(importlib.import_module(f"{__name__}.{name}").Config, table)
