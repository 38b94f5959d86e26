"""Forests on a mesh: each device computes its own shards, and no tree is on two devices.

Axes: `D` shards, `B` trees, `N` nodes, `I` input features.

On a mesh with automatic axes the compiler divides the axis of shards, which nothing here mixes. On
one with explicit axes that division is known, and each device runs the two loops by itself.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from gatedrnn._src.base import Params, rule_of
from gatedrnn._src.placement import ROWS, WHOLE, Rows, by_device, moved, on_mesh, rows_of, spec_of
from gatedrnn._src.trees import engine
from gatedrnn._src.trees.base import State, TreeCell
from gatedrnn._src.trees.forest import Forest, Indexes


def run(
    cell: TreeCell, by_hand: bool, params: Params, xs: Array, forest: Forest
) -> tuple[State, State]:
    """Return the states of roots and of all nodes; arguments as in `engine.run`, with shards too.

    Raises:
      ValueError: an axis other than that of the shards is divided over devices, or not that of
        all arrays in the same way.
    """
    _check_division(xs, forest)
    batch_axes = 0 if forest.shards is None else 1
    rows = rows_of("xs", xs, 0, batch_axes, (params, forest))
    if rows is not None and batch_axes and not rows.alone:
        places = PartitionSpec(), PartitionSpec(rows.axes[0])
        params, xs = moved((params, xs), places, rows.mesh)
        rows = rows_of("xs", xs, 0, batch_axes, (params, forest))
    function, roles = (_run, WHOLE) if forest.shards is None else (_run_shards, ROWS)
    statics = (cell, by_hand) if forest.shards is None else (cell, by_hand, rows)
    arguments = (params, xs, forest)
    return on_mesh(function, statics, arguments, (WHOLE, roles, roles), (roles, roles), rows)


def _check_division(xs: Array, forest: Forest) -> None:
    """Raise unless explicit axes of a mesh divide nothing but the shards."""
    of_shards = 0 if forest.shards is None else 1
    named = {"xs": xs, **{f"children.{field}": v for field, v in forest._asdict().items()}}
    for name, array in named.items():
        spec = spec_of(array)
        nodes = spec[of_shards:] if name != "xs" else spec[of_shards:-1]
        over = next((axis for axis in nodes if axis is not None), None)
        if over is not None:
            raise ValueError(
                f"{name}: got its axis {spec.index(over)} divided over {over!r} of the mesh, "
                "expected whole trees on a device: divide the first axis of all arrays of a "
                "gr.forest(trees, shards=n)"
            )
        if of_shards and spec[0] is not None and spec[0] != spec_of(xs)[0]:
            raise ValueError(
                f"{name}: got its shards divided over {spec[0]!r} of the mesh and those of xs over "
                f"{spec_of(xs)[0]!r}, expected both alike"
            )


def _run(
    cell: TreeCell, by_hand: bool, params: Params, xs: Array, forest: Forest
) -> tuple[State, State]:
    states = engine.run(cell, by_hand, params, xs, forest)
    return _of_roots(states, forest.roots), states


@partial(jax.jit, inline=True)
def _of_roots(states: State, roots: Indexes) -> State:
    """Return the state of each tree's root, zeros for the trees of padding."""
    return jax.tree.map(lambda v: v.at[roots].get(mode="fill", fill_value=0), states)


def _run_shards(
    cell: TreeCell, by_hand: bool, rows: Rows | None, params: Params, xs: Array, forest: Forest
) -> tuple[State, State]:
    """Run over shards `xs [D, N, I]`, by device where the division is known."""
    each = partial(_each_shard, cell, by_hand)
    if rows is not None and rows.alone and rule_of(cell) is not None:
        roles = (WHOLE, ROWS, ROWS)
        return by_device(each, (params, xs, forest), roles, (ROWS, ROWS), rows)
    return each(params, xs, forest)


@partial(jax.jit, static_argnames=("cell", "by_hand"))
def _each_shard(
    cell: TreeCell, by_hand: bool, params: Params, xs: Array, forest: Forest
) -> tuple[State, State]:
    # parameters for each shard: where they are divided, they are gathered before the loop over
    # steps, and their gradients are added up behind it
    shards = len(xs)
    params = jax.tree.map(lambda v: jnp.broadcast_to(v, (shards, *jnp.shape(v))), params)
    return jax.vmap(partial(_run, cell, by_hand))(params, xs, forest)
