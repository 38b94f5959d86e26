"""Text about values and types: short representations, and documented fields of named tuples."""

import dataclasses
import inspect
import re
from typing import Any, TypeVar

T = TypeVar("T", bound=type)

LONGEST = 160  # characters of a value in an error


def shown(value: Any) -> str:
    """Return the representation of any value for an error: one line, shortened where it is long."""
    text = " ".join(repr(value).split())
    if len(text) <= LONGEST:
        return text
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of {value.dtype} {list(value.shape)}"
    kind, start = type(value).__name__, text[: LONGEST // 2]
    return f"{start}…" if start.startswith(kind) else f"a {kind}, {start}…"


def short_repr(value: Any, name: str | None = None) -> str:
    """Return the shortest call that makes the dataclass `value`, for its `__repr__`.

    Fields without a default come first and without their names, others where they differ from
    their default. `name` is what is called, the class if None.
    """
    parts = []
    for field in dataclasses.fields(value):
        got = getattr(value, field.name)
        if field.default is dataclasses.MISSING:
            parts.append(repr(got))
        elif got != field.default:
            parts.append(f"{field.name}={got!r}")
    return f"{name or type(value).__name__}({', '.join(parts)})"


def documented(cls: T) -> T:
    """Give every field of a named tuple the words that its class's docstring has for the field.

    So `help(cls.field)` says shape and meaning. The docstring has a section `Attributes:` with an
    entry for every field; a field without one raises.
    """
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:")
    entries = dict(re.findall(r"^  (\w+): (.*(?:\n {4,}\S.*)*)", section, flags=re.MULTILINE))
    for field in cls._fields:  # type: ignore[attr-defined]
        if field not in entries:
            raise TypeError(f"{cls.__name__}: its docstring says nothing of the field {field!r}")
        getattr(cls, field).__doc__ = " ".join(entries[field].split())
    return cls
