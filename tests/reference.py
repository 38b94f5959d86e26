"""Every cell of the registry by name, random parameters and carries, and runs in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from gatedrnn._registry import cells
from gatedrnn._registry.cells import over_time, over_trees, step
from gatedrnn._registry.row import Row

IN_FEATURES = 5

ALL_CELLS = cells.named(over_time(), Row.every)  # with every combination of options
SAMPLE = cells.named(over_time(), Row.sample)  # with every option, and what acts on each other
FEW = cells.named(over_time(), Row.few)  # that show every equation
TREE_CELLS = cells.named(over_trees(), Row.sample)


def random_params(cell, in_features=IN_FEATURES, seed=0, scale=0.5):
    """Parameters of `cell` in float64 with normal noise in every leaf, biases and peepholes too."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(
        lambda key: cell.init(key, in_features, dtype=jnp.float64), jax.random.key(0)
    )
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, scale, leaf.shape)), shapes)


def random_carry(cell, batch=(), seed=1, scale=0.5):
    """A carry of `cell` in float64 with normal noise in every leaf."""
    rng = np.random.default_rng(seed)
    zeros = jax.eval_shape(lambda: cell.carry(batch, dtype=jnp.float64))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, scale, leaf.shape)), zeros)


def one_step(cell, params, carry, x):
    """The carry and the output of one step, in NumPy."""
    return step(cell, params, carry, x)[:2]


def unroll(cell, params, xs, carry=None):
    """A whole sequence `xs [T, *B, I]`, in NumPy: `(final carry, ys [T, *B, F])`."""
    if carry is None:
        carry = cell.carry(xs.shape[1:-1], dtype=jnp.float64)
    return cells.unroll(cell, params, xs, carry)
