"""What the tests of layers share: small networks, arrays, and the outcome of a function."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr


class LeakyParams(NamedTuple):
    kernel: jax.Array  # [I, H]
    decay: jax.Array  # [H]
    read_out: jax.Array  # [H, F]


class LeakyCarry(NamedTuple):
    h: jax.Array  # [*B, H]


@dataclasses.dataclass(frozen=True)
class Leaky:
    """A user's cell without a rule, whose output is not in its carry: `h' = h d + tanh(x U)`."""

    hidden: int
    features: int

    def init(self, key, in_features, dtype=jnp.float32):
        shapes = (in_features, self.hidden), (self.hidden,), (self.hidden, self.features)
        keys = jax.random.split(key, 3)
        return LeakyParams(
            *(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))
        )

    def carry(self, batch_shape, dtype=jnp.float32):
        return LeakyCarry(jnp.zeros((*batch_shape, self.hidden), dtype))

    def step(self, params, carry, x):
        decay = jnp.broadcast_to(params.decay, carry.h.shape)
        h = carry.h * decay + jnp.tanh(x @ params.kernel)
        return LeakyCarry(h), h @ params.read_out


def normal(*shape, seed=0, dtype=np.float64):
    """Normal noise."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def random_params(layer, in_features, seed=0, dtype=jnp.float64):
    """Parameters of a layer or cell with noise in every leaf, biases and initial carries too."""
    shapes = jax.eval_shape(
        lambda key: layer.init(key, in_features, dtype=dtype), jax.random.key(0)
    )
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), dtype), shapes)


def is_floating(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def some_of_all(tree):
    """A sum over all floating-point leaves in which every element has a weight of its own."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_floating(leaf)]
    return sum(
        jnp.sum(leaf * jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape))
        for leaf in leaves
    )


@functools.partial(jax.jit, static_argnums=0)
def outcome(function, *arguments, **options):
    """What `function` returns, and the gradients of `some_of_all` of it for every float argument.

    Options are not differentiated.
    """
    leaves, structure = jax.tree.flatten(arguments)

    def loss(floats):
        floats = iter(floats)
        filled = [next(floats) if is_floating(leaf) else leaf for leaf in leaves]
        out = function(*jax.tree.unflatten(structure, filled), **options)
        return some_of_all(out), out

    gradients, out = jax.grad(loss, has_aux=True)([leaf for leaf in leaves if is_floating(leaf)])
    return out, gradients


def has_gru_that_writes(value):
    """Return True if a `gr.GRU` anywhere in a cell, layer or network writes."""
    if isinstance(value, gr.GRU):
        return value.update == "writes"
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return isinstance(value, tuple | list) and any(map(has_gru_that_writes, value))


@functools.partial(jax.jit, static_argnums=0)
def apply(layer, params, xs, carry=None, **options):
    """`layer.apply`, compiled once for equal layers."""
    return layer.apply(params, xs, carry, **options)


@functools.partial(jax.jit, static_argnums=0)
def step(layer, params, carry, x, key=None):
    """`layer.step`, compiled once for equal layers."""
    return layer.step(params, carry, x, key=key)


def assert_trees_close(got, want, **tolerance):
    """Same structure, and every leaf close (by default to 1e-11)."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    tolerance = {"rtol": 1e-11, "atol": 1e-12} | tolerance

    def close(a, b):
        np.testing.assert_allclose(a, b, strict=True, **tolerance)

    jax.tree.map(close, jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))


def assert_trees_equal(got, want):
    """Same structure, and every leaf the same to the last bit."""
    assert_trees_close(got, want, rtol=0, atol=0)
