"""What the command measures: each table is a module with

TITLE     a heading
OPTIONS   which of the command's options it heeds
tasks     settings -> its rows, each a task: what it is of, and how to measure it
markdown  rows -> lines
"""

from types import ModuleType

from benchmarks.tables import (
    bidirectional,
    compiling,
    depth,
    dtype,
    grid,
    length,
    masks,
    phases,
    profile,
    readout,
    sharded,
    sizes,
)

TABLES: dict[str, ModuleType] = {
    "grid": grid,
    "phases": phases,
    "profile": profile,
    "length": length,
    "sizes": sizes,
    "depth": depth,
    "compile": compiling,
    "bidirectional": bidirectional,
    "dtype": dtype,
    "masks": masks,
    "readout": readout,
    "sharded": sharded,
}
