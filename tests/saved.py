"""What the tests of files of layers share: parameters of any bits, and the bits of an array."""

import math

import jax
import jax.numpy as jnp
import numpy as np

I = 3
DTYPES = ("float32", "float64", "bfloat16", "float16")


def noise(shapes, seed=0):
    """Arrays of these shapes with any bits whatever, NaN and infinity among them."""
    draw = np.random.default_rng(seed)

    def any_bits(leaf):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        return jnp.asarray(np.frombuffer(draw.bytes(size), leaf.dtype).reshape(leaf.shape))

    return jax.tree.map(any_bits, shapes)


def params_of(layer, *in_features, dtype="float32", seed=0):
    make = lambda key: layer.init(key, *in_features, dtype=jnp.dtype(dtype))  # noqa: E731
    return noise(jax.eval_shape(make, jax.random.key(0)), seed)


def bits(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
    return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()
