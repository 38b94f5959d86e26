"""Forests divided over devices: values, gradients, places and collectives, and what is refused."""

import contextlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from meshes import collectives, mesh_of, of_both_kinds, places, put
from test_trees import TREES, Mean
from tree_reference import IN_FEATURES as I
from tree_reference import normal, random_params

import gatedrnn as gr
from gatedrnn._src.trees.balance import balanced
from gatedrnn._src.trees.legal import check_forest

H = 4
CELLS = {
    "binary": gr.TreeLSTM(H),
    "child sum": gr.TreeLSTM(H, kind="child_sum"),
    "simple": gr.TreeRNN(H),
    "user": Mean(H),
}
FOREST = gr.forest(TREES, shards=4)
COUNTS = [len(gr.flatten_tree(tree)[0]) for tree in TREES]
INPUTS = [normal(count, I, seed=i) for i, count in enumerate(COUNTS)]
XS = jnp.asarray(FOREST.place(INPUTS))
WEIGHTS = normal(len(TREES), H)


def params_of(cell):
    if isinstance(cell, Mean):
        return {"kernel": normal(I, H)}
    return random_params(cell)


def loss(cell, params, xs, forest, weights, rule=None):
    """Every state counts, and that of each root with weights of its own."""
    roots, states = gr.fold_tree(cell, params, xs, forest, rule=rule)
    return jnp.sum(jnp.sin(roots.h) * weights) + jnp.sum(jnp.cos(states.h) - 1)


def gradients(cell, rule=None):
    def of(params, xs, forest, weights):
        return jax.value_and_grad(
            lambda *args: loss(cell, *args, forest, weights, rule=rule), argnums=(0, 1)
        )(params, xs)

    return of


def in_shards(values):
    """Values of each tree's nodes, as one device has them, laid out in shards."""
    return FOREST.place(np.split(np.asarray(values), np.cumsum(COUNTS)[:-1]))


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_forest_in_shards_is_the_forest(cell):
    """On one device: states of roots and nodes, and all gradients."""
    params, whole = params_of(cell), gr.forest(TREES)
    xs = jnp.concatenate(INPUTS)
    got = gr.fold_tree(cell, params, XS, FOREST)
    expected = gr.fold_tree(cell, params, xs, whole)
    assert got[0].h.shape == (4, 2, H)
    for a, b in zip(jax.tree.leaves(got[0]), jax.tree.leaves(expected[0]), strict=True):
        np.testing.assert_allclose(a, FOREST.place_roots(b), rtol=0, atol=1e-14)
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(a, in_shards(b), rtol=0, atol=1e-14)
    value, (of_params, of_xs) = gradients(cell)(params, XS, FOREST, FOREST.place_roots(WEIGHTS))
    expected = gradients(cell)(params, xs, whole, WEIGHTS)
    chex.assert_trees_all_close((value, of_params), (expected[0], expected[1][0]), rtol=1e-12)
    np.testing.assert_allclose(of_xs, in_shards(expected[1][1]), rtol=0, atol=1e-14)


def arguments_on(mesh, cell, of_kernels=None):
    """Parameters, inputs, the forest and weights on their devices."""
    params = params_of(cell)
    specs = jax.tree.map(lambda leaf: of_kernels if of_kernels and leaf.ndim > 1 else P(), params)
    rows = (XS, FOREST, FOREST.place_roots(WEIGHTS))
    return put(mesh, params, specs), *put(mesh, rows, P("data"))


def on_one_device(cell):
    return gradients(cell)(params_of(cell), XS, FOREST, FOREST.place_roots(WEIGHTS))


@of_both_kinds
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_divided_over_devices(cell, kind):
    """Values and gradients are those of one device; gradients are added up once, outside loops."""
    mesh, expected = mesh_of(kind), on_one_device(cell)
    arguments = arguments_on(mesh, cell)
    for context in (contextlib.nullcontext(), jax.set_mesh(mesh)):
        with context:
            compiled = jax.jit(gradients(cell)).lower(*arguments).compile()
            got = compiled(*arguments)
        chex.assert_trees_all_close(got, expected, rtol=1e-12, atol=1e-14)
        assert places(got[1][1]) == ("data",)
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(got[1][0]))
        assert collectives(compiled.as_text()) == [(0, "all-reduce")]


