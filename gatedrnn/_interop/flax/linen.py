"""flax linen's `SimpleCell`, `LSTMCell`, `OptimizedLSTMCell` and `GRUCell`, and `RNN` over them.

Every gate has kernels of its own, `ii, if, ig, io` and `ir, iz, in` for the input, `hi, hf, hg, ho`
and `hr, hz, hn` for the state; the bias is the state's in an LSTM and the input's elsewhere, with
another in `hn`; the update gate keeps, the reset comes after the product.

Axes: `T` time, `*B` batch, `I` input features, `H` features.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import Arrays
from gatedrnn._interop.flax.sources import ACTIVATIONS, Flax, columns, network
from gatedrnn._interop.flax.states import from_flax_carry, to_flax_carry
from gatedrnn._interop.flax.targets import bias_of, check_options
from gatedrnn._interop.forms import Forms, Level, gru_params, levels
from gatedrnn._interop.libraries import library
from gatedrnn._interop.parts import is_cell, row_with_params
from gatedrnn._src.base import Carry, Params
from gatedrnn._src.cells.elman import ElmanParams
from gatedrnn._src.cells.gru import GRU, GRUParams
from gatedrnn._src.cells.lstm import LSTM, LSTMParams
from gatedrnn._src.layers.pointwise import DenseParams

FORMS = Forms("a linen module", elman=tuple(ACTIVATIONS), lstm=True, gru=("after",), dense=True)
INPUT = {LSTM: ("ii", "if", "ig", "io"), GRU: ("ir", "iz", "in")}
STATE = {LSTM: ("hi", "hf", "hg", "ho"), GRU: ("hr", "hz", "hn")}


def from_linen(module: Any, variables: Mapping[str, Any]) -> tuple[Any, Any]:
    """The network of a linen module and its variables: `(layer, params)`.

    A cell becomes a cell, `nn.RNN` `gr.recurrent`, `nn.Bidirectional` `gr.bidirectional`,
    `nn.Dense` `gr.dense`, and `nn.Sequential` of those a stack. What is lost is how flax starts and
    calls them: initialisers, `unroll` and the options of `nn.scan`; our networks are time-major,
    whatever `time_major` says, and always return their carry. `reverse`, `keep_order`, `time_major`
    and `return_carry` of an `nn.RNN` in `nn.Bidirectional` mean nothing, as it overrides them.

    Args:
      module: `nn.SimpleCell`, `nn.LSTMCell`, `nn.OptimizedLSTMCell`, `nn.GRUCell`, `nn.RNN`,
        `nn.Bidirectional`, `nn.Dense`, or `nn.Sequential`.
      variables: as `module.init` gives them, `{"params": ...}`; tracers too.

    Raises:
      ModuleNotFoundError: flax is not installed.
      TypeError: another module; arrays that are not floating, or of several dtypes.
      ValueError: names that are missing or too many, shapes that do not fit; options that change
        the function: activations other than the sigmoid and tanh (of a `SimpleCell` also relu, the
        sigmoid and the identity), `residual`, a `merge_fn`, a `carry_init` that is not zeros, a
        `dtype` that is not the parameters', products of another kind (`precision`, `dot_general`);
        `reverse=True` outside `nn.Bidirectional`; layers that share parameters, or of a Sequential
        that do not fit together (several `time_major`, a carry returned on the way).
    """
    nn = library("flax.linen", "flax", "flax")
    flax = Flax(nn, "Dense", ("features", "features"), "layers_{}", _take)
    if not isinstance(variables, Mapping) or set(variables) != {"params"}:
        keys = isinstance(variables, Mapping)
        got = ", ".join(map(repr, variables)) if keys else type(variables).__name__
        raise ValueError(f"variables: got {got or 'none'}, expected one collection, 'params'")
    return network(flax, module, Arrays("params", variables["params"]))


def _take(arrays: Arrays, path: str, name: str, cell: Any, in_features: int | None) -> Params:
    """The parameters of a cell."""
    features = cell.features
    if not isinstance(cell, LSTM | GRU):
        return ElmanParams(
            kernel=arrays.take(f"{path}i/kernel", (in_features, features)),
            recurrent_kernel=arrays.take(f"{path}h/kernel", (features, features)),
            bias=arrays.take(f"{path}i/bias", (features,)),
        )
    inputs, states = INPUT[type(cell)], STATE[type(cell)]
    kernel = columns(arrays, path, inputs, "kernel", (in_features, features))
    recurrent = columns(arrays, path, states, "kernel", (features, features))
    if isinstance(cell, LSTM):
        bias = columns(arrays, path, states, "bias", (features,))
        return LSTMParams(kernel, recurrent, bias, None, None, None)
    bias = columns(arrays, path, inputs, "bias", (features,))
    return GRUParams(kernel, recurrent, bias, arrays.take(f"{path}hn/bias", (features,)))


def to_linen(
    layer: Any,
    params: Any,
    *,
    optimized: bool = False,
    time_major: bool = True,
    return_carry: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """The linen module of a network and its variables, `(module, {"params": ...})`.

    `from_linen` gives the same parameters back, to the bit, but for a cell without a bias, which
    gets zeros for one, and a GRU whose update gate writes, which comes back as one that keeps: the
    same functions. A repeat or nested stack comes back as one stack; `gr.BPTT` and `forget_bias`
    are no part of flax's.

    Flax treats padding in its own way: outputs in it are not zero, and a length of 0 ends in the
    carry of the last step, not in the initial one. `nn.Sequential` hands `seq_lengths` and
    `initial_carry` to its first layer only; call its layers one by one where that matters.

    Args:
      layer: a cell, `gr.recurrent`, `gr.bidirectional` that concatenates, `gr.dense`, or a stack or
        repeat of those.
      params: its parameters, all of one dtype, which the module's will be; tracers too.
      optimized: whether LSTMs are `nn.OptimizedLSTMCell`, whose parameters are the same.
      time_major: whether the module reads `[T, *B, I]`, as ours do, rather than `[*B, T, I]`.
      return_carry: whether the module returns its carry too; a call can ask for it as well.

    Raises:
      ModuleNotFoundError: flax is not installed.
      TypeError: parameters of several dtypes.
      ValueError: linen has no such network, and why; `params` are those of another; an option
        that the network has no use for.
    """
    nn = library("flax.linen", "flax", "flax")
    found = levels(layer, row_with_params(layer, params), FORMS)
    check_options(layer, found, optimized, time_major, return_carry)
    if is_cell(layer):
        module, tree = _cell(nn, layer, params, optimized)
        return module, {"params": tree}
    options = {"time_major": time_major, "return_carry": return_carry}
    made = [_layer(nn, level, optimized, options) for level in found]
    if len(made) == 1:
        module, tree = made[0]
        return module, {"params": tree}
    module = nn.Sequential([module for module, _ in made])
    return module, {"params": {f"layers_{k}": tree for k, (_, tree) in enumerate(made)}}


def _layer(
    nn: Any, level: Level, optimized: bool, options: dict[str, bool]
) -> tuple[Any, dict[str, Any]]:
    """One layer and its parameters."""
    if isinstance(level, DenseParams):
        kernel, bias = level
        dense = nn.Dense(kernel.shape[1], bias is not None, param_dtype=kernel.dtype)
        return dense, _dense(kernel, bias)
    cells = [_cell(nn, run.cell, run.params, optimized) for run in level]
    if len(cells) == 1:
        return nn.RNN(cells[0][0], **options), {"cell": cells[0][1]}
    rnns = [nn.RNN(cell) for cell, _ in cells]
    names = ("forward_rnn", "backward_rnn")
    trees = {name: {"cell": tree} for name, (_, tree) in zip(names, cells, strict=True)}
    return nn.Bidirectional(*rnns, **options), trees


def _cell(nn: Any, cell: Any, params: Params, optimized: bool) -> tuple[Any, dict[str, Any]]:
    """A cell and its parameters."""
    options = {"features": cell.features, "param_dtype": params.kernel.dtype}
    if isinstance(cell, LSTM):
        module = nn.OptimizedLSTMCell if optimized else nn.LSTMCell
        tree = _gates(INPUT[LSTM], params.kernel, None)
        tree |= _gates(STATE[LSTM], params.recurrent_kernel, bias_of(params))
        return module(**options), tree
    if isinstance(cell, GRU):
        params = gru_params(params, cell.update, "keeps")
        tree = _gates(INPUT[GRU], params.kernel, bias_of(params))
        tree |= _gates(STATE[GRU], params.recurrent_kernel, None)
        inside = params.recurrent_bias
        tree["hn"]["bias"] = jnp.zeros_like(tree["in"]["bias"]) if inside is None else inside
        return nn.GRUCell(**options), tree
    tree = {"i": _dense(params.kernel, bias_of(params)), "h": _dense(params.recurrent_kernel, None)}
    return nn.SimpleCell(activation_fn=ACTIVATIONS[cell.activation], **options), tree


def _gates(names: tuple[str, ...], kernel: Array, bias: Array | None) -> dict[str, Any]:
    """What is stacked by gates, apart."""
    kernels = jnp.split(kernel, len(names), axis=-1)
    biases = [None] * len(names) if bias is None else jnp.split(bias, len(names))
    return {name: _dense(k, b) for name, k, b in zip(names, kernels, biases, strict=True)}


def _dense(kernel: Array, bias: Array | None) -> dict[str, Array]:
    return {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}


def from_linen_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for linen's: `(c, h)` of an LSTM, `h` of the other cells.

    Args:
      layer: the network, as `from_linen` gives it.
      states: what the module takes and returns: `[*B, H]`, or a pair of those; a pair of either for
        a bidirectional layer, and a tuple with one for each layer, `()` for a dense one, where
        there are several.

    Raises:
      ValueError: as many states, layers or directions as `layer` does not have, or other sizes.
    """
    return from_flax_carry(layer, states)


def to_linen_carry(layer: Any, carry: Carry) -> Any:
    """Linen's states for a `carry` of `layer`; `from_linen_carry` undone.

    Both of an LSTM's are in the dtype of `h`, as flax has them: of 16 bits, it rounds our `c`.

    Args:
      layer: the network.
      carry: one of its carries.

    Raises:
      ValueError: `carry` is that of another network.
    """
    return to_flax_carry(layer, carry)
