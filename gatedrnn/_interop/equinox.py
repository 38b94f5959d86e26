"""equinox's cells, `eqx.nn.LSTMCell` and `eqx.nn.GRUCell`; it has no layers over time.

Axes: `*B` batch, `H` features.
"""

from functools import partial
from typing import Any

import jax

from gatedrnn._interop.arrays import Arrays
from gatedrnn._interop.carries import carry_from_cells, cells_from_carry
from gatedrnn._interop.conventions import EQUINOX
from gatedrnn._interop.layouts import cell_of, shapes_of, take_params, to_arrays
from gatedrnn._interop.networks import DirectedCell, is_sequence, layers_with_params, stack_of
from gatedrnn._interop.require import require
from gatedrnn._interop.supported import checked_layers, row_of
from gatedrnn._src.base import Carry


def from_equinox(source: Any) -> tuple[Any, Any]:
    """The network of an equinox cell, or of several: `(layer, params)`.

    `eqx.nn.LSTMCell` and `eqx.nn.GRUCell` become a cell and its parameters, a list of them, each of
    which reads the outputs of the one before, a stack. A forget bias is in the bias already.

    Args:
      source: a cell, or a list or tuple of them.

    Raises:
      ModuleNotFoundError: equinox is not installed.
      TypeError: not a cell; arrays that are not floating, or of a precision that JAX would round
        here.
      ValueError: no cell, arrays that are missing, shapes that do not fit.

    Example:
      >>> import equinox as eqx
      >>> cell, params = gr.interop.from_equinox(eqx.nn.GRUCell(3, 4, key=jax.random.key(0)))
      >>> params.kernel.shape
      (3, 12)
    """
    eqx = require("equinox", "equinox", "equinox")
    if not isinstance(source, list | tuple):
        one = _taken(eqx, "source", source, None)
        return one.cell, one.params
    if not source:
        raise ValueError("source: got no cells, expected at least one")
    return stack_of(partial(_taken, eqx, f"source[{k}]", cell) for k, cell in enumerate(source))


def _taken(eqx: Any, name: str, source: Any, in_features: int | None) -> DirectedCell:
    """A cell of equinox as ours."""
    if type(source) not in (eqx.nn.LSTMCell, eqx.nn.GRUCell):  # a subclass may compute another
        raise TypeError(
            f"{name}: got {type(source).__name__}, expected eqx.nn.LSTMCell, eqx.nn.GRUCell or a "
            "list of those"
        )
    row = EQUINOX.row(type(source).__name__)
    cell = cell_of(row, source.hidden_size, source.use_bias)
    found = {field: getattr(source, field) for field in shapes_of(row, cell, None)}
    arrays = Arrays(name, {field: array for field, array in found.items() if array is not None})
    params = take_params(row, cell, arrays, in_features or source.input_size)
    return DirectedCell(cell, params, None)


def to_equinox(layer: Any, params: Any) -> Any:
    """The equinox cell of a cell or its layer; a list of cells, in order, for a stack or repeat.

    A cell reads one row, without batch axes; the loop over time, `lax.scan`, and `jax.vmap` over a
    batch are yours. `from_equinox` gives the same parameters back, to the bit; a GRU whose update
    gate writes comes back as one that keeps, the same function. There are no directions: convert
    those of a bidirectional layer by themselves.

    Args:
      layer: a cell, `gr.recurrent`, or a stack or repeat of those.
      params: its parameters, all of one dtype, which the cell's will be.

    Raises:
      ModuleNotFoundError: equinox is not installed.
      TypeError: parameters of several dtypes.
      ValueError: equinox has no such cell, and why; or `params` are those of another.

    Example:
      >>> cell = gr.LSTM(4)
      >>> gr.interop.to_equinox(cell, cell.init(jax.random.key(0), 3)).weight_ih.shape
      (16, 3)
    """
    eqx = require("equinox", "equinox", "equinox")
    found: list[Any] = checked_layers(layer, layers_with_params(layer, params), EQUINOX)
    cells = [_cell(eqx, one) for (one,) in found]
    return cells if is_sequence(layer) else cells[0]


def _cell(eqx: Any, one: DirectedCell) -> Any:
    """A cell of ours as equinox's."""
    cell, kernel = one.cell, one.params.kernel
    arrays = to_arrays(EQUINOX, cell, one.params)
    kind = getattr(eqx.nn, row_of(EQUINOX, cell).modules[0])
    sizes = kernel.shape[0], cell.features
    options = {"use_bias": cell.use_bias, "dtype": kernel.dtype}
    # its own values are drawn on paper only
    empty = eqx.filter_eval_shape(kind, *sizes, **options, key=jax.random.key(0))
    return eqx.tree_at(
        lambda cell: [getattr(cell, name) for name in arrays], empty, list(arrays.values())
    )


def from_equinox_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for equinox's states.

    Args:
      layer: the network, as `from_equinox` gives it.
      states: `(h, c)` of an LSTM, `h` of a GRU, each `[*B, H]` as under `jax.vmap`; for a stack or
        repeat a list of those, one for each cell.

    Raises:
      ValueError: states that do not fit `layer`.

    Example:
      >>> gr.interop.from_equinox_carry(gr.LSTM(4), (jnp.zeros((2, 4)), jnp.zeros((2, 4)))).h.shape
      (2, 4)
    """
    return carry_from_cells(layer, states)


def to_equinox_carry(layer: Any, carry: Carry) -> Any:
    """Equinox's states for a `carry` of `layer`; `from_equinox_carry` undone.

    Args:
      layer: the network.
      carry: one of its carries.

    Raises:
      ValueError: `carry` is that of another network.

    Example:
      >>> h, c = gr.interop.to_equinox_carry(gr.LSTM(4), gr.LSTM(4).carry((2,)))
      >>> h.shape
      (2, 4)
    """
    states = [leaves if len(leaves) > 1 else leaves[0] for leaves in cells_from_carry(layer, carry)]
    return states if is_sequence(layer) else states[0]
