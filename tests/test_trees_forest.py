"""Forests on the host: nested tuples, index arrays, schedules, sizes; and every error, also of
`fold_tree`.
"""

import doctest
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tree_reference import chain, normal, random_params

import gatedrnn as gr
from gatedrnn._src.trees import flatten
from gatedrnn._src.trees import forest as layout
from gatedrnn._src.trees.schedule import least_width, levels_of

I, H = 2, 3
CELL = gr.TreeLSTM(H)
TREE = np.array([[-1, -1], [-1, -1], [0, 1]])

nested = st.recursive(st.just(()), lambda below: st.lists(below, min_size=1, max_size=3).map(tuple))
batches = st.lists(nested, max_size=5)


# Nested tuples -----------------------------------------------------------------------------------


def test_flatten_tree():
    """Children before their parents, left to right; every leaf is its own label."""
    children, labels = gr.flatten_tree((("a", None, "b"), 7))
    assert children.tolist() == [[-1] * 3, [-1] * 3, [0, -1, 1], [-1] * 3, [2, 3, -1]]
    assert labels == ["a", "b", None, 7, None]
    children, labels = gr.flatten_tree(("and", ("not", "x"), ("y",)), labelled=True)
    assert children.tolist() == [[-1, -1], [0, -1], [-1, -1], [1, 2]]
    assert labels == ["x", "not", "y", "and"]
    children, labels = gr.flatten_tree("x")
    assert (children.shape, labels) == ((1, 0), ["x"])


def test_flatten_a_deep_tree():
    """Deeper than Python's own stack."""
    tree = ()
    for _ in range(5000):
        tree = (tree,)
    np.testing.assert_array_equal(gr.flatten_tree(tree)[0], chain(5001))


@given(nested)
def test_flatten_tree_is_recursion(tree):
    """Rebuilt from its index array, a tree is what it was."""
    children, _ = gr.flatten_tree(tree)

    def rebuilt(j):
        return tuple(rebuilt(k) for k in children[j] if k >= 0)

    assert rebuilt(len(children) - 1) == tree


@pytest.mark.parametrize("module", [flatten, layout], ids=lambda m: m.__name__)
def test_examples_in_docstrings(module):
    """They run, and give what they print."""
    assert doctest.testmod(module, extraglobs={"gr": gr}).failed == 0


# Forests -----------------------------------------------------------------------------------------


def height(tree):
    return 1 + max(map(height, tree)) if tree else 0


@given(batches, st.booleans())
def test_a_forest_is_a_schedule(trees, padded):
    """A slot for each node, after those of its children, in as many steps as trees are high."""
    sizes = None
    if padded:
        sizes = gr.ForestSizes(*(n + 2 for n in gr.forest(trees).sizes))
    forest = gr.forest(trees, sizes)
    assert forest.sizes == sizes or not padded
    _, nodes, leaves, steps, width, places = forest.sizes
    zero = leaves + steps * width
    if not padded:
        assert steps == max(map(height, trees), default=0)
    of_slot = np.concatenate([forest.leaves, forest.inner.ravel(), [nodes]])
    valid = forest.tree >= 0
    np.testing.assert_array_equal(of_slot[forest.slots[valid]], np.nonzero(valid)[0])
    assert (forest.slots[~valid] == zero).all()
    assert sorted(of_slot[of_slot < nodes]) == list(range(valid.sum()))

    step_of = np.concatenate([np.full(leaves, -1), np.repeat(np.arange(steps), width), [-2]])
    left_by = np.full(zero + 1, steps * width * places)  # the place a parent has for each slot
    for b, tree in enumerate(trees):
        children, _ = gr.flatten_tree(tree)
        (rows,) = np.nonzero(forest.tree == b)
        np.testing.assert_array_equal(forest.position[rows], np.arange(len(children)))
        assert forest.roots[b] == rows[-1]
        for j, below in enumerate(children):
            slot = forest.slots[rows[j]]
            if (below < 0).all():
                assert slot < leaves
                continue
            in_steps = slot - leaves
            got = forest.children.reshape(-1, places)[in_steps]
            expected = [forest.slots[rows[k]] if k >= 0 else zero for k in below]
            np.testing.assert_array_equal(got[: len(below)], expected)
            assert (got[len(below) :] == zero).all()
            assert all(step_of[k] < step_of[slot] for k in expected)
            for place, k in enumerate(expected):
                left_by[k] = in_steps * places + place if k != zero else left_by[zero]
    parents = np.concatenate([forest.leaf_parents, forest.inner_parents.ravel()])
    np.testing.assert_array_equal(parents, left_by[:-1])
    assert (forest.roots[len(trees) :] == nodes).all()


@given(batches)
def test_no_narrower_forest_is_as_fast(trees):
    """With one node less to a step, the latest possible schedule misses its deadline."""
    forest = gr.forest(trees)
    steps, width = forest.sizes.steps, forest.sizes.width
    depths = []

    def visit(tree, depth):
        if tree:
            depths.append(depth)
        for child in tree:
            visit(child, depth + 1)

    for tree in trees:
        visit(tree, 0)
    due = [sum(depth >= steps - t for depth in depths) for t in range(1, steps + 1)]
    assert all(n <= width * t for t, n in enumerate(due, 1))
    assert any(n > (width - 1) * t for t, n in enumerate(due, 1)) or width in (0, 2)


