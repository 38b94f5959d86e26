"""Recurrent cells: equations, rule and dataclass of each in one file."""
