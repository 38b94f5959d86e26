"""Arrays on a mesh with explicit axes, where an array's type says how it lies on the devices.

Axes: `T` time, `*B` batch.

Under `jax.make_mesh`'s default the type of every intermediate result has to be right, and what a
loop carries may not change it. A network needs one decision only: its rows are divided as the
caller divided them, and each device works on its own. So a public function looks at its arguments
once (`rows_of`), brings them to the devices of their rows, and leaves everything inside to the
compiler, as on a mesh of the older kind, with automatic axes (`on_mesh`). The results have types
again. Where nothing but rows is divided, the loop over time runs on each device by itself
(`by_device`), so that devices add up the gradients of weights once, behind the loop.
"""

import enum
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.export import is_symbolic_dim
from jax.sharding import (
    AbstractMesh,
    AxisType,
    NamedSharding,
    PartitionSpec,
    SingleDeviceSharding,
)

from gatedrnn._src.base import is_bound, is_shared


class Rows(NamedTuple):
    """The division of the rows of a batch over the devices of a mesh.

    Attributes:
      mesh: the mesh, as the types of the arguments have it.
      axes: the axis, or the axes, or none of the mesh over which each axis of `*B` is divided.
      alone: True where nothing but rows is divided, and not within `jax.shard_map`.
    """

    mesh: AbstractMesh
    axes: tuple[Any, ...]
    alone: bool

    @property
    def names(self) -> set[str]:
        """The axes of the mesh over which rows are divided."""
        return names_of(self.axes)


class Role(enum.Enum):
    """The axes that an array has in front. What rows share, and what is bound, says so itself."""

    WHOLE = "whole"  # none: parameters, keys
    ROWS = "rows"  # [*B, ...]
    STEPS = "steps"  # [T, *B, ...]


WHOLE: Any = Role.WHOLE
ROWS: Any = Role.ROWS
STEPS: Any = Role.STEPS


class Like(NamedTuple):
    """The role of a result that lies as an argument does, such as a carry."""

    argument: int


def rows_of(name: str, xs: Any, lead: int, batch_axes: int, others: Any) -> Rows | None:
    """Return how the rows of `xs` are divided; None where no argument is on a mesh like that.

    Args:
      name: the name of `xs`, for the error.
      xs: an array with `lead` axes, then `batch_axes` axes `*B`.
      lead: the number of axes before `*B`.
      batch_axes: the number of axes `*B`.
      others: the other arguments.

    Raises:
      ValueError: an axis before `*B`, time, is divided; a shape is symbolic.
    """
    mesh = explicit_mesh((xs, others))
    if mesh is None:
        return None
    if any(map(is_symbolic_dim, xs.shape)):  # JAX exports the program, and cannot call it
        raise ValueError(
            f"{name}: got symbolic shape {xs.shape} on {shown_mesh(mesh)}, whose axes are "
            "explicit, expected automatic axes (axis_types=(jax.sharding.AxisType.Auto, ...) in "
            "jax.make_mesh) or no mesh where sizes are symbolic"
        )
    own = spec_of(xs)
    if any(axis is not None for axis in own[:lead]):
        whole = PartitionSpec(*[None] * lead, *own[lead:])
        raise ValueError(
            f"{name}: got its time axis divided over {own[0]!r} of {shown_mesh(mesh)}, expected "
            f"every step on every device, as jax.reshard({name}, {whole}) brings it"
        )
    axes = own[lead : lead + batch_axes]
    used = names_of(axes)
    left = set().union(*(names_of(spec_of(leaf)) - used for leaf in jax.tree.leaves((xs, others))))
    # JAX cannot lower the gradient of a `jax.shard_map` in another, of other axes
    return Rows(mesh, axes, bool(used) and not left and not mesh.manual_axes)


def on_mesh(
    call: Callable, statics: tuple, arguments: tuple, roles: tuple, results: Any, rows: Rows | None
) -> Any:
    """Return `call(*statics, *arguments)`, compiled with automatic axes where `rows` are divided.

    Args:
      call: a function of a module, under whose name the program is looked up.
      statics: hashable values.
      arguments: pytrees of arrays.
      roles: for each argument a `Role`, or a pytree of them that stands for its first branches.
      results: likewise for what `call` returns; also `Like`.
      rows: from `rows_of`; None: `call` as it is.
    """
    if rows is None:
        return call(*statics, *arguments)
    return _on_mesh(call, statics, arguments, roles, results, rows)


