"""A batch that is divided over several devices; those of a CPU are its cores.

Axes: B sequences.

XLA gives the few rows of a recurrent step to one core, whatever there is: with the batch divided,
every core has rows of its own. The program is the same, and so is the result, up to rounding.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gatedrnn as gr
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError
from gatedrnn._app.learning import State

AXIS = "batch"
BY_FLAG = "xla_force_host_platform_device_count"  # the older way to have JAX show several


@dataclass(frozen=True)
class Division:
    """The devices over which batches are divided, and what lies where.

    Attributes:
      mesh: the devices, in one axis.
      axes: the axis of the sequences in each array of a batch.
    """

    mesh: Mesh
    axes: tuple[int, ...]

    def batch(self, batch: Any) -> Any:
        """Return `batch` on the devices, each with sequences of its own."""
        return jax.device_put(batch, self._of_batch(batch))

    def state(self, state: State) -> State:
        """Return `state` on the devices: all of it on each, but for the carries of the streams."""
        return jax.device_put(state, self._of_state(state))

    def shapes(self, state: State, batch: Any) -> tuple[State, Any]:
        """Return what a step is given as shapes, each with the place where it will lie."""
        places = self._of_state(state), self._of_batch(batch)
        return jax.tree.map(_shape, (state, batch), places)

    def _of_batch(self, batch: Any) -> Any:
        leaves, structure = jax.tree.flatten(batch)
        if len(leaves) != len(self.axes):
            raise CommandError(
                f"batch_axes: got {len(self.axes)}, expected {len(leaves)}, one for each"
                " array of a batch of the task"
            )
        return jax.tree.unflatten(structure, map(self._along, self.axes))

    def _of_state(self, state: State) -> State:
        whole = NamedSharding(self.mesh, PartitionSpec())
        places = jax.tree.map(lambda _: whole, state)

        def rows(node: Any) -> Any:
            return jax.tree.map(lambda _: whole, node) if _is_shared(node) else self._along(0)

        learners = {
            name: learner._replace(carry=jax.tree.map(rows, learner.carry, is_leaf=_is_shared))
            for name, learner in places.learners.items()
        }
        return places._replace(learners=learners)

    def _along(self, axis: int) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, AXIS))


def _is_shared(node: Any) -> bool:
    return isinstance(node, gr.Shared)


def _shape(leaf: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def show(count: int) -> None:
    """Have JAX show `count` devices or more, if it computes on a CPU; before it computes.

    Raises:
      CommandError: it shows fewer.
    """
    if count > 1 and BY_FLAG not in os.environ.get("XLA_FLAGS", ""):
        with suppress(RuntimeError):  # JAX has begun to compute: it shows what it shows
            jax.config.update("jax_num_cpu_devices", min(count, _cores()))
    if count > 1 and jax.device_count() < count:
        kind = jax.devices()[0].device_kind
        raise CommandError(
            f"train.devices: got {count}, expected at most {jax.device_count()}, what JAX shows"
            f" ({kind})"
        )


def _cores() -> int:
    """Return the number of cores that this process may use."""
    with suppress(AttributeError):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def division(config: Config, axes: tuple[int, ...] | None) -> Division | None:
    """Return how the batches of a task are divided, None where there is one device.

    Raises:
      CommandError: the task cannot divide its batches, or not into so many equal parts.
    """
    count, batch = config.train.devices, config.train.batch
    if count == 1:
        return None
    if axes is None:
        raise CommandError(
            f"train.devices: got {count}, expected 1: the task {config.task} does not say where"
            " the sequences of its batches lie (batch_axes)"
        )
    if batch % count:
        raise CommandError(
            f"train.batch: got {batch}, expected a multiple of train.devices, {count}"
        )
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,))
    return Division(mesh, axes)
