"""From flax: what linen and nnx have in common, the modules around a cell and their options.

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
from gatedrnn._interop.parts import Run, joined, recurrent_of
from gatedrnn._src.base import Cell, Params
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.lstm import LSTM
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.pointwise import Dense, DenseParams
from gatedrnn._src.numerics import ActivationName

CELLS = ("SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell")
ABSENT = {
    "MGUCell": "no cell of ours has one gate that both forgets and resets",
    "ConvLSTMCell": "no cell of ours convolves",
}
ACTIVATIONS: dict[ActivationName, Any] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "identity": jax.nn.identity,
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


class Flax(NamedTuple):
    """What linen and nnx do not have in common."""

    modules: Any  # flax.linen or flax.nnx
    dense: str  # the name of a dense layer
    features: tuple[str, str]  # the attributes of a cell and of a dense layer that hold their size
    within: str  # the path of a layer in a Sequential, by its number
    # the parameters of a cell: (arrays, path, class of flax, our cell, in_features) -> params
    take: Callable[[Arrays, str, str, Any, int | None], Params]

    def name(self, module: Any) -> str:
        """The name of a class of flax; nothing for any other, a subclass of one too."""
        name = type(module).__name__
        return name if getattr(self.modules, name, None) is type(module) else ""


def network(flax: Flax, module: Any, arrays: Arrays) -> tuple[Any, Any]:
    """`(layer, params)` of a module whose parameters are `arrays`."""
    if flax.name(module) in CELLS:
        run = _run(flax, module, arrays, "", None)
        arrays.close()
        return run.cell, run.params
    found = list(_flat(flax, module, ""))
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
    return joined(layers, params)


def _flat(flax: Flax, module: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The layers one after another, and their paths; a Sequential in another is a part of it."""
    name = flax.name(module)
    if name == "Sequential":
        if not module.layers:
            raise ValueError("module: got an empty Sequential, expected layers")
        for k, part in enumerate(module.layers):
            yield from _flat(flax, part, f"{path}{flax.within.format(k)}/")
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


def _cells(flax: Flax, module: Any) -> dict[str, Any]:
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


def _check_together(flax: Flax, modules: list[Any]) -> None:
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
                "module: got RNN(reverse=True), expected reverse=False: a layer of ours runs "
                "backward only as one of the two of gr.bidirectional"
            )


def _layer(
    flax: Flax, module: Any, arrays: Arrays, path: str, in_features: int | None
) -> tuple[Any, Any]:
    """A layer of ours and its parameters."""
    _check_options(module)
    cells = _cells(flax, module)
    if cells:
        return recurrent_of(
            tuple(_run(flax, cell, arrays, path + p, in_features) for p, cell in cells.items())
        )
    features = getattr(module, flax.features[1])
    kernel = arrays.take(f"{path}kernel", (in_features, features))
    bias = arrays.take(f"{path}bias", (features,)) if module.use_bias else None
    _check_dtype(module, kernel)
    return Dense(features, module.use_bias), DenseParams(kernel, bias)


def _run(flax: Flax, module: Any, arrays: Arrays, path: str, in_features: int | None) -> Run:
    """A cell in one direction."""
    name = flax.name(module)
    if name not in CELLS:
        raise _unknown(module, ", ".join(CELLS))
    features = getattr(module, flax.features[0])
    cell: Cell
    if name == "SimpleCell":
        _check_options(module, but="activation_fn")
        cell = Elman(features, _activation(module.activation_fn))
    else:
        _check_options(module)
        is_gru = name == "GRUCell"
        cell = GRU(features, reset="after", update="keeps") if is_gru else LSTM(features)
    if module.carry_init not in (None, jax.nn.initializers.zeros):
        raise ValueError(
            f"module: got {name}(carry_init={_called(module.carry_init)}), expected zeros: our "
            "layers start from zeros, from a learned carry, or from the one that they are given"
        )
    params = flax.take(arrays, path, name, cell, in_features)
    _check_dtype(module, params.kernel)
    return Run(cell, params, None)


def _activation(function: Any) -> ActivationName:
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
    if isinstance(layer, Bidirectional):
        return _out_features(layer.forward) + _out_features(layer.backward)
    return (layer if isinstance(layer, Dense) else layer.cell).features


def columns(
    arrays: Arrays, path: str, names: tuple[str, ...], leaf: str, shape: tuple[int | None, ...]
) -> Array:
    """The arrays of several gates side by side."""
    first = arrays.take(f"{path}{names[0]}/{leaf}", shape)
    others = [arrays.take(f"{path}{name}/{leaf}", first.shape) for name in names[1:]]
    return jnp.concatenate([first, *others], axis=-1)
