"""equinox: `lax.scan` over its unbatched cells, under `jax.vmap`, as its documentation has it.

The batch is mapped on axis 1, so that the scan runs over time-major inputs as they are. A scan over
a mapped cell takes the same time. There is no Elman cell, and no GRU that resets before.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.problem import Problem
from benchmarks.program import Source, jax_programs

NAME = "equinox"

CELLS = {"LSTM": eqx.nn.LSTMCell, "GRU after": eqx.nn.GRUCell}


def programs(problem: Problem) -> dict[str, Source] | None:
    if problem.cell not in CELLS:
        return None
    cell = CELLS[problem.cell](problem.I, problem.H, key=jax.random.key(0))
    arrays = {k: jnp.asarray(v) for k, v in _converted(problem.weights()).items()}
    cell = eqx.tree_at(lambda cell: [getattr(cell, k) for k in arrays], cell, [*arrays.values()])
    params, static = eqx.partition(cell, eqx.is_array)

    def one(cell: Any, xs: Array) -> Array:
        def step(state: Any, x: Array) -> tuple[Any, Array]:
            state = cell(x, state)
            return state, jax.tree.leaves(state)[0]  # h of (h, c)

        zeros = jnp.zeros(cell.hidden_size, xs.dtype)
        start = (zeros, zeros) if problem.cell == "LSTM" else zeros
        return lax.scan(step, start, xs)[1]

    def apply(params: Any, xs: Array) -> Array:
        cell = eqx.combine(params, static)
        return jax.vmap(lambda xs: one(cell, xs), in_axes=1, out_axes=1)(xs)

    return jax_programs(NAME, apply, params, problem.inputs())


def _converted(weights: Any) -> dict[str, Any]:
    arrays = {
        "weight_ih": weights.kernel.T,
        "weight_hh": weights.recurrent_kernel.T,
        "bias": weights.bias,
    }
    recurrent_bias = getattr(weights, "recurrent_bias", None)
    return arrays if recurrent_bias is None else arrays | {"bias_n": recurrent_bias}
