"""The three cells of keras, as ours, and ours as keras'.

Columns of their matrices are gates, `i, f, c, o` and `z, r, h`; one bias, or, in a GRU that resets
after, two as rows; the update gate keeps.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import as_array, reorder
from gatedrnn._interop.forms import Forms, gru_params
from gatedrnn._interop.keras.chain import refusal
from gatedrnn._src.base import Cell, Params
from gatedrnn._src.cells.elman import Elman, ElmanParams
from gatedrnn._src.cells.gru import GRU, GRUParams, Reset
from gatedrnn._src.cells.lstm import LSTM, LSTMParams
from gatedrnn._src.cells.recurrent_dropout import RecurrentDropout
from gatedrnn._src.numerics import ActivationName

ACTIVATIONS: dict[str, ActivationName] = {
    "tanh": "tanh",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "linear": "identity",
}
FORMS = Forms(
    "a keras model", elman=tuple(ACTIVATIONS.values()), lstm=True, gru=("after", "before")
)


# From keras --------------------------------------------------------------------------------------


def array_of(keras: Any, name: str, value: Any) -> Array:
    """A variable or tensor of any backend as an array of the same dtype; tracers pass."""
    value = getattr(value, "value", value)
    if not isinstance(value, jax.Array):
        value = keras.ops.convert_to_numpy(value)
    return as_array(name, value)


def weight(keras: Any, source: Any, name: str) -> Array:
    """One of the weights of a layer or cell, which must have them."""
    if not source.built:
        raise refusal(source, "it has no weights yet; build it or call it first")
    if getattr(source, "quantization_mode", None):
        raise refusal(source, f"it is quantised, {source.quantization_mode}")
    return array_of(keras, f"{source.name}.{name}", getattr(source, name))


def check_activation(keras: Any, source: Any, name: str, *expected: str) -> str:
    """Which of the `expected` activations, by keras' names, a layer has."""
    function = getattr(source, name)
    for one in expected:
        # keras' own tanh rounds to float32 on JAX: who needs float64 gives jnp.tanh
        modules = (keras.activations, keras.ops, jnp, jax.nn)
        if function in [getattr(module, one, None) for module in modules]:
            return one
    got = getattr(function, "__name__", repr(function))
    raise refusal(source, f"its {name} is {got}, ours is {' or '.join(expected)}")


def cell_from(keras: Any, source: Any) -> tuple[Cell, Params, float]:
    """A cell, its parameters, and the rate at which its inputs drop out, one mask for all steps."""
    layers = keras.layers
    kind = type(source)
    if kind not in (layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell):
        raise refusal(source, "there is no such cell")
    kernel, recurrent = (weight(keras, source, f"{name}kernel") for name in ("", "recurrent_"))
    bias = weight(keras, source, "bias") if source.use_bias else None
    dropout, recurrent_dropout = _rates(source)
    features, use_bias = source.units, source.use_bias
    if kind is layers.SimpleRNNCell:
        activation = check_activation(keras, source, "activation", *ACTIVATIONS)
        elman = Elman(features, ACTIVATIONS[activation], use_bias)
        cell = RecurrentDropout(elman, recurrent_dropout) if recurrent_dropout else elman
        return cell, ElmanParams(kernel, recurrent, bias), dropout
    if recurrent_dropout or (dropout and source.implementation == 1):
        raise refusal(source, "its dropout draws a mask for each gate, ours is one for all gates")
    check_activation(keras, source, "activation", "tanh")
    check_activation(keras, source, "recurrent_activation", "sigmoid")
    if kind is layers.LSTMCell:
        params = LSTMParams(kernel, recurrent, bias, None, None, None)
        return LSTM(features, use_bias=use_bias), params, dropout
    inside = None
    kernel, recurrent = (reorder(gates, "zrn", "rzn") for gates in (kernel, recurrent))
    if bias is not None:
        bias = reorder(bias, "zrn", "rzn")
    if bias is not None and source.reset_after:  # n's two biases are apart in ours as well
        both, shared = bias, 2 * features
        bias = jnp.concatenate([both[0, :shared] + both[1, :shared], both[0, shared:]])
        inside = both[1, shared:]
    reset: Reset = "after" if source.reset_after else "before"
    gru = GRU(features, reset=reset, update="keeps", use_bias=use_bias)
    return gru, GRUParams(kernel, recurrent, bias, inside), dropout


def _rates(source: Any) -> tuple[float, float]:
    """The rates of dropout on inputs and states."""
    rates = float(source.dropout), float(source.recurrent_dropout)
    for name, rate in zip(("dropout", "recurrent_dropout"), rates, strict=True):
        if rate >= 1:
            raise refusal(source, f"its {name} is {rate}, ours is below 1")
    return rates


# To keras ----------------------------------------------------------------------------------------


def check_cell(cell: Cell, params: Params) -> None:
    """Raise unless keras has this cell, and `params` are the cell's."""
    FORMS.check(_without_dropout(cell)[0], params)


def _without_dropout(cell: Cell) -> tuple[Any, float]:
    """The cell and the rate of its recurrent dropout, which is ours in a `SimpleRNN` only."""
    if isinstance(cell, RecurrentDropout) and isinstance(cell.cell, Elman):
        return cell.cell, cell.rate
    return cell, 0.0


def weights_of_cell(cell: Cell, params: Params) -> list[Array]:
    """`kernel, recurrent_kernel, bias` of keras."""
    if isinstance(cell, GRU):
        params = gru_params(params, cell.update, "keeps")
    weights = [params.kernel, params.recurrent_kernel]
    if params.bias is not None:
        weights.append(params.bias)
    if not isinstance(cell, GRU):
        return weights
    if params.recurrent_bias is not None:
        second = jnp.zeros_like(params.bias).at[-cell.features :].set(params.recurrent_bias)
        weights[2] = jnp.stack([params.bias, second])
    return [reorder(gates, "rzn", "zrn") for gates in weights]


def make(keras: Any, cell: Cell, end: str, dtype: str, **options: Any) -> Any:
    """Keras' layer of a cell, or with the `end` `"Cell"` its cell, not yet built."""
    inner, rate = _without_dropout(cell)
    options |= {"use_bias": inner.use_bias, "recurrent_dropout": rate, "dtype": dtype}
    if jnp.finfo(dtype).bits < 32:  # in which keras cannot draw its default, an orthogonal kernel
        options["recurrent_initializer"] = "glorot_uniform"
    if isinstance(inner, Elman):
        name = {ours: theirs for theirs, ours in ACTIVATIONS.items()}[inner.activation]
        return getattr(keras.layers, f"SimpleRNN{end}")(inner.features, activation=name, **options)
    if isinstance(inner, GRU):
        options["reset_after"] = inner.reset == "after"
    return getattr(keras.layers, f"{type(inner).__name__}{end}")(inner.features, **options)
