"""What the command measures: each table is a module with

TITLE     a heading
OPTIONS   which of the command's options it heeds
tasks     settings -> its rows, each a task: what it is of, and how to measure it
markdown  rows -> lines

Those of other devices than the one at hand are measured only if they are named, and have also

FILE      the name of its file
DEVICE    in the place of a device's name
INTRO     lines that say what its figures are
PICTURE   the title of its picture
missing   what has to be installed before, "" if nothing has
"""

from types import ModuleType

from benchmarks.tables import (
    bidirectional,
    compiling,
    cores,
    depth,
    dtype,
    grid,
    launches,
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
    "cores": cores,
    "launches": launches,
}
HERE = [name for name, table in TABLES.items() if not hasattr(table, "FILE")]
"""Those of the device at hand."""
