"""To flax: what linen and nnx have in common."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.forms import Level
from gatedrnn._interop.parts import is_cell
from gatedrnn._src import checks
from gatedrnn._src.cells.lstm import LSTM
from gatedrnn._src.layers.pointwise import DenseParams


def check_options(
    layer: Any, found: list[Level], optimized: bool, time_major: bool, return_carry: bool
) -> None:
    """Raise where the network has no use for an option."""
    checks.flag("optimized", optimized)
    checks.flag("time_major", time_major)
    checks.flag("return_carry", return_carry)
    cells = [run.cell for level in found if not isinstance(level, DenseParams) for run in level]
    if optimized and not any(isinstance(cell, LSTM) for cell in cells):
        raise ValueError(f"optimized: got True, expected False: there is no LSTM in {layer!r}")
    if is_cell(layer) or not cells:
        if not time_major:
            raise ValueError(f"time_major: got False, expected True: {layer!r} knows no time")
        if return_carry:
            raise ValueError(f"return_carry: got True, expected False: no option of {layer!r}")
    if return_carry and len(found) > 1:
        raise ValueError(
            "return_carry: got True, expected False: a Sequential has no carry, and would return "
            f"that of the last layer of {layer!r}"
        )


def bias_of(params: Any) -> Array:
    """The bias, zeros where there is none."""
    if params.bias is not None:
        return params.bias
    return jnp.zeros(params.kernel.shape[-1], params.kernel.dtype)
