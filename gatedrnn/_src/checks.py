"""Checks of plain values: each error names the argument, its value and the expected values."""

import inspect
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gatedrnn._src.describe import shown


def size(name: str, value: Any) -> None:
    """Raise unless `value` is an integer of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: got {shown(value)}, expected an integer of at least 1")


def sizes(owner: Any, *names: str) -> None:
    """Raise unless these fields of a frozen dataclass are sizes; make each a Python integer."""
    for name in names:
        size(name, getattr(owner, name))
        object.__setattr__(owner, name, int(getattr(owner, name)))  # NumPy's may overflow


def count(name: str, value: Any) -> None:
    """Raise unless `value` is an integer of at least 0."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name}: got {shown(value)}, expected an integer of at least 0")


def option(name: str, value: Any, options: Any) -> None:
    """Raise unless `value` is one of `options`: a `Literal`, `Literal[...] | None`, or a tuple."""
    options = options if isinstance(options, tuple) else choices(options)
    if not any(value is o or (type(value) is type(o) and value == o) for o in options):
        raise ValueError(
            f"{name}: got {shown(value)}, expected one of {', '.join(map(repr, options))}"
        )


def choices(options: Any) -> tuple[Any, ...]:
    """Return the values that a `Literal` or `Literal[...] | None` allows, None first."""
    if options is NoneType:
        return (None,)
    values = get_args(options)
    if not values:
        raise TypeError(f"options: got {shown(options)}, expected a Literal")
    if NoneType not in values:
        return values
    return (None, *(value for part in values if part is not NoneType for value in choices(part)))


def flag(name: str, value: Any) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: got {shown(value)}, expected True or False")


def number(name: str, value: Any, *, above: float | None = None) -> None:
    """Raise unless `value` is a finite Python number (and greater than `above`)."""
    number = isinstance(value, int | float | np.integer | np.floating)
    ok = number and not isinstance(value, bool) and np.isfinite(value)
    if not ok or (above is not None and value <= above):
        bound = "" if above is None else f" above {above}"
        raise ValueError(f"{name}: got {shown(value)}, expected a finite number{bound}")


def rate(name: str, value: Any) -> None:
    """Raise unless `value` is a number in `[0, 1)`."""
    number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name}: got {shown(value)}, expected a number in [0, 1)")


def forget_bias(value: Any, use_bias: bool) -> float | None:
    """Return `value` as a Python float or None; raise for a number without a bias to store it."""
    if value is None:
        return None
    number("forget_bias", value)
    value = float(value)  # NumPy's would promote
    if not use_bias:
        raise ValueError(
            f"forget_bias: got {value} with use_bias=False, expected None: "
            "it is stored in the bias, and there is none"
        )
    return value


def floating(name: str, dtype: Any) -> None:
    """Raise unless `dtype` is a real floating-point type."""
    try:
        known = None if dtype is None else np.dtype(dtype)
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        got = shown(dtype) if known is None else known.name
        raise TypeError(f"{name}: got {got}, expected a floating-point dtype")


def batch_shape(name: str, shape: Any) -> None:
    """Raise unless `shape` is a tuple, list or array of sizes of at least 0, also symbolic ones."""

    def is_size(size: Any) -> bool:
        if jax.export.is_symbolic_dim(size):
            return True
        return isinstance(size, int | np.integer) and not isinstance(size, bool) and bool(size >= 0)

    if not isinstance(shape, tuple | list | np.ndarray) or not all(map(is_size, shape)):
        raise ValueError(
            f"{name}: got {shown(shape)}, expected a tuple of sizes, (32,) for one batch axis"
        )


def of_state(batch_shape_: Any, dtype: Any) -> None:
    """Raise unless the arguments of `carry` or `state` are a batch shape and a dtype."""
    batch_shape("batch_shape", batch_shape_)
    floating("dtype", dtype)


def function(name: str, value: Any, arguments: tuple[str, ...], returns: str) -> None:
    """Raise unless `value` can be called with as many positional arguments as `arguments`."""
    ok = callable(value)
    if ok:
        try:
            inspect.signature(value).bind(*arguments)
        except TypeError:
            ok = False
        except ValueError:  # a function that does not say what it takes
            pass
    if not ok:
        expected = f"a function ({', '.join(arguments)}) -> {returns}"
        raise TypeError(f"{name}: got {shown(value)}, expected {expected}")


def mapping(name: str, value: Any, expected: str) -> None:
    """Raise unless `value` is a mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: got {shown(value)}, expected a mapping from names to {expected}")


def sequence(name: str, value: Any, expected: str) -> None:
    """Raise unless `value` is a list, tuple or array of what is `expected`."""
    if not isinstance(value, list | tuple) and not getattr(value, "ndim", 0):
        raise TypeError(f"{name}: got {shown(value)}, expected a list: {expected}")
