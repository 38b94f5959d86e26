"""keras' `SimpleRNN`, `LSTM`, `GRU`, their cells, `Bidirectional`, and models in a row of these.

Sequences are batch-major, and the states of a layer are a list.

Axes: `T` time, `*B` batch, `R` recurrent features.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gatedrnn._interop.carries import carry_of_cells, cells_of, leaves_of_cells
from gatedrnn._interop.keras.build import keras_weights, model_of, sequence
from gatedrnn._interop.keras.read import array_of, cell_from, chain, layers_from, refusal
from gatedrnn._interop.networks import layers_of, network_of
from gatedrnn._interop.require import require
from gatedrnn._src import checks
from gatedrnn._src.base import Carry, Cell
from gatedrnn._src.layers.many_to_one import Final


def _keras() -> Any:
    """keras, or an error that says what is missing: the package, or the backend that it chose."""
    try:
        return require("keras", "keras", "keras")
    except ModuleNotFoundError as error:
        if error.name == "keras":
            raise
        raise ModuleNotFoundError(
            f"keras would run on {error.name}, which is not installed: set KERAS_BACKEND=jax before"
            " keras is imported",
            name=error.name,
        ) from None


def from_keras(source: Any) -> tuple[Any, Any]:
    """The network of a keras layer, cell or model: `(layer, params)`.

    `SimpleRNN`, `LSTM`, `GRU` and `RNN` of their cells become `gr.recurrent`, an `RNN` of several
    cells a stack, `Bidirectional` becomes `gr.bidirectional`, and a bare cell a cell and its
    parameters; `Dense`, `Embedding`, `Dropout` and `SpatialDropout1D` become `gr.dense`, `gr.embed`
    and `gr.dropout`; a `Sequential` or functional model in which every layer reads the one before,
    a stack of these. Where sequences are not returned, the whole becomes `gr.final`. Our networks
    are time-major.

    The two biases of a GRU with `reset_after` are added where only their sum acts; their split is
    lost. `dropout` of a recurrent layer becomes `gr.dropout(rate, shared_in_time=True)` before it,
    `recurrent_dropout` of a `SimpleRNN` a `gr.RecurrentDropout`. What is for training only is not
    part of it (initialisers, regularisers, constraints, what is trainable), nor how a layer runs
    (`unroll`, `use_cudnn`, a `dtype` policy that computes in another precision than its weights'),
    nor that it returns its states, which ours always do.

    At steps that a mask leaves out, outputs of ours are zeros, where keras, unless it is told to
    `zero_output_for_mask`, repeats the last one; states are the same. For a row with no step at all
    `gr.final` gives zeros, keras the initial state.

    Args:
      source: a layer, a cell or a model, built. Within its `stateless_call` the weights are those
        of the call.

    Raises:
      ModuleNotFoundError: keras is not installed.
      TypeError: not of keras; weights that are not floating, or of a precision that JAX would round
        here.
      ValueError: we have no such network, and why; or it has no weights yet.

    Example:
      >>> import keras
      >>> source = keras.layers.GRU(4, return_sequences=True)
      >>> source.build((None, None, 3))
      >>> layer, params = gr.interop.from_keras(source)
      >>> params.cell.kernel.shape
      (3, 12)
    """
    keras = _keras()
    cells = keras.layers.SimpleRNNCell, keras.layers.LSTMCell, keras.layers.GRUCell
    if isinstance(source, cells):
        cell, cell_params, dropout = cell_from(keras, source)
        if dropout:
            raise refusal(source, "ours has no dropout on its inputs; put it into keras.layers.RNN")
        return cell, cell_params
    parts = chain(keras, source)
    found = [pair for part in parts for pair in layers_from(keras, part)]
    layer, params = network_of([layer for layer, _ in found], [p for _, p in found])
    ends = not all(getattr(part, "return_sequences", True) for part in parts)
    return (Final(layer) if ends else layer), params


def to_keras(layer: Any, params: Any, *, return_state: bool = False) -> Any:
    """The keras layer of a network, a `Sequential` of several, or the cell of a bare cell; built.

    It reads sequences batch-major. What is in `gr.final` does not return sequences, everything else
    does; `gr.dropout` becomes `Dropout`, or `SpatialDropout1D` where it is shared in time. Lengths
    are its `mask`, `[B, T]`, True at valid steps, which an `Embedding` lets not through. At other
    steps recurrent layers give zeros, as ours do, but `gr.dense` above them gives its bias; for a
    row with no step at all `gr.final` becomes the initial state.

    A GRU that resets after has a second bias, zero but for what it adds inside the product.
    `from_keras` gives the same parameters back, to the bit; a GRU whose update gate writes comes
    back as one that keeps, the same function. In float64 keras' own `tanh` rounds to float32 on
    JAX.

    Args:
      layer: a cell, or a layer made of `gr.recurrent`, `gr.bidirectional`, `gr.dense`, `gr.embed`,
        `gr.dropout`, `gr.stack` and `gr.repeat`, with or without `gr.final` around it.
      params: its parameters, all of one dtype, which the model's will be.
      return_state: whether a single recurrent or bidirectional layer returns its final states, too.

    Raises:
      ModuleNotFoundError: keras is not installed.
      ValueError: keras has no such network, and why; or `params` are those of another.

    Example:
      >>> layer = gr.recurrent(gr.LSTM(4))
      >>> model = gr.interop.to_keras(layer, layer.init(jax.random.key(0), 3))
      >>> [weight.shape for weight in model.weights]
      [(3, 16), (4, 16), (16,)]
    """
    keras = _keras()
    checks.flag("return_state", return_state)
    weights = keras_weights(layer, params)
    model = model_of(keras, layer, params, return_state)
    model.set_weights([np.asarray(leaf) for leaf in weights])
    return model


def from_keras_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for the states of keras.

    Args:
      layer: the network, as `from_keras` gives it.
      states: what a layer takes as `initial_state` and returns with `return_state`: `h`, of an LSTM
        `h, c`, each `[*B, R]`, in a bidirectional layer also those of the backward direction; of
        several layers one after another, or a list for each.

    Raises:
      ModuleNotFoundError: keras is not installed.
      ValueError: as many states as `layer` does not have, or other sizes.

    Example:
      >>> states = [jnp.zeros((2, 4)), jnp.zeros((2, 4))]
      >>> gr.interop.from_keras_carry(gr.recurrent(gr.LSTM(4)), states).c.shape
      (2, 4)
    """
    keras = _keras()
    if isinstance(states, Iterator):
        raise TypeError(f"states: got {type(states).__name__}, expected arrays in a list")
    found = jax.tree.leaves(states)
    leaves = [array_of(keras, f"states[{k}]", leaf) for k, leaf in enumerate(found)]
    inside = sequence(layer)
    counts = [_count(cell) for one in layers_of(inside) for cell in cells_of(one)]
    if len(leaves) != sum(counts):
        raise ValueError(f"states: got {len(leaves)}, expected {sum(counts)} for {layer!r}")
    left = iter(leaves)
    return carry_of_cells(inside, (list(itertools.islice(left, count)) for count in counts))


def _count(cell: Cell) -> int:
    """The number of arrays in the carry of a cell."""
    return len(jax.tree.leaves(cell.carry((), jnp.float32)))


def to_keras_carry(layer: Any, carry: Carry) -> list[Array]:
    """The states of keras for a `carry` of `layer`, in one list; `from_keras_carry` undone.

    Args:
      layer: the network.
      carry: one of its carries.

    Raises:
      ValueError: it is the carry of another network.

    Example:
      >>> layer = gr.recurrent(gr.LSTM(4))
      >>> [state.shape for state in gr.interop.to_keras_carry(layer, layer.carry((2,)))]
      [(2, 4), (2, 4)]
    """
    return list(itertools.chain(*leaves_of_cells(sequence(layer), carry)))
