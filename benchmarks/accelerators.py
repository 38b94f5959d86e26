"""Devices that are not here, an NVIDIA H100 and a TPU v5e, and programs compiled for them.

XLA's compilers for both come as Python packages, the extra `accelerators`. They compile for a
device that is described to them, and need none. Nothing can be run; what a program is made of is
known. `JAX_PLATFORMS=cpu` has to be set before JAX is imported.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import (
    AbstractDevice,
    AbstractMesh,
    AxisType,
    Mesh,
    Sharding,
    SingleDeviceSharding,
    use_abstract_mesh,
)

from benchmarks.program import Program, Source

EXTRA = 'pip install -e ".[accelerators]"'

# What XLA asks of a GPU; sizes in bytes, rates in bytes a second and in GHz.
H100_DEVICE = {
    "gpu_device_info": {
        "cuda_compute_capability": {"major": 9, "minor": 0},
        "core_count": 132,  # streaming multiprocessors
        "fpus_per_core": 128,
        "clock_rate_ghz": 1.98,
        "device_memory_size": 84_942_979_072,
        "memory_bandwidth": 3_352_320_000_000,
        "l2_cache_size": 50 * 2**20,
        "shared_memory_per_core": 228 * 1024,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_block_optin": 227 * 1024,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
        "threads_per_warp": 32,
        "threads_per_block_limit": 1024,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
    },
    "platform_name": "CUDA",
    "dnn_version_info": {"major": 9, "minor": 10, "patch": 0},
    "device_description_str": "NVIDIA H100 80GB HBM3",
}

# What libtpu otherwise asks the machine of a TPU; and several processes may compile at once.
V5E_ENVIRONMENT = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def _h100(count: int) -> Any:
    options = {"target_config": _text_proto(H100_DEVICE), "topology": f"1x1x{count}"}
    return topologies.get_topology_desc(platform="cuda", **options)


def _v5e(count: int) -> Any:
    for name, value in V5E_ENVIRONMENT.items():  # read when its compiler is loaded
        os.environ.setdefault(name, value)
    return topologies.get_topology_desc("v5e:2x2", "tpu")


def _text_proto(facts: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {{ {_text_proto(fact)} }}"
        if isinstance(fact, Mapping)
        else f'{name}: "{fact}"'
        if isinstance(fact, str)
        else f"{name}: {fact}"
        for name, fact in facts.items()
    ]
    return " ".join(parts)


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of device to compile for.

    Attributes:
      key: a short name.
      name: as tables have it.
      compilers: the modules that bring XLA's compiler for it; one of them is enough.
      device: the device as programs see it that are traced for it.
      describe: how many -> the topology of at least so many.
    """

    key: str
    name: str
    compilers: tuple[str, ...]
    device: AbstractDevice
    describe: Callable[[int], Any] = dataclasses.field(repr=False)

    @property
    def missing(self) -> str:
        """What has to be installed, `""` if nothing has."""
        if any(_installed(module) for module in self.compilers):
            return ""
        return f"{self.name}: got no {' or '.join(self.compilers)}, expected {EXTRA}"

    def devices(self, count: int = 1) -> Sequence[Any]:
        """So many devices, to compile for and nothing else.

        Raises:
          ModuleNotFoundError: there is no compiler for them.
        """
        if self.missing:
            raise ModuleNotFoundError(self.missing)
        found = self.describe(count).devices
        if len(found) < count:
            raise ValueError(f"count: got {count}, expected at most {len(found)} of {self.name}")
        return found[:count]

    def tracing(self) -> Any:
        """A context in which what is traced is for this kind of device."""
        return use_abstract_mesh(AbstractMesh((), (), abstract_device=self.device))

    def mesh(self, count: int, axis: str = "data", kind: AxisType = AxisType.Auto) -> Mesh:
        """A mesh of so many devices with one axis, by default one over which XLA itself divides."""
        return jax.make_mesh((count,), (axis,), devices=self.devices(count), axis_types=(kind,))


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


H100 = Target(
    "h100",
    "NVIDIA H100",
    ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"),
    AbstractDevice(str(H100_DEVICE["device_description_str"]), None, "gpu"),
    _h100,
)
V5E = Target("v5e", "TPU v5e", ("libtpu",), AbstractDevice("TPU v5 lite", 1, "tpu"), _v5e)
TARGETS = {target.key: target for target in (H100, V5E)}


def described(source: Source, shardings: Any) -> Source:
    """The program for other devices: of its arguments the shapes and dtypes are kept, no values.

    `shardings` say where the arguments are: one for all, or one for each.
    """
    each = shardings if isinstance(shardings, tuple) else (shardings,) * len(source.arguments)

    def shape(leaf: Any, where: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=where)

    shapes = tuple(
        jax.tree.map(lambda leaf, where=where: shape(leaf, where), argument)
        for argument, where in zip(source.arguments, each, strict=True)
    )
    return dataclasses.replace(source, arguments=shapes)


def compiled_for(target: Target, source: Source) -> Program:
    """The program, compiled for one device: it cannot be run, its text and figures are there."""
    with target.tracing():
        return described(source, SingleDeviceSharding(target.devices()[0]))()
