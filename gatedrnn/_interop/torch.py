"""torch's `nn.RNN`, `nn.LSTM`, `nn.GRU` and their cells.

Axes: `L` layers, `D` directions, `*B` batch, `H` features, `R` recurrent features.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from gatedrnn._interop.arrays import Arrays, as_array, check_leaves, check_mapping
from gatedrnn._interop.carries import carry_from_states, states_from_carry
from gatedrnn._interop.conventions import TORCH
from gatedrnn._interop.layouts import cell_of, take_params, to_arrays
from gatedrnn._interop.networks import (
    DirectedCell,
    check_network,
    is_cell,
    layer_of,
    layers_with_params,
    network_of,
)
from gatedrnn._interop.require import require
from gatedrnn._interop.supported import cannot, check_params, checked_layers, row_of
from gatedrnn._src import checks
from gatedrnn._src.base import Carry, Params
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.lstm import LSTM
from gatedrnn._src.describe import shown
from gatedrnn._src.layers.pointwise import Dropout

Nonlinearity = Literal["tanh", "relu"]
CELLS = ("RNNCell", "LSTMCell", "GRUCell")


def from_torch(
    source: Any, *, prefix: str = "", nonlinearity: Nonlinearity | None = None
) -> tuple[Any, Any]:
    """The network of a torch module or of its `state_dict`: `(layer, params)`.

    `nn.RNN`, `nn.LSTM` (with `proj_size` too) and `nn.GRU` become `gr.recurrent`,
    `gr.bidirectional` or a stack of those, with `gr.dropout` between the layers where the module
    has it; `nn.RNNCell`, `nn.LSTMCell` and `nn.GRUCell` become a cell and its parameters. Our
    networks are time-major, whatever `batch_first` says.

    Torch's two biases are added where only their sum acts; their split is lost. A forget bias is in
    the bias already.

    Args:
      source: a module, or a mapping from names to arrays or tensors, as `state_dict()` gives it,
        for which torch need not be installed. Dropout is not part of it.
      prefix: of the names in a mapping that belong to the module: `"encoder.rnn."`. Others are
        ignored then.
      nonlinearity: of an `nn.RNN` given as a mapping, `"tanh"` (also None) or `"relu"`.

    Raises:
      TypeError: neither a mapping nor one of these modules, of which a subclass may compute
        something else; arrays that are not floating, of several dtypes, or of a precision that JAX
        would round here.
      ValueError: names that are missing or too many, shapes that do not fit; an option that
        `source` has no use for; a module whose dropout leaves nothing.

    Example:
      >>> import torch
      >>> layer, params = gr.interop.from_torch(torch.nn.LSTM(3, 4, bidirectional=True))
      >>> params.backward.cell.kernel.shape
      (3, 16)
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: got {type(prefix).__name__}, expected a text")
    checks.option("nonlinearity", nonlinearity, Nonlinearity | None)
    state, nonlinearity, dropout = _state(source, prefix, nonlinearity)
    own = {k.removeprefix(prefix): _numpy(v) for k, v in state.items() if k.startswith(prefix)}
    if state and not own:
        raise ValueError(
            f"prefix: got {shown(prefix)}, expected that of some of {', '.join(state)}"
        )
    arrays = Arrays("state_dict", own)
    if "weight_ih" in arrays:
        one = _take_direction(arrays, "", None, nonlinearity)
        arrays.close()
        return one.cell, one.params
    layers: list[Any] = []
    params: list[Any] = []
    in_features = None
    suffixes = ("", "_reverse") if "weight_ih_l0_reverse" in arrays else ("",)
    for k in itertools.count():
        if k > 0 and f"weight_ih_l{k}" not in arrays:
            break
        if dropout and k > 0:
            layers.append(Dropout(dropout))
            params.append(())
        ends = [f"_l{k}{suffix}" for suffix in suffixes]
        both = tuple(_take_direction(arrays, end, in_features, nonlinearity) for end in ends)
        layer, p = layer_of(both)
        layers.append(layer)
        params.append(p)
        in_features = sum(one.params.recurrent_kernel.shape[0] for one in both)
    arrays.close()
    return network_of(layers, params)


