"""What the public edge checks and converts before the engine runs; nothing inside checks again.

Axes: `T` time, `*B` batch, `I` input features.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gatedrnn._src.base import Carry, Cell, Params, rule_of, unbound


def check_floating(name: str, x: Array) -> None:
    """Raise unless `x` holds real floating-point numbers."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name}: got dtype {x.dtype.name}, expected a floating-point dtype")


def check_cell(
    cell: Any,
    methods: tuple[str, ...] = ("init", "carry", "step"),
    example: str = "gr.LSTM(256)",
) -> None:
    """Raise unless `cell` is a hashable value with the methods of a cell."""
    missing = [name for name in methods if not hasattr(cell, name)]
    what = f"no {', '.join(missing)}" if missing else ""
    what = "a class, not a value" if isinstance(cell, type) else what
    what = "a layer, not a cell" if hasattr(cell, "apply") else what
    if what:
        raise TypeError(
            f"cell: got {cell!r} ({what}), expected a value with {', '.join(methods[:-1])} and "
            f"{methods[-1]}, like {example}"
        )
    try:
        hash(cell)
    except TypeError:
        raise TypeError(
            f"cell: got {cell!r}, which is not hashable, expected a frozen dataclass: "
            "the compiled program is looked up by the cell's value"
        ) from None


def check_params(cell: Any, params: Params, x: Array, name: str = "xs") -> None:
    """Raise unless `params` are those of `cell` for the features and dtype of `x [..., I]`."""
    expected = _params_template(cell, x.shape[-1])
    beside = f"the {x.shape[-1]} features on the last axis of {name}, shape {x.shape}"
    check_shapes("params", unbound(params), unbound(expected), cell, beside)
    if rule_of(cell) is not None:
        check_dtypes(params, x, name)


def check_shapes(name: str, tree: Any, expected: Any, owner: Any, beside: str = "") -> None:
    """Raise unless `tree` has the structure and the shapes of `expected`, which `owner` needs."""
    if not _alike(tree, expected):
        raise ValueError(
            f"{name}: got {_describe(tree)}, expected {_describe(expected)}, as in {owner!r}"
        )
    leaves = zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(expected), strict=True)
    for (path, leaf), wanted in leaves:
        if jnp.shape(leaf) != wanted.shape:
            reason = f" and {beside}" if beside else ""
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}: got shape {jnp.shape(leaf)}, expected "
                f"{wanted.shape} for {owner!r}{reason}"
            )


def check_dtypes(params: Params, x: Array, name: str) -> None:
    """Raise unless `params` are in the dtype of `x`, or in float32 beside a 16-bit `x`."""
    got = sorted({jnp.result_type(leaf).name for leaf in jax.tree.leaves(params)})
    allowed = {x.dtype.name}
    if x.dtype.itemsize == 2:
        allowed.add("float32")
    if len(got) > 1 or not set(got) <= allowed:
        raise TypeError(
            f"params: got dtype {' and '.join(got)} with {name} in {x.dtype.name}, expected "
            f"{' or '.join(sorted(allowed))} in every leaf"
        )


@functools.lru_cache(maxsize=512)
def _params_template(cell: Any, in_features: int) -> Params:
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), in_features))


@functools.lru_cache(maxsize=512)
def output_features(cell: Cell, in_features: int) -> int:
    """`F`, the size of the output of `cell` for inputs of `in_features`.

    A cell that cannot step with parameters fresh from `init` has a method that says it.
    """
    if hasattr(cell, "output_features"):
        return cell.output_features(in_features)

    def once() -> Array:
        params = cell.init(jax.random.key(0), in_features)
        x = jnp.zeros(in_features, jnp.float32)
        return cell.step(params, cell.carry((), x.dtype), x)[1]

    return jax.eval_shape(once).shape[-1]


def as_carry(
    cell: Cell, carry: Carry, batch_shape: tuple[int, ...], x: Array, name: str = "carry"
) -> Carry:
    """`carry` checked and cast to the dtypes that `x` asks for."""
    expected = jax.eval_shape(lambda: cell.carry(batch_shape, x.dtype))
    return as_expected(name, carry, expected, cell)


