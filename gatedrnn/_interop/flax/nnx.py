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

    Modules become layers as those of linen do in `from_linen`, with `nnx.Linear` for `nn.Dense`;
    what the variables know of sharding, `state_axes`, `rngs` and metadata, is lost too. A GRU of
    ours adds a `recurrent_bias` that nnx does not have: it is zero. Training moves it, and `to_nnx`
    then refuses it.

    Args:
      module: `nnx.SimpleCell`, `nnx.LSTMCell`, `nnx.OptimizedLSTMCell`, `nnx.GRUCell`, `nnx.RNN`,
        `nnx.Bidirectional`, `nnx.Linear`, or `nnx.Sequential`; its parameters may be tracers.

    Raises:
      ModuleNotFoundError: flax is not installed.
      TypeError: another module; arrays that are not floating, or of several dtypes.
      ValueError: parameters that are missing or too many, shapes that do not fit; options that
        change the function, those that `from_linen` refuses, and layers that it refuses together
        (a `SimpleCell` computes in float32 unless told otherwise).

    Example:
      >>> from flax import nnx
      >>> layer, params = gr.interop.from_nnx(nnx.RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))))
      >>> params.cell.kernel.shape
      (3, 12)
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

    `from_nnx` gives the same parameters back, to the bit, but for what `to_linen` names, too: a
    cell without a bias, a GRU whose update gate writes. Padding and `nnx.Sequential` are what they
    are in linen. A GRU of nnx has no bias inside the product that `r` gates: ours must be zero
    there, or without a bias, and the values must be known, not traced.

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

    Example:
      >>> layer = gr.recurrent(gr.LSTM(4))
      >>> module = gr.interop.to_nnx(layer, layer.init(jax.random.key(0), 3))
      >>> module(jnp.ones((5, 2, 3))).shape
      (5, 2, 4)
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
      states: what the module takes and returns, laid out as in `from_linen_carry`.

    Raises:
      ValueError: as many states, layers or directions as `layer` does not have, or other sizes.

    Example:
      >>> c_and_h = jnp.zeros((2, 4)), jnp.ones((2, 4))
      >>> gr.interop.from_nnx_carry(gr.LSTM(4), c_and_h).h.shape
      (2, 4)
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

    Example:
      >>> c, h = gr.interop.to_nnx_carry(gr.LSTM(4), gr.LSTM(4).carry((2,)))
      >>> h.shape
      (2, 4)
    """
    return to_flax_carry(layer, carry)