def _state(
    source: Any, prefix: str, nonlinearity: Nonlinearity | None
) -> tuple[Mapping[str, Any], Nonlinearity | None, float]:
    """The arrays of a module by name, the activation and the rate of dropout."""
    if isinstance(source, Mapping):
        return check_mapping("source", source), nonlinearity, 0.0
    if type(source).__module__ != "torch.nn.modules.rnn":
        raise TypeError(
            f"source: got {type(source).__name__}, expected nn.RNN, nn.LSTM, nn.GRU, one of their "
            "cells, or a state_dict"
        )
    for name, got, expected in (("prefix", prefix, ""), ("nonlinearity", nonlinearity, None)):
        if got != expected:
            raise ValueError(
                f"{name}: got {shown(got)}, expected {expected!r}: it is of a state_dict"
            )
    dropout = float(getattr(source, "dropout", 0.0))
    if dropout >= 1:
        raise ValueError(f"source: got dropout={dropout}, expected a rate below 1")
    return source.state_dict(), getattr(source, "nonlinearity", None), dropout


def _numpy(tensor: Any) -> Any:
    """A tensor as an array of the same dtype; anything else as it is."""
    if not hasattr(tensor, "detach"):
        return tensor
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # which NumPy lacks; float32 holds it exactly
        return jnp.asarray(tensor.float().numpy(), jnp.bfloat16)
    return tensor.numpy()


def _take_direction(
    arrays: Arrays, suffix: str, in_features: int | None, nonlinearity: Nonlinearity | None
) -> DirectedCell:
    """One direction of one layer."""
    rows, features = arrays.shape(f"weight_hh{suffix}", 2)
    projection = None
    if f"weight_hr{suffix}" in arrays:
        projection, features = arrays.shape(f"weight_hr{suffix}", 2)
    kinds = {len(row.gates) * features: row for row in reversed(TORCH.cells)}
    if rows not in kinds:
        raise ValueError(
            f"{arrays.what}, 'weight_hh{suffix}': got shape {arrays.shape(f'weight_hh{suffix}')}, "
            f"expected {features}, {3 * features} or {4 * features} rows: as many as, three or four"
            " times as many as features"
        )
    row = kinds[rows]
    if nonlinearity is not None and row.cell is not Elman:
        raise ValueError(
            f"nonlinearity: got {shown(nonlinearity)}, expected None: {arrays.what} is of no nn.RNN"
        )
    options: dict[str, Any] = {}
    if row.cell is Elman:
        options["activation"] = nonlinearity or "tanh"
    if row.cell is LSTM:
        options["projection"] = projection
    cell = cell_of(row, features, f"bias_ih{suffix}" in arrays, **options)
    return DirectedCell(cell, take_params(row, cell, arrays, in_features, f"{{}}{suffix}"), None)


def to_torch(layer: Any, params: Any, *, batch_first: bool = False) -> Any:
    """The torch module of a network: `nn.RNN`, `nn.LSTM` or `nn.GRU`, or the cell's of a bare cell.

    Our bias becomes the input's; the recurrent one is zero but for what a GRU adds inside the
    product. `from_torch` gives the same parameters back, to the bit; a GRU whose update gate writes
    comes back as one that keeps, the same function.

    Args:
      layer: a cell, `gr.recurrent`, `gr.bidirectional` that concatenates, or a stack or repeat of
        equal ones, also with equal `gr.dropout` between them.
      params: its parameters, all of one dtype, which the module's will be.
      batch_first: whether the module reads `[B, T, I]`.

    Raises:
      ModuleNotFoundError: torch is not installed.
      TypeError: parameters of several dtypes.
      ValueError: torch has no such network, and why; or `params` are those of another.

    Example:
      >>> layer = gr.recurrent(gr.LSTM(4))
      >>> gr.interop.to_torch(layer, layer.init(jax.random.key(0), 3))
      LSTM(3, 4)
    """
    torch = require("torch", "torch", "torch")
    checks.flag("batch_first", batch_first)
    check_network(layer)
    if is_cell(layer):
        row_of(TORCH, layer, CELLS)
        check_leaves("params", params)
        check_params(layer, params)
        module, state = _module(torch, layer, params, "Cell"), _arrays(layer, params, "")
    else:
        levels, dropout = _levels(layer, params)
        first = levels[0][0]
        module = _module(
            torch,
            first.cell,
            first.params,
            "",
            num_layers=len(levels),
            bidirectional=len(levels[0]) == 2,
            dropout=dropout,
            batch_first=batch_first,
            **({"proj_size": first.cell.projection or 0} if isinstance(first.cell, LSTM) else {}),
        )
        state = {}
        for k, directions in enumerate(levels):
            for one, end in zip(directions, ("", "_reverse"), strict=False):
                state |= _arrays(one.cell, one.params, f"_l{k}{end}")
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            tensor.copy_(_tensor(torch, state[name]))
    return module


