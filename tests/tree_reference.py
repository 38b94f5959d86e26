"""Recursive networks of the registry, random parameters, and trees."""

import jax
import jax.numpy as jnp
import numpy as np
from reference import TREE_CELLS as TREE_CELLS

from gatedrnn._registry.cells import fold as fold

FEATURES, IN_FEATURES = 3, 2


def random_params(cell, in_features=IN_FEATURES, seed=0):
    """Parameters of `cell` in float64 with normal noise in every leaf."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), in_features, jnp.float64))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 0.5, leaf.shape)), shapes)


def normal(*shape, seed=0):
    """Normal noise."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def chain(n):
    """A tree of `n` nodes, each with one child, as an index array."""
    return np.arange(-1, n - 1)[:, None]
