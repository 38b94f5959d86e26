"""The rows in a folder: one line of JSON each, written at once, and the tables made of them."""

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.device import tables
from benchmarks.store import replace

Row = dict[str, Any]


class Journal:
    """The rows of a folder; those of an earlier run stay, and a later one of the same counts."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lines, self.tables = folder / "device.jsonl", folder / "device.md"
        self.rows: list[Row] = []
        if self.lines.exists():
            lines = self.lines.read_text().splitlines()
            self.rows = [json.loads(line) for line in lines if line.strip()]

    def put(self, row: Row) -> None:
        """Add a row, on the disk when this returns."""
        self.rows.append(row)
        with self.lines.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def render(self) -> None:
        """Make the tables of the rows that there are."""
        replace(self.tables, tables.markdown(self.rows))
