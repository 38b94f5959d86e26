"""flax nnx: `nnx.RNN` over its cells, time-major; `OptimizedLSTMCell`, its fused one, too.

No option of `nnx.RNN` made it faster where we tried: to broadcast the parameters over the scan
rather than to carry them (its default) compiles to the same loop, and `unroll` slows training.
"""

from functools import partial
from typing import Any

import numpy as np
from flax import nnx
from jax import Array

from benchmarks.problem import Problem
from benchmarks.program import Source, jax_programs

NAME = "flax nnx"
OPTIMISED = "flax nnx, optimised"

CELLS = {
    NAME: {"LSTM": nnx.LSTMCell, "GRU after": nnx.GRUCell, "Elman": nnx.SimpleCell},
    OPTIMISED: {"LSTM": nnx.OptimizedLSTMCell},
}


def programs(problem: Problem, name: str = NAME) -> dict[str, Source] | None:
    if problem.cell not in CELLS[name]:
        return None
    make = CELLS[name][problem.cell]
    zeros = nnx.initializers.zeros_init()  # replaced; the default, orthogonal, lacks bfloat16
    cell = make(
        problem.I,
        problem.H,
        recurrent_kernel_init=zeros,
        dtype=problem.dtype,
        param_dtype=problem.dtype,
        rngs=nnx.Rngs(0),
    )
    graph, params = nnx.split(nnx.RNN(cell, time_major=True, rngs=False))
    nnx.replace_by_pure_dict(params, {"cell": CONVERT[make](problem.weights())})

    def apply(params: nnx.State, xs: Array) -> Array:
        return nnx.merge(graph, params)(xs, rngs=nnx.Rngs(0))  # the keys of a carry of zeros

    return jax_programs(name, apply, params, problem.inputs())


optimised = partial(programs, name=OPTIMISED)


def _lstm(weights: Any) -> dict:
    inputs, recurrent, bias = (np.split(weights[k], 4, axis=-1) for k in range(3))
    own = {name: {"kernel": w} for name, w in zip(("ii", "if_", "ig", "io"), inputs, strict=True)}
    return own | {
        name: {"kernel": u, "bias": b}
        for name, u, b in zip(("hi", "hf", "hg", "ho"), recurrent, bias, strict=True)
    }


def _fused(weights: Any, biased: str) -> dict:
    dense = {
        "dense_i": {"kernel": weights.kernel},
        "dense_h": {"kernel": weights.recurrent_kernel},
    }
    dense[biased]["bias"] = weights.bias
    return dense


CONVERT = {
    nnx.LSTMCell: _lstm,
    nnx.OptimizedLSTMCell: partial(_fused, biased="dense_h"),
    nnx.GRUCell: partial(_fused, biased="dense_i"),
    nnx.SimpleCell: partial(_fused, biased="dense_i"),
}
