"""The fused read-out over devices: positions divided, the vocabulary divided, and both.

Losses and gradients are those of one device, and gradients lie as their arguments do. A divided
vocabulary is never gathered.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from jax.sharding import PartitionSpec as P
from meshes import collectives, mesh_of, of_both_kinds, places, put
from networks import assert_trees_close
from test_losses import arguments, cut

import gatedrnn as gr
from gatedrnn._src import losses

T, B, V = 4, 8, 24
MASK = jnp.asarray(np.random.default_rng(5).random((T, B)) < 0.6)
KERNEL, BIAS = P(None, "model"), P("model")  # of a divided vocabulary


@pytest.fixture(params=["blocks", pytest.param("one block", marks=pytest.mark.long)], autouse=True)
def of_blocks(request, monkeypatch):
    """Blocks of four columns, or all columns at once."""
    if request.param == "blocks":
        cut(monkeypatch, bytes_of_block=0, columns=4)
    else:
        cut(monkeypatch, bytes_of_block=2**22, columns=512)
    jax.clear_caches()  # `gradients` has been traced with blocks of another width
    return request.param


def gradients(params, hs, labels, mask):
    def loss(params, hs):
        losses = gr.softmax_cross_entropy(params, hs, labels, mask)
        return jnp.sum(jnp.sin(losses)), losses

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, hs)


def given(vocabulary=V, **options):
    return *arguments(vocabulary, (T, B), **options), MASK


# names and sizes of axes; then the places of kernel, bias and positions
DIVIDED = {
    "batch": ({"data": 4}, P(), P(), P(None, "data")),
    "time": ({"data": 4}, P(), P(), P("data")),
    "batch and time": ({"data": 2, "time": 2}, P(), P(), P("time", "data")),
    "vocabulary": ({"model": 4}, KERNEL, BIAS, P()),
    "vocabulary, bias whole": ({"model": 4}, KERNEL, P(), P()),
    "batch and vocabulary": ({"data": 2, "model": 2}, KERNEL, BIAS, P(None, "data")),
    "parameters over the batch's axis": ({"data": 4}, P(None, "data"), P("data"), P(None, "data")),
}


@of_both_kinds
@pytest.mark.parametrize("where", DIVIDED)
def test_divided(kind, where, of_blocks):
    """Under `jit` with and without the mesh set; losses outside `jit` as well."""
    axes, kernel, bias, positions = DIVIDED[where]
    mesh = mesh_of(kind, tuple(axes.values()), tuple(axes))
    specs = (gr.DenseParams(kernel, bias), positions, positions, positions)
    expected, moved = gradients(*given()), put(mesh, given(), specs)
    lie = jax.tree.map(lambda leaf: leaf.sharding, moved[:2])
    for context in (jax.set_mesh(mesh), contextlib.nullcontext()):
        with context:
            run = jax.jit(gradients, out_shardings=(lie, None) if kind == "auto" else None)
            compiled = run.lower(*moved).compile()
            got = compiled(*moved)
            assert_trees_close(jax.device_get(got), jax.device_get(expected))
            if kind == "explicit":
                assert places(got[0]) == places(moved[:2])
                assert places(got[1]) == places(moved[1])
            found = collectives(compiled.as_text())
            if bias == BIAS:  # else the gradient of the bias is gathered
                assert {name for _, name in found} == {"all-reduce"}
            if kind == "explicit" or of_blocks == "one block":
                assert {depth for depth, _ in found} <= {0}
            if kind == "explicit" and "model" not in axes and kernel == P():
                assert found == [(0, "all-reduce")]
            losses = gr.softmax_cross_entropy(*moved)
            assert_trees_close(jax.device_get(losses), jax.device_get(expected[1]))
            assert places(losses) == places(moved[1])


@of_both_kinds
@pytest.mark.parametrize("vocabulary", [22, 8])
def test_vocabularies_of_other_sizes(kind, vocabulary):
    """No multiple of all devices, and blocks with a remainder; labels out of range give NaN."""
    mesh = mesh_of(kind, (2, 2), ("data", "model"))
    params, hs, labels, mask = given(vocabulary, use_bias=False)
    labels = labels.at[0, 3].set(vocabulary).at[2, 1].set(-1)
    mask = mask.at[0, 3].set(True).at[2, 1].set(False)
    positions = P(None, "data")
    arguments = params, hs, labels, mask
    moved = put(mesh, arguments, (gr.DenseParams(KERNEL, None), positions, positions, positions))
    got, expected = (jax.device_get(jax.jit(gradients)(*args)) for args in (moved, arguments))
    assert_trees_close(got, expected)
    assert np.argwhere(np.isnan(got[1])).tolist() == [[0, 3]]


def test_second_derivatives():
    """Hessian-vector products, of the vocabulary in parts on devices."""
    mesh = mesh_of("explicit", (2, 2), ("data", "model"))
    *arguments, _ = given()

    def product(params, hs, labels):
        def along(params, hs):
            of_params, of_hs = gradients(params, hs, labels, None)[0]
            of_params = jax.tree.map(lambda d, v: jnp.sum(d * jnp.sin(v)), of_params, params)
            return of_params.kernel + of_params.bias + jnp.sum(of_hs * jnp.cos(hs))

        return jax.grad(along, argnums=(0, 1))(params, hs)

    specs = (gr.DenseParams(KERNEL, BIAS), P(None, "data"), P(None, "data"))
    got = jax.jit(product)(*put(mesh, tuple(arguments), specs))
    assert_trees_close(jax.device_get(got), jax.device_get(jax.jit(product)(*arguments)))


def test_labels_and_mask_from_the_host():
    """They go to the devices of their positions; known labels are checked."""
    mesh = mesh_of("explicit")
    params, hs, labels, mask = given()
    moved = put(mesh, (params, hs), (P(), P(None, "data")))
    got = gr.softmax_cross_entropy(*moved, np.asarray(labels), np.asarray(mask))
    assert_trees_close(jax.device_get(got), jax.device_get(gradients(params, hs, labels, mask)[1]))
    assert places(got) == (None, "data")
    with pytest.raises(ValueError, match="labels: got values from 0 to 24, expected them between"):
        gr.softmax_cross_entropy(*moved, np.where(mask, V, 0))


def test_inside_shard_map():
    """The gradients of each parameter are summed once, whatever the number of blocks."""
    mesh, steps = mesh_of("auto"), P(None, "data")

    def of_parameters(*arguments):
        return gradients(*arguments)[0]

    mapped = jax.shard_map(
        of_parameters,
        mesh=mesh,
        in_specs=(P(), steps, steps, steps),
        out_specs=(P(), steps),
        check_vma=True,
    )
    compiled = jax.jit(mapped).lower(*given()).compile()
    got = compiled(*given())
    assert_trees_close(jax.device_get(got), jax.device_get(of_parameters(*given())))
    assert collectives(compiled.as_text()) == [(0, "all-reduce")]


@of_both_kinds
@pytest.mark.parametrize("around", ["vmap", "checkify"])
def test_inside(kind, around):
    """Several read-outs over one axis, positions over another; labels are checked on all."""
    mesh = mesh_of(kind, (2, 2), ("data", "model"))
    params, hs, labels, _ = given()
    function, of_params = gr.softmax_cross_entropy, P()
    if around == "vmap":
        params = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
        of_params = P("model")
        function = jax.vmap(function, (0, None, None))

    def run(params, hs, labels):
        gradient = jax.grad(lambda params: jnp.sum(jnp.sin(function(params, hs, labels))))
        if around == "vmap":
            return gradient(params)
        return checkify.checkify(gradient, errors=checkify.user_checks)(params)[1]

    moved = put(mesh, (params, hs, labels), (of_params, P(None, "data"), P(None, "data")))
    with jax.set_mesh(mesh):
        got = jax.jit(run)(*moved)
    assert_trees_close(jax.device_get(got), jax.device_get(jax.jit(run)(params, hs, labels)))


@of_both_kinds
def test_inside_shard_map_over_another_axis(kind):
    """Of each part the gradients of its own rows, which are divided further."""
    mesh = mesh_of(kind, (2, 2), ("data", "time"))
    arguments, steps = given(), P("time")
    places = (P(), *[P("time", "data")] * 3)

    def of_rows(*arguments):
        return gradients(*arguments)[0][1]

    mapped = jax.shard_map(
        of_rows,
        mesh=mesh,
        in_specs=(P(), steps, steps, steps),
        out_specs=steps,
        axis_names={"time"},
    )
    with jax.set_mesh(mesh):
        got = jax.jit(mapped)(*put(mesh, arguments, places))
    assert_trees_close(jax.device_get(got), jax.device_get(of_rows(*arguments)))


def test_compiles_once_outside_jit():
    mesh = mesh_of("explicit")
    moved = put(mesh, given(), (P(), P(None, "data"), P(None, "data"), P(None, "data")))
    gr.softmax_cross_entropy(*moved)
    compiled = losses._masked._cache_size()
    gr.softmax_cross_entropy(moved[0], moved[1] + 1, *moved[2:])
    assert losses._masked._cache_size() == compiled
