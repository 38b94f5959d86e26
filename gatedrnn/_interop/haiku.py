"""haiku's cores `hk.LSTM`, `hk.GRU` and `hk.VanillaRNN`, and `hk.DeepRNN` of them.

Parameters are a dict from the paths of modules to dicts of arrays: an LSTM made as `hk.LSTM(8)` has
`{"lstm/linear": {"w": ..., "b": ...}}`, the second one beside it `"lstm_1/linear"`, one that a
module `net` makes in its constructor `"net/~/lstm/linear"`. Haiku itself is not needed for those.

Columns of the matrices are gates. An LSTM has one kernel, its input's rows above the recurrent
ones, gates `i, g, f, o`, and adds 1 to `f` in every step; a GRU has gates `z, r, a`, its update
gate writes, the reset comes before the product; the vanilla network is a ReLU with two biases.

Axes: `*B` batch, `I` input features, `H` features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.arrays import Arrays, reorder
from gatedrnn._interop.forms import Forms, gru_params, levels
from gatedrnn._interop.libraries import library
from gatedrnn._interop.parts import Run, is_row, recurrent_of, row_with_params
from gatedrnn._interop.states import carry_from_cells, cells_from_carry
from gatedrnn._src import checks
from gatedrnn._src.base import Carry
from gatedrnn._src.cells.elman import Elman, ElmanParams
from gatedrnn._src.cells.gru import GRU, GRUParams
from gatedrnn._src.cells.lstm import LSTM, LSTMParams
from gatedrnn._src.layers.stack import Stack

FORMS = Forms("a haiku core", elman=("relu",), lstm=True, gru=("before",), bidirectional=False)

NAMES: dict[type, str] = {LSTM: "lstm", GRU: "gru", Elman: "vanilla_rnn"}


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
      TypeError: arrays that are not floating, or of a precision that JAX would round here.
      ValueError: no core of that path, several without `modules`, names that are missing or too
        many, shapes that do not fit.
    """
    if modules is None:
        modules = _only(params)
    if isinstance(modules, str):
        run = _take(params, modules, None)
        return run.cell, run.params
    layers, found = [], []
    in_features = None
    for path in _checked(modules, None):
        run = _take(params, path, in_features)
        layer, p = recurrent_of((run,))
        layers.append(layer)
        found.append(p)
        in_features = run.cell.features
    return Stack(tuple(layers)), tuple(found)


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
        raise ValueError(f"modules: got {modules!r}, expected the paths of {count or 'the'} cores")
    if len(set(modules)) != len(modules) or count not in (None, len(modules)):
        raise ValueError(
            f"modules: got {', '.join(modules)}, expected {count or 'different'} paths, one for "
            "each core"
        )
    return list(modules)


def _take(params: Mapping[str, Any], path: str, in_features: int | None) -> Run:
    """The core of this path."""
    own = dict(params.get(path, {}))
    below = {key: value for key, value in params.items() if key.startswith(f"{path}/")}
    own |= {key.removeprefix(f"{path}/"): value for key, value in below.items()}
    arrays = Arrays(f"params, {path!r}", own)
    if "linear_1/w" in arrays:
        run = _take_vanilla(arrays, in_features)
    elif "linear/w" in arrays:
        run = _take_lstm(arrays, in_features)
    elif "w_i" in arrays:
        run = _take_gru(arrays, in_features)
    else:
        raise ValueError(
            f"modules: got {path!r}, expected the path of hk.LSTM, hk.GRU or hk.VanillaRNN in "
            f"params of {', '.join(sorted(params)) or 'nothing'}"
        )
    arrays.close()
    return run


def _take_vanilla(arrays: Arrays, in_features: int | None) -> Run:
    features = arrays.shape("linear_1/w", 2)[-1]
    kernel = arrays.take("linear/w", (in_features, features))
    recurrent = arrays.take("linear_1/w", (features, features))
    bias = arrays.take("linear/b", (features,))
    if "linear_1/b" in arrays:
        bias = bias + arrays.take("linear_1/b", (features,))
    return Run(Elman(features, "relu"), ElmanParams(kernel, recurrent, bias), None)


