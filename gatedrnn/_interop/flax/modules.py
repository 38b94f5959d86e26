"""A layer or a cell inside another library's module.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._interop.networks import children
from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell, Params
from gatedrnn._src.describe import shown
from gatedrnn._src.layers.base import Layer
from gatedrnn._src.layers.pointwise import Dense, Dropout, Embed
from gatedrnn._src.layers.recurrent import Recurrent, as_layer
from gatedrnn._src.masks import draws


def checked_layer(layer: Any) -> Layer:
    """A layer as it is, a cell as a recurrent layer; raise for anything else."""
    layer = as_layer(layer)
    if not isinstance(layer, Layer):
        raise TypeError(f"layer: got {shown(layer)}, expected a layer or a cell, like gr.LSTM(256)")
    return layer


def as_cell(cell: Any) -> Cell:
    """A cell that another library's loop can run; raise for anything else."""
    validation.check_cell(cell)
    if draws(cell):
        raise TypeError(
            f"cell: got {cell!r}, expected a cell that draws no masks: they follow from one key "
            "for a whole sequence, which flax's own loops do not pass; use Layer(cell), which does"
        )
    return cell


def may_draw(layer: Any) -> bool:
    """Return whether a key may change the output; that of a layer of one's own always may."""
    if isinstance(layer, Dropout):
        return layer.rate > 0
    if isinstance(layer, Recurrent):
        return draws(layer.cell)
    inside = children(layer)
    if inside:
        return any(may_draw(one) for _, one in inside)
    return not isinstance(layer, Dense | Embed)


def features_of_step(layer: Any, x: Array) -> int | None:
    """Return the number of features in `x [..., I]`; None for tokens `[...]`."""
    if isinstance(layer, Layer) and layer.reads_tokens:
        return None
    if jnp.ndim(x) == 0:
        raise ValueError("x: got shape (), expected [*B, I]")
    return jnp.shape(x)[-1]


def initial_carry(layer: Any, params: Params, x: Array, param_dtype: DTypeLike) -> Carry:
    """The layer's initial carry for steps shaped and typed as `x [*B, I]`, or tokens `[*B]`."""
    x = jnp.asarray(x)
    if layer.reads_tokens:
        return layer.carry(x.shape, param_dtype, params)
    return layer.carry(x.shape[:-1], x.dtype, params)


def apply(
    layer: Any,
    params: Params,
    xs: Array,
    carry: Carry | None,
    *,
    time_major: bool,
    lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
    key: Array | None,
) -> tuple[Carry, Array]:
    """`layer.apply`, on sequences whose time axis is the last before the features.

    That is, `xs [*B, T, I]` (tokens `[*B, T]`), `mask` and `resets [*B, T]`, `ys [*B, T, F]`; as
    ours are where `time_major`.
    """
    if time_major:
        options = {"lengths": lengths, "mask": mask, "resets": resets, "key": key}
        return layer.apply(params, xs, carry, **options)
    xs = validation.as_array("xs", xs)
    tokens = layer.reads_tokens
    axis = xs.ndim - (1 if tokens else 2)
    if axis < 0:
        expected = "[*B, T]" if tokens else "[*B, T, I], at least two axes"
        raise ValueError(f"xs: got shape {xs.shape}, expected {expected}")
    shape = xs.shape[: axis + 1]
    carry, ys = layer.apply(
        params,
        jnp.moveaxis(xs, axis, 0),
        carry,
        lengths=lengths,
        mask=_time_first("mask", mask, shape),
        resets=_time_first("resets", resets, shape),
        key=key,
    )
    return carry, ys if layer.drops_time else jnp.moveaxis(ys, 0, axis)


def _time_first(name: str, flags: Array | None, shape: tuple[int, ...]) -> Array | None:
    if flags is None:
        return None
    flags = jnp.asarray(flags)
    if flags.shape != shape:
        raise ValueError(f"{name}: got shape {flags.shape}, expected {shape}, the axes [*B, T]")
    return jnp.moveaxis(flags, -1, 0)


def step_of_loop(cell: Cell, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
    """`cell.step` whose carry may go through a loop: no leaf becomes narrower than it was.

    The loop wants the dtypes that it gave; a carry made for float32 may meet a 16-bit `x`, in whose
    dtype the output is. Nothing is rounded.
    """
    new, y = cell.step(params, carry, x)

    def widened(leaf: Array, old: Array) -> Array:
        before = jnp.result_type(old)
        floating = all(jnp.issubdtype(d, jnp.floating) for d in (leaf.dtype, before))
        wider = floating and jnp.finfo(before).bits > jnp.finfo(leaf.dtype).bits
        return leaf.astype(before) if wider else leaf

    return jax.tree.map(widened, new, carry), y
