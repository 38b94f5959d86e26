"""Arrays of parameters on their way to a file and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gatedrnn._src.describe import shown

# all that a safetensors file has a type for and NumPy reads
DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "complex64", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
)


def is_array(value: Any) -> bool:
    """Return True for an array of JAX or NumPy, keys included."""
    return isinstance(value, Array | np.ndarray | np.generic)


def on_host(where: str, array: Any) -> np.ndarray:
    """Return the values of an array, gathered from its devices; raise where they are not at hand.

    Errors call the array by `where`.
    """
    if isinstance(array, jax.core.Tracer):
        raise TypeError(f"{where}: got {shown(array)}, expected an array: save outside jit")
    if isinstance(array, Array):
        if array.is_deleted():
            raise ValueError(
                f"{where}: got an array that was deleted, as donated ones are, expected its values"
            )
        if not (array.is_fully_addressable or array.is_fully_replicated):
            raise ValueError(
                f"{where}: got an array of which other processes have a part, expected one that "
                "this process has whole: jax.experimental.multihost_utils.process_allgather("
                "params, tiled=True), then save in one process"
            )
        if is_key(array):
            array = jax.random.key_data(array)
    value = np.asarray(jax.device_get(array), order="C")
    value = value.astype(value.dtype.newbyteorder("="), copy=False)
    if value.dtype.name not in DTYPES:
        raise TypeError(
            f"{where}: got dtype {value.dtype.name}, expected one of {', '.join(DTYPES)}"
        )
    return value


def is_key(array: Any) -> bool:
    """Return True for typed keys."""
    return jnp.issubdtype(getattr(array, "dtype", np.dtype(bool)), jax.dtypes.prng_key)


def on_device(where: str, value: np.ndarray) -> Array:
    """Return `value` as an array of JAX; raise where JAX would make it narrower."""
    if jax.dtypes.canonicalize_dtype(value.dtype) != value.dtype:
        raise ValueError(
            f"{where}: got dtype {value.dtype.name}, expected one of 32 bits or fewer, or JAX with "
            'jax.config.update("jax_enable_x64", True)'
        )
    return jax.device_put(value)
