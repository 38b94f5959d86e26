"""The arithmetic that cells share: products, sums over time and batch, activations, initial values.

Axes: `...` any leading axes (time, batch), `I` inputs, `O` outputs.
Products take their operands in the dtype of the kernel (cotangents: see `for_cotangents`), and
accumulate in at least float32.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike


def accumulator(dtype: DTypeLike) -> np.dtype:
    """Return the dtype in which values of `dtype` are summed and squashed: at least float32."""
    dtype = np.dtype(dtype)
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def for_cotangents(dtype: DTypeLike) -> np.dtype:
    """Return the dtype in which a product takes cotangents beside values of `dtype`.

    Products of the forward pass take their operands in the dtype of the values. A cotangent may be
    of any size beside them: the range of float16 cuts it off, before the small values by which it
    is multiplied, or a sum, bring it back. So float16 is widened to float32. The range of bfloat16
    is that of float32, and rounds a cotangent as it has rounded the values.
    """
    return accumulator(dtype) if jnp.finfo(dtype).maxexp < 128 else np.dtype(dtype)


def dot(x: Array, kernel: Array) -> Array:
    """Return `x W [..., O]` of `x [..., I]` and `kernel [I, O]`, in the accumulator's dtype."""
    return _dot(x, kernel, (0,))


def affine(x: Array, kernel: Array, bias: Array | None) -> Array:
    """Return `x W + b` (`x W` if `b` is None), in the accumulator's dtype."""
    a = dot(x, kernel)
    return a if bias is None else a + over_leading(bias, a)


def over_leading(values: Array, like: Array) -> Array:
    """Return `values [*F]`, the same over all leading axes of `like [..., *F]`, beside `like`.

    In the rank of `like`, since `jax_numpy_rank_promotion` may forbid to leave that to JAX, and in
    its dtype. The transpose is `sum_leading`.
    """
    return lax.broadcast_to_rank(values.astype(like.dtype), like.ndim)


def dot_transposed(delta: Array, kernel: Array) -> Array:
    """Return `δ Wᵀ [..., I]` of `delta [..., *O]`, `kernel [I, *O]`, in the accumulator's dtype."""
    kernel = kernel.astype(for_cotangents(kernel.dtype))
    return _dot(delta, kernel, tuple(range(1, kernel.ndim)))


def _dot(x: Array, kernel: Array, axes: tuple[int, ...]) -> Array:
    """Contract `axes` of the kernel with the last axes of `x`."""
    return lax.dot_general(
        x.astype(kernel.dtype),
        kernel,
        ((tuple(range(x.ndim - len(axes), x.ndim)), axes), ((), ())),
        preferred_element_type=accumulator(kernel.dtype),
    )


@partial(jax.tree_util.register_dataclass, data_fields=["stacked"], meta_fields=["gates", "axis"])
@dataclasses.dataclass(frozen=True)
class Gates:
    """The declaration that `stacked` holds the values of `gates` gates side by side along `axis`.

    Rules declare it in the layouts of their weights; `laid_out` decides. The functions below take
    it as it is, too.
    """

    stacked: Array
    gates: int
    axis: int = -1


def laid_out(params: Any, stacked: bool) -> Any:
    """Return `params` with the values of gates stacked, or as a tuple of one array for each."""

    def lay_out(leaf: Any) -> Any:
        if not isinstance(leaf, Gates):
            return leaf
        return leaf.stacked if stacked else gates_apart(leaf.stacked, leaf.gates, leaf.axis)

    return jax.tree.map(lay_out, params, is_leaf=lambda leaf: isinstance(leaf, Gates))


def gates_apart(values: Any, gates: int, axis: int = -1) -> tuple[Array, ...]:
    """Return the part of each gate along `axis`: `[..., nH]` -> `n` of `[..., H]`."""
    values = _values(values)
    if isinstance(values, tuple):
        return values
    return (values,) if gates == 1 else tuple(jnp.split(values, gates, axis=axis))


def _values(values: Any) -> Any:
    return values.stacked if isinstance(values, Gates) else values


def dot_gates(x: Array, kernel: Any, gates: int) -> tuple[Array, ...]:
    """Return `x W` of each gate: `x [..., I]` -> `n` of `[..., H]`.

    By one product with the stacked kernel `[I, nH]`, or by one for each of `n` kernels `[I, H]`.
    """
    kernel = _values(kernel)
    if isinstance(kernel, tuple):
        return tuple(dot(x, of_gate) for of_gate in kernel)
    return gates_apart(dot(x, kernel), gates)


