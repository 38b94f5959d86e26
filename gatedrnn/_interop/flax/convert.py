"""Modules of flax as layers of ours, and back: what linen and nnx have in common.

Both name classes and attributes alike. An option that would change the function is refused, unless
it is the default; those that decide how the function is called are no part of our layers.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import Arrays
from gatedrnn._interop.conventions import LINEN, LibraryConvention
from gatedrnn._interop.layouts import cell_of, take_params, to_arrays
from gatedrnn._interop.networks import (
    DirectedCell,
    directions_of,
    is_cell,
    layer_of,
    layers_with_params,
    network_of,
)
from gatedrnn._interop.supported import LayerParams, checked_layers, row_of
from gatedrnn._src import checks
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.lstm import LSTM
from gatedrnn._src.layers.pointwise import Dense, DenseParams

CELLS = ("SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell")
ABSENT = {
    "MGUCell": "no cell of ours has one gate that both forgets and resets",
    "ConvLSTMCell": "no cell of ours convolves",
}
ACTIVATIONS = {
    ours: getattr(jax.nn, theirs) for ours, theirs in LINEN.row("SimpleCell").activations.items()
}
OPTIONS = (
    "gate_fn",
    "activation_fn",
    "residual",
    "merge_fn",
    "promote_dtype",
    "dot_general",
    "dot_general_cls",
    "preferred_element_type",
    "precision",
)


class Interface(NamedTuple):
    """Linen or nnx, in all that they do not have in common.

    Attributes:
      modules: `flax.linen` or `flax.nnx`.
      library: its rows.
      dense: the name of a dense layer.
      features: the attributes of a cell and of a dense layer that hold their size.
      within: the path of a layer in a Sequential, by its number.
      make: `(name, in_features, features, dtype, options) -> module`, a cell or a dense layer.
      sequential: a Sequential of several modules.
    """

    modules: Any
    library: LibraryConvention
    dense: str
    features: tuple[str, str]
    within: str
    make: Callable[[str, int, int, Any, dict[str, Any]], Any]
    sequential: Callable[[list[Any]], Any]

    def name(self, module: Any) -> str:
        """The name of a class of flax; nothing for any other, a subclass of one too."""
        name = type(module).__name__
        return name if getattr(self.modules, name, None) is type(module) else ""


# From flax ---------------------------------------------------------------------------------------


def from_module(flax: Interface, module: Any, arrays: Arrays) -> tuple[Any, Any]:
    """`(layer, params)` of a module whose parameters are `arrays`."""
    if flax.name(module) in CELLS:
        one = _recurrence(flax, module, arrays, "", None)
        arrays.close()
        return one.cell, one.params
    found = list(_in_order(flax, module, ""))
    _check_together(flax, [part for _, part in found])
    layers: list[Any] = []
    params: list[Any] = []
    in_features = None
    for path, part in found:
        layer, p = _layer(flax, part, arrays, path, in_features)
        layers.append(layer)
        params.append(p)
        in_features = _out_features(layer)
    arrays.close()
    return network_of(layers, params)


def _in_order(flax: Interface, module: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The layers one after another, and their paths; a Sequential in another is a part of it."""
    name = flax.name(module)
    if name == "Sequential":
        if not module.layers:
            raise ValueError("module: got an empty Sequential, expected layers")
        for k, part in enumerate(module.layers):
            yield from _in_order(flax, part, f"{path}{flax.within.format(k)}/")
    elif name in ("RNN", "Bidirectional", flax.dense):
        yield path, module
    else:
        expected = f"RNN, Bidirectional, Sequential or {flax.dense}"
        raise _unknown(module, expected if path else f"{', '.join(CELLS)}, {expected}")


def _unknown(module: Any, expected: str) -> Exception:
    name = type(module).__name__
    if name in ABSENT:
        return ValueError(f"module: got {name}, which has no counterpart: {ABSENT[name]}")
    got = getattr(module, "__name__", f"a {name} of {type(module).__module__}")
    got = f"the class {got}" if isinstance(module, type) else got
    return TypeError(f"module: got {got}, expected {expected}")


