"""The configurations that come with the package, by name."""

import os
from pathlib import Path

from gatedrnn._app.errors import CommandError

SUFFIX = ".toml"
# a wheel has them within the package, where `pyproject.toml` puts the folder of a checkout
PLACES = (Path(__file__).parent / "configs", Path(__file__).parents[2] / "configs")


def names() -> list[str]:
    """The names of all configurations that are shipped, in order."""
    return sorted(path.stem for path in _folder().glob(f"*{SUFFIX}"))


def path_of(config: str) -> Path:
    """The path of a configuration: a file, or a shipped one by its name.

    A word without a separator and a suffix is a name, unless there is such a file.
    """
    has_suffix = bool(os.path.splitext(config)[1])
    if has_suffix or os.path.basename(config) != config or _is_file(config):
        return Path(config)
    if config not in names():
        raise CommandError(
            f"config: got {config!r}, expected a TOML file or one of {', '.join(names())}"
        )
    return _folder() / f"{config}{SUFFIX}"


def _folder() -> Path:
    return next((place for place in PLACES if place.is_dir()), PLACES[0])


def _is_file(path: str) -> bool:
    """Return True where something is there that is no folder."""
    return os.path.exists(path) and not os.path.isdir(path)
