"""The tree engine: the only module of recursive networks that knows `lax.scan` and `custom_vjp`.

Axes: `N` nodes, `L` leaves, `S` steps, `W` nodes of a step, `K` children of a node, `F` features.
`forest.py` describes the parts of a forest, and the slots in which states live.

A cell with a rule goes through the five phases of `base.Rule`, all but two of them for every node
of the forest at once. Forward: `project` all inputs, `recur` over the leaves, then step by step.
Backward: make the gates of all nodes again from their states, which alone are saved, `linearize`,
run `backward` over the steps in reverse, then over the leaves, `contract` into weight gradients.
Leaves are given no children (`K = 0`) instead of zero ones, so that nothing is multiplied by zeros.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src.base import Params, Rule, StepRecord, prepared, rule_of
from gatedrnn._src.numerics import matrices_as
from gatedrnn._src.pytree import as_dtypes, as_real_dtypes, in_accumulator, vary_alike
from gatedrnn._src.trees.base import RuledTreeCell, State, TreeCell, places
from gatedrnn._src.trees.forest import Forest, Indexes


@partial(jax.jit, static_argnames=("cell", "by_hand"))
def run(cell: TreeCell, by_hand: bool, params: Params, xs: Array, forest: Forest) -> State:
    """Return the state of every node, `[N, ...]`; `by_hand`: differentiated by the cell's rule.

    Jitted, so that outside `jit` too equal cells and sizes compile once.
    """
    params, xs, forest = vary_alike((params, xs, forest))
    if by_hand:
        return _ruled(cell, params, xs, forest)
    return _of_nodes(_forward(cell, params, xs, forest), forest)


# ------------------------------------------------------------------------------ forward


def _forward(cell: TreeCell, params: Params, xs: Array, forest: Forest) -> State:
    """Return the state of every slot, `[L + S W + 1, ...]`, the last of them zeros."""
    rule = rule_of(cell)
    if rule is None:
        functions = _functions_of_compose(cell, params, forest)
    else:
        functions = _functions_of_rule(cell, rule, params, xs)
    zero = vary_alike(cell.state((1,), xs.dtype), like=(params, xs, forest))
    leaves = as_real_dtypes(functions.leaves(zero, _take_or_zeros(xs, forest.leaves)), zero)
    inner = functions.project(_take_or_zeros(xs, forest.inner))
    size, (steps, width) = len(forest.leaves), forest.inner.shape
    empty = _repeated(zero, steps * width + 1)
    states = jax.tree.map(lambda v, w: jnp.concatenate([v, w]), leaves, empty)

    def step(states: State, inputs: tuple) -> tuple[State, None]:
        first, children, a = inputs
        new = as_real_dtypes(functions.compose(_take(states, children), a), zero)
        return _write(states, new, first), None

    first = size + width * jnp.arange(steps, dtype=jnp.int32)
    return lax.scan(step, states, (first, functions.children(forest.children), inner))[0]


class _Functions(NamedTuple):
    """The functions of a cell that the forward pass calls."""

    leaves: Callable[[State, Array], State]  # (a zero state, xs of leaves) -> states
    project: Callable[[Array], Any]  # xs of the other nodes -> inputs of the loop
    compose: Callable[[State, Any], State]  # (states of children, such an input) -> states
    children: Callable[[Indexes], Any] = lambda slots: slots  # slots of children -> for each place


def _functions_of_rule(cell: TreeCell, rule: Rule, params: Params, xs: Array) -> _Functions:
    forward, _ = prepared(rule, cell, matrices_as(params, xs.dtype))

    def compose(children: State, a: Any) -> State:
        return rule.recur(cell, forward, children, a)[0]

    def leaves(zero: State, xs: Array) -> State:
        return compose(_no_children(zero, xs), project(xs))

    project = partial(rule.project, cell, forward)
    return _Functions(leaves, project, compose)


def _functions_of_compose(cell: TreeCell, params: Params, forest: Forest) -> _Functions:
    """Return the functions of a cell without a rule, which sees zeros at places without a child."""
    given = forest.children.shape[-1]
    count = places(cell) or given
    absent = len(forest.leaves) + forest.inner.size

    def leaves(zero: State, xs: Array) -> State:
        none = jax.tree.map(lambda v: jnp.broadcast_to(v, (len(xs), count, *v.shape[1:])), zero)
        return cell.compose(params, none, xs)

    return _Functions(
        leaves,
        project=lambda xs: xs,
        compose=partial(cell.compose, params),
        children=lambda slots: jnp.pad(
            slots, [(0, 0), (0, 0), (0, count - given)], constant_values=absent
        ),
    )


# ------------------------------------------------------------------- backward, by the rule


class Residuals(NamedTuple):
    """The values that the forward pass saves for the backward pass."""

    params: Params
    xs: Array
    forest: Forest
    states: State  # of every slot


@partial(jax.custom_vjp, nondiff_argnames=("cell",))
def _ruled(cell: RuledTreeCell, params: Params, xs: Array, forest: Forest) -> State:
    """Return the state of every node."""
    return _of_nodes(_forward(cell, params, xs, forest), forest)


def _ruled_fwd(
    cell: RuledTreeCell, params: Params, xs: Array, forest: Forest
) -> tuple[State, Residuals]:
    states = _forward(cell, params, xs, forest)
    return _of_nodes(states, forest), Residuals(params, xs, forest, states)


def _ruled_bwd(cell: RuledTreeCell, saved: Residuals, dstates: State) -> tuple:
    params, xs, forest, states = saved
    rule, dtype = cell.rule, xs.dtype
    params = matrices_as(params, dtype)
    _, reverse = prepared(rule, cell, params)
    (steps, width), slots = forest.inner.shape, forest.inner.size
    count = forest.children.shape[-1]
    of_leaves, of_inner = _apart(states, forest)

    # the cotangent of each place of each node, where its child finds it, and zeros for a root
    zero = vary_alike(in_accumulator(cell.state((1,), dtype)), like=saved)
    dplaces = _repeated(zero, slots * count + 1)

    def step(dplaces: State, inputs: tuple) -> tuple[State, Any]:
        first, parents, local, direct = inputs
        dstate = jax.tree.map(jnp.add, direct, _take(dplaces, parents))
        dchildren, delta = rule.backward(cell, reverse, local, dstate)
        dchildren = jax.tree.map(
            lambda v: v[:, :count].reshape(width * count, *v.shape[2:]), dchildren
        )
        return _write(dplaces, as_dtypes(dchildren, dplaces), first), delta

    xs_of_inner = _take_or_zeros(xs, forest.inner)
    inner = _record(cell, params, xs_of_inner, _take(states, forest.children), of_inner)
    first = width * count * jnp.arange(steps, dtype=jnp.int32)
    direct = in_accumulator(_take_or_zeros(dstates, forest.inner))
    inputs = (first, forest.inner_parents, inner.local, direct)
    dplaces, delta = lax.scan(step, dplaces, inputs, reverse=True)
    dparams, dinner = rule.contract(cell, params, inner, delta)

    xs_of_leaves = _take_or_zeros(xs, forest.leaves)
    leaves = _record(cell, params, xs_of_leaves, _no_children(zero, xs_of_leaves), of_leaves)
    direct = in_accumulator(_take_or_zeros(dstates, forest.leaves))
    dstate = jax.tree.map(jnp.add, direct, _take(dplaces, forest.leaf_parents))
    _, delta = rule.backward(cell, reverse, leaves.local, dstate)
    of_leaves_alone, dleaves = rule.contract(cell, params, leaves, delta)

    features = xs.shape[-1]
    dslots = (dleaves, dinner.reshape(slots, features), jnp.zeros_like(dinner, shape=(1, features)))
    dxs = jnp.concatenate([d.astype(dtype) for d in dslots])
    dparams = jax.tree.map(jnp.add, dparams, of_leaves_alone)
    return as_dtypes(dparams, saved.params), _take(dxs, forest.slots), None


def _record(
    cell: RuledTreeCell, params: Params, xs: Array, children: State, states: State
) -> StepRecord:
    """Return the record of nodes, with gates made again, and local derivatives."""
    _, gates = cell.rule.recur(cell, params, children, cell.rule.project(cell, params, xs))
    record: StepRecord = StepRecord(xs, children, states, gates)
    return record._replace(local=cell.rule.linearize(cell, params, record))


_ruled.defvjp(_ruled_fwd, _ruled_bwd)


# -------------------------------------------------------------------------- slots and nodes


def _take_or_zeros(tree: Any, index: Indexes) -> Any:
    """Return the rows of each leaf at `index`, zeros where `index` is out of range: padding."""
    return jax.tree.map(lambda v: jnp.asarray(v).at[index].get(mode="fill", fill_value=0), tree)


def _take(tree: Any, index: Indexes) -> Any:
    """Return the rows of each leaf at `index`, which is never out of range."""
    return jax.tree.map(lambda v: jnp.asarray(v).at[index].get(mode="promise_in_bounds"), tree)


def _write(tree: Any, rows: Any, first: Array) -> Any:
    """Return `tree` with `rows` from row `first` on."""
    return jax.tree.map(
        lambda v, new: lax.dynamic_update_slice_in_dim(v, new, first, axis=0), tree, rows
    )


def _of_nodes(states: State, forest: Forest) -> State:
    """Return the states of slots in the order of the nodes."""
    return _take(states, forest.slots)


def _apart(states: State, forest: Forest) -> tuple[State, State]:
    """Return the states of leaves, `[L, ...]`, and of the other nodes, `[S, W, ...]`."""
    size = len(forest.leaves)
    shape = forest.inner.shape
    leaves = jax.tree.map(lambda v: v[:size], states)
    return leaves, jax.tree.map(lambda v: v[size:-1].reshape(*shape, *v.shape[1:]), states)


def _repeated(zero: State, count: int) -> State:
    """Return `count` copies of a state `[1, ...]`."""
    return jax.tree.map(lambda v: jnp.broadcast_to(v, (count, *v.shape[1:])), zero)


def _no_children(zero: State, xs: Array) -> State:
    """Return the states of no children, `[L, 0, ...]` for `xs [L, I]`, in the dtypes of `zero`."""
    return jax.tree.map(lambda v: jnp.zeros((len(xs), 0, *v.shape[1:]), v.dtype), zero)
