"""The registry of cells: one row for each, which all that runs over cells takes its list from."""
