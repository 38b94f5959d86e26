"""Which forms of our cells another library has, and the error for all others."""

from typing import Any, NamedTuple

from jax import Array

from gatedrnn._interop.arrays import flip_gate
from gatedrnn._interop.parts import Run, check_params, runs
from gatedrnn._src import validation
from gatedrnn._src.base import Cell, Params
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU, GRUParams
from gatedrnn._src.cells.lstm import LSTM
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.pointwise import Dense, DenseParams
from gatedrnn._src.layers.recurrent import Recurrent

Level = tuple[Run, ...] | DenseParams  # one layer: its directions, or what a dense one has


class Forms(NamedTuple):
    """The forms of each cell that a library has, and the layers.

    Which gate of a GRU's update is written and which kept is a sign, `gru_params` turns it.
    """

    target: str  # for errors: "a torch module"
    elman: tuple[str, ...] = ()  # activations
    lstm: bool = False
    peephole: bool = False  # diagonal ones
    projection: bool = False
    coupled: bool = False
    gru: tuple[str, ...] = ()  # where the reset may come
    bidirectional: bool = True
    dense: bool = False

    def check(self, cell: Cell, params: Params) -> None:
        """Raise unless the library has this form of `cell`, and `params` are the cell's.

        Raises:
          ValueError: it says what stands in the way.
        """
        self.check_cell(cell)
        check_params(cell, params)

    def check_cell(self, cell: Cell) -> None:
        """Raise unless the library has this form of `cell`.

        Raises:
          ValueError: it says what stands in the way.
        """
        why = self._missing(cell)
        if why:
            raise cannot(cell, self.target, why)

    def _missing(self, cell: Cell) -> str:
        # by type: a subclass may compute something else
        if type(cell) is LSTM and self.lstm:
            if cell.peephole is not None and not (self.peephole and cell.peephole == "diagonal"):
                return f"there are no {cell.peephole} peepholes"
            if cell.projection is not None and not self.projection:
                return "there is no recurrent projection"
            if cell.coupled and not self.coupled:
                return "its input and forget gates are never coupled"
            return ""
        if type(cell) is GRU and self.gru:
            if cell.reset not in self.gru:
                return f"its GRU resets {self.gru[0]} the recurrent product, not {cell.reset} it"
            return ""
        if type(cell) is Elman and self.elman:
            if cell.activation not in self.elman:
                return f"its activation is {' or '.join(self.elman)}, not {cell.activation}"
            return ""
        return f"there is no {type(cell).__name__} cell"


def cannot(layer: object, target: str, why: str) -> ValueError:
    """The error for a network that has no exact counterpart."""
    return ValueError(f"layer: got {layer!r}, which cannot become {target}: {why}")


def levels(layer: Any, parts: list[tuple[Any, Any]], forms: Forms) -> list[Level]:
    """The layers of a network one after another, all checked.

    Args:
      layer: the network, for errors.
      parts: its layers with their parameters, as `row_with_params` gives them.
      forms: what the library has.

    Raises:
      TypeError: several dtypes.
      ValueError: the library has no such network, and why; or `params` are those of another.
    """
    found: list[Level] = []
    features = None
    for part, p in parts:
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
    if isinstance(part, Dense) and forms.dense:
        check_params(part, params)
        validation.check_dtypes(params, params.kernel, "params.kernel")
        return params
    if not isinstance(part, Recurrent | Bidirectional):
        raise cannot(layer, forms.target, f"it has no place for {part!r}")
    if isinstance(part, Bidirectional) and not forms.bidirectional:
        raise cannot(layer, forms.target, "it runs in one direction; convert each by itself")
    if isinstance(part, Bidirectional) and part.merge != "concat":
        raise cannot(layer, forms.target, f"it concatenates both directions, no {part.merge}")
    level = runs(part, params)
    for run in level:
        forms.check(run.cell, run.params)
        if run.initial is not None:
            raise cannot(layer, forms.target, "its initial state is an input, never learned")
    return level


def _kernels(level: Level) -> list[Array]:
    """The kernels that read the inputs of a layer."""
    if isinstance(level, DenseParams):
        return [level.kernel]
    return [run.params.kernel for run in level]


def gru_params(params: GRUParams, update: str, to: str) -> GRUParams:
    """The parameters of the same function whose update gate writes, or keeps: `1−σ(a) = σ(−a)`."""
    if update == to:
        return params
    bias = None if params.bias is None else flip_gate(params.bias, "rzn", "z")
    return params._replace(
        kernel=flip_gate(params.kernel, "rzn", "z"),
        recurrent_kernel=flip_gate(params.recurrent_kernel, "rzn", "z"),
        bias=bias,
    )
