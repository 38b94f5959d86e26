"""Checks and conversions of arrays, at the outermost public call; nothing inside checks again.

Axes: `T` time, `*B` batch, `I` input features.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gatedrnn._src import checks, integers
from gatedrnn._src.base import Carry, Cell, Params, is_bound, is_shared, rule_of, unbound
from gatedrnn._src.describe import shown

F = TypeVar("F", bound=Callable)


def remembered(function: F) -> F:
    """Return `function` with a cache of its results, for hashable arguments.

    JAX's 64-bit mode is a part of the key: default dtypes follow it. So are the types of the
    arguments: named tuples of two classes may be equal.
    """

    @functools.lru_cache(maxsize=512, typed=True)
    def cached(is_64_bit: bool, *arguments: Any) -> Any:
        return function(*arguments)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return cached(is_64_bit(), *arguments)

    return cast(F, call)


def as_array(name: str, value: Any, expected: str = "an array of numbers") -> Array:
    """Return `value` as an array; raise for None, text, a ragged list, anything without numbers.

    Integers too wide for JAX's 32-bit mode saturate, so that what is out of range stays so.
    """
    if isinstance(value, Array):
        return value
    with contextlib.suppress(TypeError, ValueError):
        if value is not None and not isinstance(value, str | bytes):
            try:
                scalar = isinstance(value, int | float)
                return jnp.asarray(on_device(value)) if scalar else integers.as_array(value)
            except OverflowError:  # Python's integers, beyond 32 bits
                wide = np.clip(np.asarray(value, object), -(2**63), 2**63 - 1)
                return integers.as_array(np.asarray(wide, np.int64))
    raise TypeError(f"{name}: got {shown(value)}, expected {expected}")


def as_known(name: str, value: Any, expected: str) -> tuple[Array, np.ndarray | None]:
    """Return `value` as an array, and the values as given, or None where a trace hides them."""
    array = as_array(name, value, expected)
    known = concrete(array)
    if known is not None and not isinstance(value, Array):
        known = np.asarray(value)  # as it was given, also where the array is narrower
    return array, known


def is_64_bit() -> bool:
    """Return True in JAX's 64-bit mode."""
    return bool(getattr(jax.config, "jax_enable_x64", False))


def as_arrays(name: str, tree: Any) -> Any:
    """Return a pytree with every leaf as an array; raise for a leaf that is none."""

    def convert(path: tuple, leaf: Any) -> Array:
        return as_array(name + jax.tree_util.keystr(path), leaf)

    return jax.tree.map_with_path(convert, tree)


def as_keys(name: str, key: Any) -> Array:
    """Return a key, or an array of keys, as typed keys; raise for what is none."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    try:
        if dtype == np.uint32:
            return jax.random.wrap_key_data(key)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{name}: got {shown(key)}, expected a key, as jax.random.key(0) returns it")


def as_key(key: Any) -> Array:
    """Return `key` as one typed key; raise for what is no key, and for several."""
    keys = as_keys("key", key)
    if keys.shape != ():
        raise ValueError(f"key: got keys of shape {keys.shape}, expected a single key")
    return keys


def as_init_key(key: Any, in_features: int, dtype: Any) -> Array:
    """Check the arguments of a cell's `init`, and return the key as one typed key."""
    checks.size("in_features", in_features)
    checks.floating("dtype", dtype)
    return as_key(key)


def zeros(batch_shape: Any, *sizes: int, dtype: Any) -> Array:
    """Return zeros `[*B, *sizes]` for a carry or a state; raise unless these are shape and dtype.

    Made without a transfer from the host, also outside `jit`.
    """
    checks.of_state(batch_shape, dtype)
    return _zeros((*batch_shape, *sizes), dtype)


def counts(batch_shape: Any) -> Array:
    """Return the number 0 for each row, int32 `[*B]`, likewise."""
    checks.batch_shape("batch_shape", batch_shape)
    return _zeros(tuple(batch_shape), jnp.int32)


@functools.partial(jax.jit, static_argnames=("shape", "dtype"), inline=True)
def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.zeros(shape, dtype)


