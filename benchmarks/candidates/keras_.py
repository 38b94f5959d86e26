"""keras on JAX: `layers.LSTM`, `GRU` and `SimpleRNN`, batch-major, as they are by default.

By default its LSTM is cuDNN's on a GPU, by way of `jax.experimental.rnn`, and its GRU that resets
after projects all inputs at once.
"""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported

import keras
import numpy as np
from jax import Array

from benchmarks.problem import Problem
from benchmarks.program import Source, jax_programs

NAME = "keras"

LAYERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "LSTM": (keras.layers.LSTM, {}),
    "GRU after": (keras.layers.GRU, {"reset_after": True}),
    "GRU before": (keras.layers.GRU, {"reset_after": False}),
    "Elman": (keras.layers.SimpleRNN, {}),
}


def programs(problem: Problem) -> dict[str, Source] | None:
    if problem.cell not in LAYERS:
        return None
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            f"keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax before it is imported"
        )
    make, options = LAYERS[problem.cell]
    layer = make(
        problem.H,
        return_sequences=True,
        recurrent_initializer="zeros",  # replaced; the default, orthogonal, lacks bfloat16
        dtype=problem.dtype,
        **options,
    )
    layer.build((problem.B, problem.T, problem.I))
    others = [variable.value for variable in layer.non_trainable_variables]

    def apply(params: list, xs: Array) -> Array:
        return layer.stateless_call(params, others, xs)[0]

    return jax_programs(
        NAME,
        apply,
        _converted(problem.cell, problem.weights()),
        problem.inputs(),
        batch_major=True,
        kernels=lambda params: params[:2],  # the GRU's bias is a matrix too
    )


def _converted(cell: str, weights: Any) -> list[np.ndarray]:
    """`kernel, recurrent_kernel, bias`; a GRU's gates are `z, r, n`, and its `z` always keeps."""
    if cell not in ("GRU after", "GRU before"):
        return list(weights[:3])
    sign = -1 if cell == "GRU before" else 1  # ours writes there, and 1 − σ(a) = σ(−a)

    def theirs(array: np.ndarray) -> np.ndarray:
        r, z, n = np.split(array, 3, axis=-1)
        return np.concatenate([sign * z, r, n], axis=-1)

    arrays = [theirs(array) for array in weights[:3]]
    if cell == "GRU after":
        second = np.zeros_like(weights.bias)
        second[-len(weights.recurrent_bias) :] = weights.recurrent_bias
        arrays[2] = np.stack([arrays[2], second])
    return arrays
