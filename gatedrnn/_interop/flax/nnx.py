"""flax nnx's `SimpleCell`, `LSTMCell`, `OptimizedLSTMCell` and `GRUCell`, and `RNN` over them.

Axes: `T` time, `*B` batch, `I` input features, `H` features.
"""

from typing import Any

from gatedrnn._interop.arrays import Arrays
from gatedrnn._interop.conventions import NNX
from gatedrnn._interop.flax.carries import from_flax_carry, to_flax_carry
from gatedrnn._interop.flax.convert import Interface, from_module, to_module
from gatedrnn._interop.require import require
from gatedrnn._src.base import Carry


def _interface() -> Interface:
    nnx = require("flax.nnx", "flax", "flax")

    def make(name: str, in_features: int, features: int, dtype: Any, options: dict) -> Any:
        zeros = nnx.initializers.zeros_init()  # replaced; flax's own lack bfloat16
        options = {"param_dtype": dtype, "kernel_init": zeros, "rngs": nnx.Rngs(0), **options}
        if name != "Linear":  # the default dtype of a SimpleCell is float32
            options |= {"recurrent_kernel_init": zeros, "dtype": None}
        return getattr(nnx, name)(in_features, features, **options)

    def sequential(modules: list[Any]) -> Any:
        return nnx.Sequential(*modules)

    sizes = ("hidden_features", "out_features")
    return Interface(nnx, NNX, "Linear", sizes, "layers/{}", make, sequential)


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
    flax = _interface()
    nnx = flax.modules
    held = nnx.to_pure_dict(nnx.state(module, nnx.Param)) if isinstance(module, nnx.Module) else {}
    return from_module(flax, module, Arrays("module", held))


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
    flax = _interface()
    module, arrays = to_module(flax, layer, params, optimized, time_major, return_carry)
    for path, array in arrays.items():
        *above, name = path.split("/")
        owner = module
        for key in above:
            owner = owner[int(key)] if key.isdigit() else getattr(owner, key)
        setattr(owner, name, flax.modules.Param(array))
    return module


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