def check_floating(name: str, x: Array) -> None:
    """Raise unless `x` holds real floating-point numbers."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name}: got dtype {x.dtype.name}, expected a floating-point dtype")


def check_features(name: str, x: Array) -> None:
    """Raise unless `x [..., I]` holds real floating-point numbers, and at least one feature."""
    check_floating(name, x)
    if x.shape[-1] < 1:
        raise ValueError(
            f"{name}: got shape {x.shape}, expected at least one feature, the last axis"
        )


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
            f"cell: got {shown(cell)} ({what}), expected a value with "
            f"{', '.join(methods[:-1])} and {methods[-1]}, like {example}"
        )
    check_hashable("cell", cell)
    if "carry" in methods:
        _check_carry_of_cell(cell)


def check_hashable(name: str, owner: Any) -> None:
    """Raise unless `owner`, a cell or a layer, is a hashable value."""
    try:
        hash(owner)
    except TypeError:
        raise TypeError(
            f"{name}: got {shown(owner)}, which is not hashable, expected a frozen dataclass: "
            "the compiled program is looked up by its value"
        ) from None


TRIAL_BATCH = (11, 13)  # a batch shape that no carry has by accident


@remembered
def _check_carry_of_cell(cell: Any) -> None:
    """Raise unless every leaf of the carry of `cell` has the batch axes in front, or is shared."""
    check_carries("cell", cell, lambda shape: jax.eval_shape(lambda: cell.carry(shape)))
    if rule_of(cell) is not None:
        carry = jax.eval_shape(lambda: cell.carry(()))
        if any(map(is_shared, jax.tree.leaves(carry, is_leaf=is_shared))):
            raise TypeError(
                f"cell: got {cell!r}, whose carry has a gr.Shared, expected none in a cell with a "
                "rule: its backward pass is by rows"
            )


def check_carries(name: str, owner: Any, make: Callable[[tuple[int, ...]], Carry]) -> None:
    """Raise unless the carries of `owner`, `make(batch_shape)`, have the batch axes in front.

    A leaf that is `gr.Shared` may be without. Two batch shapes are tried.
    """
    alone, many = make(()), make(TRIAL_BATCH)
    if not _alike(alone, many):
        raise TypeError(
            f"{name}: got {shown(owner)}, whose carries for batch shapes () and {TRIAL_BATCH} are "
            f"{_describe(alone)} and {_describe(many)}, expected the same structure"
        )
    pairs = zip(
        jax.tree.leaves_with_path(alone, is_leaf=is_shared),
        jax.tree.leaves(many, is_leaf=is_shared),
        strict=True,
    )
    for (path, one), leaf in pairs:
        if not is_shared(one) and leaf.shape != (*TRIAL_BATCH, *one.shape):
            raise TypeError(
                f"{name}: got {shown(owner)}, whose carry{jax.tree_util.keystr(path)} has shape "
                f"{leaf.shape} for a batch shape {TRIAL_BATCH}, expected "
                f"{(*TRIAL_BATCH, *one.shape)}: every leaf has the batch axes in front; what all "
                "rows share goes into gr.Shared"
            )


def check_params(
    owner: Any,
    params: Params,
    x: Array,
    name: str = "xs",
    *,
    tokens: bool = False,
    params_name: str = "params",
) -> None:
    """Raise unless `params` are those of `owner` for the features and the dtype of `x [..., I]`.

    The owner is a cell or a layer. An owner that reads `tokens` has parameters of any one dtype.
    """
    in_features = None if tokens else x.shape[-1]
    try:
        template = params_template(owner, in_features)
    except ValueError as error:
        if not str(error).startswith("in_features"):
            raise
        raise ValueError(f"{name}: got shape {x.shape}: {error}") from None
    features = f"the {in_features} features on the last axis of {name}, shape {x.shape}"
    for path, node in jax.tree.leaves_with_path(params, is_leaf=is_bound):
        if is_bound(node):
            node.check(params_name + jax.tree_util.keystr(path))
    params = unbound(params)
    check_shapes(params_name, params, template, owner, "" if tokens else features)
    leaves = jax.tree.leaves(params)
    if not leaves:
        return
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        raise TypeError(
            f"{params_name}: got a jax.ShapeDtypeStruct, expected arrays; shapes alone are for "
            "jax.eval_shape"
        )
    dtype = dtype_of_params(params) if tokens else x.dtype
    allowed = [dtype] if dtype.itemsize > 2 else [dtype, np.dtype(np.float32)]
    got = [jnp.result_type(leaf) for leaf in leaves]
    if not any(got == _dtypes(owner, in_features, each.name) for each in allowed):
        inputs = "" if tokens else f" with {name} in {dtype.name}"
        found, expected = (sorted({each.name for each in names}) for names in (got, allowed))
        raise TypeError(
            f"{params_name}: got dtype {' and '.join(found)}{inputs}, expected "
            f"{' or '.join(expected)} in every leaf"
        )


def dtype_of_params(params: Params) -> np.dtype:
    """Return the dtype that all floating-point leaves share; float32 if there is no such leaf."""
    dtypes = (jnp.result_type(leaf) for leaf in jax.tree.leaves(params))
    return next((np.dtype(d) for d in dtypes if jnp.issubdtype(d, jnp.floating)), np.dtype("f4"))


@remembered
def params_template(owner: Any, in_features: int | None, dtype: str = "float32") -> Params:
    """Return the shapes and dtypes of new parameters, with None for values that are bound later.

    The owner is a cell or a layer.
    """
    make = lambda: owner.init(jax.random.key(0), in_features, jnp.dtype(dtype))  # noqa: E731
    return unbound(jax.eval_shape(make))


def _dtypes(owner: Any, in_features: int | None, dtype: str) -> list[np.dtype]:
    leaves = jax.tree.leaves(params_template(owner, in_features, dtype))
    return [np.dtype(leaf.dtype) for leaf in leaves]


def check_shapes(name: str, tree: Any, expected: Any, owner: Any, inputs: str = "") -> None:
    """Raise unless `tree` has the structure and the shapes of `expected`, which `owner` needs.

    `inputs` are words about the inputs that the shapes must fit, for the error.
    """
    if not _alike(tree, expected):
        path, got, wanted = _first_difference((), tree, expected)
        raise ValueError(
            f"{name}{jax.tree_util.keystr(path)}: got {_describe_node(got)}, expected "
            f"{_describe_node(wanted)}, as in {owner!r}"
        )
    leaves = zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(expected), strict=True)
    for (path, leaf), wanted in leaves:
        shape = _shape_of_leaf(name + jax.tree_util.keystr(path), leaf, wanted)
        if shape != wanted.shape:
            reason = f" and {inputs}" if inputs else ""
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}: got shape {shape}, expected "
                f"{wanted.shape} for {owner!r}{reason}"
            )


def _shape_of_leaf(name: str, leaf: Any, wanted: Any) -> tuple[int, ...]:
    """Return the shape of a leaf; raise unless it holds numbers."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return tuple(leaf.shape)
    if isinstance(leaf, Array | jax.ShapeDtypeStruct):
        return tuple(leaf.shape)
    return as_array(name, leaf, f"an array of shape {wanted.shape}").shape


