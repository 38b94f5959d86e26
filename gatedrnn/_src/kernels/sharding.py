"""A kernel on arrays whose rows are spread over devices.

The compiler cannot look into a kernel: left alone it gathers all rows on every device. Here it is
told that rows are independent, so that every device runs the kernel on its own; and so under `vmap`
too, which adds an axis that may be spread as well.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array

Axes = tuple[str, ...]  # the name of every axis of an array


def spread(
    function: Callable[..., Sequence[Array]],
    arguments: Sequence[Axes],
    results: Sequence[Axes],
    rows: frozenset[str],
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
        of = lambda infos: jax.tree.map(lambda info: info.sharding, infos)  # noqa: E731
        return mesh, lambda *leaves: function(*leaves), of(outs), of(leaves)

    names = {name for axes in (*arguments, *results) for name in axes}
    sides = [", ".join(" ".join(axes) for axes in side) for side in (arguments, results)]
    partitioned.def_partition(
        partition,
        sharding_rule=" -> ".join(sides),
        need_replication_factors=tuple(sorted(names - rows)),
    )
    call = custom_vmap(lambda *leaves: partitioned(*leaves))

    @call.def_vmap
    def _(size: int, batched: Sequence[bool], *leaves: Array) -> tuple:
        axis = f"n{len(rows)}"
        over = spread(
            jax.vmap(function, in_axes=tuple(0 if b else None for b in batched), axis_size=size),
            [(axis, *axes) if b else axes for b, axes in zip(batched, arguments, strict=True)],
            [(axis, *axes) for axes in results],
            rows | {axis},
        )
        out = over(*leaves)
        return out, jax.tree.map(lambda _: True, out)

    return call
