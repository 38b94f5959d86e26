"""Decoding of rows that are divided over devices.

Axes: `*B` any batch axes, `V` vocabulary.

On a mesh with explicit axes each device decodes its own rows, until all of them have ended; devices
exchange nothing. On one with automatic axes they agree after every token whether to go on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src.base import Carry, is_shared
from gatedrnn._src.placement import (
    ROWS,
    WHOLE,
    Rows,
    by_device,
    divisible_over,
    explicit_mesh,
    on_mesh,
    rows_of,
    shown_mesh,
)
from gatedrnn._src.pytree import vary_alike

ROLES = (WHOLE, ROWS, ROWS, (ROWS, WHOLE))  # of the arrays of `over_rows`


def over_rows(
    call: Callable,
    statics: tuple,
    step: Callable,
    carry: Carry,
    token: Array,
    others: tuple,
    out: Any,
) -> Any:
    """Return `call(*statics, over, step, carry, token, others)`, of each device for its own rows.

    `over` are the axes of the mesh along which each device decodes by itself, or none.

    Args:
      call: a function of a module.
      statics: hashable values.
      step: a pytree; of its arrays those that are bound have rows, others are whole.
      carry: `[*B, ...]` in every leaf, or shared.
      token: `[*B]`.
      others: a pair: arrays `[*B, ...]`, and arrays that are whole.
      out: the roles of the results; see `placement.on_mesh`.

    Raises:
      ValueError: the step closes over arrays on a mesh with explicit axes.
    """
    rows = rows_of("token", token, 0, token.ndim, (step, carry, others))
    arguments = (step, carry, token, others)
    if rows is not None:
        _check_closure(step, carry, token)
    return on_mesh(_over_rows, (call, statics, rows, out), arguments, ROLES, out, rows)


def _check_closure(step: Callable, carry: Carry, token: Array) -> None:
    """Raise if `step` closes over arrays on a mesh, which do not come to the rows of a device."""
    given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (carry, token))
    try:
        closed_over = jax.make_jaxpr(lambda *given: step(*given))(*given).consts
    except Exception:  # a fault of the step, which shows where it runs
        return
    held = {id(leaf) for leaf in jax.tree.leaves(step)}
    mesh = explicit_mesh([leaf for leaf in closed_over if id(leaf) not in held])
    if mesh is not None:
        raise ValueError(
            f"step: got a function that closes over arrays on {shown_mesh(mesh)}, expected one "
            "that holds them, like jax.tree_util.Partial(net.step, params)"
        )


def _over_rows(call: Callable, statics: tuple, rows: Rows | None, out: Any, *arguments: Any) -> Any:
    if rows is None or not rows.alone:
        return call(*statics, (), *arguments)
    over = tuple(jax.tree.leaves(rows.axes))
    return by_device(partial(call, *statics, over), arguments, ROLES, out, rows)


class Counting(Protocol):
    """The state of a loop over tokens."""

    @property
    def t(self) -> Array:
        """The number of tokens."""
        ...

    @property
    def carry(self) -> Carry:
        """The carry, of rows and shared."""
        ...


S = TypeVar("S", bound=Counting)


def loop(
    unfinished: Callable[[S], Array], body: Callable[[S], S], state: S, over: tuple[str, ...]
) -> S:
    """Run `body` while `unfinished`, of devices along `over` each as long as its own rows need.

    What rows share goes on until the last row of all devices has ended.
    """
    state = lax.while_loop(unfinished, body, vary_alike(state))
    if over and any(map(is_shared, jax.tree.leaves(state.carry, is_leaf=is_shared))):
        last = lax.pmax(state.t, over)
        state = lax.while_loop(lambda own: own.t < last, body, state)
    return state


def alike(carry: Carry, over: tuple[str, ...]) -> Carry:
    """Return `carry` with what rows share known to be the same on all devices along `over`."""

    def of_leaf(leaf: Array) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = of_leaf(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if leaf.dtype == jnp.bool_:
            return of_leaf(leaf.astype(jnp.int32)).astype(jnp.bool_)
        return lax.pmax(leaf, over)

    def of_node(node: Any) -> Any:
        return jax.tree.map(of_leaf, node) if is_shared(node) else node

    return jax.tree.map(of_node, carry, is_leaf=is_shared) if over else carry


def top_k(values: Array, k: int) -> tuple[Array, Array]:
    """Return the `k` largest values and their indexes, the first of equal ones first.

    By sorting where the compiler may divide rows, which it would gather for `lax.top_k`. The place
    of NaN is not the same in both.
    """
    if divisible_over() == 1:
        return lax.top_k(values, k)
    indexes = lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    _, order = lax.sort((-values, indexes), dimension=-1, is_stable=True, num_keys=1)
    order = lax.slice_in_dim(order, 0, k, axis=-1)
    return jnp.take_along_axis(values, order, axis=-1, mode="promise_in_bounds"), order
