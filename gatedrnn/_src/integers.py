"""Integers from outside, of any width: none wraps around, and in a trace their range is guarded.

A value out of range is an error where it is known. In a trace it is not, and a program that stops
for it would be another, slower program. So `guarded` leaves a mark in the trace, which compiles to
nothing: `jax.experimental.checkify` makes an error of the mark, where its user checks are on.
(`checkify.debug_check` would do the same, but a program with its effect cannot be serialised by
`jax.export`, and each call takes 20 times as long to dispatch.)
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import checkify
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

try:  # checkify has no public way to add a rule
    from jax._src.checkify import error_checks
except ImportError:  # then it finds no error in a mark
    error_checks = {}


def as_array(values: Any) -> Array:
    """Return `values` as an array, NumPy's integers that JAX would narrow clipped to its range."""
    if isinstance(values, np.ndarray | np.generic) and values.dtype.kind in "iu":
        info = jnp.iinfo(jax.dtypes.canonicalize_dtype(values.dtype))
        if info.dtype != values.dtype:
            values = np.clip(values, info.min, info.max).astype(info.dtype)
    return jnp.asarray(values)


@partial(jax.jit, inline=True)
def as_int32(values: Array) -> Array:
    """Return integers of any type as int32, those beyond its range as the nearest in it."""
    given, info = jnp.iinfo(values.dtype), jnp.iinfo(jnp.int32)
    if given.min < info.min or given.max > info.max:
        values = jnp.clip(values, max(given.min, info.min), info.max)
    return values.astype(jnp.int32)


def guarded(name: str, values: Array, least: int, most: int, expected: str) -> Array:
    """Return `values`; where they are traced, guard that they are from `least` to `most`.

    A value out of range is an error under `checkify.checkify`, and where the program is traced with
    `jax_debug_nans` on. Without either, the compiled program has no trace of the guard.
    """
    if not isinstance(values, jax.core.Tracer) or not values.size:
        return values
    range_: dict[str, Any] = {"name": name, "least": least, "most": most, "expected": expected}
    if jax.config.jax_debug_nans:  # type: ignore[attr-defined]
        jax.debug.callback(partial(_raise_outside, **range_), jnp.min(values), jnp.max(values))
    return _guard.bind(values, **range_)


MESSAGE = "{}: got values from {} to {}, expected {}"


def _raise_outside(
    lowest: np.ndarray, highest: np.ndarray, *, name: str, least: int, most: int, expected: str
) -> None:
    if lowest < least or highest > most:
        raise ValueError(MESSAGE.format(name, lowest, highest, expected))


_guard = Primitive("guard")
_guard.def_impl(lambda values, **_: values)
_guard.def_abstract_eval(lambda values, **_: values)
mlir.register_lowering(_guard, lambda context, values, **_: [values])
batching.primitive_batchers[_guard] = lambda values, axes, **range_: (
    _guard.bind(*values, **range_),
    axes[0],
)


def _check(values: Array, *, name: str, least: int, most: int, expected: str) -> Array:
    lowest, highest = jnp.min(values), jnp.max(values)
    info = jnp.iinfo(values.dtype)  # a bound that the type cannot hold holds of itself
    inside = (lowest >= max(least, info.min)) & (highest <= min(most, info.max))
    got = MESSAGE.format(name, "{lowest}", "{highest}", expected)
    checkify.debug_check(inside, got, lowest=lowest, highest=highest)
    return values


def _checkify_rule(*arguments: Any, **range_: Any) -> tuple[Any, Array]:
    """Do what checkify does of a jitted function with a check in it.

    The arguments, which differ between versions of JAX, end in the operands.
    """
    *others, values = arguments
    (call,) = jax.make_jaxpr(jax.jit(partial(_check, **range_)))(values).eqns
    error, (values,) = error_checks[call.primitive](*others, values, **call.params)
    return error, values


error_checks[_guard] = _checkify_rule