@of_both_kinds
@pytest.mark.parametrize("context", [True, False], ids=["set_mesh", "arrays alone"])
def test_outside_jit(kind, context):
    """States lie as the shards do, and so do cotangents."""
    cell, mesh = CELLS["binary"], mesh_of(kind)
    params, xs, forest, _ = arguments_on(mesh, cell)

    def run(params, xs, forest):
        states, back = jax.vjp(
            lambda params, xs: gr.fold_tree(cell, params, xs, forest), params, xs
        )
        return states, back(states)

    with jax.set_mesh(mesh) if context else contextlib.nullcontext():
        states, (_, of_xs) = got = run(params, xs, forest)
    chex.assert_trees_all_close(got, run(params_of(cell), XS, FOREST), rtol=1e-12, atol=1e-14)
    shards = jax.tree.leaves((states, of_xs))
    assert all(places(leaf) == ("data",) for leaf in shards)


@of_both_kinds
@pytest.mark.parametrize("rule", ["hand", "autodiff"])
def test_parameters_divided(kind, rule):
    """They are gathered before the loops, and their gradients come back divided as they are."""
    cell, mesh = gr.TreeLSTM(H), mesh_of(kind)
    arguments = arguments_on(mesh, cell, P(None, "data"))
    lie = jax.tree.map(lambda leaf: leaf.sharding, arguments[:2])
    run = jax.jit(gradients(cell, rule), out_shardings=(None, lie))
    compiled = run.lower(*arguments).compile()
    got = compiled(*arguments)
    chex.assert_trees_all_close(got, on_one_device(cell), rtol=1e-12, atol=1e-14)
    found = collectives(compiled.as_text())
    assert {depth for depth, _ in found} == {0}
    assert [name for _, name in found].count("all-gather") == 2  # two kernels
    if kind == "explicit":  # without being told
        got = jax.jit(gradients(cell, rule))(*arguments)
        assert places(got[1][0].kernel) == (None, "data")


@of_both_kinds
def test_parameters_divided_over_another_axis(kind):
    """The same values; of explicit axes, nothing is exchanged in a loop."""
    cell, mesh = gr.TreeLSTM(H), mesh_of(kind, (2, 2), ("data", "model"))
    arguments = arguments_on(mesh, cell, P(None, "model"))
    compiled = jax.jit(gradients(cell)).lower(*arguments).compile()
    got = compiled(*arguments)
    chex.assert_trees_all_close(got, on_one_device(cell), rtol=1e-12, atol=1e-14)
    assert places(got[1][0].kernel) == (None, "model")
    if kind == "explicit":
        assert {depth for depth, _ in collectives(compiled.as_text())} == {0}


def test_a_forest_without_shards_on_a_mesh():
    """Every device computes all of it."""
    cell, mesh, forest = CELLS["binary"], mesh_of("explicit"), gr.forest(TREES)
    arguments = params_of(cell), jnp.concatenate(INPUTS), forest, WEIGHTS
    got = jax.jit(gradients(cell))(*put(mesh, arguments, P()))
    chex.assert_trees_all_close(got, gradients(cell)(*arguments), rtol=1e-12, atol=1e-14)


