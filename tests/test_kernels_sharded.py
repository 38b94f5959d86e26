"""Kernels on arrays that are spread over devices, in Pallas's interpreter."""

import jax
import jax.numpy as jnp
import pytest
from interpreted import NAME, interpreted, kernels_of
from jax.sharding import PartitionSpec as P
from meshes import KINDS, mesh_of, put
from networks import assert_trees_close, normal, random_params

import gatedrnn as gr

CELL = gr.GRU(4)
LENGTHS = jnp.array([6, 1, 0, 4])
PLACES = {  # along which axes of the mesh weights lie, and inputs [T, B, I]
    "rows": (P(), P(None, "data")),
    "rows and weights": (P("model"), P(None, "data")),
    "time": (P(), P("data")),
    "features": (P(), P(None, "data", "model")),
    "everything": (P("model"), P("data", "model")),
}


def gradients(cell, bptt):
    def loss(params, xs):
        return jnp.sum(jnp.sin(gr.unroll(cell, params, xs, lengths=LENGTHS, bptt=bptt)[1]))

    return jax.grad(loss, argnums=(0, 1))


@pytest.mark.parametrize("kernel", kernels_of(CELL), ids=lambda kernel: kernel.target)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", PLACES)
def test_wherever_arrays_lie(where, kind, kernel):
    """Gathered where they must be: only rows are independent."""
    if kind == "explicit" and PLACES[where][1][0] is not None:
        pytest.skip("a divided time is refused")
    if kind == "explicit" and where == "rows":
        pytest.skip("Pallas's interpreter does not know the types of jax.shard_map")
    mesh = mesh_of(kind, (2, 2), ("data", "model"))
    params, xs = random_params(CELL, 4, dtype=jnp.float32), normal(6, 4, 4, dtype=jnp.float32)
    placed = put(mesh, params, PLACES[where][0]), put(mesh, xs, PLACES[where][1])
    got = jax.jit(gradients(interpreted(CELL, kernel), gr.BPTT(kernel=NAME)))(*placed)
    assert_trees_close(got, gradients(CELL, gr.BPTT())(params, xs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", ["data", "model"])
def test_networks_side_by_side(axis):
    """Spread along the axis of the networks, beside that of the rows or along the same."""
    mesh = mesh_of("auto", (2, 2), ("data", "model"))
    params, xs = random_params(CELL, 4, dtype=jnp.float32), normal(6, 4, 4, dtype=jnp.float32)
    many = jax.tree.map(lambda v: jnp.stack([v, 2 * v]), params)

    def of(cell, bptt):
        return jax.vmap(gradients(cell, bptt), in_axes=(0, None))

    placed = put(mesh, many, P(axis)), put(mesh, xs, P(None, "data"))
    got = jax.jit(of(interpreted(CELL), gr.BPTT(kernel=NAME)))(*placed)
    assert_trees_close(got, of(CELL, gr.BPTT())(many, xs), rtol=1e-5, atol=1e-5)
