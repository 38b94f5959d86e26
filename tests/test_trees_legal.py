"""A tree of one node, and forests that were changed after they were made."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import normal, random_params

import gatedrnn as gr
from gatedrnn._src.trees.legal import check_forest

CELL = gr.TreeLSTM(3)
PARAMS = random_params(CELL, 2)
TREES = [((0, 1), 2), "leaf", (0, (1, (2, 3)))]
PADDED = gr.ForestSizes(trees=4, nodes=16, leaves=9, steps=4, width=2, children=2)
FORESTS = {"exact": gr.forest(TREES), "padded": gr.forest(TREES, PADDED)}


@pytest.mark.parametrize("leaf", ["cat", "", 3, 2.5, np.str_("cat"), np.int64(1), {"a": 1}, b"c"])
def test_a_tree_of_one_node(leaf):
    """A leaf by itself is a tree for both functions."""
    children, labels = gr.flatten_tree(leaf)
    assert (children.shape, labels) == ((1, 0), [leaf])
    made, meant = gr.forest([leaf]), gr.forest([children])
    jax.tree.map(np.testing.assert_array_equal, made, meant)
    assert gr.forest_sizes([[leaf], [(leaf, leaf)]]).nodes == 3
    roots, states = gr.fold_tree(CELL, PARAMS, normal(1, 2), made)
    np.testing.assert_allclose(
        roots.h, CELL.compose(PARAMS, CELL.state((1, 0), float), normal(1, 2)).h
    )
    np.testing.assert_array_equal(roots.h, states.h)


def test_what_is_no_leaf():
    with pytest.raises(ValueError, match=re.escape("trees[0]: got shape ()")):
        gr.forest([None])
    with pytest.raises(ValueError, match=re.escape("children: got shape ()")):
        gr.fold_tree(CELL, PARAMS, normal(1, 2), "cat")
    with pytest.raises(
        ValueError, match=re.escape("trees[0][0, 0]: got child 18446744073709551615")
    ):
        gr.forest([np.array([[2**64 - 1]], "uint64")])  # −1, if its low bits alone were read


TREE = st.recursive(st.none(), lambda trees: st.lists(trees, min_size=1, max_size=3).map(tuple))


def with_leaves(tree):
    return tuple(map(with_leaves, tree)) if isinstance(tree, tuple) else "leaf"


@settings(max_examples=100, deadline=None)
@given(st.lists(TREE.map(with_leaves), max_size=5), st.booleans())
def test_every_forest_is_legal(trees, padded):
    forest = gr.forest(trees)
    sizes = forest.sizes
    if padded:
        sizes = sizes._replace(**{name: getattr(sizes, name) + 2 for name in ("trees", "nodes")})
        sizes = sizes.rounded()
    check_forest("forest", gr.forest(trees, sizes))


def test_a_forest_of_padding_alone():
    for sizes in (PADDED, PADDED._replace(trees=0), gr.ForestSizes(0, 0, 0, 0, 0, 0)):
        check_forest("forest", gr.forest([], sizes))


@pytest.mark.parametrize("field", gr.Forest._fields)
@pytest.mark.parametrize("forest", FORESTS.values(), ids=FORESTS)
def test_no_number_may_be_another(forest, field):
    array = getattr(forest, field)
    for index in np.ndindex(array.shape):
        for other in {-2, -1, *range(array.max() + 3)} - {int(array[index])}:
            changed = array.copy()
            changed[index] = other
            with pytest.raises(ValueError, match=re.escape("forest.")) as error:
                check_forest("forest", forest._replace(**{field: changed}))
            assert ", expected " in str(error.value)
            assert "\n" not in str(error.value)


FOREST = FORESTS["exact"]
SWAPPED = FOREST.children[::-1]  # children of what comes later
TAMPERED = {
    "a child that comes later": (
        {"children": SWAPPED},
        ValueError,
        "expected the slot of a node of the same tree in an earlier step, or 14 for no child",
    ),
    "a child out of range": (
        {"children": np.full_like(FOREST.children, 15)},
        ValueError,
        "children.children[0, 0, 0]: got 15, expected a number from 0 to 14",
    ),
    "itself": (
        {"children": np.broadcast_to(FOREST.slots[-1], FOREST.children.shape)},
        ValueError,
        "children.children[0, 0, 0]: got",
    ),
    "fewer roots": (
        {"roots": FOREST.roots[:2]},
        ValueError,
        "children.tree[6]: got 2, expected a number from -1 to 1",
    ),
    "shape": (
        {"inner_parents": FOREST.inner_parents[:, :1]},
        ValueError,
        "children.inner_parents: got shape (3, 1), expected (3, 2), beside the others",
    ),
    "rank": (
        {"slots": FOREST.slots[None]},
        ValueError,
        "children.slots: got shape (1, 13), expected int32 [N], as gr.forest makes it",
    ),
    "dtype": (
        {"leaves": FOREST.leaves.astype("int64")},
        TypeError,
        "children.leaves: got dtype int64, expected int32 [L]",
    ),
    "a list": ({"roots": [4, 5]}, TypeError, "children.roots: got list, expected int32 [B]"),
    "none": ({"roots": None}, TypeError, "children.roots: got NoneType, expected int32 [B]"),
}


@pytest.mark.parametrize(("change", "kind", "message"), TAMPERED.values(), ids=TAMPERED)
@pytest.mark.parametrize("of", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_fold_tree_refuses(change, kind, message, of):
    forest = FOREST._replace(**change)
    if not any(value is None or isinstance(value, list) for value in change.values()):
        forest = jax.tree.map(of, forest)
    with pytest.raises(kind, match=re.escape(message)):
        gr.fold_tree(CELL, PARAMS, normal(13, 2), forest)
    with pytest.raises(kind, match=re.escape(message.replace("children.", "forest.", 1))):
        forest.place([])


def test_shapes_are_checked_under_jit():
    fold = jax.jit(lambda forest: gr.fold_tree(CELL, PARAMS, normal(13, 2), forest)[0].h)
    fold(FOREST)
    with pytest.raises(ValueError, match=re.escape("children.roots: got shape")):
        fold(FOREST._replace(roots=FOREST.roots[:, None]))
    message = "children.children: got shape (3, 2, 2), expected (2, 2, 2)"
    with pytest.raises(ValueError, match=re.escape(message)):
        fold(FOREST._replace(inner=FOREST.inner[1:]))