def as_expected(name: str, tree: Any, expected: Any, owner: Any) -> Any:
    """`tree` checked against the shapes of `expected`, which `owner` needs, and in its dtypes."""
    check_shapes(name, tree, expected, owner)

    def cast(path: tuple, leaf: Array, wanted: jax.ShapeDtypeStruct) -> Array:
        leaf = jnp.asarray(leaf)
        if leaf.dtype == wanted.dtype:
            return leaf
        if not all(jnp.issubdtype(v.dtype, jnp.floating) for v in (leaf, wanted)):
            where = name + jax.tree_util.keystr(path)
            raise TypeError(f"{where}: got dtype {leaf.dtype.name}, expected {wanted.dtype.name}")
        return leaf.astype(wanted.dtype)

    return jax.tree.map_with_path(cast, tree, expected)


def check_batched(name: str, carry: Carry, batch_shape: tuple[int, ...]) -> None:
    """Raise unless every leaf has the batch axes, row by row of which a mask or reset decides."""
    for path, leaf in jax.tree.leaves_with_path(carry):
        if leaf.shape[: len(batch_shape)] != batch_shape:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}: got shape {leaf.shape}, expected the batch "
                f"axes {batch_shape} in front, for lengths, mask or resets to choose rows"
            )


def check_step(cell: Cell, params: Params, carry: Carry, x: Array) -> Carry:
    """Check the arguments of a single step and return the carry in its dtypes."""
    if x.ndim < 1:
        raise ValueError(f"x: got shape {x.shape}, expected [*B, I]")
    check_floating("x", x)
    check_params(cell, params, x, "x")
    return as_carry(cell, carry, x.shape[:-1], x)


def as_mask(
    lengths: Array | None, mask: Array | None, length: int, batch_shape: tuple[int, ...]
) -> Array | None:
    """The mask `[T, *B]` that `lengths [*B]` or `mask` describe, None if both are None."""
    if lengths is not None and mask is not None:
        raise ValueError("lengths and mask: got both, expected one of them or neither")
    if mask is not None:
        return as_flags("mask", mask, length, batch_shape)
    if lengths is None:
        return None
    known = concrete(lengths)
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"lengths: got dtype {lengths.dtype.name}, expected integers")
    if lengths.shape != batch_shape:
        raise ValueError(f"lengths: got shape {lengths.shape}, expected {batch_shape}")
    if known is not None and known.size:
        least, most = int(known.min()), int(known.max())
        if least < 0 or most > length:
            raise ValueError(
                f"lengths: got values from {least} to {most}, expected them between 0 and "
                f"the {length} steps of xs"
            )
    steps = lax.iota(jnp.int32, length)
    return steps.reshape(-1, *(1,) * lengths.ndim) < lengths.astype(jnp.int32)


def concrete(x: Any) -> np.ndarray | None:
    """The values of `x`, or None where they are not to be had: under a trace, on another host."""
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        return None
    return np.asarray(x)


def as_flags(name: str, flags: Array, length: int, batch_shape: tuple[int, ...]) -> Array:
    """Booleans `[T, *B]`, checked."""
    flags = jnp.asarray(flags)
    if flags.dtype != jnp.bool_:
        raise TypeError(f"{name}: got dtype {flags.dtype.name}, expected bool")
    if flags.shape != (length, *batch_shape):
        raise ValueError(f"{name}: got shape {flags.shape}, expected {(length, *batch_shape)}")
    return flags


def zero_masked(xs: Array, mask: Array | None) -> Array:
    """`xs [T, *B, ...]` with zeros where `mask [T, *B]` is False, whatever stands there."""
    if mask is None:
        return xs
    mask = mask.reshape(mask.shape + (1,) * (xs.ndim - mask.ndim))
    return jnp.where(mask, xs, jnp.zeros((), xs.dtype))


def _alike(tree: Any, other: Any) -> bool:
    structure: Any = jax.tree.structure(tree)
    return bool(structure == jax.tree.structure(other))


def _describe(tree: Any) -> str:
    """A pytree of arrays as a reader would write it: names and shapes."""
    if hasattr(tree, "_fields"):
        fields = ", ".join(f"{k}={_describe(v)}" for k, v in zip(tree._fields, tree, strict=True))
        return f"{type(tree).__name__}({fields})"
    if isinstance(tree, tuple | list):
        return f"({', '.join(map(_describe, tree))})"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{k}: {_describe(v)}" for k, v in tree.items()) + "}"
    return str(list(tree.shape)) if hasattr(tree, "shape") else repr(tree)