def _cells(flax: Interface, module: Any) -> dict[str, Any]:
    """The cells of a layer by their paths; none of a dense one."""
    if flax.name(module) == "RNN":
        return {"cell/": module.cell}
    if flax.name(module) == "Bidirectional":
        both = {name: getattr(module, name) for name in ("forward_rnn", "backward_rnn")}
        for rnn in both.values():
            if flax.name(rnn) != "RNN":
                raise _unknown(rnn, "RNN for either direction of a Bidirectional")
        return {f"{name}/cell/": rnn.cell for name, rnn in both.items()}
    return {}


def _check_together(flax: Interface, modules: list[Any]) -> None:
    """Raise where modules do not follow one another as our layers do."""
    cells = [list(_cells(flax, module).values()) for module in modules]
    owners = [own for module, its in zip(modules, cells, strict=True) for own in its or [module]]
    if len({id(owner) for owner in owners}) < len(owners):
        raise ValueError(
            "module: two of its layers or directions share their parameters, expected some for each"
        )
    recurrent = [module for module, its in zip(modules, cells, strict=True) if its]
    if len({bool(module.time_major) for module in recurrent}) > 1:
        raise ValueError("module: got time_major=True and False, expected one for all its layers")
    for module in recurrent:
        if module.return_carry and module is not modules[-1]:
            raise ValueError(
                "module: got return_carry=True, expected False but for the last layer of a "
                "Sequential: the next one would be called with the carry"
            )
        if flax.name(module) == "RNN" and module.reverse:
            raise ValueError(
                "module: got RNN(reverse=True), expected reverse=False: backward alone it is not "
                "converted; convert RNN(cell), and run it as gr.recurrent(cell, reverse=True)"
            )


def _layer(
    flax: Interface, module: Any, arrays: Arrays, path: str, in_features: int | None
) -> tuple[Any, Any]:
    """A layer of ours and its parameters."""
    _check_options(module)
    cells = _cells(flax, module)
    if cells:
        return layer_of(
            tuple(
                _recurrence(flax, cell, arrays, path + own, in_features)
                for own, cell in cells.items()
            )
        )
    features = getattr(module, flax.features[1])
    kernel = arrays.take(f"{path}kernel", (in_features, features))
    bias = arrays.take(f"{path}bias", (features,)) if module.use_bias else None
    _check_dtype(module, kernel)
    return Dense(features, module.use_bias), DenseParams(kernel, bias)


def _recurrence(
    flax: Interface, module: Any, arrays: Arrays, path: str, in_features: int | None
) -> DirectedCell:
    """A cell in one direction."""
    name = flax.name(module)
    if name not in CELLS:
        raise _unknown(module, ", ".join(CELLS))
    row = flax.library.row(name)
    options: dict[str, Any] = {}
    _check_options(module, but="activation_fn" if row.cell is Elman else "")
    if row.cell is Elman:
        options["activation"] = _activation(module.activation_fn)
    cell = cell_of(row, getattr(module, flax.features[0]), **options)
    if module.carry_init not in (None, jax.nn.initializers.zeros):
        raise ValueError(
            f"module: got {name}(carry_init={_called(module.carry_init)}), expected zeros: our "
            "layers start from zeros, from a learned carry, or from the one that they are given"
        )
    params = take_params(row, cell, arrays, in_features, f"{path}{{}}")
    _check_dtype(module, params.kernel)
    return DirectedCell(cell, params, None)


def _activation(function: Any) -> str:
    """Our name of an activation."""
    for name, known in ACTIVATIONS.items():
        if function is known:
            return name
    raise ValueError(
        f"module: got SimpleCell(activation_fn={_called(function)}), expected jnp.tanh, "
        "jax.nn.relu, jax.nn.sigmoid or jax.nn.identity: our Elman cells have no other"
    )


def _check_options(module: Any, but: str = "") -> None:
    """Raise where an option is not the default."""
    defaults = inspect.signature(type(module).__init__).parameters
    for option in OPTIONS:
        if option == but or option not in defaults:
            continue
        got, default = getattr(module, option), defaults[option].default
        if got is not default:
            raise ValueError(
                f"module: got {type(module).__name__}({option}={_called(got)}), expected the "
                f"default, {_called(default)}: our layers have no other"
            )


def _check_dtype(module: Any, kernel: Array) -> None:
    """Raise where a module computes in another dtype than that of its parameters."""
    if module.dtype is not None and jnp.dtype(module.dtype) != kernel.dtype:
        raise ValueError(
            f"module: got {type(module).__name__}(dtype={jnp.dtype(module.dtype)}) with parameters "
            f"in {kernel.dtype}, expected dtype=None: ours compute in the dtype of the parameters"
        )


