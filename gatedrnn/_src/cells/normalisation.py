"""Layer normalisation (Ba et al. 2016) without gain and bias, and its transpose.

Axes: `...` any leading axes, `F` the features that are normalised together.

The equations, with μ and var over the `F` features:

  s = √(var(v) + ε)      v̂ = (v − μ(v)) / s

The transpose of the derivative at v: a cotangent δv̂ loses its mean and its part along v̂, which v̂
cannot follow (adding to all features alike and scaling them change nothing but ε's share):

  δv = (δv̂ − μ(δv̂) − v̂ ⊙ μ(δv̂ ⊙ v̂)) / s
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

EPSILON = 1e-5  # added to the variance, as in the code that Ba et al. published


class Normalised(NamedTuple):
    """What is normalised, in at least float32."""

    value: Array  # v̂ [..., F]
    inverse: Array  # 1 / s [..., 1]


def normalise(v: Array) -> Normalised:
    """`v̂` and `1 / s` of `v [..., F]`, in the dtype of `v`."""
    centred = v - jnp.mean(v, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    inverse = lax.rsqrt(variance + EPSILON)
    return Normalised(centred * inverse, inverse)


def normalise_transposed(delta: Array, at: Normalised) -> Array:
    """`δv̂ [..., F]` -> `δv`."""
    value, inverse = at
    mean = jnp.mean(delta, axis=-1, keepdims=True)
    along = jnp.mean(delta * value, axis=-1, keepdims=True)
    return (delta - mean - value * along) * inverse


def scaled(value: Array, scale: Array, bias: Array | None = None) -> Array:
    """`γ ⊙ v + b`, without `b` where it is None, in the dtype of `v`."""
    value = value * scale.astype(value.dtype)
    return value if bias is None else value + bias.astype(value.dtype)
