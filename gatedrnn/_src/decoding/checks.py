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
from gatedrnn._src.base import Carry, is_shared
from gatedrnn._src.describe import shown


def as_partial(step: Any) -> jax.tree_util.Partial:
    """Return `step` as a pytree, whose leaves are the arrays that a partial application holds."""
    if not callable(step):
        raise TypeError(
            f"step: got {shown(step)}, expected a function (carry, token) -> (carry, logits)"
        )
    return step if isinstance(step, jax.tree_util.Partial) else jax.tree_util.Partial(step)


def as_token(token: Any) -> Array:
    """Return the first token of each row as int32 `[*B]`."""
    token = validation.as_array("token", token, "integers [*B]")
    if not jnp.issubdtype(token.dtype, jnp.integer):
        raise TypeError(f"token: got dtype {token.dtype.name}, expected integers")
    return integers.as_int32(token)


def check_length(max_length: Any) -> None:
    """Raise unless `max_length` is a number of steps that an int32 can count."""
    checks.count("max_length", max_length)
    if max_length >= 2**31:
        raise ValueError(f"max_length: got {max_length}, expected an integer below 2**31")


def check_end(end: Any) -> None:
    """Raise unless `end` is None or may be a token."""
    if end is not None:
        checks.count("end", end)


def check_range(name: str, value: Any, inside: Callable, expected: str) -> None:
    """Raise unless `value` is one real number, in the range `inside` where the number is known."""
    known: Any = value
    ok = isinstance(value, int | float) and not isinstance(value, bool)  # without a transfer
    if not ok and not isinstance(value, bool):
        try:
            array, known = validation.as_known(name, value, "a number")
            ok = array.shape == () and jnp.issubdtype(array.dtype, jnp.number)
            ok = ok and not jnp.issubdtype(array.dtype, jnp.complexfloating)
        except TypeError:
            pass
    if not ok or not (known is None or inside(known)):
        raise ValueError(f"{name}: got {shown(value)}, expected a number, {expected}")


def vocabulary(step: Callable, carry: Carry, token: Array, end: int | None) -> tuple[int, np.dtype]:
    """Return `V` and the dtype of the logits; raise unless `step` fits its carry and token."""
    _check_rows(carry, token)
    _, logits = check_step(step, carry, token)
    shape = getattr(logits, "shape", None)
    if shape is None or shape[:-1] != token.shape or len(shape) != token.ndim + 1 or not shape[-1]:
        raise ValueError(f"step: got logits of shape {shape}, expected {(*token.shape, 'V')}")
    validation.check_floating("logits of step", logits)
    if end is not None and end >= shape[-1]:
        raise ValueError(f"end: got {end}, expected a token below {shape[-1]}, as in the logits")
    return shape[-1], logits.dtype


def _check_rows(carry: Carry, token: Array) -> None:
    """Raise unless every leaf of `carry` has the batch axes of `token` in front, or is shared."""
    for path, leaf in jax.tree.leaves_with_path(carry, is_leaf=is_shared):
        if not is_shared(leaf) and leaf.shape[: token.ndim] != token.shape:
            raise ValueError(
                f"token and carry: got token of shape {token.shape} and "
                f"carry{jax.tree_util.keystr(path)} of shape {leaf.shape}, expected the axes of "
                "token in front of every leaf; what all rows share goes into gr.Shared"
            )


def as_pair(returned: Any) -> tuple[Any, Any]:
    """Return what a step returned, as a pair of pytrees of arrays; raise for anything else."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"step: got {shown(returned)} from it, expected a pair (carry, output)")
    return validation.as_arrays("what step returns: ", returned)


def check_step(step: Callable, carry: Carry, x: Any) -> tuple[Any, Any]:
    """Return the shapes of what `step` returns; raise unless a loop can feed its carry back."""
    checks.function("step", step, ("carry", "token"), "(carry, logits)")

    def checked(carry: Carry, x: Any) -> Any:
        return as_pair(step(carry, x))

    returned = jax.eval_shape(checked, carry, x)
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
