"""From the state in which one network ends to that in which another starts.

Axes: `*B` any batch axes, `E` state features of the encoder, `D` of the decoder.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gatedrnn._src.attention_rule import AttentionCarry
from gatedrnn._src.layers.stepwise import DenseParams
from gatedrnn._src.numerics import affine
from gatedrnn._src.rule import Carry


def _is_state(leaf: Any, batch_shape: tuple[int, ...]) -> bool:
    """Whether a leaf holds real numbers for each row; counters of steps and keys do not."""
    own = jnp.shape(leaf)[: len(batch_shape)] == batch_shape
    return own and jnp.issubdtype(leaf.dtype, jnp.floating)


def _read(carry: Carry) -> Carry:
    """`carry` without the outputs that no step reads."""

    def without(node: Any) -> Any:
        return _read(node.cell) if isinstance(node, AttentionCarry) else node

    return jax.tree.map(without, carry, is_leaf=lambda node: isinstance(node, AttentionCarry))


def state_of(carry: Carry, batch_shape: tuple[int, ...]) -> list[Array]:
    """The leaves `[*B, ...]` of a network's state, in order."""
    return [leaf for leaf in jax.tree.leaves(_read(carry)) if _is_state(leaf, batch_shape)]


def with_state(carry: Carry, state: list[Array], batch_shape: tuple[int, ...]) -> Carry:
    """`carry` with the leaves that `state_of` gives replaced, in its dtypes."""
    left = iter(state)

    def put(node: Any) -> Any:
        if isinstance(node, AttentionCarry):
            return node._replace(cell=replaced(node.cell))
        return next(left).astype(node.dtype) if _is_state(node, batch_shape) else node

    def replaced(carry: Carry) -> Carry:
        return jax.tree.map(put, carry, is_leaf=lambda node: isinstance(node, AttentionCarry))

    return replaced(carry)


def learned(
    params: DenseParams, encoded: Carry, start: Carry, batch_shape: tuple[int, ...]
) -> Carry:
    """`start` with the state `tanh(e W + b)`, `e [*B, E]` all of the state in `encoded`."""
    flat = [
        leaf.reshape(*batch_shape, _size(leaf, batch_shape)).astype(params.kernel.dtype)
        for leaf in state_of(encoded, batch_shape)
    ]
    made = jnp.tanh(affine(jnp.concatenate(flat, axis=-1), params.kernel, params.bias))
    wanted = state_of(start, batch_shape)
    ends = np.cumsum([_size(leaf, batch_shape) for leaf in wanted])[:-1]
    parts = zip(jnp.split(made, ends, axis=-1), wanted, strict=True)
    return with_state(start, [part.reshape(leaf.shape) for part, leaf in parts], batch_shape)


def features_of_state(carry: Carry) -> int:
    """The size of the state of a carry without batch axes, `E` or `D`."""
    return sum(_size(leaf, ()) for leaf in state_of(carry, ()))


def _size(leaf: Array, batch_shape: tuple[int, ...]) -> int:
    return math.prod(leaf.shape[len(batch_shape) :])


def direct(encoded: Carry, start: Carry, batch_shape: tuple[int, ...]) -> Carry:
    """`start` with the state of `encoded`, leaf by leaf in order; raise where they do not fit."""
    given, wanted = state_of(encoded, batch_shape), state_of(start, batch_shape)
    shapes, expected = ([leaf.shape for leaf in leaves] for leaves in (given, wanted))
    if shapes != expected:
        raise ValueError(
            f"bridge: got 'direct' for an encoder that ends in leaves of shapes {shapes}, expected "
            f"{expected}, as the decoder starts from, or 'learned'"
        )
    return with_state(start, given, batch_shape)
