"""Named tuples and other trees that programs of `jax.export` take and return, by stable names."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from jax import export


def register(values: Iterable[Any], others: Iterable[type] = ()) -> None:
    """Register those of `values` that are named tuples, and `others`, as `gatedrnn.NAME`.

    The others are dataclasses of which every field is a tree of arrays.
    """
    for value in values:
        if isinstance(value, type) and issubclass(value, tuple):
            with suppress(ValueError):  # JAX knows it: the package is imported a second time
                export.register_namedtuple_serialization(value, serialized_name=_name(value))
    for other in others:
        with suppress(ValueError):
            export.register_pytree_node_serialization(
                other,
                serialized_name=_name(other),
                serialize_auxdata=lambda _: b"",
                deserialize_auxdata=lambda _: (),
            )


def _name(value: type) -> str:
    return f"gatedrnn.{value.__name__}"
