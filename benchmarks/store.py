"""The raw figures of a device: one JSON file, written whole after every row.

    {"device": ..., "tiny": ..., "tables": {TABLE: {"environments": [...], "rows": [...]}}}

A row says what it is in `row["of"]`, and where it was measured by `row["environment"]`, an index
into the environments of its table: tables, and parts of a table, may come from different runs.
"""

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Store:
    """The figures in a file; what is there already stays until the same row is measured again."""

    def __init__(self, path: Path, device: str, tiny: bool) -> None:
        self.path = path
        self.data: dict[str, Any] = {"device": device, "tiny": tiny, "tables": {}}
        if path.exists():
            self.data = load(path)

    def put(self, table: str, row: Row, environment: dict[str, Any]) -> None:
        """Add `row`, or replace the one that is of the same."""
        held = self.data["tables"].setdefault(table, {"environments": [], "rows": []})
        if environment not in held["environments"]:
            held["environments"].append(environment)
        row = row | {"environment": held["environments"].index(environment)}
        same = [i for i, old in enumerate(held["rows"]) if old["of"] == row["of"]]
        if same:
            held["rows"][same[0]] = row
        else:
            held["rows"].append(row)
        self._save(table)

    def keep(self, table: str, of: list[dict[str, Any]]) -> None:
        """Drop the rows that a whole run of the table no longer has, and put the rest in order."""
        held = self.data["tables"].get(table)
        if held:
            held["rows"] = sorted(
                (row for row in held["rows"] if row["of"] in of),
                key=lambda row: of.index(row["of"]),
            )
            self._save(table)

    def _save(self, table: str) -> None:
        held = self.data["tables"][table]
        used = sorted({row["environment"] for row in held["rows"]})
        held["environments"] = [held["environments"][i] for i in used]
        for row in held["rows"]:
            row["environment"] = used.index(row["environment"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace(self.path, json.dumps(self.data, indent=1) + "\n")


def load(path: Path) -> dict[str, Any]:
    """What a file holds.

    Raises:
      ValueError: it is not a file of this command.
    """
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict) or not {"device", "tiny", "tables"} <= set(data):
        raise ValueError(f"{path}: no figures of this command")
    return data


def replace(path: Path, text: str) -> None:
    """Write a file so that it is never seen half written."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)
