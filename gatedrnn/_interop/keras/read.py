"""Layers and cells of keras as ours, and its models whose layers read one another in a row."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import as_array
from gatedrnn._interop.conventions import KERAS
from gatedrnn._interop.layouts import cell_of, from_arrays, shapes_of
from gatedrnn._interop.networks import DirectedCell, layer_of
from gatedrnn._src.base import Cell, Params
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.recurrent_dropout import RecurrentDropout
from gatedrnn._src.layers.pointwise import Dense, DenseParams, Dropout, Embed, EmbedParams

MERGES = {theirs: ours for ours, theirs in KERAS.merges.items()}


def refusal(source: Any, why: str) -> ValueError:
    """The error for a part of keras that has no exact counterpart."""
    name = f"{type(source).__name__} {getattr(source, 'name', '')!r}"
    return ValueError(f"source: got {name}, which cannot become a network of ours: {why}")


# Models ------------------------------------------------------------------------------------------


def chain(keras: Any, source: Any) -> list[Any]:
    """The layers of a model one after another, models within models as one row; a layer as it is.

    Raises:
      ValueError: the model is no such row, and why.
    """
    found = _chain(keras, source)
    if not found:
        raise refusal(source, "it has no layers")
    with_weights = [id(layer) for layer in found if getattr(layer, "weights", None)]
    if len(set(with_weights)) < len(with_weights):
        raise refusal(source, "a layer of it is called twice, with the same weights")
    return found


def _chain(keras: Any, source: Any) -> list[Any]:
    if not isinstance(source, keras.Model):
        return [source]
    if type(source).__module__.split(".")[0] != "keras" or not hasattr(source, "layers"):
        raise refusal(source, "it is a model with code of its own; convert its layers one by one")
    parts = source.layers if isinstance(source, keras.Sequential) else _row(keras, source)
    return [layer for part in parts for layer in _chain(keras, part)]


def _row(keras: Any, model: Any) -> list[Any]:
    """The layers that a functional model calls between its one input and its one output."""
    if not getattr(model, "inputs", None) or len(model.inputs) + len(model.outputs) != 2:
        raise refusal(model, "ours have one input and one output")
    parts: list[Any] = []
    tensor = model.outputs[0]
    while True:
        # keras has no public way to follow a tensor back; its own models are saved by this one
        operation, call, output = tensor._keras_history
        if isinstance(operation, keras.layers.InputLayer):
            return parts[::-1]
        arguments = operation._inbound_nodes[call].arguments
        given = {k for k, v in arguments.kwargs.items() if v is not None and v is not False}
        if given:
            raise refusal(
                operation,
                f"it is called with {', '.join(sorted(given))}; masks, by Embedding(mask_zero=True)"
                " too, and states are arguments of our apply",
            )
        if len(arguments.args) != 1 or len(arguments.keras_tensors) != 1:
            raise refusal(operation, "it is called with more than the output of one layer")
        if output != 0:
            raise refusal(operation, "its state is read by the next layer, ours read outputs")
        parts.append(operation)
        tensor = arguments.keras_tensors[0]


# Layers ------------------------------------------------------------------------------------------


def layers_from(keras: Any, source: Any) -> list[tuple[Any, Any]]:
    """The layers of ours, with their parameters, that one layer of keras becomes.

    Raises:
      TypeError: not of keras.
      ValueError: we have no such layer, and why.
    """
    layers, kind = keras.layers, type(source)
    if kind in (layers.RNN, layers.LSTM, layers.GRU, layers.SimpleRNN):
        found: list[tuple[Any, Any]] = []
        for cell, cell_params, dropout in _cells_of(keras, source, backwards=False):
            if dropout:
                found.append((Dropout(dropout, shared_in_time=True), ()))
            found.append(layer_of((DirectedCell(cell, cell_params, None),)))
        return found
    if kind is layers.Bidirectional:
        return [_bidirectional_from(keras, source)]
    if kind in (layers.Dropout, layers.SpatialDropout1D):
        return [(_dropout_from(source, shared=kind is layers.SpatialDropout1D), ())]
    if kind is layers.Dense:
        check_activation(keras, source, "activation", "linear")
        bias = weight(keras, source, "bias") if source.use_bias else None
        params = DenseParams(weight(keras, source, "kernel"), bias)
        return [(Dense(source.units, source.use_bias), params)]
    if kind is layers.Embedding:
        if source.mask_zero:
            raise refusal(source, "its mask_zero makes a mask; ours are given it: mask=tokens != 0")
        table = EmbedParams(weight(keras, source, "embeddings"))
        return [(Embed(source.input_dim, source.output_dim), table)]
    if isinstance(source, keras.Operation):
        raise refusal(source, "there is no such layer")
    raise TypeError(f"source: got {kind.__name__}, expected a layer, a cell or a model of keras")


def _cells_of(keras: Any, source: Any, backwards: bool) -> list[tuple[Cell, Params, float]]:
    """The cells of a recurrent layer, the lowest first, as `cell_from` gives them."""
    if source.go_backwards != backwards:
        raise refusal(
            source,
            f"its go_backwards is {source.go_backwards}; backward alone it is not converted: "
            "convert it without, and run it as gr.recurrent(cell, reverse=True)",
        )
    if source.stateful:
        raise refusal(source, "it is stateful; ours are given their carry and return it")
    if source.zero_output_for_mask and not source.return_sequences:
        raise refusal(
            source,
            "with zero_output_for_mask and no return_sequences a row that ends early gives zeros",
        )
    stacked = isinstance(source.cell, keras.layers.StackedRNNCells)
    return [cell_from(keras, cell) for cell in (source.cell.cells if stacked else [source.cell])]


def _bidirectional_from(keras: Any, source: Any) -> tuple[Any, Any]:
    """Both directions, merged."""
    if source.merge_mode is None:
        raise refusal(source, "its merge_mode is None, which gives two outputs, ours is one")
    both = []
    for layer, backwards in ((source.forward_layer, False), (source.backward_layer, True)):
        if not isinstance(layer, keras.layers.RNN):
            raise refusal(layer, "the directions of ours are recurrent layers")
        cells = _cells_of(keras, layer, backwards)
        if len(cells) > 1:
            raise refusal(source, "its directions are stacks; ours are merged after every layer")
        cell, params, dropout = cells[0]
        if dropout:
            raise refusal(source, "each direction drops out inputs of its own; ours read the same")
        both.append(DirectedCell(cell, params, None))
    return layer_of(tuple(both), MERGES[source.merge_mode])


def _dropout_from(source: Any, shared: bool) -> Dropout:
    if source.noise_shape is not None:
        raise refusal(source, "it has a noise_shape; one mask for all steps is SpatialDropout1D")
    if source.rate >= 1:
        raise refusal(source, f"its rate is {source.rate}, ours is below 1")
    return Dropout(float(source.rate), shared)


# Cells -------------------------------------------------------------------------------------------


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
    """Return the one of the `expected` activations, by keras' names, that a layer has."""
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
    after = getattr(source, "reset_after", True)
    row = KERAS.row(kind.__name__ if after else "GRU(reset_after=False)")
    cell = cell_of(row, source.units, source.use_bias)
    params = from_arrays(
        row, cell, {name: weight(keras, source, name) for name in shapes_of(row, cell, None)}
    )
    dropout, recurrent_dropout = _rates(source)
    if row.cell is Elman:
        names: dict[str, Any] = {theirs: ours for ours, theirs in row.activations.items()}
        activation = check_activation(keras, source, "activation", *names)
        cell = Elman(source.units, names[activation], source.use_bias)
        if recurrent_dropout:
            return RecurrentDropout(cell, recurrent_dropout), params, dropout
        return cell, params, dropout
    if recurrent_dropout or (dropout and source.implementation == 1):
        raise refusal(source, "its dropout draws a mask for each gate, ours is one for all gates")
    check_activation(keras, source, "activation", "tanh")
    check_activation(keras, source, "recurrent_activation", "sigmoid")
    return cell, params, dropout


def _rates(source: Any) -> tuple[float, float]:
    """The rates of dropout on inputs and states."""
    rates = float(source.dropout), float(source.recurrent_dropout)
    for name, rate in zip(("dropout", "recurrent_dropout"), rates, strict=True):
        if rate >= 1:
            raise refusal(source, f"its {name} is {rate}, ours is below 1")
    return rates
