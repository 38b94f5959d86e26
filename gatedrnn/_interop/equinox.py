"""equinox's cells, `eqx.nn.LSTMCell` and `eqx.nn.GRUCell`; it has no layers over time.

Rows of their matrices are gates, `i, f, g, o` and `r, z, n`; one bias, and another that a GRU adds
inside the product; the update gate keeps, the reset comes after the product.

Axes: `*B` batch, `H` features.
"""

from typing import Any

import jax
from jax import Array

from gatedrnn._interop.arrays import Arrays
from gatedrnn._interop.forms import Forms, gru_params, levels
from gatedrnn._interop.libraries import library
from gatedrnn._interop.parts import Run, is_row, recurrent_of, row_with_params
from gatedrnn._interop.states import carry_from_cells, cells_from_carry
from gatedrnn._src.base import Carry
from gatedrnn._src.cells.gru import GRU, GRUParams
from gatedrnn._src.cells.lstm import LSTM, LSTMParams
from gatedrnn._src.layers.stack import Stack

FORMS = Forms("an equinox cell", lstm=True, gru=("after",), bidirectional=False)


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
    """
    eqx = library("equinox", "equinox", "equinox")
    if not isinstance(source, list | tuple):
        run = _run(eqx, "source", source, None)
        return run.cell, run.params
    if not source:
        raise ValueError("source: got no cells, expected at least one")
    layers, params = [], []
    in_features = None
    for k, cell in enumerate(source):
        run = _run(eqx, f"source[{k}]", cell, in_features)
        layer, p = recurrent_of((run,))
        layers.append(layer)
        params.append(p)
        in_features = run.cell.features
    return Stack(tuple(layers)), tuple(params)


def _run(eqx: Any, name: str, source: Any, in_features: int | None) -> Run:
    if type(source) not in (eqx.nn.LSTMCell, eqx.nn.GRUCell):  # a subclass may compute another
        raise TypeError(
            f"{name}: got {type(source).__name__}, expected eqx.nn.LSTMCell, eqx.nn.GRUCell or a "
            "list of those"
        )
    lstm = isinstance(source, eqx.nn.LSTMCell)
    features, use_bias = source.hidden_size, source.use_bias
    rows = (4 if lstm else 3) * features
    names = ["weight_ih", "weight_hh"]
    if use_bias:
        names += ["bias"] if lstm else ["bias", "bias_n"]
    found = {field: getattr(source, field) for field in names}
    arrays = Arrays(name, {field: array for field, array in found.items() if array is not None})
    kernel = arrays.take("weight_ih", (rows, in_features or source.input_size)).T
    recurrent = arrays.take("weight_hh", (rows, features)).T
    bias = arrays.take("bias", (rows,)) if use_bias else None
    if lstm:
        params = LSTMParams(kernel, recurrent, bias, None, None, None)
        return Run(LSTM(features, use_bias=use_bias), params, None)
    inside = arrays.take("bias_n", (features,)) if use_bias else None
    gru = GRU(features, reset="after", update="keeps", use_bias=use_bias)
    return Run(gru, GRUParams(kernel, recurrent, bias, inside), None)


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
    """
    eqx = library("equinox", "equinox", "equinox")
    found: list[Any] = levels(layer, row_with_params(layer, params), FORMS)
    cells = [_cell(eqx, run) for (run,) in found]
    return cells if is_row(layer) else cells[0]


def _cell(eqx: Any, run: Run) -> Any:
    cell, params = run.cell, run.params
    kind = eqx.nn.LSTMCell if isinstance(cell, LSTM) else eqx.nn.GRUCell
    if isinstance(cell, GRU):
        params = gru_params(params, cell.update, "keeps")
    arrays: dict[str, Array] = {
        "weight_ih": params.kernel.T,
        "weight_hh": params.recurrent_kernel.T,
    }
    if params.bias is not None:
        arrays["bias"] = params.bias
        if isinstance(cell, GRU):
            arrays["bias_n"] = params.recurrent_bias
    sizes = params.kernel.shape[0], cell.features
    options = {"use_bias": cell.use_bias, "dtype": params.kernel.dtype}
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
    """
    return carry_from_cells(layer, states)


def to_equinox_carry(layer: Any, carry: Carry) -> Any:
    """Equinox's states for a `carry` of `layer`; `from_equinox_carry` undone.

    Args:
      layer: the network.
      carry: one of its carries.

    Raises:
      ValueError: `carry` is that of another network.
    """
    states = [leaves if len(leaves) > 1 else leaves[0] for leaves in cells_from_carry(layer, carry)]
    return states if is_row(layer) else states[0]
