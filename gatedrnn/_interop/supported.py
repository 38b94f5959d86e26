"""Networks that a library has, by its rows in `conventions`, and the errors for all others."""

from collections.abc import Callable, Container, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.conventions import CellConvention, LibraryConvention
from gatedrnn._interop.networks import DirectedCell, directions_of, recurrences_of
from gatedrnn._src import validation
from gatedrnn._src.base import Cell, Params
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.lstm import LSTM
from gatedrnn._src.describe import shown
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.pointwise import Dense, DenseParams
from gatedrnn._src.layers.recurrent import Recurrent

LayerParams = tuple[DirectedCell, ...] | DenseParams  # the directions of a layer, or a dense one


def cannot(network: object, library: LibraryConvention, why: str) -> ValueError:
    """The error for a network that has no exact counterpart."""
    return ValueError(f"layer: got {shown(network)}, which cannot become {library.target}: {why}")


def row_of(
    library: LibraryConvention, cell: Cell, modules: Container[str] | None = None
) -> CellConvention:
    """The row of a library that has this form of `cell`.

    Args:
      library: all rows.
      cell: one of ours.
      modules: the classes to choose from; None: any.

    Raises:
      ValueError: no row has it, and why.
    """
    # by type: a subclass may compute something else
    rows = [row for row in library.cells if row.cell is type(cell)]
    if modules is not None:
        rows = [row for row in rows if any(module in modules for module in row.modules)]
    reasons = [_reason(row, cell) for row in rows]
    if not all(reasons):
        return rows[reasons.index("")]
    raise cannot(cell, library, next(iter(reasons), f"there is no {type(cell).__name__} cell"))


def _reason(row: CellConvention, cell: Any) -> str:
    """Why a row does not have this form of a cell; nothing where it has."""
    if isinstance(cell, LSTM):
        if cell.peephole is not None and not (row.peephole and cell.peephole == "diagonal"):
            return f"there are no {cell.peephole} peepholes"
        if cell.projection is not None and not row.projection:
            return "there is no recurrent projection"
        if cell.coupled and not row.coupled:
            return "its input and forget gates are never coupled"
    if isinstance(cell, GRU) and cell.reset not in row.resets:
        return f"its GRU resets {row.resets[0]} the recurrent product, not {cell.reset} it"
    if isinstance(cell, Elman) and cell.activation not in row.activations:
        return f"its activation is {' or '.join(row.activations)}, not {cell.activation}"
    return ""


def check_params(cell: Cell, params: Params) -> None:
    """Raise unless `params` are those of `cell`, for as many inputs as their kernel has rows."""
    kernel: Any = getattr(params, "kernel", None)
    if kernel is None or jnp.ndim(kernel) != 2:
        raise ValueError(f"params: got {type(params).__name__}, expected those of {cell!r}")
    column: Any = jax.ShapeDtypeStruct(kernel.shape[:1], kernel.dtype)
    validation.check_params(cell, params, column, "a column of params.kernel")


def checked_directions(
    network: Any, layer: Any, library: LibraryConvention
) -> tuple[Recurrent, ...]:
    """The one or two cells over time of a `layer`, which the library joins in the same way.

    Raises:
      ValueError: `layer` is of another kind, and why the `network` cannot be converted.
    """
    directions = directions_of(layer)
    if not directions:
        raise cannot(network, library, f"it has no place for {layer!r}")
    if isinstance(layer, Bidirectional):
        if not library.merges:
            raise cannot(network, library, "it runs in one direction; convert each by itself")
        if layer.merge not in library.merges:
            raise cannot(network, library, f"it concatenates both directions, no {layer.merge}")
    return directions


def check_initial(
    network: Any, recurrences: Iterable[DirectedCell], library: LibraryConvention
) -> None:
    """Raise where an initial state is learned."""
    if any(one.initial is not None for one in recurrences):
        raise cannot(network, library, "its initial state is an input, never learned")


def checked_recurrences(
    network: Any,
    layer: Any,
    params: Any,
    library: LibraryConvention,
    cell_inside: Callable[[Any], Any] = lambda cell: cell,
) -> tuple[DirectedCell, ...]:
    """The one or two directions of a `layer`, which the library has.

    `cell_inside` gives the cell that a row is looked up for.

    Raises:
      ValueError: the library does not have them, and why; or `params` are those of another layer.
    """
    checked_directions(network, layer, library)
    recurrences = recurrences_of(layer, params)
    for one in recurrences:
        cell = cell_inside(one.cell)
        row_of(library, cell)
        check_params(cell, one.params)
    check_initial(network, recurrences, library)
    return recurrences


def checked_layers(
    network: Any, layers: list[tuple[Any, Any]], library: LibraryConvention
) -> list[LayerParams]:
    """The layers of a network, all checked: the directions of each, or a dense one's parameters.

    Args:
      network: the network, for errors.
      layers: its layers with their parameters, as `layers_with_params` gives them.
      library: what the library has.

    Raises:
      TypeError: several dtypes.
      ValueError: the library has no such network, and why; or `params` are those of another.
    """
    found: list[LayerParams] = []
    features = None
    for layer, params in layers:
        own = _checked(network, layer, params, library)
        found.append(own)
        for kernel in _input_kernels(own):
            features = kernel.shape[0] if features is None else features
            if kernel.shape[0] != features:
                raise ValueError(
                    f"params: got a kernel of shape {kernel.shape} for {features} features, "
                    f"expected {features} rows"
                )
        features = layer.out_features(features)
    dtypes = sorted({kernel.dtype.name for own in found for kernel in _input_kernels(own)})
    if len(dtypes) > 1:
        raise TypeError(f"params: got dtype {' and '.join(dtypes)}, expected one in all layers")
    return found


def _checked(network: Any, layer: Any, params: Any, library: LibraryConvention) -> LayerParams:
    if isinstance(layer, Dense) and library.dense:
        check_params(layer, params)
        return params
    return checked_recurrences(network, layer, params, library)


def _input_kernels(own: LayerParams) -> list[Array]:
    """The kernels that read the inputs of a layer."""
    if isinstance(own, DenseParams):
        return [own.kernel]
    return [one.params.kernel for one in own]
