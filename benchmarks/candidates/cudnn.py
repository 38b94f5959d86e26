"""`jax.experimental.rnn`: cuDNN's LSTM, on a GPU and in float32 only, batch-major.

At its default precision, which allows TF32, as XLA's own float32 products do by default.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import rnn

from benchmarks.problem import Problem
from benchmarks.program import Source, jax_programs

NAME = "cuDNN"


def programs(problem: Problem) -> dict[str, Source] | None:
    if jax.default_backend() != "gpu" or problem.cell != "LSTM" or problem.dtype != "float32":
        return None
    lengths = np.full(problem.B, problem.T, np.int32)
    start = np.zeros((1, problem.B, problem.H), np.float32)  # [layers, B, H]

    def apply(weights: Array, xs: Array) -> Array:
        options = {"num_layers": 1, "dropout": 0.0, "bidirectional": False}
        h, c, n = map(jnp.asarray, (start, start, lengths))
        sizes = {"input_size": problem.I, "hidden_size": problem.H}
        return rnn.lstm(xs, h, c, weights, n, **sizes, **options)[0]

    matrices = 4 * problem.H * (problem.I + problem.H)
    return jax_programs(
        NAME,
        apply,
        packed(problem.weights()),
        problem.inputs(),
        batch_major=True,
        kernels=lambda weights: weights[:matrices, None],  # a norm needs no shape
    )


def packed(weights: Any) -> np.ndarray:
    """One vector, as cuDNN has it: transposed kernels, then two biases, the first of them ours."""
    bias = np.stack([weights.bias, np.zeros_like(weights.bias)])
    return np.concatenate([a.ravel() for a in (weights.kernel.T, weights.recurrent_kernel.T, bias)])
