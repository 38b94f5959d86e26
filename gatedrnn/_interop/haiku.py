"""haiku's cores `hk.LSTM`, `hk.GRU` and `hk.VanillaRNN`, and `hk.DeepRNN` of them.

Parameters are a dict from the paths of modules to dicts of arrays: an LSTM made as `hk.LSTM(8)` has
`{"lstm/linear": {"w": ..., "b": ...}}`, the second one beside it `"lstm_1/linear"`, one that a
module `net` makes in its constructor `"net/~/lstm/linear"`. Haiku itself is not needed for those.

Axes: `*B` batch, `I` input features, `H` features.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jax import Array

from gatedrnn._interop.arrays import Arrays, check_mapping
from gatedrnn._interop.carries import carry_from_cells, cells_from_carry
from gatedrnn._interop.conventions import HAIKU
from gatedrnn._interop.layouts import cell_of, take_params, to_arrays
from gatedrnn._interop.networks import DirectedCell, is_sequence, layers_with_params, stack_of
from gatedrnn._interop.require import require
from gatedrnn._interop.supported import checked_layers
from gatedrnn._src import checks
from gatedrnn._src.base import Carry
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.lstm import LSTM
from gatedrnn._src.describe import shown

NAMES: dict[type, str] = {LSTM: "lstm", GRU: "gru", Elman: "vanilla_rnn"}
SINGLE_BIAS = "VanillaRNN(double_bias=False)"


def from_haiku(
    params: Mapping[str, Any], modules: str | Sequence[str] | None = None
) -> tuple[Any, Any]:
    """The network of haiku's cores: `(layer, params)`.

    The path of one core gives a cell and its parameters, those of several, one above another as in
    `hk.DeepRNN` without skip connections, a stack. Which core it is follows from what is below its
    path.

    The 1 that `hk.LSTM` adds to its forget gate is added to the bias, which rounds once; the two
    biases of `hk.VanillaRNN` are added, their split is lost; all else is exact.

    Args:
      params: from the paths of modules to arrays by name, as `init` of `hk.transform` returns them.
      modules: the path of the core, `"net/~/lstm"`, or the paths of several in the order in which
        they run, also of one for a stack of one; other modules are ignored then. None: `params`
        are those of one core and nothing else.

    Raises:
      TypeError: no mapping of mappings; arrays that are not floating, or of a precision that JAX
        would round here.
      ValueError: no core of that path, several without `modules`, names that are missing or too
        many, shapes that do not fit.

    Example:
      >>> gru = {"w_i": jnp.ones((3, 12)), "w_h": jnp.ones((4, 12)), "b": jnp.ones(12)}
      >>> cell, params = gr.interop.from_haiku({"net/~/gru": gru})
      >>> cell.features, cell.update
      (4, 'writes')
    """
    for path, own in check_mapping("params", params).items():
        check_mapping(f"params, {path!r}", own)
    if modules is None:
        modules = _only(params)
    if isinstance(modules, str):
        one = _take(params, modules, None)
        return one.cell, one.params
    return stack_of(partial(_take, params, path) for path in _checked(modules, None))


def _only(params: Mapping[str, Any]) -> str:
    """The path of the one core that `params` are of."""
    paths = set()
    for path in params:
        above, _, name = path.rpartition("/")
        paths.add(above if name in ("linear", "linear_1") else path)
    if len(paths) != 1:
        raise ValueError(
            f"modules: got None for params of {', '.join(sorted(params)) or 'nothing'}, expected "
            "the path of a core, or those of several in the order in which they run"
        )
    return paths.pop()


def _checked(modules: Any, count: int | None) -> list[str]:
    """The paths of several cores, each another one."""
    fits = not isinstance(modules, str) and isinstance(modules, Sequence) and len(modules) > 0
    if not fits or any(not isinstance(path, str) for path in modules):
        raise ValueError(
            f"modules: got {shown(modules)}, expected the paths of {count or 'the'} cores"
        )
    if len(set(modules)) != len(modules) or count not in (None, len(modules)):
        raise ValueError(
            f"modules: got {', '.join(modules)}, expected {count or 'different'} paths, one for "
            "each core"
        )
    return list(modules)


def _take(params: Mapping[str, Any], path: str, in_features: int | None) -> DirectedCell:
    """The core of this path."""
    own = dict(params.get(path, {}))
    below = {key: value for key, value in params.items() if key.startswith(f"{path}/")}
    own |= {key.removeprefix(f"{path}/"): value for key, value in below.items()}
    arrays = Arrays(f"params, {path!r}", own)
    options: dict[str, Any] = {}
    if "linear_1/w" in arrays:
        module = "VanillaRNN" if "linear_1/b" in arrays else SINGLE_BIAS
        features = arrays.shape("linear_1/w", 2)[-1]
        options["activation"] = "relu"
    elif "linear/w" in arrays:
        module, features = "LSTM", _lstm_features(arrays)
    elif "w_i" in arrays:
        module, features = "GRU", arrays.shape("w_h", 2)[0]
    else:
        raise ValueError(
            f"modules: got {shown(path)}, expected the path of hk.LSTM, hk.GRU or hk.VanillaRNN in "
            f"params of {', '.join(sorted(params)) or 'nothing'}"
        )
    row = HAIKU.row(module)
    cell = cell_of(row, features, **options)
    taken = take_params(row, cell, arrays, in_features)
    arrays.close()
    return DirectedCell(cell, taken, None)


def _lstm_features(arrays: Arrays) -> int:
    shape = arrays.shape("linear/w")
    features = shape[-1] // 4 if shape else 0
    if len(shape) != 2 or features == 0 or shape[1] % 4 or shape[0] <= features:
        raise ValueError(
            f"{arrays.what}, 'linear/w': got shape {shape}, expected (I + H, 4H): the rows of the "
            "input above those of the state, four gates"
        )
    return features


def to_haiku(
    layer: Any,
    params: Any,
    modules: str | Sequence[str] | None = None,
    *,
    double_bias: bool = True,
) -> dict[str, dict[str, Array]]:
    """The parameters of haiku's core for a network, to be given to `apply` of `hk.transform`.

    A cell or its layer is one core, a stack or repeat the cores of an `hk.DeepRNN`; merge the dict
    with those of other modules, whose paths differ, as `{**others, **cores}`. Haiku is not needed
    for this. There are no directions: convert those of a bidirectional layer by themselves.

    The forget gate's bias loses the 1 that `hk.LSTM` adds in every step, which rounds once; a cell
    without a bias gets one of zeros, to the same effect; a GRU whose update gate keeps becomes one
    that writes, the same function; all else is exact.

    Args:
      layer: a cell, `gr.recurrent`, or a stack or repeat of those.
      params: its parameters, all of one dtype, which haiku's will be.
      modules: the path of the core, `"net/~/lstm"`, for a stack or repeat a sequence of them, one
        for each layer. None: the names that haiku gives to cores made one after another, in order,
        outside of other modules: `"lstm"`, `"lstm_1"`, `"gru"`, `"vanilla_rnn"`.
      double_bias: as of `hk.VanillaRNN`, whose second bias, zero here, is missing if it is False.

    Raises:
      TypeError: parameters of several dtypes.
      ValueError: haiku has no such core, and why; `params` are those of another; paths that are
        too few, too many or equal; `double_bias=False` without an `hk.VanillaRNN`.

    Example:
      >>> cell = gr.LSTM(4)
      >>> params = gr.interop.to_haiku(cell, cell.init(jax.random.key(0), 3))
      >>> params["lstm/linear"]["w"].shape
      (7, 16)
    """
    checks.flag("double_bias", double_bias)
    each: list[Any] = checked_layers(layer, layers_with_params(layer, params), HAIKU)
    found = [one for (one,) in each]
    if not double_bias and not any(isinstance(one.cell, Elman) for one in found):
        raise ValueError("double_bias: got False, expected True: there is no hk.VanillaRNN")
    modules_of = ("LSTM", "GRU", "VanillaRNN" if double_bias else SINGLE_BIAS)
    result: dict[str, dict[str, Array]] = {}
    for path, one in zip(_paths(layer, found, modules), found, strict=True):
        for name, array in to_arrays(HAIKU, one.cell, one.params, modules_of).items():
            module, _, leaf = f"{path}/{name}".rpartition("/")
            result.setdefault(module, {})[leaf] = array
    return result


def _paths(layer: Any, found: list[DirectedCell], modules: Any) -> list[str]:
    """The path of each core."""
    if modules is None:
        names = [NAMES[type(one.cell)] for one in found]
        before = [names[:k].count(name) for k, name in enumerate(names)]
        return [f"{n}_{k}" if k else n for n, k in zip(names, before, strict=True)]
    if is_sequence(layer):
        return _checked(modules, len(found))
    if not isinstance(modules, str):
        raise ValueError(f"modules: got {shown(modules)}, expected one path, for {layer!r}")
    return [modules]


def from_haiku_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for haiku's states.

    Args:
      layer: the network, as `from_haiku` gives it.
      states: `hk.LSTMState(hidden, cell)`, or `h` of other cores, each `[*B, H]`; for a stack or
        repeat a tuple of those, one for each core, as of `hk.DeepRNN`.

    Raises:
      ValueError: states that do not fit `layer`.

    Example:
      >>> import haiku as hk
      >>> state = hk.LSTMState(hidden=jnp.zeros((2, 4)), cell=jnp.zeros((2, 4)))
      >>> gr.interop.from_haiku_carry(gr.LSTM(4), state).h.shape
      (2, 4)
    """
    return carry_from_cells(layer, states)


def to_haiku_carry(layer: Any, carry: Carry) -> Any:
    """Haiku's states for a `carry` of `layer`; `from_haiku_carry` undone.

    Args:
      layer: the network.
      carry: one of its carries.

    Raises:
      ModuleNotFoundError: haiku is not installed, whose `hk.LSTMState` an LSTM needs.
      ValueError: `carry` is that of another network.

    Example:
      >>> gr.interop.to_haiku_carry(gr.LSTM(4), gr.LSTM(4).carry((2,))).hidden.shape
      (2, 4)
    """
    states = tuple(
        leaves[0] if len(leaves) == 1 else require("haiku", "dm-haiku", "haiku").LSTMState(*leaves)
        for leaves in cells_from_carry(layer, carry)
    )
    return states if is_sequence(layer) else states[0]
