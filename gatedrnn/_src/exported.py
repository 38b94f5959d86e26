"""Named tuples that programs of `jax.export` may take and return, under stable names."""

from collections.abc import Iterable
from typing import Any

from jax import export

_known: set[type] = set()  # JAX refuses a type that it knows; a module may be read twice


def register(values: Iterable[Any]) -> None:
    """Register those of `values` that are named tuples, as `gatedrnn.NAME`."""
    for value in values:
        if isinstance(value, type) and issubclass(value, tuple) and value not in _known:
            name = f"gatedrnn.{value.__name__}"
            export.register_namedtuple_serialization(value, serialized_name=name)
            _known.add(value)
