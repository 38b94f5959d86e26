"""Recurrences on a mesh inside transformations of JAX that know of meshes themselves."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from jax.sharding import PartitionSpec as P
from meshes import equals_one_device, mesh_of, of_both_kinds, places, put
from networks import normal, random_params
from test_meshes import (
    LENGTHS,
    ROWS,
    STEPS,
    WHOLE,
    B,
    H,
    I,
    T,
    outputs_and_gradients,
)

import gatedrnn as gr


@of_both_kinds
def test_examples_by_vmap(kind):
    """Examples in an axis of `jax.vmap`, which is divided."""
    layer = gr.stack(gr.LSTM(H), gr.dense(2))
    params, xs = random_params(layer, I), normal(B, T, 2, I)

    def run(params, xs):
        def loss(params):
            return jnp.sum(jnp.sin(jax.vmap(lambda xs: layer.apply(params, xs)[1])(xs)))

        return jax.grad(loss)(params)

    equals_one_device(mesh_of(kind), run, (params, xs), (WHOLE, ROWS))


@of_both_kinds
def test_an_ensemble_by_vmap(kind):
    """Members over one axis of the mesh, rows over another."""
    cell = gr.GRU(H)
    params = jax.tree.map(lambda v: jnp.stack([v, 2 * v]), random_params(cell, I))
    run = outputs_and_gradients(jax.vmap(functools.partial(gr.unroll, cell), (0, None)))
    mesh = mesh_of(kind, (2, 2), ("data", "model"))
    arguments, specs = (params, normal(T, B, I)), (P("model"), STEPS)
    (_, ys), (dparams, _) = equals_one_device(mesh, run, arguments, specs)
    if kind == "explicit":
        assert places(ys) == ("model", None, "data")
        assert {*map(places, jax.tree.leaves(dparams))} == {("model",)}


@of_both_kinds
def test_inside_shard_map_over_another_axis(kind):
    """Gradients of some rows, which the other axis divides further."""
    cell = gr.GRU(H)
    mesh = mesh_of(kind, (2, 2), ("data", "model"))

    def gradient(params, xs):
        loss = lambda p: jnp.sum(jnp.sin(gr.unroll(cell, p, xs)[1]))  # noqa: E731
        return jax.grad(loss)(params)

    arguments = put(
        mesh, (random_params(cell, I), normal(T, 4, 2, I)), (P(), P(None, "data", "model"))
    )
    with jax.set_mesh(mesh):
        by_shard = jax.shard_map(
            gradient,
            in_specs=(P(), P(None, None, "model")),
            out_specs=P(),
            axis_names={"model"},
        )
        got = jax.jit(by_shard)(*arguments)
    chex.assert_trees_all_close(
        jax.device_get(got), gradient(*jax.device_get(arguments)), rtol=1e-10
    )


@of_both_kinds
def test_errors_of_checkify(kind):
    """Lengths out of range are found on a mesh too, and others change nothing."""
    layer, mesh = gr.stack(gr.GRU(H)), mesh_of(kind)
    params, xs = random_params(layer, I), normal(T, B, I)

    @jax.jit
    @functools.partial(checkify.checkify, errors=checkify.user_checks)
    def run(params, xs, lengths):
        return layer.apply(params, xs, lengths=lengths)[1]

    expected = layer.apply(params, xs, lengths=LENGTHS)[1]
    for more, message in ((0, None), (1, "got values from 1 to 7")):
        arguments = put(mesh, (params, xs, LENGTHS + more), (WHOLE, STEPS, ROWS))
        with jax.set_mesh(mesh):
            error, ys = run(*arguments)
        if message is None:
            error.throw()
            np.testing.assert_allclose(ys, expected, rtol=1e-10)
        else:
            assert message in error.get()


def test_symbolic_sizes_are_refused():
    """JAX would export a program that it cannot call."""
    cell = gr.GRU(H)
    (rows,) = jax.export.symbolic_shape("b")
    xs = jax.ShapeDtypeStruct((T, 4 * rows, I), jnp.float64)
    run = jax.jit(lambda xs: gr.unroll(cell, random_params(cell, I), xs)[1])
    message = r"xs: got symbolic shape \(6, 4\*b, 5\) on the mesh \(data=4\), whose axes"
    with jax.set_mesh(mesh_of("explicit")), pytest.raises(ValueError, match=message):
        jax.export.export(run)(xs)


@of_both_kinds
def test_second_order(kind):
    """A product with the Hessian."""
    cell = gr.GRU(H)
    params, xs = random_params(cell, I), normal(T, B, I)

    def run(params, xs):
        loss = lambda p: jnp.sum(jnp.sin(gr.unroll(cell, p, xs)[1]))  # noqa: E731
        flow = jax.grad(loss)
        product = jax.grad(lambda p: sum(jnp.sum(jnp.cos(g)) for g in jax.tree.leaves(flow(p))))
        return product(params)

    equals_one_device(mesh_of(kind), run, (params, xs), (WHOLE, STEPS))
