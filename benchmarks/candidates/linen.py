"""flax linen: `nn.RNN` over its cells, time-major; `OptimizedLSTMCell`, its fused one, too."""

from functools import partial

import flax.linen as nn
import numpy as np

from benchmarks.problem import Problem
from benchmarks.program import Source, jax_programs

NAME = "flax linen"
OPTIMISED = "flax linen, optimised"

CELLS = {
    NAME: {"LSTM": nn.LSTMCell, "GRU after": nn.GRUCell, "Elman": nn.SimpleCell},
    OPTIMISED: {"LSTM": nn.OptimizedLSTMCell},
}


def programs(problem: Problem, name: str = NAME) -> dict[str, Source] | None:
    if problem.cell not in CELLS[name]:
        return None
    layer = nn.RNN(CELLS[name][problem.cell](problem.H), time_major=True)
    params = {"params": {"cell": CONVERT[problem.cell](problem.weights())}}
    return jax_programs(name, layer.apply, params, problem.inputs())


optimised = partial(programs, name=OPTIMISED)


def _gates(array: np.ndarray, names: str) -> dict[str, np.ndarray]:
    return dict(zip(names, np.split(array, len(names), axis=-1), strict=True))


def _lstm(weights: tuple) -> dict:
    inputs, recurrent, bias = (_gates(weights[k], "ifgo") for k in range(3))
    own = {f"i{gate}": {"kernel": inputs[gate]} for gate in inputs}
    return own | {f"h{g}": {"kernel": recurrent[g], "bias": bias[g]} for g in recurrent}


def _gru(weights: tuple) -> dict:
    inputs, recurrent, bias = (_gates(weights[k], "rzn") for k in range(3))
    own = {f"i{gate}": {"kernel": inputs[gate], "bias": bias[gate]} for gate in inputs}
    own |= {f"h{gate}": {"kernel": recurrent[gate]} for gate in "rz"}
    return own | {"hn": {"kernel": recurrent["n"], "bias": weights.recurrent_bias}}


def _elman(weights: tuple) -> dict:
    return {
        "i": {"kernel": weights.kernel, "bias": weights.bias},
        "h": {"kernel": weights.recurrent_kernel},
    }


CONVERT = {"LSTM": _lstm, "GRU after": _gru, "Elman": _elman}
