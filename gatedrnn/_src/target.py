"""The kind of device that a program is compiled for."""

from typing import Literal

import jax

Target = Literal["cpu", "gpu", "tpu"]

PLATFORMS: dict[str, Target] = {
    "cpu": "cpu",
    "cuda": "gpu",
    "rocm": "gpu",
    "gpu": "gpu",
    "tpu": "tpu",
}


def default_target() -> Target:
    """Return the target of what is traced now; a GPU for a platform that is not known."""
    return PLATFORMS.get(_platform_and_kind()[0], "gpu")


def device_kind(target: Target) -> str:
    """Return the kind of device of what is traced now, `""` if that is no `target`."""
    platform, kind = _platform_and_kind()
    return kind if PLATFORMS.get(platform) == target else ""


def _platform_and_kind() -> tuple[str, str]:
    """Return the platform of what is traced now, and the kind of its devices.

    They are those of the mesh in use (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`) if it has
    devices, else of the device on which JAX runs by default.
    """
    of_mesh = jax.sharding.get_abstract_mesh().abstract_device
    if of_mesh is not None:
        return of_mesh.platform, of_mesh.device_kind
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    if default is None or isinstance(default, str):
        default = jax.local_devices(backend=default)[0]
    return default.platform, default.device_kind
