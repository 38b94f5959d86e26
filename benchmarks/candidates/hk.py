"""haiku: `hk.dynamic_unroll`, time-major, of `hk.LSTM` and `hk.GRU`, which resets before.

`hk.VanillaRNN` is a ReLU without an option for tanh, so there is no Elman network.
"""

from typing import Any

import haiku as hk
import jax
import numpy as np
from jax import Array

from benchmarks.problem import Problem
from benchmarks.program import Source, jax_programs

NAME = "haiku"

CORES = {"LSTM": hk.LSTM, "GRU before": hk.GRU}


def programs(problem: Problem) -> dict[str, Source] | None:
    if problem.cell not in CORES:
        return None

    def network(xs: Array) -> Array:
        core = CORES[problem.cell](problem.H)
        start = jax.tree.map(lambda s: s.astype(xs.dtype), core.initial_state(problem.B))
        return hk.dynamic_unroll(core, xs, start)[0]

    apply = hk.without_apply_rng(hk.transform(network)).apply
    return jax_programs(NAME, apply, CONVERT[problem.cell](problem.weights()), problem.inputs())


def _ordered(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    gates = np.split(array, len(order), axis=-1)
    return np.concatenate([gates[k] for k in order], axis=-1)


def _lstm(weights: Any) -> dict:
    """Ours are `i, f, g, o`, theirs `i, g, f, o`, and 1 is added to `f` in every step."""
    i, f, g, o = np.split(weights.bias, 4)
    stacked = np.concatenate([weights.kernel, weights.recurrent_kernel])
    bias = np.concatenate([i, g, f - np.ones_like(f), o])
    return {"lstm/linear": {"w": _ordered(stacked, (0, 2, 1, 3)), "b": bias}}


def _gru(weights: Any) -> dict:
    """Ours are `r, z, n`, theirs `z, r, n`; both write."""
    order = (1, 0, 2)
    return {
        "gru": {
            "w_i": _ordered(weights.kernel, order),
            "w_h": _ordered(weights.recurrent_kernel, order),
            "b": _ordered(weights.bias, order),
        }
    }


CONVERT = {"LSTM": _lstm, "GRU before": _gru}
