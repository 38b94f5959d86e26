"""A step over rows as the same step over columns, for kernels.

Axes: `b` rows, `F`, `I`, `O` features.

The functions of a rule work on rows, `[b, F]`, and multiply them by kernels from the right. A
tensor core takes 64 rows of its left operand at once, but 8 columns of its right one; so a kernel
runs a step on columns, `[F, b]`, and multiplies by transposed kernels from the left: eight rows of
a batch fill it. `on_columns` runs any function that element-wise operations and products with
weights make up; of others it says which operation it does not know.

Arrays may have more features than the function says, padding with zeros: the function is traced
with its own sizes, and no product reads what a step makes of the padding, which may be infinite.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Literal, primitives

# the operations that work element by element, whatever the order of axes
ELEMENT_WISE = {
    "abs", "add", "add_any", "and", "clamp", "convert_element_type", "cos", "div", "eq", "exp",
    "expm1", "ge", "gt", "integer_pow", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul",
    "ne", "neg", "not", "or", "pow", "rsqrt", "select_n", "sign", "sin", "sqrt", "square", "sub",
    "tanh", "xor",
}  # fmt: skip

# the operations that return their operand; where values lie on a mesh is a matter of types alone
SAME = {"copy", "pcast", "pvary", "reshard", "stop_gradient"}

# the operations that hold a function, and do no more than call it
CALLS = {"closed_call", "custom_jvp_call", "custom_vjp_call", "jit", "pjit"}


class Columns:
    """A value `[b, *F]` that lies in memory as `[*F, b]`; `b` may be 1, for values of all rows."""

    def __init__(self, values: Array):
        self.values = values


class Matrix:
    """A kernel `[I, O]` that lies in memory as `[O, I]`."""

    def __init__(self, values: Array):
        self.values = values


def on_columns(function: Callable, shapes: Sequence[Any]) -> Callable:
    """Return `function` of a flat list of arrays as a function of `Columns`, `Matrix` and arrays.

    Args:
      function: takes and returns flat sequences of arrays.
      shapes: the shapes and dtypes of its arguments, in rows and without padding.

    Raises:
      NotImplementedError: an operation that does not fit; the message says which.
    """
    closed = jax.make_jaxpr(function)(*shapes)
    if any(map(jnp.ndim, closed.consts)):
        raise NotImplementedError("an array that is neither a weight nor an input")

    def run(*arguments: Any) -> list[Any]:
        return _run(closed.jaxpr, closed.consts, arguments)

    return run


def used(function: Callable, shapes: Sequence[Any]) -> list[bool]:
    """Return, for every argument of a function of a flat list, whether `function` reads it."""
    jaxpr = jax.make_jaxpr(function)(*shapes).jaxpr
    read = {v for eqn in jaxpr.eqns for v in eqn.invars if not isinstance(v, Literal)}
    read |= {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    return [v in read for v in jaxpr.invars]


def _run(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        out = _apply(equation, [read(v) for v in equation.invars])
        values |= zip(equation.outvars, out, strict=True)
    return [read(v) for v in jaxpr.outvars]


def _apply(equation: Any, operands: list[Any]) -> list[Any]:
    primitive, params = equation.primitive, equation.params
    shape = getattr(equation.outvars[0].aval, "shape", ())
    for variable, operand in zip(equation.invars, operands, strict=True):
        _check_features(primitive, variable.aval.shape, shape, operand)
    if primitive.name in CALLS:
        inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
        return _run(inner.jaxpr, inner.consts, operands)
    if primitive.name in SAME:
        return operands
    if primitive.name in ELEMENT_WISE:
        return [_element_wise(primitive, params, operands)]
    if primitive is primitives.dot_general_p:
        return [_product(params, equation.invars[0].aval.shape, *operands)]
    if primitive is primitives.broadcast_in_dim_p:
        return [_broadcast(params["shape"], params["broadcast_dimensions"], operands[0])]
    if primitive is primitives.reshape_p:
        return [_reshape(params["new_sizes"], operands[0])]
    raise NotImplementedError(primitive.name)


def _check_features(
    primitive: Any, shape: tuple[int, ...], result: tuple[int, ...], operand: Any
) -> None:
    """Raise where one feature stands for many, and its padding would stand beside it."""
    if primitive.name not in ELEMENT_WISE and primitive is not primitives.broadcast_in_dim_p:
        return
    one = isinstance(operand, Columns) and len(shape) > 1 and shape[-1] == 1
    if one and operand.values.shape[0] != 1 and result[-1:] != (1,):
        raise NotImplementedError(f"{primitive.name} of one feature")


def _element_wise(primitive: Any, params: Any, operands: list[Any]) -> Any:
    if any(isinstance(operand, Matrix) for operand in operands):
        raise NotImplementedError(f"{primitive.name} of a matrix")
    if not any(isinstance(operand, Columns) for operand in operands):
        return primitive.bind(*operands, **params)
    if any(not isinstance(operand, Columns) and jnp.ndim(operand) for operand in operands):
        raise NotImplementedError(f"{primitive.name} of rows and a vector")
    arrays = [o.values if isinstance(o, Columns) else o for o in operands]
    if primitive is primitives.tanh_p and arrays[0].dtype == jnp.float32:
        return Columns(_tanh(arrays[0]))
    shape = jnp.broadcast_shapes(*map(jnp.shape, arrays))
    if primitive is not primitives.convert_element_type_p:
        arrays = [jnp.broadcast_to(a, shape) for a in arrays]
    return Columns(primitive.bind(*arrays, **params))


def _tanh(x: Array) -> Array:
    """Return `tanh x` by one exponential; the compiler's own takes 18 steps.

    Exact to 1e-7 of 1, and near 0, by the series, to 1e-6 of the value.
    """
    square = x * x
    series = x * (1 + square * (2 / 15 * square - 1 / 3))
    return jnp.where(square < 0.01, series, 1 - 2 / (jnp.exp(2 * x) + 1))


def _product(params: Any, shape: tuple[int, ...], x: Any, kernel: Any) -> Any:
    """Return `x [b, I]` of this `shape`, times a kernel."""
    if not (isinstance(x, Columns) and isinstance(kernel, Matrix)):
        raise NotImplementedError("dot_general of anything but rows and a matrix")
    if kernel.values.ndim != 2 or params["dimension_numbers"] != (((1,), (0,)), ((), ())):
        raise NotImplementedError("dot_general along other axes")
    values = jnp.broadcast_to(x.values, (kernel.values.shape[1], shape[0]))
    if shape[1] < len(values):
        features = lax.broadcasted_iota(jnp.int32, values.shape, 0)
        values = jnp.where(features < shape[1], values, jnp.zeros_like(values))
    return Columns(
        lax.dot_general(
            kernel.values,
            values,
            (((1,), (0,)), ((), ())),
            precision=params["precision"],
            preferred_element_type=params["preferred_element_type"],
        )
    )


def _broadcast(shape: tuple[int, ...], dimensions: tuple[int, ...], operand: Any) -> Any:
    if not isinstance(operand, Columns):
        if jnp.ndim(operand) == 0:
            return operand  # the same for all: whatever reads it broadcasts it
        if isinstance(operand, Matrix) or len(shape) != jnp.ndim(operand) + 1 or 0 in dimensions:
            raise NotImplementedError("broadcast_in_dim")
        return Columns(operand[..., None])
    if dimensions == tuple(range(len(shape))):
        return operand  # of the same rank: whatever reads it broadcasts it
    if dimensions == (0,) and len(shape) == 2:
        return Columns(operand.values[None, :])
    raise NotImplementedError("broadcast_in_dim")


def _reshape(shape: tuple[int, ...], operand: Any) -> Any:
    if not isinstance(operand, Columns | Matrix) and jnp.ndim(operand) == 0:
        return operand  # a flag of all rows
    if isinstance(operand, Columns) and operand.values.ndim == 1 and shape[1:] == (1,):
        return Columns(operand.values[None, :])  # of flags, beside features
    if not isinstance(operand, Columns | Matrix) and jnp.ndim(operand) == 1 == shape[0]:
        return Columns(operand[..., None])
    raise NotImplementedError("reshape")
