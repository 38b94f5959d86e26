"""The parameter vector of `jax.experimental.rnn`, which is cuDNN's: LSTMs alone.

It holds, for each layer and in it for each direction, the input's kernel and the recurrent one;
after all of them, in the same order, two biases each.

Axes: `L` layers, `D` directions, `*B` batch, `H` features, `W` weights.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import as_array
from gatedrnn._interop.carries import carry_from_states, states_from_carry
from gatedrnn._interop.conventions import CUDNN
from gatedrnn._interop.layouts import cell_of, from_arrays, shapes_of, to_arrays
from gatedrnn._interop.networks import (
    DirectedCell,
    layer_of,
    layers_of,
    network_of,
    recurrences_of,
    split_network,
)
from gatedrnn._interop.supported import (
    cannot,
    check_initial,
    check_params,
    checked_directions,
    row_of,
)
from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.recurrent import Recurrent, as_layer

(ROW,) = CUDNN.cells


def from_cudnn(
    weights: Any, *, input_size: int, hidden_size: int, num_layers: int, bidirectional: bool
) -> tuple[Any, Any]:
    """The network of a vector of `jax.experimental.rnn`: `(layer, params)`.

    `gr.recurrent`, `gr.bidirectional` or a stack of those. The two biases are added; their split is
    lost. A forget bias is in the bias already.

    Args:
      weights: `[W]`, as `init_lstm_weight` makes them and `lstm` takes them.
      input_size: how many features the first layer reads.
      hidden_size: `H`.
      num_layers: `L`.
      bidirectional: whether each layer has two directions.

    Raises:
      TypeError: weights that are not floating, or of a precision that JAX would round here.
      ValueError: as many weights as such a network does not have.

    Example:
      >>> sizes = {"input_size": 3, "hidden_size": 4, "num_layers": 1, "bidirectional": False}
      >>> layer, params = gr.interop.from_cudnn(jnp.zeros(144), **sizes)
      >>> params.cell.kernel.shape
      (3, 16)
    """
    for name, size in (
        ("input_size", input_size),
        ("hidden_size", hidden_size),
        ("num_layers", num_layers),
    ):
        checks.size(name, size)
    checks.flag("bidirectional", bidirectional)
    vector = as_array("weights", weights)
    cell, directions = cell_of(ROW, hidden_size), 2 if bidirectional else 1
    reads = [input_size] + [directions * hidden_size] * (num_layers - 1)
    each = [shapes_of(ROW, cell, read) for read in reads for _ in range(directions)]
    places = _places(len(each))
    shapes: list[Any] = [each[k][name] for k, name in places]
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    if vector.shape != (ends[-1],):
        raise ValueError(
            f"weights: got shape {vector.shape}, expected ({ends[-1]},) for num_layers="
            f"{num_layers}, bidirectional={bidirectional}, hidden_size={hidden_size}, "
            f"input_size={input_size}"
        )
    parts = jnp.split(vector, ends[:-1])
    found: list[dict[str, Array]] = [{} for _ in each]
    for (k, name), part, shape in zip(places, parts, shapes, strict=True):
        found[k][name] = part.reshape(shape)
    every = [DirectedCell(cell, from_arrays(ROW, cell, own), None) for own in found]
    layers = [layer_of(tuple(every[k : k + directions])) for k in range(0, len(every), directions)]
    return network_of([layer for layer, _ in layers], [params for _, params in layers])


def to_cudnn(layer: Any, params: Any) -> Array:
    """The vector `[W]` of a network for `jax.experimental.rnn.lstm`.

    Our bias becomes the input's, the recurrent one is zero; a cell without a bias gets two of
    zeros. `from_cudnn` gives the same parameters back, to the bit. The sizes that go with the
    vector are `input_size`, the features that the network reads, `hidden_size`, those of its cells,
    `num_layers` and `bidirectional`. The kernel reads float32 only; `lstm_ref` any dtype.

    Args:
      layer: an LSTM, `gr.recurrent` over one, `gr.bidirectional` that concatenates, or a stack or
        repeat of such layers, all equal in size.
      params: its parameters, all of one dtype, which the vector's will be.

    Raises:
      ValueError: cuDNN has no such network, and why; or `params` are those of another.

    Example:
      >>> layer = gr.recurrent(gr.LSTM(4))
      >>> gr.interop.to_cudnn(layer, layer.init(jax.random.key(0), 3)).shape
      (144,)
    """
    levels = levels_of(layer, params)
    check_initial(layer, itertools.chain(*levels), CUDNN)
    return packed(levels)


def equal_layers(layer: Any) -> list[Recurrent | Bidirectional]:
    """The layers of a network that cuDNN has as well.

    Raises:
      ValueError: cuDNN has no such network, and why.
    """
    layers = layers_of(layer)
    counts: set[int] = set()
    cells: list[Any] = []
    for own in layers:
        directions = checked_directions(layer, own, CUDNN)
        counts.add(len(directions))
        cells += [one.cell for one in directions]
        for cell in cells:
            row_of(CUDNN, cell)
    if len(counts) > 1 or len({cell.features for cell in cells}) > 1:
        raise cannot(layer, CUDNN, "its layers are all of one size and of as many directions")
    return layers


def levels_of(layer: Any, params: Any, xs: Array | None = None) -> list[tuple[DirectedCell, ...]]:
    """The directions of every layer, all checked.

    Args:
      layer: the network.
      params: its parameters.
      xs: what it reads, `[..., I]`; None: as many features as its first kernel has rows.

    Raises:
      ValueError: cuDNN has no such network, and why; or `params` are those of another.
      TypeError: parameters in several dtypes.
    """
    layers = equal_layers(layer)
    reads: Any = xs
    name, levels = "xs", []
    for k, (own, p) in enumerate(zip(layers, split_network(layer, params, "params"), strict=True)):
        level = recurrences_of(own, p)
        for one in level:
            if reads is None:
                check_params(one.cell, one.params)
                kernel = one.params.kernel
                reads, name = jax.ShapeDtypeStruct(kernel.shape[:1], kernel.dtype), "layer 0"
            validation.check_params(one.cell, one.params, reads, name)
        levels.append(level)
        features = len(level) * level[0].cell.features
        reads, name = jax.ShapeDtypeStruct((features,), reads.dtype), f"the output of layer {k}"
    return levels


def packed(levels: list[tuple[DirectedCell, ...]]) -> Array:
    """The vector of these layers."""
    every = [to_arrays(CUDNN, one.cell, one.params) for level in levels for one in level]
    return jnp.concatenate([jnp.ravel(every[k][name]) for k, name in _places(len(every))])


def _places(count: int) -> list[tuple[int, str]]:
    """The order of the arrays in a vector: of so many directions of layers, and their names."""
    kernels, biases = ROW.kernel + ROW.recurrent_kernel, ROW.bias + ROW.recurrent_bias
    return [(k, name) for names in (kernels, biases) for k in range(count) for name in names]


def from_cudnn_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for the states `(h, c)` of `jax.experimental.rnn`.

    Args:
      layer: the network; a bare cell counts as its layer.
      states: a pair of arrays `[L·D, *B, H]`, as `lstm` takes and returns them.

    Raises:
      TypeError: states that are no arrays of floating-point numbers.
      ValueError: as many states, layers or directions as `layer` does not have, or a layer that
        is none of cuDNN's.

    Example:
      >>> states = jnp.zeros((1, 2, 4)), jnp.zeros((1, 2, 4))
      >>> gr.interop.from_cudnn_carry(gr.recurrent(gr.LSTM(4)), states).h.shape
      (2, 4)
    """
    equal_layers(layer)
    if not isinstance(states, tuple | list) or len(states) != 2:
        got = len(states) if isinstance(states, tuple | list) else type(states).__name__
        raise ValueError(f"states: got {got}, expected h, c, in a pair")
    leaves = [as_array(f"states[{k}]", state) for k, state in enumerate(states)]
    return carry_from_states(as_layer(layer), leaves)


def to_cudnn_carry(layer: Any, carry: Carry) -> tuple[Array, Array]:
    """The states `(h, c)` for a `carry` of `layer`; `from_cudnn_carry` undone.

    Args:
      layer: the network; a bare cell counts as its layer.
      carry: one of its carries.

    Raises:
      ValueError: `carry` is that of another network.

    Example:
      >>> layer = gr.bidirectional(gr.LSTM(4))
      >>> h, c = gr.interop.to_cudnn_carry(layer, layer.carry((2,)))
      >>> h.shape
      (2, 2, 4)
    """
    equal_layers(layer)
    h, c = states_from_carry(as_layer(layer), carry)
    return h, c
