"""Another library's arrays by name, and gates in another order."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Arrays:
    """Arrays by name: each is taken with the shape that it must have, and none is left over.

    Names within names are joined by slashes: `{"ii": {"kernel": a}}` holds `ii/kernel`. The dtypes
    are floating and all alike, and none is rounded.

    Args:
      what: what the arrays are of, for errors: `"state_dict"`.
      arrays: a mapping from names to arrays, or to more such mappings.
    """

    def __init__(self, what: str, arrays: Mapping[str, Any]) -> None:
        self.what = what
        self._left = dict(_flat(what, arrays))
        self._given = ", ".join(sorted(self._left)) or "nothing"
        self._dtype: Any = None

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def shape(self, name: str, axes: int | None = None) -> tuple[int, ...]:
        """The shape of an array that must be there, and have so many axes; None: any number."""
        if name not in self._left:
            raise ValueError(f"{self.what}: {name!r} is missing, got {self._given}")
        got = tuple(jnp.shape(self._left[name]))
        if axes not in (None, len(got)):
            raise ValueError(f"{self.what}, {name!r}: got shape {got}, expected {axes} axes")
        return got

    def take(self, name: str, shape: tuple[int | None, ...]) -> Array:
        """The array of this name; None stands for an axis of any size."""
        got = self.shape(name)
        if len(got) != len(shape) or any(
            want not in (None, axis) for axis, want in zip(got, shape, strict=True)
        ):
            expected = f"({', '.join('any' if n is None else str(n) for n in shape)})"
            raise ValueError(f"{self.what}, {name!r}: got shape {got}, expected {expected}")
        array = as_array(f"{self.what}, {name!r}", self._left.pop(name))
        if self._dtype not in (None, array.dtype):
            raise TypeError(
                f"{self.what}, {name!r}: got dtype {array.dtype}, expected {self._dtype}, that of "
                "the arrays before it"
            )
        self._dtype = array.dtype
        return array

    def close(self) -> None:
        """Raise if an array was not taken."""
        if self._left:
            names = ", ".join(sorted(self._left))
            raise ValueError(
                f"{self.what}: got {names}: not part of such a network, expected no more"
            )


def _flat(what: str, arrays: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{what}: got {type(arrays).__name__}, expected a mapping of arrays")
    for name, value in arrays.items():
        if isinstance(value, Mapping):
            yield from _flat(what, value, f"{above}{name}/")
        else:
            check_array(f"{what}, {f'{above}{name}'!r}", value)
            yield f"{above}{name}", value


def check_mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Return `value`; raise unless it is a mapping from names."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a mapping from names")
    others = [key for key in value if not isinstance(key, str)]
    if others:
        raise TypeError(f"{name}: got the key {others[0]!r}, expected names alone")
    return value


def check_array(name: str, value: Any) -> None:
    """Raise unless `value` is an array of JAX or NumPy, a tracer too."""
    known = isinstance(value, jax.Array | np.ndarray | np.generic) or hasattr(value, "__array__")
    if not known or not isinstance(value.dtype, np.dtype):
        raise TypeError(f"{name}: got {type(value).__name__}, expected an array")


def check_leaves(name: str, tree: Any) -> None:
    """Raise unless all leaves of parameters or a carry are arrays, of parameters floating ones."""
    if isinstance(tree, Iterator):
        raise TypeError(f"{name}: got {type(tree).__name__}, expected a tree of arrays")
    for path, leaf in jax.tree.leaves_with_path(tree):
        where = f"{name}{jax.tree_util.keystr(path)}"
        check_array(where, leaf)
        if name == "params":
            check_floating(where, leaf)


def check_floating(name: str, array: Any) -> None:
    """Raise unless an array holds floating-point numbers."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name}: got dtype {array.dtype}, expected a floating-point one")


def as_array(name: str, value: Any) -> Array:
    """`value` as an array of JAX of the same dtype, which is floating; tracers pass.

    It shares no memory with what others may go on to train.
    """
    check_array(name, value)
    check_floating(name, value)
    array = value if isinstance(value, jax.Array) else jnp.array(value)
    if array.dtype != value.dtype:  # JAX rounds float64 silently where it is switched off
        raise TypeError(
            f"{name}: got dtype {value.dtype}, expected float32 or less: JAX runs without float64 "
            "here; convert the weights first, or set jax_enable_x64"
        )
    return array