def dot_sum(deltas: Sequence[Array], kernel: Any) -> Array:
    """Return `Σ δ W [..., I]` over gates, of `n` `deltas [..., H]`.

    By one product with the stacked kernel `[nH, I]`, or by one for each of `n` kernels `[H, I]`.
    """
    kernel = _values(kernel)
    if isinstance(kernel, tuple):
        return functools.reduce(jnp.add, map(dot, deltas, kernel))
    return dot(jnp.concatenate(deltas, axis=-1), kernel)


def sum_of_outer(x: Array, delta: Array) -> Array:
    """Return `Σ xᵀ δ [I, O]` over all leading axes of `x [..., I]` and `delta [..., O]`.

    One contraction over time and every batch axis: merging the axes by a reshape instead would make
    the compiler gather a batch axis that is sharded.
    """
    leading, dtype = tuple(range(x.ndim - 1)), for_cotangents(x.dtype)
    return lax.dot_general(
        x.astype(dtype),
        delta.astype(dtype),
        ((leading, leading), ((), ())),
        preferred_element_type=accumulator(dtype),
    )


def sum_leading(delta: Array) -> Array:
    """Return `Σ δ [O]` over all leading axes of `delta [..., O]`."""
    return jnp.sum(delta, axis=tuple(range(delta.ndim - 1)))


def masked(x: Array, mask: Array | None) -> Array:
    """Return `x ⊙ mask`, of `x [..., *B, F]` and `mask [*B, F]`; `x` itself without a mask."""
    return x if mask is None else x * over_leading(mask, x)


def matrices_as(params: Any, dtype: DTypeLike) -> Any:
    """Return `params` with every matrix in `dtype`; biases and diagonals stay as they are."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim > 1 else leaf, params)


def transposed(params: Any) -> Any:
    """Return `params` with every matrix transposed, for `δ Wᵀ` as a plain product of cotangents.

    To be done before a loop, since the compiler would lay out the transpose anew in every step, and
    before gates are taken apart, since one transpose compiles faster than one for each gate.
    """

    def transpose(leaf: Array) -> Array:
        return leaf.T.astype(for_cotangents(leaf.dtype)) if leaf.ndim == 2 else leaf

    return jax.tree.map(transpose, params)


def sigmoid(a: Array) -> Array:
    """Return the logistic function, as `½ tanh(a/2) + ½`: vectorised everywhere, no overflow."""
    return 0.5 * jnp.tanh(0.5 * a) + 0.5


class Activation(NamedTuple):
    """An element-wise function `f` and its derivative, written in terms of the value `y = f(a)`."""

    apply: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    steepest: float  # the largest slope


ActivationName = Literal["tanh", "relu", "sigmoid", "identity"]

ACTIVATIONS: dict[ActivationName, Activation] = {
    "tanh": Activation(jnp.tanh, lambda y: 1 - y * y, 1.0),
    "relu": Activation(jax.nn.relu, lambda y: (y > 0).astype(y.dtype), 1.0),
    "sigmoid": Activation(sigmoid, lambda y: y * (1 - y), 0.25),
    "identity": Activation(lambda a: a, jnp.ones_like, 1.0),
}


@partial(jax.jit, static_argnames=("shape", "dtype"))
def lecun_normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an input kernel: normal with variance `1 / fan_in`."""
    return jax.nn.initializers.lecun_normal()(key, shape, accumulator(dtype)).astype(dtype)


@partial(jax.jit, static_argnames=("rows", "columns", "gates", "dtype"))
def orthogonal_gates(key: Array, rows: int, columns: int, gates: int, dtype: DTypeLike) -> Array:
    """Return a recurrent kernel `[rows, gates · columns]`, (semi-)orthogonal for each gate."""
    make = jax.nn.initializers.orthogonal()
    keys = jax.random.split(key, gates)
    # one by one: on a CPU, JAX's batched decompositions wait for threads that, where there are few,
    # may all be waiting in others of the same program
    blocks = [make(k, (rows, columns), accumulator(dtype)) for k in keys]
    return jnp.concatenate(blocks, axis=-1).astype(dtype)
