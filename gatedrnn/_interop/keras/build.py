"""A network of ours as a model of keras: the weights in their order, the model without values."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.conventions import KERAS
from gatedrnn._interop.layouts import to_arrays
from gatedrnn._interop.networks import (
    check_network,
    directions_of,
    is_cell,
    layers_of,
    layers_with_params,
    recurrences_of,
)
from gatedrnn._interop.supported import cannot, check_params, checked_recurrences, row_of
from gatedrnn._src import validation
from gatedrnn._src.base import Cell
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.recurrent_dropout import RecurrentDropout
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.many_to_one import Final
from gatedrnn._src.layers.pointwise import Dense, Dropout, Embed


def sequence(layer: Any) -> Any:
    """The layer that makes sequences."""
    check_network(layer)
    return layer.layer if isinstance(layer, Final) else layer


def keras_weights(layer: Any, params: Any) -> list[Array]:
    """The weights of `to_keras(layer, params)` in their order, as its `stateless_call` takes them.

    A pure function, which JAX can differentiate.

    Raises:
      ValueError: keras has no such network, and why; or `params` are those of another.
    """
    weights: list[Array] = []
    for part, p in _checked(layer, params):
        if directions_of(part):
            for one in recurrences_of(part, p):
                weights += to_arrays(KERAS, _without_dropout(one.cell), one.params).values()
        else:
            weights += jax.tree.leaves(p)
    return weights


def _checked(layer: Any, params: Any) -> list[tuple[Any, Any]]:
    """The layers in a row, which keras has, and their parameters; a bare cell as its layer."""
    inside = sequence(layer)
    parts = layers_with_params(inside, params)
    for part, p in parts:
        if isinstance(part, Dense):
            check_params(part, p)
        elif not isinstance(part, Embed | Dropout):
            checked_recurrences(layer, part, p, KERAS, _without_dropout)
    dtypes = sorted({jnp.result_type(leaf).name for leaf in jax.tree.leaves(params)})
    if not dtypes:
        raise cannot(layer, KERAS, "nothing in it says how many features it reads")
    if len(dtypes) > 1:
        raise ValueError(f"params: got dtype {' and '.join(dtypes)}, expected the same in all")
    in_features = _in_features(layer, params)
    expected = jax.eval_shape(lambda: inside.init(jax.random.key(0), in_features))
    validation.check_shapes("params", params, expected, layer)
    return parts


def _in_features(layer: Any, params: Any) -> int | None:
    """The number of features that the network reads; None for tokens."""
    inside = sequence(layer)
    for part, p in layers_with_params(inside, params):
        if directions_of(part):
            return int(recurrences_of(part, p)[0].params.kernel.shape[0])
        if isinstance(part, Dense):
            return int(p.kernel.shape[0])
        if isinstance(part, Embed):
            return None
    return None


def model_of(keras: Any, layer: Any, params: Any, return_state: bool) -> Any:
    """The cell, layer or `Sequential` model of a network and its `params`, built, without values.

    Raises:
      ValueError: keras has no such network, and why; or it cannot return states.
    """
    parts = layers_of(sequence(layer))
    recurrent = [k for k, part in enumerate(parts) if directions_of(part)]
    if return_state and (is_cell(layer) or len(parts) > 1 or not recurrent):
        raise ValueError(
            f"return_state: got True for {layer!r}, expected False: only a recurrent layer alone is"
            " asked for its states"
        )
    if isinstance(layer, Final) and not recurrent:
        raise cannot(layer, KERAS, "only recurrent layers make one output of a sequence")
    for k, part in enumerate(parts):
        # its static shape is twice the forward one's, and what stands above is built for that
        above = any(not isinstance(later, Dropout) for later in parts[k + 1 :])
        if above and not _of_one_size(part):
            raise cannot(layer, KERAS, "below other layers its two directions are of one size")
    end = recurrent[-1] if isinstance(layer, Final) else len(parts)
    in_features = _in_features(layer, params)
    dtype = jnp.result_type(jax.tree.leaves(params)[0]).name
    if is_cell(layer):
        cell = _cell(keras, layer, "Cell", dtype)
        cell.build((None, in_features))
        return cell
    made = [_layer(keras, part, dtype, k >= end, return_state) for k, part in enumerate(parts)]
    shape = (None,) if in_features is None else (None, in_features)
    if len(made) == 1:
        made[0].build((None, *shape))
        return made[0]
    start = keras.Input(shape, dtype="int32" if in_features is None else dtype)
    return keras.Sequential([start, *made])


def _of_one_size(part: Any) -> bool:
    """Return whether both directions, if there are two, make as many features."""
    if not isinstance(part, Bidirectional):
        return True
    return part.forward.out_features(1) == part.backward.out_features(1)


def _layer(keras: Any, part: Any, dtype: str, ends: bool, return_state: bool) -> Any:
    """The layer of keras, not yet built, of one of ours: recurrent, bidirectional, dense, ...

    `ends` says that from this layer on there is one output for the whole sequence.
    """
    layers = keras.layers
    directions = directions_of(part)
    if directions:
        options = {"return_sequences": not ends, "return_state": return_state}
        options["zero_output_for_mask"] = not ends  # it would zero the one output, too
        forward = _cell(keras, directions[0].cell, "", dtype, **options)
        if len(directions) == 1:
            return forward
        backward = _cell(keras, directions[1].cell, "", dtype, go_backwards=True, **options)
        merge = KERAS.merges[part.merge]
        return layers.Bidirectional(forward, merge, backward_layer=backward, dtype=dtype)
    if isinstance(part, Dense):
        return layers.Dense(part.features, use_bias=part.use_bias, dtype=dtype)
    if isinstance(part, Embed):
        return layers.Embedding(part.vocab, part.features, dtype=dtype)
    shared = part.shared_in_time and not ends
    return (layers.SpatialDropout1D if shared else layers.Dropout)(part.rate, dtype=dtype)


def _without_dropout(cell: Any) -> Any:
    """The cell without its recurrent dropout, which is ours in a `SimpleRNN` only."""
    dropped = isinstance(cell, RecurrentDropout) and isinstance(cell.cell, Elman)
    return cell.cell if dropped else cell


def _cell(keras: Any, cell: Cell, end: str, dtype: str, **options: Any) -> Any:
    """Keras' layer of a cell, or with the `end` `"Cell"` its cell, not yet built."""
    inner, rate = _without_dropout(cell), getattr(cell, "rate", 0.0)
    row = row_of(KERAS, inner)
    name, *_ = row.modules[0].split("(")
    options |= {"use_bias": inner.use_bias, "recurrent_dropout": rate, "dtype": dtype}
    if jnp.finfo(dtype).bits < 32:  # in which keras cannot draw its default, an orthogonal kernel
        options["recurrent_initializer"] = "glorot_uniform"
    if isinstance(inner, Elman):
        options["activation"] = row.activations[inner.activation]
    if isinstance(inner, GRU):
        options["reset_after"] = inner.reset == "after"
    return getattr(keras.layers, f"{name}{end}")(inner.features, **options)