# Jitted, since outside `jit` a mesh of types alone has no devices.
@partial(jax.jit, static_argnames=("call", "statics", "roles", "results", "rows"))
def _on_mesh(
    call: Callable, statics: tuple, arguments: tuple, roles: tuple, results: Any, rows: Rows
) -> Any:
    places = specs(roles, arguments, rows)
    arguments = _reshard(arguments, places, rows.mesh)
    automatic = rows.mesh.update_axis_types(dict.fromkeys(rows.mesh.explicit_axes, AxisType.Auto))
    with jax.sharding.use_abstract_mesh(automatic):
        whole = jax.tree.map(lambda leaf: PartitionSpec(*[None] * leaf.ndim), arguments)
        out = call(*statics, *_reshard(arguments, whole, automatic))

    def of_result(role: Role | Like, result: Any) -> Any:
        if isinstance(role, Role):
            return specs(role, result, rows)
        got: Any = jax.tree.structure(result)
        same = bool(got == jax.tree.structure(arguments[role.argument]))
        return places[role.argument] if same else specs(ROWS, result, rows)

    return _reshard(out, jax.tree.map(of_result, results, out, is_leaf=_is_role), rows.mesh)


def divisible_over() -> int:
    """Return the number of devices over which the compiler may divide an array."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:  # it does not follow from what is traced
        return jax.device_count()
    axes = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    return math.prod(size for kind, size in axes if kind == AxisType.Auto)


def placed(roles: Any, tree: Any, rows: Rows | None, beside: Any) -> Any:
    """Return `tree` on the devices where `rows` are; as it is where those are not divided.

    `beside` holds arrays on the mesh, whose devices are those of the mesh outside `jit`.
    """
    return tree if rows is None else _placed(tree, beside, roles, rows)


@partial(jax.jit, static_argnames=("roles", "rows"), keep_unused=True)
def _placed(tree: Any, beside: Any, roles: Any, rows: Rows) -> Any:
    return _reshard(tree, specs(roles, tree, rows), rows.mesh)


def placed_as_returned(call: Callable, arguments: tuple, others: Any) -> tuple:
    """Return `arguments` on the devices where `call(*arguments)`, of the same structure, lies.

    As they are without a mesh with explicit axes, on which `arguments` or `others` are.
    """
    if explicit_mesh((arguments, others)) is None:
        return arguments
    types = jax.make_jaxpr(call)(*arguments).out_avals

    def of_leaf(leaf: Any, like: Any) -> Any:
        return jax.reshard(leaf, like.sharding) if like.sharding.mesh.explicit_axes else leaf

    leaves, structure = jax.tree.flatten(arguments)
    return jax.tree.unflatten(structure, map(of_leaf, leaves, types))


@partial(jax.jit, static_argnames=("places", "mesh"))
def moved(trees: tuple, places: tuple[PartitionSpec, ...], mesh: AbstractMesh) -> tuple:
    """Return each of `trees` with all its leaves at one of `places` on `mesh`; outside jit too."""

    def move(tree: Any, place: PartitionSpec) -> Any:
        return _reshard(tree, jax.tree.map(lambda _: place, tree), mesh)

    return tuple(map(move, trees, places))


def by_device(call: Callable, arguments: tuple, roles: tuple, results: Any, rows: Rows) -> Any:
    """Return `call(*arguments)`, of which each device computes its own rows.

    Within `on_mesh`, where `rows.alone`. The arguments are those of `on_mesh`. The gradient of what
    is whole is a sum over the devices, once.
    """
    places = specs(roles, arguments, rows)

    def of_result(role: Role | Like) -> Any:
        return places[role.argument] if isinstance(role, Like) else _front(role, rows)

    places_of_results = jax.tree.map(of_result, results, is_leaf=_is_role)
    automatic = jax.sharding.get_abstract_mesh()
    over = along(rows.mesh, rows.names)
    return sharded(call, arguments, places, places_of_results, automatic, over)


def along(mesh: AbstractMesh, used: set[str]) -> set[str]:
    """Return the axes for `sharded`: those that are used, or all where none is automatic.

    Kernels need that no axis stays automatic.
    """
    return used if mesh.auto_axes else set()


def sharded(
    call: Callable, arguments: tuple, in_specs: Any, out_specs: Any, mesh: AbstractMesh, over: set
) -> Any:
    """Return `call(*arguments)` by `jax.shard_map` along `over`; empty: along every axis of `mesh`.

    Those of an enclosing `jax.vmap` excepted.
    """
    # with a mesh in its context, `checkify.checkify` cannot read a `jax.shard_map`
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        by_shard = jax.shard_map(
            call, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=over
        )
        return by_shard(*arguments)


def specs(roles: Any, tree: Any, rows: Rows) -> Any:
    """Return the place of every leaf of `tree`: rows as `rows` says, other axes as they are.

    Parameters that are divided over an axis of the rows become whole.
    """
    used = rows.names

    def of_leaf(front: PartitionSpec, leaf: Array) -> PartitionSpec:
        rest = [_without(axis, used) for axis in spec_of(leaf)[len(front) :]]
        return PartitionSpec(*front, *rest)

    def of_node(role: Role, node: Any) -> Any:
        front = _front(WHOLE if is_shared(node) else role, rows)
        if is_bound(node):
            front = PartitionSpec(*rows.axes[len(rows.axes) - node.batch_axes :])
        return jax.tree.map(partial(of_leaf, front), node)

    def of_branch(role: Role, branch: Any) -> Any:
        special = lambda node: is_shared(node) or is_bound(node)  # noqa: E731
        return jax.tree.map(partial(of_node, role), branch, is_leaf=special)

    return jax.tree.map(of_branch, roles, tree, is_leaf=_is_role)


def _is_role(node: Any) -> bool:
    return isinstance(node, Role | Like)


def _front(role: Role, rows: Rows) -> PartitionSpec:
    """Return the place of the axes that an array of this role has in front."""
    return PartitionSpec(*{WHOLE: (), ROWS: rows.axes, STEPS: (None, *rows.axes)}[role])


def _reshard(tree: Any, places: Any, mesh: AbstractMesh) -> Any:
    def move(leaf: Any, place: PartitionSpec) -> Array:
        return jax.reshard(leaf, NamedSharding(mesh, place))

    return jax.tree.map(move, tree, places)


def explicit_mesh(tree: Any) -> AbstractMesh | None:
    """Return the mesh with explicit axes that a leaf is on, None without one."""
    for leaf in jax.tree.leaves(tree):
        sharding = _sharding(leaf)
        if sharding is not None:
            return sharding.mesh.abstract_mesh
    return None


def spec_of(leaf: Any) -> tuple[Any, ...]:
    """Return the axes of an explicit mesh over which each axis of an array is divided, or None."""
    sharding = _sharding(leaf)
    spec = () if sharding is None else tuple(sharding.spec)
    return spec + (None,) * (jax.numpy.ndim(leaf) - len(spec))


def _sharding(leaf: Any) -> NamedSharding | None:
    """Return the place of a leaf on a mesh with explicit axes, None elsewhere, or of no array."""
    if not isinstance(leaf, Array):
        return None
    if not isinstance(leaf, jax.core.Tracer) and isinstance(leaf.sharding, SingleDeviceSharding):
        return None  # without a look at its type, which takes longer
    sharding = jax.typeof(leaf).sharding
    return sharding if sharding.mesh.explicit_axes else None


def names_of(spec: tuple[Any, ...]) -> set[str]:
    """Return the names of all axes of a mesh in a spec."""
    named = (axis if isinstance(axis, tuple) else (axis,) for axis in spec if axis is not None)
    return set().union(*named)


def _without(axis: Any, used: set[str]) -> Any:
    """Return the axes of a mesh for one axis of an array, without those that are used."""
    names = tuple(n for n in (axis if isinstance(axis, tuple) else (axis,)) if n not in used)
    return names if len(names) > 1 else names[0] if names else None


def shown_mesh(mesh: AbstractMesh) -> str:
    axes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
    return f"the mesh ({axes})"
