"""The collectives of one layer, in a process that has several host devices.

Axes: `T` time, `B` batch, `H` features.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gatedrnn as gr
from benchmarks import agreement, hlo
from benchmarks.measure import measure
from benchmarks.program import compiled
from benchmarks.settings import Settings
from benchmarks.tables.sharded import DEVICES, JIT, SHARD_MAP, UNSHARDED
from benchmarks.tables.variants import layer_params
from benchmarks.worker import answer

TOLERANCE = 1e-4  # float32, summed in another order


def main(request: dict[str, Any]) -> dict[str, Any]:
    T, B, H = request["T"], request["B"], request["H"]
    cell = gr.recurrent(gr.LSTM(H), gr.BPTT(chunk=request["chunk"]))
    layer = {
        "gr.unroll": cell,
        "gr.bidirectional": gr.bidirectional(cell),
        "gr.stack": gr.stack(cell, cell),
    }[request["layer"]]
    params = layer_params(layer, H)
    xs = np.random.default_rng(0).standard_normal((T, B, H), np.float32)

    def loss(params: Any, xs: jax.Array) -> jax.Array:
        ys = layer.apply(params, xs)[1]
        return jnp.sum(jnp.square(ys)) / (T * B * H)  # the same sum on every device

    step = jax.grad(loss, argnums=(0, 1))
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    specs = PartitionSpec(), PartitionSpec(None, "data")
    shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
    sharded = jax.device_put((params, xs), shardings)
    functions = {
        UNSHARDED: (step, (params, jnp.asarray(xs))),
        JIT: (jax.jit(step, out_shardings=shardings), sharded),
        SHARD_MAP: (jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=specs), sharded),
    }
    builds = [
        (name, lambda name=name, given=given: compiled(name, *given, _answer))
        for name, given in functions.items()
    ]
    check = partial(agreement.check, tolerance=TOLERANCE)
    row = measure(builds, Settings(request["seconds"], request["tiny"]), check)
    texts = {
        name: jax.jit(function).lower(*arguments).compile().as_text()
        for name, (function, arguments) in functions.items()
        if name != UNSHARDED
    }
    return row | {"collectives": {name: hlo.collectives(text) for name, text in texts.items()}}


def _answer(gradients: Any) -> dict[str, np.ndarray]:
    return {
        str(i): np.asarray(leaf, np.float64) for i, leaf in enumerate(jax.tree.leaves(gradients))
    }


if __name__ == "__main__":
    answer(main)
