"""Other libraries, imported where they are used."""

import importlib
from typing import Any


def require(module: str, package: str, extra: str) -> Any:
    """Import the `module` of a `package` that the `extra` of ours installs.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != module.split(".")[0]:
            raise
        raise ModuleNotFoundError(
            f'{package} is not installed: pip install "gatedrnn[{extra}]"', name=module
        ) from None
