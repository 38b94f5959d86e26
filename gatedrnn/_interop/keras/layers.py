"""The layers of keras, as ours, and ours as keras'."""

from typing import Any

from gatedrnn._interop.keras.cells import cell_from, check_activation, make, weight
from gatedrnn._interop.keras.chain import refusal
from gatedrnn._interop.parts import Run, recurrent_of
from gatedrnn._src.base import Cell, Params
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.pointwise import Dense, DenseParams, Dropout, Embed, EmbedParams
from gatedrnn._src.layers.recurrent import Recurrent

MERGES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "mul"}


# From keras --------------------------------------------------------------------------------------


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
            found.append(recurrent_of((Run(cell, cell_params, None),)))
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
            f"its go_backwards is {source.go_backwards}; in time ours run backward in "
            "gr.bidirectional only",
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
        both.append(Run(cell, params, None))
    return recurrent_of(tuple(both), MERGES[source.merge_mode])


def _dropout_from(source: Any, shared: bool) -> Dropout:
    if source.noise_shape is not None:
        raise refusal(source, "it has a noise_shape; one mask for all steps is SpatialDropout1D")
    if source.rate >= 1:
        raise refusal(source, f"its rate is {source.rate}, ours is below 1")
    return Dropout(float(source.rate), shared)


# To keras ----------------------------------------------------------------------------------------


def layer_to(keras: Any, part: Any, dtype: str, ends: bool, return_state: bool) -> Any:
    """The layer of keras, not yet built, of one of ours: recurrent, bidirectional, dense, ...

    `ends` says that from this layer on there is one output for the whole sequence.
    """
    layers = keras.layers
    if isinstance(part, Recurrent | Bidirectional):
        options = {"return_sequences": not ends, "return_state": return_state}
        options["zero_output_for_mask"] = not ends  # it would zero the one output, too
        if isinstance(part, Recurrent):
            return make(keras, part.cell, "", dtype, **options)
        forward = make(keras, part.forward.cell, "", dtype, **options)
        backward = make(keras, part.backward.cell, "", dtype, go_backwards=True, **options)
        merge = {ours: theirs for theirs, ours in MERGES.items()}[part.merge]
        return layers.Bidirectional(forward, merge, backward_layer=backward, dtype=dtype)
    if isinstance(part, Dense):
        return layers.Dense(part.features, use_bias=part.use_bias, dtype=dtype)
    if isinstance(part, Embed):
        return layers.Embedding(part.vocab, part.features, dtype=dtype)
    shared = part.shared_in_time and not ends
    return (layers.SpatialDropout1D if shared else layers.Dropout)(part.rate, dtype=dtype)
