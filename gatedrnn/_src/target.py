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
    """Return the target of what is traced now.

    It is that of the mesh in use (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`) if it has
    devices, else of the device on which JAX runs by default; a GPU for an unknown kind.
    """
    of_mesh = jax.sharding.get_abstract_mesh().abstract_device
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    if of_mesh is not None:
        platform = of_mesh.platform
    elif default is not None:
        platform = default if isinstance(default, str) else default.platform
    else:
        platform = jax.default_backend()
    return PLATFORMS.get(platform, "gpu")
