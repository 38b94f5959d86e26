"""The parameter vector of `jax.experimental.rnn`, which is cuDNN's: LSTMs alone.

Rows of its matrices are gates, `i, f, g, o`. For each layer, and in it for each direction, the
input's kernel and the recurrent one; after all of them, in the same order, two biases each.

Axes: `L` layers, `D` directions, `*B` batch, `H` features, `W` weights.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import as_array
from gatedrnn._interop.forms import Forms, cannot
from gatedrnn._interop.parts import Run, joined, recurrent_of, row, row_of_params, runs
from gatedrnn._interop.states import carry_from_states, states_from_carry
from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry
from gatedrnn._src.cells.lstm import LSTM, LSTMParams
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.recurrent import Recurrent, as_layer

FORMS = Forms("cuDNN's LSTM", lstm=True)


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
    """
    for name, size in (
        ("input_size", input_size),
        ("hidden_size", hidden_size),
        ("num_layers", num_layers),
    ):
        checks.size(name, size)
    checks.flag("bidirectional", bidirectional)
    vector = as_array("weights", weights)
    rows, directions = 4 * hidden_size, 2 if bidirectional else 1
    reads = [input_size] + [directions * hidden_size] * (num_layers - 1)
    shapes: list[tuple[int, ...]] = []
    for read in reads:
        shapes += [(rows, read), (rows, hidden_size)] * directions
    shapes += [(rows,)] * (2 * directions * num_layers)
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    if vector.shape != (ends[-1],):
        raise ValueError(
            f"weights: got shape {vector.shape}, expected ({ends[-1]},) for num_layers="
            f"{num_layers}, bidirectional={bidirectional}, hidden_size={hidden_size}, "
            f"input_size={input_size}"
        )
    parts = jnp.split(vector, ends[:-1])
    arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    count = directions * num_layers
    kernels, biases = arrays[: 2 * count], arrays[2 * count :]
    every = []
    for k in range(0, 2 * count, 2):
        bias = biases[k] + biases[k + 1]
        params = LSTMParams(kernels[k].T, kernels[k + 1].T, bias, None, None, None)
        every.append(Run(LSTM(hidden_size), params, None))
    levels = [recurrent_of(tuple(every[k : k + directions])) for k in range(0, count, directions)]
    return joined([layer for layer, _ in levels], [params for _, params in levels])


def to_cudnn(layer: Any, params: Any) -> Array:
    """The vector `[W]` of a network for `jax.experimental.rnn.lstm`.

    Our bias becomes the input's, the recurrent one is zero; a cell without a bias gets two of
    zeros. `from_cudnn` gives the same parameters back, to the bit. The sizes that go with the
    vector are `input_size`, the features that the network reads, `hidden_size`, those of its cells,
    `num_layers` and `bidirectional`. The kernel reads float32 only; `lstm_ref` any dtype.

    Args:
      layer: an LSTM, `gr.recurrent` of one, `gr.bidirectional` that concatenates, or a stack or
        repeat of such layers, all of one size.
      params: its parameters, all of one dtype, which the vector's will be.

    Raises:
      ValueError: cuDNN has no such network, and why; or `params` are those of another.
    """
    levels = levels_of(layer, params)
    if any(run.initial is not None for level in levels for run in level):
        raise cannot(layer, FORMS.target, "its initial state is an input, never learned")
    return packed(levels)


def directions_of(layer: Recurrent | Bidirectional) -> tuple[Recurrent, ...]:
    """The one or two recurrences of a layer."""
    return (layer.forward, layer.backward) if isinstance(layer, Bidirectional) else (layer,)


def equal_layers(layer: Any) -> list[Recurrent | Bidirectional]:
    """The layers of a network that cuDNN has as well.

    Raises:
      ValueError: cuDNN has no such network, and why.
    """
    parts = row(layer)
    for part in parts:
        if not isinstance(part, Recurrent | Bidirectional):
            raise cannot(layer, FORMS.target, f"it has no place for {part!r}")
        if isinstance(part, Bidirectional) and part.merge != "concat":
            raise cannot(layer, FORMS.target, f"it concatenates both directions, no {part.merge}")
        for one in directions_of(part):
            FORMS.check_cell(one.cell)
    counts = {len(directions_of(part)) for part in parts}
    cells: list[Any] = [one.cell for part in parts for one in directions_of(part)]
    if len(counts) > 1 or len({cell.features for cell in cells}) > 1:
        raise cannot(
            layer, FORMS.target, "its layers are all of one size and of as many directions"
        )
    return parts


def levels_of(layer: Any, params: Any, xs: Array | None = None) -> list[tuple[Run, ...]]:
    """The runs of every layer, one for each direction, all checked.

    Args:
      layer: the network.
      params: its parameters.
      xs: what it reads, `[..., I]`; None: as many features as its first kernel has rows.

    Raises:
      ValueError: cuDNN has no such network, and why; or `params` are those of another.
      TypeError: parameters in several dtypes.
    """
    parts = equal_layers(layer)
    reads: Any = xs
    name, levels = "xs", []
    for k, (part, p) in enumerate(zip(parts, row_of_params(layer, params), strict=True)):
        level = runs(part, p)
        for run in level:
            if reads is None:
                FORMS.check(run.cell, run.params)
                kernel = run.params.kernel
                reads, name = jax.ShapeDtypeStruct(kernel.shape[:1], kernel.dtype), "layer 0"
            validation.check_params(run.cell, run.params, reads, name)
        levels.append(level)
        features = len(level) * level[0].cell.features
        reads, name = jax.ShapeDtypeStruct((features,), reads.dtype), f"the output of layer {k}"
    return levels


def packed(levels: list[tuple[Run, ...]]) -> Array:
    """The vector of these runs."""
    every = [run.params for level in levels for run in level]
    kernels = [kernel.T for p in every for kernel in (p.kernel, p.recurrent_kernel)]
    biases = []
    for p in every:
        none = jnp.zeros(p.kernel.shape[-1:], p.kernel.dtype)
        biases += [none if p.bias is None else p.bias, none]
    return jnp.concatenate([jnp.ravel(array) for array in kernels + biases])


def from_cudnn_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for the states `(h, c)` of `jax.experimental.rnn`.

    Args:
      layer: the network; a bare cell counts as its layer.
      states: a pair of arrays `[L·D, *B, H]`, as `lstm` takes and returns them.

    Raises:
      ValueError: as many states, layers or directions as `layer` does not have, or a layer that
        is none of cuDNN's.
    """
    equal_layers(layer)
    leaves = [as_array(f"states[{k}]", state) for k, state in enumerate(states)]
    return carry_from_states(as_layer(layer), leaves)


def to_cudnn_carry(layer: Any, carry: Carry) -> tuple[Array, Array]:
    """The states `(h, c)` for a `carry` of `layer`; `from_cudnn_carry` undone.

    Args:
      layer: the network; a bare cell counts as its layer.
      carry: one of its carries.

    Raises:
      ValueError: `carry` is that of another network.
    """
    equal_layers(layer)
    h, c = states_from_carry(as_layer(layer), carry)
    return h, c
