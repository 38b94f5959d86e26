"""Checks of plain values: each error names the argument, its value and the expected values."""

from types import NoneType
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np


def size(name: str, value: Any) -> None:
    """Raise unless `value` is an integer of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: got {value!r}, expected an integer of at least 1")


def count(name: str, value: Any) -> None:
    """Raise unless `value` is an integer of at least 0."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name}: got {value!r}, expected an integer of at least 0")


def option(name: str, value: Any, options: Any) -> None:
    """Raise unless `value` is one of `options`: a `Literal`, `Literal[...] | None`, or a tuple."""
    options = options if isinstance(options, tuple) else choices(options)
    if not any(value is o or (type(value) is type(o) and value == o) for o in options):
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, options))}")


def choices(options: Any) -> tuple[Any, ...]:
    """Return the values that a `Literal` or `Literal[...] | None` allows, None first."""
    if options is NoneType:
        return (None,)
    values = get_args(options)
    if not values:
        raise TypeError(f"options: got {options!r}, expected a Literal")
    if NoneType not in values:
        return values
    return (None, *(value for part in values if part is not NoneType for value in choices(part)))


def flag(name: str, value: Any) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}, expected True or False")


def number(name: str, value: Any, *, above: float | None = None) -> None:
    """Raise unless `value` is a finite Python number (and greater than `above`)."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    if not ok or (above is not None and value <= above):
        bound = "" if above is None else f" above {above}"
        raise ValueError(f"{name}: got {value!r}, expected a finite number{bound}")


def rate(name: str, value: Any) -> None:
    """Raise unless `value` is a number in `[0, 1)`."""
    number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name}: got {value!r}, expected a number in [0, 1)")


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
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name}: got {np.dtype(dtype).name}, expected a floating-point dtype")