# Sharing out --------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 7))
def test_shares(sizes, shards):
    """Every tree is in one shard, as many in each as possible, and none is far above the mean."""
    parts = balanced(np.array(sizes, int), shards)
    assert len(parts) == shards
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(sizes)))
    assert all(len(part) <= -(-len(sizes) // shards) for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)
    loads = [sum(sizes[tree] for tree in part) for part in parts]
    if len(sizes) <= shards:
        assert max(loads, default=0) == max(sizes, default=0)


def test_shares_of_random_trees_are_even():
    """Within a tenth, where one after another they differ by half."""
    sizes = np.random.default_rng(0).integers(1, 100, size=64)
    loads = [sizes[part].sum() for part in balanced(sizes, 4)]
    assert max(loads) < 1.05 * min(loads)
    assert [len(part) for part in balanced(sizes, 4)] == [16] * 4


nested = st.recursive(st.just(()), lambda below: st.lists(below, min_size=1, max_size=3).map(tuple))


@settings(max_examples=50, deadline=None)
@given(st.lists(nested, max_size=6), st.integers(1, 3))
def test_every_shard_is_a_forest(trees, shards):
    """It is that of its trees, padded alike; fields of nodes and roots are in the batch's order."""
    sizes = gr.forest_sizes([trees], shards=shards)
    forest = gr.forest(trees, shards=shards)
    check_forest("forest", forest)
    assert (forest.shards, forest.sizes) == (shards, sizes)
    for i in range(shards):
        shard = gr.Forest(*(array[i] for array in forest))
        numbers = np.unique(shard.tree[shard.tree >= 0])
        own = gr.forest([trees[number] for number in numbers], sizes)
        relabelled = np.concatenate([numbers, [-1]])[own.tree]
        jax.tree.map(np.testing.assert_array_equal, shard, own._replace(tree=relabelled))


def test_sizes_of_several_batches():
    """One program for a stream of batches, each in shards of its own."""
    batches = [TREES, TREES[:2], [()]]
    sizes = gr.forest_sizes(batches, shards=2)
    for trees in batches:
        assert gr.forest(trees, sizes, shards=2).sizes == sizes
    message = "sizes.trees: got 3, expected at least 5 for these trees"
    with pytest.raises(ValueError, match=re.escape(message)):
        gr.forest(TREES, sizes)
    message = "sizes.nodes: got 1, expected at least 13 for these trees in 2 shards"
    with pytest.raises(ValueError, match=re.escape(message)):
        gr.forest(TREES, sizes._replace(nodes=1), shards=2)


# Errors -------------------------------------------------------------------------------------------


def test_shards_that_are_none():
    for shards in (0, -1, 2.0, True, "2"):
        with pytest.raises(ValueError, match=re.escape("shards: got")):
            gr.forest(TREES, shards=shards)
        with pytest.raises(ValueError, match=re.escape("shards: got")):
            gr.forest_sizes([TREES], shards=shards)


def test_shapes():
    cell = CELLS["binary"]
    message = "xs: got shape (36, 2), expected [D, N, I] with D = 4 shards of N = 9 nodes"
    with pytest.raises(ValueError, match=re.escape(message)):
        gr.fold_tree(cell, params_of(cell), XS.reshape(36, I), FOREST)
    message = "children.roots: got shape (2,), expected int32 [D, B]"
    with pytest.raises(ValueError, match=re.escape(message)):
        gr.fold_tree(cell, params_of(cell), XS, FOREST._replace(roots=FOREST.roots[0]))
    with pytest.raises(ValueError, match=re.escape("values: got shape (4,), expected one for")):
        FOREST.place_roots(range(4))


def test_a_tree_twice():
    """Of a tree in two shards neither `place` nor `place_roots` would know which is meant."""
    tree = np.where(FOREST.tree == 4, 0, FOREST.tree)
    message = "forest.tree: got the trees [0, 0, 1, 2, 3] in 4 shards, expected those from 0 to 4"
    with pytest.raises(ValueError, match=re.escape(message)):
        FOREST._replace(tree=tree).place(INPUTS)


def test_divisions_that_are_refused():
    """Whatever would part a tree, or bring it elsewhere than its inputs."""
    cell, mesh = CELLS["binary"], mesh_of("explicit", (2, 2), ("data", "model"))
    whole, sizes = gr.forest(TREES[:1]), gr.ForestSizes(2, 10, 6, 4, 2, 2)
    small = gr.forest(TREES[:3], sizes, shards=2)
    alone, several = normal(whole.sizes.nodes, I), normal(2, 10, I)
    forest = put(mesh, gr.forest(TREES[:1], sizes), P("data"))
    trees = "expected whole trees on a device: divide the first axis of all arrays of a gr.forest("
    cases = {
        "xs: got its axis 0 divided over 'data' of the mesh, " + trees: (
            put(mesh, normal(10, I), P("data")),
            gr.forest(TREES[:1], sizes),
        ),
        "children.tree: got its axis 0 divided over 'data' of the mesh, " + trees: (
            normal(10, I),
            forest,
        ),
        "xs: got its axis 1 divided over 'data' of the mesh, " + trees: (
            put(mesh, several, P(None, "data")),
            small,
        ),
        "children.tree: got its shards divided over 'model' of the mesh and those of xs over 'data'"
        ", expected both alike": (put(mesh, several, P("data")), put(mesh, small, P("model"))),
    }
    gr.fold_tree(cell, params_of(cell), alone, whole)
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            gr.fold_tree(cell, params_of(cell), *arguments)
        assert "\n" not in str(error.value)
