"""The README's table of cells: `python -m gatedrnn._registry.readme` writes it anew."""

import dataclasses
import sys
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from gatedrnn._registry import cells
from gatedrnn._registry.row import Row
from gatedrnn._src import checks

HEAD = "| cell | equations | fields (default first) |\n|---|---|---|\n"


def table() -> str:
    """Return the table, a line for each row of the registry."""
    return HEAD + "".join(map(_line, cells.ROWS))


def replaced(text: str) -> str:
    """Return `text`, a README, with the table as it is in the registry."""
    before, _, rest = text.partition(HEAD)
    lines = rest.splitlines(keepends=True)
    count = next((k for k, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return before + table() + "".join(lines[count:])


def _line(row: Row) -> str:
    hints = get_type_hints(row.cell)
    fields = (_field(row, field, hints[field.name]) for field in dataclasses.fields(row.cell))
    return f"| `gr.{row.name}` | {row.formulas} | {'; '.join(fields)} |\n"


def _field(row: Row, field: dataclasses.Field, annotation: Any) -> str:
    """Return the name of a field, its values and what the row remarks."""
    words = [f"`{field.name}`"]
    if field.default is not dataclasses.MISSING:
        others = [value for value in _values(annotation) if value != _shown(field.default)]
        words.append(", ".join([_shown(field.default), *others]))
    if field.name in row.remarks:
        words.append(f"({row.remarks[field.name]})")
    return " ".join(words)


def _values(annotation: Any) -> list[str]:
    """Return what an annotation allows, in words."""
    if annotation is bool:
        return ["True", "False"]
    if annotation in (int, float):
        return []  # beside a default any other number
    try:
        return list(map(_shown, checks.choices(annotation)))
    except TypeError:  # a number that may be absent
        kinds = {int: "a size", float: "a number", NoneType: "None"}
        return [kinds[kind] for kind in get_args(annotation)]


def _shown(value: Any) -> str:
    return f'`"{value}"`' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    path = Path(sys.argv[1] if sys.argv[1:] else "README.md")
    path.write_text(replaced(path.read_text()))