def test_the_width_of_mixed_trees():
    """Small trees wait for the tall one, so that every step is full."""
    trees = [chain(11), *[((), ())] * 30]
    sizes = gr.forest(trees).sizes
    assert (sizes.steps, sizes.width) == (10, 4)  # 40 inner nodes in 10 steps
    assert least_width(levels_of(chain(5)), 8) == 1


def test_index_arrays_are_trees():
    """As nested tuples are; places beyond the children of a narrower tree are empty."""
    tuples = gr.forest([((), ((), ())), ((),)])
    arrays = gr.forest([gr.flatten_tree(((), ((), ())))[0], jnp.array([[-1], [0]], jnp.int8)])
    for a, b in zip(tuples, arrays, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.int32


def test_sizes_that_fit_every_batch():
    """The largest of each; no narrower than the widest batch needs in as many steps."""
    batches = [[((), ())] * 4, [chain(7)], [()]]
    sizes = gr.forest_sizes(batches)
    assert sizes == gr.ForestSizes(trees=4, nodes=12, leaves=8, steps=6, width=2, children=2)
    for trees in batches:
        assert gr.forest(trees, sizes).sizes == sizes
    assert sizes.rounded() == gr.ForestSizes(4, 16, 8, 8, 2, 2)
    assert gr.forest([]).sizes.rounded() == gr.ForestSizes(0, 0, 0, 0, 0, 0)


def test_place():
    """Rows of each tree, one after another, zeros in the padding; under any shape and dtype."""
    sizes = gr.ForestSizes(trees=2, nodes=6, leaves=4, steps=1, width=1, children=2)
    forest = gr.forest([((), ()), ()], sizes)
    placed = forest.place([np.arange(6).reshape(3, 2), [[6, 7]]])
    assert placed.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [0, 0], [0, 0]]
    assert forest.place([["a", "b", "c"], ["d"]]).tolist() == ["a", "b", "c", "d", "", ""]


# Errors ------------------------------------------------------------------------------------------


def fold(xs=None, params=None, children=TREE, cell=CELL, **options):
    def call():
        own = random_params(CELL) if params is None else params
        return gr.fold_tree(cell, own, normal(3, I) if xs is None else xs, children, **options)

    return call


