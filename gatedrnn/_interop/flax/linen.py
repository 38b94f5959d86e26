"""flax linen's `SimpleCell`, `LSTMCell`, `OptimizedLSTMCell` and `GRUCell`, and `RNN` over them.

Axes: `T` time, `*B` batch, `I` input features, `H` features.
"""

from collections.abc import Mapping
from typing import Any

from gatedrnn._interop.arrays import Arrays
from gatedrnn._interop.conventions import LINEN
from gatedrnn._interop.flax.carries import from_flax_carry, to_flax_carry
from gatedrnn._interop.flax.convert import Interface, from_module, to_module
from gatedrnn._interop.flax.nested import nest
from gatedrnn._interop.require import require
from gatedrnn._src.base import Carry


def _interface() -> Interface:
    nn = require("flax.linen", "flax", "flax")

    def make(name: str, in_features: int, features: int, dtype: Any, options: dict) -> Any:
        return getattr(nn, name)(features=features, param_dtype=dtype, **options)

    sizes = ("features", "features")
    return Interface(nn, LINEN, "Dense", sizes, "layers_{}", make, nn.Sequential)


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

    Example:
      >>> import flax.linen as nn
      >>> module = nn.RNN(nn.LSTMCell(4))
      >>> variables = module.init(jax.random.key(0), jnp.ones((2, 5, 3)))
      >>> layer, params = gr.interop.from_linen(module, variables)
      >>> params.cell.kernel.shape
      (3, 16)
    """
    flax = _interface()
    if not isinstance(variables, Mapping) or set(variables) != {"params"}:
        keys = isinstance(variables, Mapping)
        got = ", ".join(map(repr, variables)) if keys else type(variables).__name__
        raise ValueError(f"variables: got {got or 'none'}, expected one collection, 'params'")
    return from_module(flax, module, Arrays("params", variables["params"]))


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

    Example:
      >>> layer = gr.recurrent(gr.LSTM(4))
      >>> module, variables = gr.interop.to_linen(layer, layer.init(jax.random.key(0), 3))
      >>> module.apply(variables, jnp.ones((5, 2, 3))).shape
      (5, 2, 4)
    """
    options = optimized, time_major, return_carry
    module, arrays = to_module(_interface(), layer, params, *options)
    return module, {"params": nest({tuple(path.split("/")): a for path, a in arrays.items()})}


def from_linen_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for linen's: `(c, h)` of an LSTM, `h` of the other cells.

    Args:
      layer: the network, as `from_linen` gives it.
      states: what the module takes and returns: `[*B, H]`, or a pair of those; a pair of either for
        a bidirectional layer, and a tuple with one for each layer, `()` for a dense one, where
        there are several.

    Raises:
      ValueError: as many states, layers or directions as `layer` does not have, or other sizes.

    Example:
      >>> c_and_h = jnp.zeros((2, 4)), jnp.ones((2, 4))
      >>> gr.interop.from_linen_carry(gr.LSTM(4), c_and_h).h.shape
      (2, 4)
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

    Example:
      >>> c, h = gr.interop.to_linen_carry(gr.LSTM(4), gr.LSTM(4).carry((2,)))
      >>> h.shape
      (2, 4)
    """
    return to_flax_carry(layer, carry)