@remembered
def output_features(cell: Cell, in_features: int) -> int:
    """Return `F`, the output features of `cell` for inputs of `in_features`.

    A cell that cannot step with new parameters has a method `output_features`.
    """
    if hasattr(cell, "output_features"):
        return cell.output_features(in_features)

    def once() -> Array:
        params = cell.init(jax.random.key(0), in_features)
        x = jnp.zeros(in_features, jnp.float32)
        return cell.step(params, cell.carry((), x.dtype), x)[1]

    return jax.eval_shape(once).shape[-1]


def as_carry(
    cell: Cell,
    carry: Carry,
    batch_shape: tuple[int, ...],
    x: Array,
    name: str = "carry",
    inputs: str = "xs",
) -> Carry:
    """Check `carry` and return it in the dtypes that `x` asks for."""
    expected = jax.eval_shape(lambda: cell.carry(batch_shape, x.dtype))
    return as_expected(name, carry, expected, cell, f"the batch axes {batch_shape} of {inputs}")


def as_expected(name: str, tree: Any, expected: Any, owner: Any, inputs: str = "") -> Any:
    """Check `tree` against `expected`, which `owner` needs, and return it in those dtypes.

    `inputs` are words about the inputs that the shapes must fit, for the error.
    """
    check_shapes(name, tree, expected, owner, inputs)

    def cast(path: tuple, leaf: Array, wanted: jax.ShapeDtypeStruct) -> Array:
        leaf = as_array(name + jax.tree_util.keystr(path), leaf)
        if leaf.dtype == wanted.dtype:
            return leaf
        if not all(jnp.issubdtype(v.dtype, jnp.floating) for v in (leaf, wanted)):
            where = name + jax.tree_util.keystr(path)
            raise TypeError(f"{where}: got dtype {leaf.dtype.name}, expected {wanted.dtype.name}")
        return leaf.astype(wanted.dtype)

    return jax.tree.map_with_path(cast, tree, expected)


def check_rows(name: str, carry: Carry, batch_shape: tuple[int, ...], of: str) -> None:
    """Raise unless every leaf of `carry` has the axes `of` an argument in front, or is shared."""
    for path, leaf in jax.tree.leaves_with_path(carry, is_leaf=is_shared):
        if not is_shared(leaf) and jnp.shape(leaf)[: len(batch_shape)] != batch_shape:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}: got shape {jnp.shape(leaf)}, expected the "
                f"axes {batch_shape} of {of} in front; what all rows share goes into gr.Shared"
            )


def check_step(cell: Cell, params: Params, carry: Carry, x: Array) -> Carry:
    """Check the arguments of a single step and return the carry in its dtypes."""
    if x.ndim < 1:
        raise ValueError(f"x: got shape {x.shape}, expected [*B, I]")
    check_features("x", x)
    check_params(cell, params, x, "x")
    return as_carry(cell, carry, x.shape[:-1], x, inputs="x")


