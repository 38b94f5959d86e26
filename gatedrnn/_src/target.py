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
    """Return the target of the device on which JAX runs by default; a GPU for an unknown one."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    platform = device if isinstance(device, str) else getattr(device, "platform", None)
    return PLATFORMS.get(platform or jax.default_backend(), "gpu")
