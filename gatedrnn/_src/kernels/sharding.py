"""A kernel on arrays whose rows are spread over devices.

Axes: `T` time, `*B` batch, `F` features of a leaf.

The compiler cannot look into a kernel: left alone it gathers all rows on every device. Here it is
told that rows are independent, so that every device runs the kernel on its own; and so under `vmap`
too, which adds an axis that may be spread as well.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from gatedrnn._src.loops import Steps
from gatedrnn._src.pytree import first_leaf

Axes = tuple[str, ...]  # the name of every axis of an array


def over_rows(call: Callable, like: Callable) -> Callable:
    """Return the call of a kernel, for arrays that may be spread over devices along `*B`.

    Args:
      call: `(weights, rows, carry, inputs) -> (carry, kept)`; see `gr.Loop`.
      like: a function whose results have the same shapes.
    """

    def run(weights: Any, rows: Any, carry: Any, inputs: Steps) -> tuple[Any, Any]:
        batch = tuple(f"b{i}" for i in range(first_leaf(inputs.xs).ndim - 2))
        number = itertools.count()

        def named(tree: Any, *axes: str) -> list[Axes]:
            """Name all axes: `axes`, and those of features, each a name of its own."""
            return [
                (*axes, *(f"f{next(number)}" for _ in range(leaf.ndim - len(axes))))
                for leaf in jax.tree.leaves(tree)
            ]

        leaves, structure = jax.tree.flatten((weights, rows, carry, inputs))
        out = jax.eval_shape(like, weights, rows, carry, inputs)

        def flat(*leaves: Array) -> tuple[Array, ...]:
            return tuple(jax.tree.leaves(call(*jax.tree.unflatten(structure, leaves))))

        over = spread(
            flat,
            [
                *named(weights),
                *named((rows, carry), *batch),
                *named(inputs[:3], "t", *batch),
                *named(inputs.cuts, "t"),
            ],
            [*named(out[0], *batch), *named(out[1], "t", *batch)],
            batch,
        )
        return jax.tree.unflatten(jax.tree.structure(out), over(*leaves))

    return run


def spread(
    function: Callable[..., Sequence[Array]],
    arguments: Sequence[Axes],
    results: Sequence[Axes],
    rows: Sequence[str],
) -> Callable[..., Sequence[Array]]:
    """Return `function` of a flat list of arrays, for arrays that are spread along some axes.

    Args:
      function: the same computation for any size of the axes `rows`; not differentiated.
      arguments: the names of the axes of each argument.
      results: the names of the axes of each result.
      rows: the names of the axes along which arrays may be spread.
    """
    from jax.custom_batching import custom_vmap
    from jax.experimental.custom_partitioning import custom_partitioning

    partitioned = custom_partitioning(lambda *leaves: function(*leaves))

    def partition(mesh: Any, leaves: Any, outs: Any) -> tuple:
        # an axis of rows is spread where any array says so, each axis of the mesh once; the
        # compiler proposes other axes too, and gathers what this does not take
        over: dict[str, Any] = {}
        for axes, info in zip((*arguments, *results), (*leaves, *outs), strict=True):
            for name, of_mesh in zip(axes, info.sharding.spec, strict=False):
                others = [value for key, value in over.items() if key != name]
                free = not {*jax.tree.leaves(others)} & {*jax.tree.leaves(of_mesh)}
                if name in rows and of_mesh is not None and free:
                    over.setdefault(name, of_mesh)

        def of(sides: Sequence[Axes]) -> tuple:
            return tuple(NamedSharding(mesh, PartitionSpec(*map(over.get, axes))) for axes in sides)

        return mesh, lambda *leaves: function(*leaves), of(results), of(arguments)

    names = dict.fromkeys(name for axes in (*arguments, *results) for name in axes)
    sides = [", ".join(" ".join(axes) for axes in side) for side in (arguments, results)]
    partitioned.def_partition(
        partition,
        sharding_rule=" -> ".join(sides),
        need_replication_factors=tuple(name for name in names if name not in rows),
    )
    call = custom_vmap(lambda *leaves: partitioned(*leaves))

    @call.def_vmap
    def _(_: int, batched: Sequence[bool], *leaves: Array) -> tuple:
        axis = f"n{len(rows)}"
        over = spread(
            jax.vmap(function, in_axes=tuple(0 if b else None for b in batched)),
            [(axis, *axes) if b else axes for b, axes in zip(batched, arguments, strict=True)],
            [(axis, *axes) for axes in results],
            (axis, *rows),
        )
        out = over(*leaves)
        return out, jax.tree.map(lambda _: True, out)

    return call
