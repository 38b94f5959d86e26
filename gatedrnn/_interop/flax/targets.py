"""To flax: what linen and nnx have in common."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.forms import Forms, cannot
from gatedrnn._interop.parts import Run, check_params, is_cell, row, row_of_params, runs
from gatedrnn._src import checks, inputs
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.recurrent import Recurrent
from gatedrnn._src.layers.stepwise import Dense, DenseParams
from gatedrnn._src.lstm import LSTM

Level = tuple[Run, ...] | DenseParams  # one layer: its directions, or what a dense one has


def levels(layer: Any, params: Any, forms: Forms) -> list[Level]:
    """The layers of a network one after another.

    Raises:
      TypeError: several dtypes.
      ValueError: flax has no such network, and why; or `params` are those of another.
    """
    if is_cell(layer):
        forms.check(layer, params)
        return [(Run(layer, params, None),)]
    found: list[Level] = []
    features = None
    for part, p in zip(row(layer), row_of_params(layer, params), strict=True):
        level = _level(layer, part, p, forms)
        found.append(level)
        for kernel in _kernels(level):
            features = kernel.shape[0] if features is None else features
            if kernel.shape[0] != features:
                raise ValueError(
                    f"params: got a kernel of shape {kernel.shape} for {features} features, "
                    f"expected {features} rows"
                )
        features = part.out_features(features)
    dtypes = sorted({kernel.dtype.name for level in found for kernel in _kernels(level)})
    if len(dtypes) > 1:
        raise TypeError(f"params: got dtype {' and '.join(dtypes)}, expected one in all layers")
    return found


def _level(layer: Any, part: Any, params: Any, forms: Forms) -> Level:
    if isinstance(part, Dense):
        check_params(part, params)
        inputs.check_dtypes(params, params.kernel, "params.kernel")
        return params
    if not isinstance(part, Recurrent | Bidirectional):
        raise cannot(layer, forms.target, f"it has no place for {part!r}")
    if isinstance(part, Bidirectional) and part.merge != "concat":
        raise cannot(layer, forms.target, f"it concatenates both directions, no {part.merge}")
    level = runs(part, params)
    for run in level:
        forms.check(run.cell, run.params)
        if run.initial is not None:
            raise cannot(layer, forms.target, "its initial carry is zeros or given, never learned")
    return level


def _kernels(level: Level) -> list[Array]:
    """The kernels that read the inputs of a layer."""
    if isinstance(level, DenseParams):
        return [level.kernel]
    return [run.params.kernel for run in level]


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
