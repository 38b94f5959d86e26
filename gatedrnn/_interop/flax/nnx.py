"""flax nnx's `SimpleCell`, `LSTMCell`, `OptimizedLSTMCell` and `GRUCell`, and `RNN` over them.

Its `LSTMCell` is linen's, with `if_` for `if`. The others have a kernel for the input, `dense_i`,
and one for the state, `dense_h`; columns are gates, `i, f, g, o` and `r, z, n`. The bias is the
state's in an LSTM and the input's elsewhere; a GRU has no other, so nothing is added inside the
product that `r` gates. Its update gate keeps.

Axes: `T` time, `*B` batch, `I` input features, `H` features.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import Arrays
from gatedrnn._interop.flax.sources import ACTIVATIONS, Flax, columns, network
from gatedrnn._interop.flax.states import from_flax_carry, to_flax_carry
from gatedrnn._interop.flax.targets import bias_of, check_options
from gatedrnn._interop.forms import Forms, Level, cannot, gru_params, levels
from gatedrnn._interop.libraries import library
from gatedrnn._interop.parts import is_cell, row_with_params
from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Params
from gatedrnn._src.cells.elman import ElmanParams
from gatedrnn._src.cells.gru import GRU, GRUParams
from gatedrnn._src.cells.lstm import LSTM, LSTMParams
from gatedrnn._src.layers.pointwise import DenseParams

FORMS = Forms("an nnx module", elman=tuple(ACTIVATIONS), lstm=True, gru=("after",), dense=True)
INPUT = ("ii", "if_", "ig", "io")
STATE = ("hi", "hf", "hg", "ho")


def from_nnx(module: Any) -> tuple[Any, Any]:
    """The network of an nnx module: `(layer, params)`.

    A cell becomes a cell, `nnx.RNN` `gr.recurrent`, `nnx.Bidirectional` `gr.bidirectional`,
    `nnx.Linear` `gr.dense`, and `nnx.Sequential` of those a stack. What is lost is how flax calls
    them, and what its variables know of sharding: `unroll`, `state_axes`, `rngs` and metadata; our
    networks are time-major, whatever `time_major` says, and always return their carry. `reverse`,
    `keep_order`, `time_major` and `return_carry` of an `nnx.RNN` in `nnx.Bidirectional` mean
    nothing, as it overrides them.

    A GRU of ours adds a `recurrent_bias` that nnx does not have: it is zero. Training moves it, and
    `to_nnx` then refuses it.

    Args:
      module: `nnx.SimpleCell`, `nnx.LSTMCell`, `nnx.OptimizedLSTMCell`, `nnx.GRUCell`, `nnx.RNN`,
        `nnx.Bidirectional`, `nnx.Linear`, or `nnx.Sequential`; its parameters may be tracers.

    Raises:
      ModuleNotFoundError: flax is not installed.
      TypeError: another module; arrays that are not floating, or of several dtypes.
      ValueError: parameters that are missing or too many, shapes that do not fit; options that
        change the function: activations other than the sigmoid and tanh (of a `SimpleCell` also
        relu, the sigmoid and the identity), `residual`, a `merge_fn`, a `carry_init` that is not
        zeros, a `dtype` that is not the parameters' (a `SimpleCell` computes in float32 unless
        told otherwise), products of another kind (`precision`, `dot_general`); `reverse=True`
        outside `nnx.Bidirectional`; layers that share parameters, or of a Sequential that do not
        fit together (several `time_major`, a carry returned on the way).
    """
    nnx = library("flax.nnx", "flax", "flax")
    flax = Flax(nnx, "Linear", ("hidden_features", "out_features"), "layers/{}", _take)
    held = nnx.to_pure_dict(nnx.state(module, nnx.Param)) if isinstance(module, nnx.Module) else {}
    return network(flax, module, Arrays("module", held))


def _take(arrays: Arrays, path: str, name: str, cell: Any, in_features: int | None) -> Params:
    """The parameters of a cell."""
    features = cell.features
    if name == "LSTMCell":
        return LSTMParams(
            columns(arrays, path, INPUT, "kernel", (in_features, features)),
            columns(arrays, path, STATE, "kernel", (features, features)),
            columns(arrays, path, STATE, "bias", (features,)),
            *(None, None, None),
        )
    stacked = features * {"OptimizedLSTMCell": 4, "GRUCell": 3, "SimpleCell": 1}[name]
    kernel = arrays.take(f"{path}dense_i/kernel", (in_features, stacked))
    recurrent = arrays.take(f"{path}dense_h/kernel", (features, stacked))
    if name == "OptimizedLSTMCell":
        bias = arrays.take(f"{path}dense_h/bias", (stacked,))
        return LSTMParams(kernel, recurrent, bias, None, None, None)
    bias = arrays.take(f"{path}dense_i/bias", (stacked,))
    if name == "GRUCell":
        return GRUParams(kernel, recurrent, bias, jnp.zeros(features, kernel.dtype))
    return ElmanParams(kernel, recurrent, bias)


def to_nnx(
    layer: Any,
    params: Any,
    *,
    optimized: bool = False,
    time_major: bool = True,
    return_carry: bool = False,
) -> Any:
    """The nnx module of a network.

    `from_nnx` gives the same parameters back, to the bit, but for a cell without a bias, which gets
    zeros for one, and a GRU whose update gate writes, which comes back as one that keeps: the same
    functions. A repeat or nested stack comes back as one stack; `gr.BPTT` and `forget_bias` are no
    part of flax's.

    A GRU of nnx has no bias inside the product that `r` gates: ours must be zero there, or without
    a bias, and the values must be known, not traced.

    Flax treats padding in its own way: outputs in it are not zero, and a length of 0 ends in the
    carry of the last step, not in the initial one. `nnx.Sequential` hands `seq_lengths` and
    `initial_carry` to its first layer only; call its layers one by one where that matters.

    Args:
      layer: a cell, `gr.recurrent`, `gr.bidirectional` that concatenates, `gr.dense`, or a stack or
        repeat of those.
      params: its parameters, all of one dtype, which the module's will be; tracers too, but for the
        `recurrent_bias` of a GRU.
      optimized: whether LSTMs are `nnx.OptimizedLSTMCell`, which stacks its gates.
      time_major: whether the module reads `[T, *B, I]`, as ours do, rather than `[*B, T, I]`.
      return_carry: whether the module returns its carry too; a call can ask for it as well.

    Raises:
      ModuleNotFoundError: flax is not installed.
      TypeError: parameters of several dtypes.
      ValueError: nnx has no such network, and why; `params` are those of another; an option that
        the network has no use for.
    """
    nnx = library("flax.nnx", "flax", "flax")
    found = levels(layer, row_with_params(layer, params), FORMS)
    check_options(layer, found, optimized, time_major, return_carry)
    if is_cell(layer):
        return _cell(nnx, layer, params, optimized)
    options = {"time_major": time_major, "return_carry": return_carry}
    modules = [_layer(nnx, level, optimized, options) for level in found]
    return modules[0] if len(modules) == 1 else nnx.Sequential(*modules)


def _layer(nnx: Any, level: Level, optimized: bool, options: dict[str, bool]) -> Any:
    """One layer."""
    if isinstance(level, DenseParams):
        kernel, bias = level
        sizes = {"use_bias": bias is not None, "param_dtype": kernel.dtype}
        dense = nnx.Linear(*kernel.shape, kernel_init=_zeros(nnx), rngs=nnx.Rngs(0), **sizes)
        return _filled(nnx, dense, kernel, bias)
    cells = [_cell(nnx, run.cell, run.params, optimized) for run in level]
    if len(cells) == 1:
        return nnx.RNN(cells[0], **options)
    return nnx.Bidirectional(*(nnx.RNN(cell) for cell in cells), **options)


def _cell(nnx: Any, cell: Any, params: Params, optimized: bool) -> Any:
    """A cell."""
    options = {
        "dtype": None,  # SimpleCell's default is float32
        "param_dtype": params.kernel.dtype,
        "kernel_init": _zeros(nnx),  # replaced; flax's own lack bfloat16
        "recurrent_kernel_init": _zeros(nnx),
        "rngs": nnx.Rngs(0),
    }
    kind = nnx.OptimizedLSTMCell if optimized else nnx.LSTMCell
    if isinstance(cell, GRU):
        params = _gru_params(cell, params)
        kind = nnx.GRUCell
    elif not isinstance(cell, LSTM):
        options["activation_fn"] = ACTIVATIONS[cell.activation]
        kind = nnx.SimpleCell
    module = kind(params.kernel.shape[0], cell.features, **options)
    kernel, recurrent, bias = params.kernel, params.recurrent_kernel, bias_of(params)
    if not isinstance(cell, LSTM):
        _filled(nnx, module.dense_i, kernel, bias)
        _filled(nnx, module.dense_h, recurrent, None)
    elif optimized:
        _filled(nnx, module.dense_i, kernel, None)
        _filled(nnx, module.dense_h, recurrent, bias)
    else:
        kernels, recurrents, biases = (jnp.split(a, 4, axis=-1) for a in (kernel, recurrent, bias))
        for k, (read, kept) in enumerate(zip(INPUT, STATE, strict=True)):
            _filled(nnx, getattr(module, read), kernels[k], None)
            _filled(nnx, getattr(module, kept), recurrents[k], biases[k])
    return module


def _gru_params(cell: GRU, params: GRUParams) -> GRUParams:
    """The parameters of a GRU that keeps; raise where it adds inside the product."""
    if params.recurrent_bias is not None:
        inside = validation.concrete(params.recurrent_bias)
        why = "its GRU adds no bias inside the recurrent product"
        if inside is None:
            raise cannot(cell, FORMS.target, f"{why}, and recurrent_bias is traced, so maybe not 0")
        if inside.any():
            raise cannot(cell, FORMS.target, f"{why}, and recurrent_bias is not 0")
    return gru_params(params, cell.update, "keeps")


def _zeros(nnx: Any) -> Any:
    return nnx.initializers.zeros_init()


def _filled(nnx: Any, dense: Any, kernel: Array, bias: Array | None) -> Any:
    """`dense` with these parameters."""
    dense.kernel = nnx.Param(kernel)
    if bias is not None:
        dense.bias = nnx.Param(bias)
    return dense


def from_nnx_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for nnx's: `(c, h)` of an LSTM, `h` of the other cells.

    Args:
      layer: the network, as `from_nnx` gives it.
      states: what the module takes and returns: `[*B, H]`, or a pair of those; a pair of either for
        a bidirectional layer, and a tuple with one for each layer, `()` for a dense one, where
        there are several.

    Raises:
      ValueError: as many states, layers or directions as `layer` does not have, or other sizes.
    """
    return from_flax_carry(layer, states)


def to_nnx_carry(layer: Any, carry: Carry) -> Any:
    """Nnx's states for a `carry` of `layer`; `from_nnx_carry` undone.

    Both of an LSTM's are in the dtype of `h`, as flax has them: of 16 bits, it rounds our `c`.

    Args:
      layer: the network.
      carry: one of its carries.

    Raises:
      ValueError: `carry` is that of another network.
    """
    return to_flax_carry(layer, carry)
