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
    network = layer(problem, name)
    if network is None:
        return None
    return jax_programs(name, network.apply, params(problem), problem.inputs())


def layer(problem: Problem, name: str) -> nn.RNN | None:
    """The network, or None for a cell that it does not have."""
    if problem.cell not in CELLS[name]:
        return None
    cell = CELLS[name][problem.cell](
        problem.H,
        recurrent_kernel_init=nn.initializers.zeros_init(),  # the default lacks bfloat16
        dtype=problem.dtype,  # without its types a cell starts from float32, and computes in it
        param_dtype=problem.dtype,
    )
    return nn.RNN(cell, time_major=True)


def params(problem: Problem) -> dict:
    """Our weights as its own."""
    return {"params": {"cell": CONVERT[problem.cell](problem.weights())}}


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