def _levels(layer: Any, params: Any) -> tuple[list[tuple[DirectedCell, ...]], float]:
    """The directions of every layer, all alike, and the one rate of the dropout between them."""
    layers = layers_with_params(layer, params)
    kinds = [type(one) for one, _ in layers]
    dropout = 0.0
    if Dropout in kinds:  # between every two layers, and nowhere else
        rates = {one for one, _ in layers if isinstance(one, Dropout)}
        dropout = next(iter(rates)).rate
        between = kinds[1::2] == [Dropout] * (len(kinds) // 2) and len(kinds) % 2 == 1
        if not between or rates != {Dropout(dropout)} or Dropout in kinds[::2]:
            raise cannot(
                layer, TORCH, "its dropout is one rate, between every two layers, each step"
            )
        layers = layers[::2]
    levels: list[Any] = checked_layers(layer, layers, TORCH)
    if len({(len(level), _kind(one.cell)) for level in levels for one in level}) > 1:
        raise cannot(layer, TORCH, "its layers and directions are all of the same kind")
    return levels, dropout


def _kind(cell: Any) -> Any:
    """The cell without what its parameters alone say."""
    if isinstance(cell, LSTM):
        return dataclasses.replace(cell, forget_bias=None)
    return dataclasses.replace(cell, update="keeps") if isinstance(cell, GRU) else cell


def _module(torch: Any, cell: Any, params: Params, end: str, **options: Any) -> Any:
    """A module of torch, without values."""
    kind = row_of(TORCH, cell).modules[0]
    if isinstance(cell, Elman):
        options["nonlinearity"] = cell.activation
    dtype = getattr(torch, params.kernel.dtype.name)
    sizes = params.kernel.shape[0], cell.features
    return getattr(torch.nn, kind + end)(*sizes, bias=cell.use_bias, dtype=dtype, **options)


def _arrays(cell: Any, params: Params, suffix: str) -> dict[str, Array]:
    """The arrays of one direction of one layer, by torch's names."""
    return {f"{name}{suffix}": array for name, array in to_arrays(TORCH, cell, params).items()}


def _tensor(torch: Any, array: Array) -> Any:
    if array.dtype == jnp.bfloat16:
        return torch.tensor(np.asarray(array, np.float32)).bfloat16()
    return torch.tensor(np.asarray(array))


def from_torch_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for torch's states `h` or `(h, c)`.

    Args:
      layer: the network, as `from_torch` gives it.
      states: what the module takes and returns: a tensor or array `[L·D, *B, R]`, for an LSTM a
        pair of them; for a cell without the first axis.

    Raises:
      TypeError: states that are not floating.
      ValueError: as many states, layers or directions as `layer` does not have, or other sizes.

    Example:
      >>> import torch
      >>> states = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
      >>> gr.interop.from_torch_carry(gr.recurrent(gr.LSTM(4)), states).h.shape
      (2, 4)
    """
    states = tuple(states) if isinstance(states, tuple | list) else (states,)
    leaves = [as_array(f"states[{k}]", _numpy(state)) for k, state in enumerate(states)]
    return carry_from_states(layer, leaves)


def to_torch_carry(layer: Any, carry: Carry) -> Any:
    """Torch's states for a `carry` of `layer`; `from_torch_carry` undone.

    Args:
      layer: the network.
      carry: one of its carries.

    Raises:
      ModuleNotFoundError: torch is not installed.
      ValueError: `carry` is that of another network.

    Example:
      >>> layer = gr.recurrent(gr.LSTM(4))
      >>> [state.shape for state in gr.interop.to_torch_carry(layer, layer.carry((2,)))]
      [torch.Size([1, 2, 4]), torch.Size([1, 2, 4])]
    """
    torch = require("torch", "torch", "torch")
    states = tuple(_tensor(torch, leaf) for leaf in states_from_carry(layer, carry))
    return states if len(states) > 1 else states[0]
