"""Which forms of our cells another library has, and the error for all others."""

from typing import NamedTuple

from gatedrnn._interop.arrays import flip_gate
from gatedrnn._interop.parts import check_params
from gatedrnn._src.elman import Elman
from gatedrnn._src.gru import GRU
from gatedrnn._src.gru_rule import GRUParams
from gatedrnn._src.lstm import LSTM
from gatedrnn._src.rule import Cell, Params


class Forms(NamedTuple):
    """The forms of each cell that a library has.

    Which gate of a GRU's update is written and which kept is a sign, `gru_params` turns it.
    """

    target: str  # for errors: "a torch module"
    elman: tuple[str, ...] = ()  # activations
    lstm: bool = False
    peephole: bool = False  # diagonal ones
    projection: bool = False
    coupled: bool = False
    gru: tuple[str, ...] = ()  # where the reset may come

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
        if isinstance(cell, LSTM) and self.lstm:
            if cell.peephole is not None and not (self.peephole and cell.peephole == "diagonal"):
                return f"there are no {cell.peephole} peepholes"
            if cell.projection is not None and not self.projection:
                return "there is no recurrent projection"
            if cell.coupled and not self.coupled:
                return "its input and forget gates are never coupled"
            return ""
        if isinstance(cell, GRU) and self.gru:
            if cell.reset not in self.gru:
                return f"its GRU resets {self.gru[0]} the recurrent product, not {cell.reset} it"
            return ""
        if isinstance(cell, Elman) and self.elman:
            if cell.activation not in self.elman:
                return f"its activation is {' or '.join(self.elman)}, not {cell.activation}"
            return ""
        return f"there is no {type(cell).__name__} cell"


def cannot(layer: object, target: str, why: str) -> ValueError:
    """The error for a network that has no exact counterpart."""
    return ValueError(f"layer: got {layer!r}, which cannot become {target}: {why}")


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