def _called(value: Any) -> str:
    return getattr(value, "__name__", repr(value))


def _out_features(layer: Any) -> int:
    """The features of a layer's output."""
    if isinstance(layer, Dense):
        return layer.features
    cells: list[Any] = [one.cell for one in directions_of(layer)]
    return sum(cell.features for cell in cells)


# To flax -----------------------------------------------------------------------------------------


def to_module(
    flax: Interface,
    layer: Any,
    params: Any,
    optimized: bool,
    time_major: bool,
    return_carry: bool,
) -> tuple[Any, dict[str, Array]]:
    """The module of a network, with values to be put in, and these by their paths."""
    layers = checked_layers(layer, layers_with_params(layer, params), flax.library)
    _check_use(layer, layers, optimized, time_major, return_carry)
    names = ("SimpleCell", "OptimizedLSTMCell" if optimized else "LSTMCell", "GRUCell")
    if is_cell(layer):
        return _to_cell(flax, names, DirectedCell(layer, params, None), "")
    options = {"time_major": time_major, "return_carry": return_carry}
    if len(layers) == 1:
        return _to_layer(flax, names, layers[0], options, "")
    modules: list[Any] = []
    arrays: dict[str, Array] = {}
    for k, own in enumerate(layers):
        module, found = _to_layer(flax, names, own, options, f"{flax.within.format(k)}/")
        modules.append(module)
        arrays |= found
    return flax.sequential(modules), arrays


def _check_use(
    layer: Any, layers: list[LayerParams], optimized: bool, time_major: bool, return_carry: bool
) -> None:
    """Raise where the network has no use for an option."""
    checks.flag("optimized", optimized)
    checks.flag("time_major", time_major)
    checks.flag("return_carry", return_carry)
    cells = [one.cell for own in layers if not isinstance(own, DenseParams) for one in own]
    if optimized and not any(isinstance(cell, LSTM) for cell in cells):
        raise ValueError(f"optimized: got True, expected False: there is no LSTM in {layer!r}")
    if is_cell(layer) or not cells:
        if not time_major:
            raise ValueError(f"time_major: got False, expected True: {layer!r} knows no time")
        if return_carry:
            raise ValueError(f"return_carry: got True, expected False: no option of {layer!r}")
    if return_carry and len(layers) > 1:
        raise ValueError(
            "return_carry: got True, expected False: a Sequential has no carry, and would return "
            f"that of the last layer of {layer!r}"
        )


def _to_layer(
    flax: Interface, names: tuple[str, ...], own: LayerParams, options: dict[str, bool], path: str
) -> tuple[Any, dict[str, Array]]:
    """One layer and its parameters by their paths."""
    if isinstance(own, DenseParams):
        inputs, outputs = own.kernel.shape
        use_bias = {"use_bias": own.bias is not None}
        dense = flax.make(flax.dense, inputs, outputs, own.kernel.dtype, use_bias)
        arrays = {f"{path}{name}": array for name, array in own._asdict().items()}
        return dense, {name: array for name, array in arrays.items() if array is not None}
    if len(own) == 1:
        cell, arrays = _to_cell(flax, names, own[0], f"{path}cell/")
        return flax.modules.RNN(cell, **options), arrays
    forward, arrays = _to_cell(flax, names, own[0], f"{path}forward_rnn/cell/")
    backward, others = _to_cell(flax, names, own[1], f"{path}backward_rnn/cell/")
    rnns = [flax.modules.RNN(cell) for cell in (forward, backward)]
    return flax.modules.Bidirectional(*rnns, **options), arrays | others


def _to_cell(
    flax: Interface, names: tuple[str, ...], one: DirectedCell, path: str
) -> tuple[Any, dict[str, Array]]:
    """A cell and its parameters by their paths."""
    cell, kernel = one.cell, one.params.kernel
    arrays = to_arrays(flax.library, cell, one.params, names)
    (name,) = set(names).intersection(row_of(flax.library, cell, names).modules)
    options = {}
    if isinstance(cell, Elman):
        options["activation_fn"] = ACTIVATIONS[cell.activation]
    module = flax.make(name, kernel.shape[0], cell.features, kernel.dtype, options)
    return module, {f"{path}{name}": array for name, array in arrays.items()}
