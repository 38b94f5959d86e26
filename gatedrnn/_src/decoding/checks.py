"""Checks and conversions that the decoding functions share.

Axes: `*B` any batch axes, `V` vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gatedrnn._src import checks, integers, validation
from gatedrnn._src.base import Carry


def as_partial(step: Any) -> jax.tree_util.Partial:
    """Return `step` as a pytree, whose leaves are the arrays that a partial application holds."""
    if not callable(step):
        raise TypeError(
            f"step: got {step!r}, expected a function (carry, token) -> (carry, logits)"
        )
    return step if isinstance(step, jax.tree_util.Partial) else jax.tree_util.Partial(step)


def as_token(token: Any) -> Array:
    """Return the first token of each row as int32 `[*B]`."""
    token = integers.as_array(token)
    if not jnp.issubdtype(token.dtype, jnp.integer):
        raise TypeError(f"token: got dtype {token.dtype.name}, expected integers")
    return integers.as_int32(token)


def check_range(name: str, value: Any, inside: Callable, expected: str) -> None:
    """Raise unless `value` is one number, in the range `inside` where the number is known."""
    known = validation.concrete(value)
    if jnp.shape(value) != () or (known is not None and not inside(known)):
        raise ValueError(f"{name}: got {value!r}, expected a number, {expected}")


def vocabulary(step: Callable, carry: Carry, token: Array, end: int | None) -> tuple[int, np.dtype]:
    """Return `V` and the dtype of the logits; raise unless `step` fits its carry and token."""
    validation.check_rows("carry", carry, token.shape)
    _, logits = check_step(step, carry, token)
    shape = getattr(logits, "shape", None)
    if shape is None or shape[:-1] != token.shape or len(shape) != token.ndim + 1 or not shape[-1]:
        raise ValueError(f"step: got logits of shape {shape}, expected {(*token.shape, 'V')}")
    validation.check_floating("logits of step", logits)
    if end is not None:
        checks.count("end", end)
        if end >= shape[-1]:
            raise ValueError(
                f"end: got {end}, expected a token below {shape[-1]}, as in the logits"
            )
    return shape[-1], logits.dtype


def check_step(step: Callable, carry: Carry, x: Any) -> tuple[Any, Any]:
    """Return the shapes of what `step` returns; raise unless a loop can feed its carry back."""
    returned = jax.eval_shape(step, carry, x)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"step: got {type(returned).__name__}, expected a pair (carry, output)")
    given = jax.eval_shape(lambda: carry)
    validation.check_shapes(
        "carry that step returns", returned[0], given, "the carry that it was given"
    )
    for (path, new), old in zip(
        jax.tree.leaves_with_path(returned[0]), jax.tree.leaves(carry), strict=True
    ):
        if new.dtype != jnp.result_type(old):
            raise TypeError(
                f"carry that step returns{jax.tree_util.keystr(path)}: got dtype {new.dtype.name}, "
                f"expected {jnp.result_type(old).name}, as it was given"
            )
    return returned
