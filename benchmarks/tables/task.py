"""A row to come."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Task(NamedTuple):
    """What a row is of, and how to measure it."""

    of: dict[str, Any]
    measure: Callable[[], dict[str, Any]]

    def __str__(self) -> str:
        return described(self.of)


def described(of: dict[str, Any]) -> str:
    """`"LSTM, speech, train"`; numbers with their names: `"T=1000"`."""
    return ", ".join(v if isinstance(v, str) else f"{k}={v}" for k, v in of.items())
