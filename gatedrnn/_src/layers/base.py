"""What a layer is, and how a bare cell becomes one.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

from typing import Any, Protocol, TypeGuard, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Params


@runtime_checkable
class Layer(Protocol):
    """A function of a whole sequence: a hashable value, usually a frozen dataclass.

    Every layer takes the same arguments, so that layers compose; one without a state has `()` for a
    carry, one without parameters `()` for those. A layer that reads integers `[T, *B]` instead of
    features `[T, *B, I]` says so by an attribute `reads_tokens = True`.
    """

    def out_features(self, in_features: int | None) -> int | None:
        """`F`, for inputs of `in_features` (None for tokens)."""
        ...

    def init(self, key: Array, in_features: int | None, dtype: DTypeLike = ...) -> Params:
        """New parameters."""
        ...

    def apply(
        self,
        params: Params,
        xs: Array,
        carry: Carry | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Array]:
        """The whole sequence: `xs [T, *B, I]` -> the final carry and `ys [T, *B, F]`.

        Masked inputs are zeroed on entry, masked outputs on exit. `key` is for dropout; None means
        no dropout.
        """
        ...

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = ...,
        params: Params | None = None,
    ) -> Carry:
        """The initial carry; one that is learned is in `params`."""
        ...

    def step(
        self, params: Params, carry: Carry, x: Array, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """One time step of the same function: `x [*B, I]` -> the new carry and `[*B, F]`."""
        ...


def check_layer(name: str, layer: Any) -> None:
    """Raise unless `layer` maps a sequence to a sequence."""
    if isinstance(layer, type) or not isinstance(layer, Layer):
        raise TypeError(f"{name}: got {layer!r}, expected a layer or a cell, like gr.LSTM(256)")
    if getattr(layer, "drops_time", False):
        raise ValueError(
            f"{name}: got {layer!r}, whose output has no time axis; put gr.final outermost"
        )


@runtime_checkable
class Stepwise(Layer, Protocol):
    """A layer that treats every step alike and alone, and so can be applied to the last only."""

    stepwise: bool

    def apply_last(
        self, params: Params, y: Array, carry: Carry, length: int, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """What `apply` does at the last of `length` steps: `y [*B, I]` -> `[*B, F]`."""
        ...


def is_stepwise(layer: Layer) -> TypeGuard[Stepwise]:
    """Whether the layer treats every step alike and alone."""
    return getattr(layer, "stepwise", False)


def is_causal(layer: Layer) -> bool:
    """Whether the output at a step depends on that step and those before only."""
    return getattr(layer, "causal", True)


def reads_tokens(layer: Layer) -> bool:
    """Whether the inputs of `layer` are integers without a feature axis."""
    return getattr(layer, "reads_tokens", False)


def as_sequence(
    layer: Layer,
    xs: ArrayLike,
    lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
) -> tuple[Array, Array | None]:
    """`xs` of a layer, zeros where it is masked, and its mask `[T, *B]` or None; all checked."""
    xs = jnp.asarray(xs)
    tokens = reads_tokens(layer)
    if xs.ndim < (1 if tokens else 2):
        expected = "[T, *B]" if tokens else "[T, *B, I], at least two axes"
        raise ValueError(f"xs: got shape {xs.shape}, expected {expected}")
    if not tokens:
        validation.check_floating("xs", xs)
    batch_shape = xs.shape[1:] if tokens else xs.shape[1:-1]
    mask = validation.as_mask(lengths, mask, len(xs), batch_shape)
    if resets is not None:
        validation.as_flags("resets", resets, len(xs), batch_shape)
    return validation.zero_masked(xs, mask), mask


def features_of(layer: Any, in_features: int | None) -> int:
    """`in_features` of a layer that reads features; raise where it is told that there are none."""
    if in_features is None:
        raise ValueError(f"in_features: got None, expected the number that {layer!r} reads")
    return in_features


def same_features(layer: Layer, in_features: int | None) -> int:
    """`in_features`, if `layer` makes as many; else raise."""
    in_features = features_of(layer, in_features)
    out = layer.out_features(in_features)
    if out != in_features:
        raise ValueError(
            f"in_features: got {in_features} for {layer!r}, which makes {out} of them, expected a "
            "layer that makes as many as it reads"
        )
    return out


def key_of(key: Array | None, index: int | Array) -> Array | None:
    """The key of one layer among several."""
    return None if key is None else jax.random.fold_in(key, index)


def last_valid(ys: Array, mask: Array | None, *, first: bool = False) -> Array:
    """The output of each row's last (or first) valid step, zeros where there is none.

    `ys [T, *B, F]`, `mask [T, *B]` -> `[*B, F]`. A sum over one selected step, not a gather, so
    that a batch axis may be sharded.
    """
    length = len(ys)
    if length == 0:
        return jnp.zeros(ys.shape[1:], ys.dtype)
    if mask is None:
        return ys[0 if first else -1]
    step = jax.lax.broadcasted_iota(jnp.int32, mask.shape, 0)
    if first:
        wanted = jnp.min(jnp.where(mask, step, length), axis=0)
    else:
        wanted = jnp.max(jnp.where(mask, step, -1), axis=0)
    chosen = (step == wanted)[..., None]
    return jnp.sum(jnp.where(chosen, ys, jnp.zeros((), ys.dtype)), axis=0, dtype=ys.dtype)