SMALL = gr.ForestSizes(trees=1, nodes=3, leaves=2, steps=1, width=1, children=2)
A = [-1, -1]
ERRORS = {
    # nested tuples
    "list": (lambda: gr.flatten_tree(([1], 2)), TypeError, "tree: got a list, [1]"),
    "none": (lambda: gr.flatten_tree(None), TypeError, "tree: got None"),
    "unlabelled": (
        lambda: gr.flatten_tree(("and", ()), labelled=True),
        ValueError,
        "tree: got an empty tuple, expected (label, *children)",
    ),
    # index arrays
    "one tree": (lambda: gr.forest(((), ())), TypeError, "trees: got ((), ()), expected a list"),
    "array": (lambda: gr.forest(TREE), TypeError, "trees: got array(["),
    "rank": (lambda: gr.forest([TREE[0]]), ValueError, "trees[0]: got shape (2,)"),
    "empty": (lambda: gr.forest([TREE, TREE[:0]]), ValueError, "trees[1]: got shape (0, 2)"),
    "float": (lambda: gr.forest([TREE * 1.0]), TypeError, "trees[0]: got dtype float64"),
    "cycle": (
        lambda: gr.forest([[A, A, [0, 2]]]),
        ValueError,
        "trees[0][2, 1]: got child 2, the node itself: a cycle; expected -1 (absent) or an index "
        "below 2",
    ),
    "forward": (
        lambda: gr.forest([[A, [2, 0], [1, -1]]]),
        ValueError,
        "trees[0][1, 0]: got child 2, a forward reference: children stand before their parents",
    ),
    "above": (
        lambda: gr.forest([[A, A, [0, 9]]]),
        ValueError,
        "trees[0][2, 1]: got child 9, which is out of range for 3 nodes",
    ),
    "below": (
        lambda: gr.forest([[A, A, [0, -2]]]),
        ValueError,
        "trees[0][2, 1]: got child -2, which is out of range for 3 nodes",
    ),
    "two parents": (
        lambda: gr.forest([[A, [0, -1], [0, 1]]]),
        ValueError,
        "trees[0]: got node 0 as a child 2 times",
    ),
    "two roots": (
        lambda: gr.forest([[A, A, [0, -1]]]),
        ValueError,
        "trees[0]: got node 1 without a parent, expected one root, the last node, 2",
    ),
    # sizes
    "sizes": (lambda: gr.forest([TREE], (1, 3)), TypeError, "sizes: got (1, 3), expected a gr.Fo"),
    "nodes": (
        lambda: gr.forest([TREE], SMALL._replace(nodes=2)),
        ValueError,
        "sizes.nodes: got 2, expected at least 3 for these trees",
    ),
    "steps": (lambda: gr.forest([chain(3)], SMALL), ValueError, "sizes.steps: got 1, expected at"),
    "width": (
        lambda: gr.forest([TREE, TREE], gr.ForestSizes(2, 6, 4, 1, 1, 2)),
        ValueError,
        "sizes.width: got 1, expected at least 2",
    ),
    "places": (
        lambda: gr.forest([((), (), ())], SMALL._replace(nodes=4, leaves=3)),
        ValueError,
        "sizes.children: got 2, expected at least 3",
    ),
    "no batches": (lambda: gr.forest_sizes([]), ValueError, "batches: got none"),
    "values": (lambda: gr.forest([TREE]).place([]), ValueError, "values: got 0, expected one for"),
    "rows": (
        lambda: gr.forest([TREE]).place([[1, 2]]),
        ValueError,
        "values[0]: got shape (2,), expected a row for each of the 3 nodes",
    ),
    # fold_tree
    "layer": (fold(cell=gr.LSTM(H)), TypeError, "(no state, compose), expected a value with init"),
    "class": (fold(cell=gr.TreeRNN), TypeError, "(a class, not a value)"),
    "rule": (fold(rule="backprop"), ValueError, "rule: got 'backprop', expected one of None"),
    "xs rows": (fold(normal(4, I)), ValueError, "xs: got shape (4, 2), expected [N, I] with N = 3"),
    "xs rank": (fold(normal(3, 1, I)), ValueError, "xs: got shape (3, 1, 2), expected [N, I]"),
    "xs dtype": (fold(jnp.zeros((3, I), int)), TypeError, "xs: got dtype int64"),
    "features": (fold(normal(3, 5)), ValueError, "params.kernel: got shape (2, 12), expected (5,"),
    "params": (
        fold(params=random_params(gr.TreeRNN(H))),
        ValueError,
        "params: got TreeRNNParams(kernel=[2, 3], ",
    ),
    "dtype": (
        fold(normal(3, I).astype(jnp.float32)),
        TypeError,
        "params: got dtype float64 with xs in float32",
    ),
    "children": (
        fold(normal(4, I), children=gr.forest([((), (), ())])),
        ValueError,
        "children: got nodes of up to 3 children, expected at most 2 for TreeLSTM(3",
    ),
    "children list": (fold(children=[TREE]), TypeError, "children: got a list, expected a gr.for"),
    "children order": (
        fold(children=TREE[::-1]),
        ValueError,
        "children[0, 0]: got child 0, the node itself: a cycle",
    ),
    "traced": (
        lambda: jax.jit(lambda tree: fold(children=tree)())(TREE),
        TypeError,
        "children: got a traced array, expected one whose values are known",
    ),
    # a single node
    "compose": (
        lambda: CELL.compose(random_params(CELL), CELL.state((3,)), normal(I)),
        ValueError,
        "children: got 3, expected at most 2",
    ),
    "compose shape": (
        lambda: CELL.compose(random_params(CELL), CELL.state((4, 2)), normal(3, I)),
        ValueError,
        "children.h: got shape (4, 2, 3), expected (3, 2, 3)",
    ),
    # cells
    "size": (lambda: gr.TreeRNN(0), ValueError, "features: got 0"),
    "no places": (lambda: gr.TreeRNN(3, children=0), ValueError, "children: got 0, expected an"),
    "activation": (lambda: gr.TreeRNN(3, activation="elu"), ValueError, "activation: got 'elu'"),
    "kind": (lambda: gr.TreeLSTM(3, kind="nary"), ValueError, "kind: got 'nary', expected one of"),
    "forget bias": (
        lambda: gr.TreeLSTM(3, forget_bias=1.0, use_bias=False),
        ValueError,
        "forget_bias: got 1.0 with use_bias=False, expected None",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(call, kind, message):
    """Each names the argument, what it got and what it expected."""
    with pytest.raises(kind, match=re.escape(message)):
        call()


# Initial values ----------------------------------------------------------------------------------


def test_initial_values():
    """Input kernels LeCun normal, recurrent ones (semi-)orthogonal per gate, the forget bias."""
    key = jax.random.key(0)
    for cell, gates in ((gr.TreeRNN(8, children=3), 1), (gr.TreeLSTM(8), 5)):
        params = cell.init(key, 4)
        for block in np.split(params.recurrent_kernel, gates, axis=-1):
            np.testing.assert_allclose(block.T @ block, np.eye(8), atol=1e-5)
        assert params.kernel.dtype == jnp.float32
    biases = [gr.TreeLSTM(2, forget_bias=bias).init(key, 4).bias for bias in (None, 3)]
    assert [b.tolist() for b in biases] == [[0, 0, n, n, 0, 0, 0, 0] for n in (1, 3)]
    assert gr.TreeLSTM(2, use_bias=False).init(key, 4, jnp.bfloat16).bias is None
    state = gr.TreeLSTM(2).state((5,), jnp.bfloat16)
    assert (state.h.dtype, state.c.dtype) == (jnp.bfloat16, jnp.float32)
