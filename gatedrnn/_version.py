"""The version, stated by `pyproject.toml` alone."""

import tomllib
from contextlib import suppress
from importlib import metadata
from pathlib import Path

CHECKOUT = Path(__file__).parents[1] / "pyproject.toml"  # beside an installed package there is none


def read(checkout: Path = CHECKOUT) -> str:
    """Return the version of this code: a checkout says its own, installed or not."""
    with suppress(OSError, ValueError, KeyError):
        project = tomllib.loads(checkout.read_text(encoding="utf-8"))["project"]
        if project["name"] == "gatedrnn":
            return str(project["version"])
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("gatedrnn")
    return "0+unknown"  # copied into another project, without either
