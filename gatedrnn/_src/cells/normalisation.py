"""Layer normalisation (Ba et al. 2016) without gain and bias, and its transpose.

Axes: `...` any leading axes, `F` the features that are normalised together.

The equations, with μ and var over the `F` features:

  s = √(var(v) + ε)      v̂ = (v − μ(v)) / s

The transpose of the derivative at v: a cotangent δv̂ loses its mean and its part along v̂, since to
shift or to scale all features of v alike changes v̂ by no more than the share of ε:

  δv = (δv̂ − μ(δv̂) − v̂ ⊙ μ(δv̂ ⊙ v̂)) / s
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src.numerics import over_leading

EPSILON = 1e-5  # added to the variance, as in the code that Ba et al. published


class Normalised(NamedTuple):
    """The normalised values and their scale, in at least float32."""

    value: Array  # v̂ [..., F]
    inverse: Array  # 1 / s [..., 1]


def mean_of_features(v: Array) -> Array:
    """Return `μ(v) [..., 1]` of `v [..., F]`."""
    return jnp.mean(v, axis=-1, keepdims=True)


def normalise(v: Array, mean: Callable[[Array], Array] = mean_of_features) -> Normalised:
    """Return `v̂` and `1 / s` of `v [..., F]`, in the dtype of `v`.

    `mean` is `μ`, in case more than one axis is normalised together.
    """
    centred = v - mean(v)
    inverse = lax.rsqrt(mean(centred * centred) + EPSILON)
    return Normalised(centred * inverse, inverse)


def normalise_transposed(
    delta: Array, at: Normalised, mean: Callable[[Array], Array] = mean_of_features
) -> Array:
    """Return `δv` from `δv̂ [..., F]`, normalised by the same `mean`."""
    value, inverse = at
    return (delta - mean(delta) - value * mean(delta * value)) * inverse


def scaled(value: Array, scale: Array, bias: Array | None = None) -> Array:
    """Return `γ ⊙ v + b` (`γ ⊙ v` if `b` is None), in the dtype of `v`."""
    value = value * over_leading(scale, value)
    return value if bias is None else value + over_leading(bias, value)
