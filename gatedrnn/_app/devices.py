"""A batch that is divided over several devices; those of a CPU are its cores.

Axes: B sequences.

XLA gives the few rows of a recurrent step to one core, whatever there is: with the batch divided,
every core has rows of its own. The program is the same, and so is the result, up to rounding.
"""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gatedrnn as gr
from gatedrnn._app.config import Config, Devices
from gatedrnn._app.errors import CommandError
from gatedrnn._app.learning import State

AXIS = "batch"
SETTING = "jax_num_cpu_devices"
BY_FLAG = "xla_force_host_platform_device_count"  # the older way to have JAX show several
SHARE = Path("/sys/fs/cgroup/cpu.max")  # of a container, in time of cores
DEVICES = "train.devices: got "
UNSAID = "does not say how its batches are divided (batch_axes)"


@dataclass(frozen=True)
class Division:
    """The devices over which batches are divided, and what lies where.

    Attributes:
      mesh: the devices, in one axis.
      axes: the axis that is divided in each array of a batch.
    """

    mesh: Mesh
    axes: tuple[int, ...]

    def batch(self, batch: Any) -> Any:
        """Return `batch` on the devices, each with examples of its own.

        A process lays its own part on its own devices.
        """
        return jax.tree.map(_laid, batch, self._of_batch(batch))

    def whole(self, tree: Any) -> Any:
        """Return what lies on every device, such as parameters, as arrays on one of them."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

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


def _laid(leaf: Any, place: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(leaf.shape, place, lambda rows: leaf[rows])


def _shape(leaf: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def cores() -> int:
    """Return the number of cores that this process may use, within the share of a container."""
    count = os.cpu_count() or 1
    with suppress(AttributeError):  # not everywhere
        count = len(os.sched_getaffinity(0))
    with suppress(ValueError, OSError):  # ValueError: "max"
        quota, period = map(int, SHARE.read_text().split())
        count = min(count, max(quota // period, 1))
    return count


def show(devices: Devices) -> None:
    """Have JAX show the cores of a CPU as so many `devices`, before it computes.

    A number of them that its user has set stays.
    """
    count = cores() if devices == "all" else min(devices, cores())
    by_flag = BY_FLAG in os.environ.get("XLA_FLAGS", "")
    if count > 1 and not by_flag and getattr(jax.config, SETTING) < 0:
        with suppress(RuntimeError):  # JAX has begun to compute: it shows what it shows
            jax.config.update(SETTING, count)


def demand(devices: Devices) -> None:
    """Raise unless JAX shows so many `devices`."""
    most = jax.device_count()
    if devices != "all" and devices > most:
        raise CommandError(
            f"{DEVICES}{devices}, expected at most {most}, what JAX shows"
            f" ({jax.devices()[0].device_kind})"
        )


def division(config: Config, axes: tuple[int, ...] | None) -> Division | None:
    """Return how the batches of a task are divided, None where there is one device.

    Of all devices as many are taken as divide a batch into equal parts, and equally many of each
    process.

    Raises:
      CommandError: the task cannot divide its batches, or not into so many equal parts.
    """
    wanted, batch, processes = config.train.devices, config.train.batch, jax.process_count()
    if batch % processes:
        raise CommandError(
            f"train.batch: got {batch}, expected a multiple of the number of processes, {processes}"
        )
    most = 1 if axes is None else _most(batch // processes, jax.local_device_count())
    count = processes * most if wanted == "all" else wanted
    if count == processes == 1:
        return None
    if axes is None:
        got = "--distributed: got several processes" if wanted == "all" else f"{DEVICES}{count}"
        raise CommandError(f"{got}, expected 1: the task {config.task} {UNSAID}")
    if count % processes:
        raise CommandError(
            f"{DEVICES}{count}, expected a multiple of the number of processes, {processes}"
        )
    if batch % count:
        divides = processes * _most(batch // processes, count // processes)
        raise CommandError(
            f"train.batch: got {batch}, expected a multiple of train.devices, {count}; the most"
            f" that divide it are {divides}"
        )
    taken: Counter[int] = Counter()
    chosen = []
    for device in jax.devices():
        taken[device.process_index] += 1
        if taken[device.process_index] <= count // processes:
            chosen.append(device)
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen)
    return Division(mesh, axes)


def described(config: Config, axes: tuple[int, ...] | None, division: Division | None) -> str:
    """Return the devices of a run in words, and the reason where they are not all of them."""
    count, shown = 1 if division is None else division.mesh.size, jax.device_count()
    of_all = "" if count == shown else f" of {shown}"
    several = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    words = [f"{count}{of_all} ({jax.devices()[0].device_kind}){several}"]
    batch = config.train.batch
    if division is not None:
        words.append(f"{batch // count} of the {batch} rows of a batch on each")
    if of_all and config.train.devices == "all":
        words.append(f"the task {UNSAID}" if axes is None else "the most that divide train.batch")
    return ", ".join(words)


def _most(batch: int, count: int) -> int:
    """Return the largest number up to `count` that divides `batch`."""
    return next(number for number in range(count, 0, -1) if batch % number == 0)
