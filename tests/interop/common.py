"""Sizes, random parameters and a comparison, which the tests of the converters share."""

import contextlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

IN, H, P, B, T = 3, 4, 2, 2, 5


def random_params(layer, in_features=IN, dtype=jnp.float64, seed=0):
    """Every leaf drawn, biases included."""
    shapes = jax.eval_shape(lambda key: layer.init(key, in_features), jax.random.key(0))
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    return structure.unflatten(jnp.asarray(rng.normal(size=leaf.shape), dtype) for leaf in leaves)


def assert_equal(got, want):
    """The same tree, bit by bit."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@contextlib.contextmanager
def bounded(more):
    """Nothing inside may ask for so many bytes more than the process has; on Linux only."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