def as_mask(
    lengths: Array | None,
    mask: Array | None,
    length: int,
    batch_shape: tuple[int, ...],
    name: str = "lengths",
    inputs: str = "xs",
) -> Array | None:
    """Return the mask `[T, *B]` that `lengths [*B]` or `mask` describe; None if both are None."""
    if lengths is not None and mask is not None:
        raise ValueError(f"{name} and mask: got both, expected one of them or neither")
    if mask is not None:
        return as_flags("mask", mask, (length, *batch_shape))
    if lengths is None:
        return None
    lengths, known = as_known(name, lengths, "integers [*B]")
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"{name}: got dtype {lengths.dtype.name}, expected integers")
    if lengths.shape != batch_shape:
        raise ValueError(f"{name}: got shape {lengths.shape}, expected {batch_shape}")
    expected = f"them between 0 and the {length} steps of {inputs}"
    if known is not None and known.size:
        least, most = int(known.min()), int(known.max())
        if least < 0 or most > length:
            raise ValueError(f"{name}: got values from {least} to {most}, expected {expected}")
    lengths = integers.as_int32(integers.guarded(name, lengths, 0, length, expected))
    steps = lax.iota(jnp.int32, length)
    return steps.reshape(-1, *(1,) * lengths.ndim) < lengths.astype(jnp.int32)[None]


def on_device(x: Any) -> Any:
    """Return `x`, by an explicit transfer (see `jax.transfer_guard`) where it is not of JAX yet."""
    return x if isinstance(x, jax.Array) else jax.device_put(x)


def concrete(x: Any) -> np.ndarray | None:
    """Return the values of `x`, or None where they are unknown: in a trace, on another host."""
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        return None
    return np.asarray(jax.device_get(x) if isinstance(x, jax.Array) else x)


def as_flags(name: str, flags: Array, shape: tuple[int, ...]) -> Array:
    """Check that `flags` are booleans of `shape`, and return them as an array."""
    flags = as_array(name, flags, f"booleans of shape {shape}")
    if flags.dtype != jnp.bool_:
        raise TypeError(f"{name}: got dtype {flags.dtype.name}, expected bool")
    if flags.shape != shape:
        raise ValueError(f"{name}: got shape {flags.shape}, expected {shape}")
    return flags


def zero_masked(xs: Array, mask: Array | None) -> Array:
    """Return `xs [T, *B, ...]` with zeros where `mask [T, *B]` is False, also in place of NaN."""
    return xs if mask is None else _zeroed(xs, mask)


@functools.partial(jax.jit, inline=True)
def _zeroed(xs: Array, mask: Array) -> Array:
    mask = mask.reshape(mask.shape + (1,) * (xs.ndim - mask.ndim))
    return jnp.where(mask, xs, jnp.zeros((), xs.dtype))


def _alike(tree: Any, other: Any) -> bool:
    structure: Any = jax.tree.structure(tree)
    return bool(structure == jax.tree.structure(other))


def _first_difference(path: tuple, tree: Any, other: Any) -> tuple[tuple, Any, Any]:
    """Return the path and both nodes of the first, innermost difference between two structures."""

    def children(node: Any) -> list[tuple[tuple, Any]]:
        return jax.tree.leaves_with_path(node, is_leaf=lambda child: child is not node)

    these, those = children(tree), children(other)
    if type(tree) is type(other) and [key for key, _ in these] == [key for key, _ in those]:
        for (key, this), (_, that) in zip(these, those, strict=True):
            if not _alike(this, that):
                return _first_difference((*path, *key), this, that)
    return path, tree, other


def _describe_node(tree: Any) -> str:
    """Return the length of a plain tuple or list, and the names and shapes of anything else."""
    if isinstance(tree, tuple | list) and not hasattr(tree, "_fields"):
        return f"a {type(tree).__name__} of {len(tree)}"
    return _describe(tree)


def _describe(tree: Any) -> str:
    """Return the text of a pytree of arrays for a reader: names and shapes."""
    if hasattr(tree, "_fields"):
        fields = ", ".join(f"{k}={_describe(v)}" for k, v in zip(tree._fields, tree, strict=True))
        return f"{type(tree).__name__}({fields})"
    if isinstance(tree, tuple | list):
        return f"({', '.join(map(_describe, tree))})"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{k}: {_describe(v)}" for k, v in tree.items()) + "}"
    shape = getattr(tree, "shape", None)
    return str(list(shape)) if isinstance(shape, tuple) else shown(tree)