def _take_lstm(arrays: Arrays, in_features: int | None) -> Run:
    shape = arrays.shape("linear/w")
    features = shape[-1] // 4 if shape else 0
    if len(shape) != 2 or features == 0 or shape[1] % 4 or shape[0] <= features:
        raise ValueError(
            f"{arrays.what}, 'linear/w': got shape {shape}, expected (I + H, 4H): the rows of the "
            "input above those of the state, four gates"
        )
    rows = None if in_features is None else in_features + features
    kernel = reorder(arrays.take("linear/w", (rows, 4 * features)), "igfo", "ifgo")
    bias = _with_forget(reorder(arrays.take("linear/b", (4 * features,)), "igfo", "ifgo"), 1)
    params = LSTMParams(kernel[:-features], kernel[-features:], bias, None, None, None)
    return Run(LSTM(features), params, None)


def _take_gru(arrays: Arrays, in_features: int | None) -> Run:
    features = arrays.shape("w_h", 2)[0]
    kernel = arrays.take("w_i", (in_features, 3 * features))
    recurrent = arrays.take("w_h", (features, 3 * features))
    bias = arrays.take("b", (3 * features,))
    w, u, b = (reorder(array, "zrn", "rzn") for array in (kernel, recurrent, bias))
    return Run(GRU(features, reset="before", update="writes"), GRUParams(w, u, b, None), None)


def _with_forget(bias: Array, shift: int) -> Array:
    """The bias of `i, f, g, o` with a number added to that of `f`."""
    i, f, g, o = jnp.split(bias, 4)
    return jnp.concatenate([i, f + shift, g, o])


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
    """
    checks.flag("double_bias", double_bias)
    each: list[Any] = levels(layer, row_with_params(layer, params), FORMS)
    found = [run for (run,) in each]
    if not double_bias and not any(isinstance(run.cell, Elman) for run in found):
        raise ValueError("double_bias: got False, expected True: there is no hk.VanillaRNN")
    result: dict[str, dict[str, Array]] = {}
    for path, run in zip(_paths(layer, found, modules), found, strict=True):
        result |= _given(path, run.cell, run.params, double_bias)
    return result


def _paths(layer: Any, found: list[Run], modules: Any) -> list[str]:
    """Where each core is."""
    if modules is None:
        names = [NAMES[type(run.cell)] for run in found]
        before = [names[:k].count(name) for k, name in enumerate(names)]
        return [f"{n}_{k}" if k else n for n, k in zip(names, before, strict=True)]
    if is_row(layer):
        return _checked(modules, len(found))
    if not isinstance(modules, str):
        raise ValueError(f"modules: got {modules!r}, expected one path, for {layer!r}")
    return [modules]


def _given(path: str, cell: Any, params: Any, double_bias: bool) -> dict[str, Any]:
    """The arrays of one core, by haiku's names."""
    none = jnp.zeros(params.kernel.shape[-1:], params.kernel.dtype)
    bias = none if params.bias is None else params.bias
    if isinstance(cell, Elman):
        second = {"w": params.recurrent_kernel} | ({"b": none} if double_bias else {})
        return {f"{path}/linear": {"w": params.kernel, "b": bias}, f"{path}/linear_1": second}
    if isinstance(cell, LSTM):
        kernel = jnp.concatenate([params.kernel, params.recurrent_kernel])
        arrays = {"w": kernel, "b": _with_forget(bias, -1)}
        return {f"{path}/linear": {k: reorder(v, "ifgo", "igfo") for k, v in arrays.items()}}
    params = gru_params(params._replace(bias=bias), cell.update, "writes")
    arrays = {"w_i": params.kernel, "w_h": params.recurrent_kernel, "b": params.bias}
    return {path: {k: reorder(v, "rzn", "zrn") for k, v in arrays.items()}}


def from_haiku_carry(layer: Any, states: Any) -> Carry:
    """The carry of `layer` that stands for haiku's states.

    Args:
      layer: the network, as `from_haiku` gives it.
      states: `hk.LSTMState(hidden, cell)`, or `h` of other cores, each `[*B, H]`; for a stack or
        repeat a tuple of those, one for each core, as of `hk.DeepRNN`.

    Raises:
      ValueError: states that do not fit `layer`.
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
    """
    states = tuple(
        leaves[0] if len(leaves) == 1 else library("haiku", "dm-haiku", "haiku").LSTMState(*leaves)
        for leaves in cells_from_carry(layer, carry)
    )
    return states if is_row(layer) else states[0]
