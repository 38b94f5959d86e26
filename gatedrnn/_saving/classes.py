"""The classes that a file may name: those of this package, and those that a caller gives."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from gatedrnn._src.describe import shown

_OURS: dict[str, type] = {}


def register(values: Iterable[Any], others: Iterable[type] = ()) -> None:
    """Let files name the dataclasses and named tuples among `values`, and `others`, for good."""
    for value in (*values, *others):
        if is_record(value):
            _OURS[f"gatedrnn.{value.__name__}"] = value


def is_record(value: Any) -> bool:
    """Return True for a class whose values are their fields: a dataclass or a named tuple."""
    if not isinstance(value, type):
        return False
    return dataclasses.is_dataclass(value) or (
        issubclass(value, tuple) and hasattr(value, "_fields")
    )


def known(classes: Iterable[type]) -> Mapping[str, type]:
    """Return the classes that a file may name, ours and `classes`, by their names.

    Raises:
      TypeError: what is neither a dataclass nor a named tuple.
      ValueError: two classes of one name.
    """
    expected = "a list of dataclasses and named tuples"
    if isinstance(classes, type | str) or not isinstance(classes, Iterable):
        raise TypeError(f"classes: got {shown(classes)}, expected {expected}")
    names = dict(_OURS)
    for given in classes:
        if not is_record(given):
            raise TypeError(f"classes: got {shown(given)}, expected {expected}")
        if given not in names.values() and names.setdefault(given.__name__, given) is not given:
            raise ValueError(
                f"classes: got {given!r} and {names[given.__name__]!r}, expected one of that name"
            )
    return names
