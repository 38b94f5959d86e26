"""Recursive networks: the equations, their gradients, and trees in a batch."""

import dataclasses
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from jax.sharding import PartitionSpec
from tree_reference import FEATURES as H
from tree_reference import IN_FEATURES as I
from tree_reference import TREE_CELLS, chain, fold, normal, random_params

import gatedrnn as gr

every_cell = pytest.mark.parametrize("cell", TREE_CELLS.values(), ids=TREE_CELLS)
structures = pytest.mark.parametrize(
    "cell", [gr.TreeRNN(H), gr.TreeLSTM(H), gr.TreeLSTM(H, kind="child_sum")], ids=lambda c: str(c)
)

# trees of every kind: unary, binary, with one child missing on either side, a single node
TREES = [((0, 1), (2, (3, 4))), ((0,), None), (None, (1, 2)), (), ((((0, 1), 2), 3), 4)]
UNARY = [(((0,),),), (), ((0,),)]
TERNARY = [(0, (1, 2, 3), None), (None, (0, 1), 2), *TREES]
SIZES = gr.ForestSizes(trees=3, nodes=60, leaves=40, steps=6, width=16, children=3)


def trees_for(cell):
    """A batch that uses every place of the cell."""
    return {1: UNARY, 2: TREES, 3: TERNARY, None: TERNARY}[cell.children]


def alone(cell, params, xs, trees):
    """Each tree by itself, one after another: the states of roots, and of all nodes."""
    counts = [len(gr.flatten_tree(tree)[0]) for tree in trees]
    parts = np.split(np.asarray(xs)[: sum(counts)], np.cumsum(counts)[:-1])
    each = [fold(cell, params, part, tree) for part, tree in zip(parts, trees, strict=True)]
    columns = list(zip(*each, strict=True))
    roots = tuple(np.stack([states[-1] for states in column]) for column in columns)
    return roots, tuple(map(np.concatenate, columns))


def point(cell, trees, sizes=None):
    """A forest, parameters and inputs."""
    forest = gr.forest(trees, sizes)
    return forest, random_params(cell), normal(forest.sizes.nodes, I)


def weighted(states):
    """A loss that reaches every element of every leaf, each with another weight."""
    leaves = jax.tree.leaves(states)
    return sum(jnp.sum(jnp.sin(2 * v) * normal(*v.shape, seed=i)) for i, v in enumerate(leaves))


@partial(jax.jit, static_argnames=("cell", "rule"))
def gradients(cell, params, xs, forest, rule=None):
    return jax.value_and_grad(
        lambda params, xs: weighted(gr.fold_tree(cell, params, xs, forest, rule=rule)), (0, 1)
    )(params, xs)


# The equations -----------------------------------------------------------------------------------


@every_cell
def test_equations(cell):
    """Each node is what the published equations make of its children."""
    trees = trees_for(cell)
    forest, params, xs = point(cell, trees)
    got = gr.fold_tree(cell, params, xs, forest)
    for a, b in zip(got, alone(cell, params, xs, trees), strict=True):
        chex.assert_trees_all_close(tuple(a), b, rtol=0, atol=1e-12)


nested = st.recursive(st.just(()), lambda below: st.tuples(*[st.none() | below] * 3), max_leaves=6)


@structures
@settings(max_examples=20, deadline=None)
@given(trees=st.lists(nested, min_size=1, max_size=3))
def test_any_trees(cell, trees):
    """Random trees, padded to sizes that all share, with NaN in the padding."""
    if cell.children == 2:
        trees = [without_third(tree) for tree in trees]
    needed = gr.forest(trees).sizes
    assume(all(n <= size for n, size in zip(needed, SIZES, strict=True)))
    count = needed.nodes
    forest = gr.forest(trees, SIZES._replace(children=cell.children or 3))
    params, xs = random_params(cell), normal(SIZES.nodes, I).at[count:].set(jnp.nan)
    roots, states = gr.fold_tree(cell, params, xs, forest)
    expected_roots, expected = alone(cell, params, xs, trees)
    padded = (np.pad(v, [(0, len(states.h) - len(v)), (0, 0)]) for v in expected)
    chex.assert_trees_all_close(tuple(states), tuple(padded), rtol=0, atol=1e-12)
    got = tuple(v[: len(trees)] for v in roots)
    chex.assert_trees_all_close(got, expected_roots, rtol=0, atol=1e-12)


def without_third(tree):
    return tree and tuple(child and without_third(child) for child in tree[:2])


@every_cell
def test_compose_is_a_node_of_the_fold(cell):
    """`compose`, node by node, leaves without children, makes the states of `fold_tree`."""
    (tree, *_), params = trees_for(cell), random_params(cell)
    children, _ = gr.flatten_tree(tree)
    xs = normal(len(children), I)
    _, expected = gr.fold_tree(cell, params, xs, children)
    states = cell.state((len(children) + 1,), jnp.float64)  # the last is what −1 finds
    for j, below in enumerate(children):
        of_children = jax.tree.map(lambda v: v[below], states)  # noqa: B023
        if (below < 0).all():
            of_children = cell.state((0,), jnp.float64)
        new = cell.compose(params, of_children, xs[j])
        states = jax.tree.map(lambda v, w: v.at[j].set(w), states, new)  # noqa: B023
    got = jax.tree.map(lambda v: v[:-1], states)
    chex.assert_trees_all_close(got, expected, rtol=0, atol=1e-14)


# Chains ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "recurrence"),
    [
        (gr.TreeRNN(H, children=1), gr.Elman(H)),
        (gr.TreeLSTM(H, kind="child_sum"), gr.LSTM(H)),
    ],
    ids=["elman", "lstm"],
)
def test_a_chain_is_the_recurrence(cell, recurrence):
    """States and gradients, with the same parameters in the same layout."""
    params, xs = random_params(cell), normal(6, I)

    def of_tree(params, xs):
        return gr.fold_tree(cell, params, xs, chain(6))[1]

    def of_sequence(params, xs):
        own = recurrence.init(jax.random.key(0), I)._replace(**params._asdict())
        return gr.trajectory(recurrence, own, xs)[0]

    def run(of):
        def loss(params, xs):
            states = of(params, xs)
            return weighted(states), tuple(states)

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, xs)

    chex.assert_trees_all_close(run(of_tree), run(of_sequence), rtol=0, atol=1e-12)


def test_a_deep_chain():
    """A thousand steps are one loop: its program is as long as that of ten, and runs."""
    cell = gr.TreeLSTM(H, kind="child_sum")
    params = random_params(cell)

    def program(n):
        return gradients.lower(cell, params, normal(n, I), gr.forest([chain(n)])).as_text()

    assert abs(program(1000).count("\n") - program(10).count("\n")) < 5
    xs, forest = normal(1000, I), gr.forest([chain(1000)])
    assert forest.sizes == (1, 1000, 1, 999, 2, 1)
    (_, states) = gr.fold_tree(cell, params, xs, forest)
    own = gr.LSTM(H).init(jax.random.key(0), I)._replace(**params._asdict())
    chex.assert_trees_all_close(states.h, gr.unroll(gr.LSTM(H), own, xs)[1], rtol=0, atol=1e-12)


# Gradients ---------------------------------------------------------------------------------------


@every_cell
def test_rule_is_autodiff(cell):
    """To 1e-12, for parameters and inputs, whatever the loss looks at."""
    forest, params, xs = point(cell, trees_for(cell))
    hand, autodiff = (gradients(cell, params, xs, forest, rule) for rule in ("hand", "autodiff"))
    chex.assert_trees_all_close(hand, autodiff, rtol=1e-12, atol=1e-12)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(hand))


def test_check_tree_rule():
    """A right rule is found right; a wrong one, and a `compose` of another function, are not."""
    right = gr.check_tree_rule(gr.TreeRNN(2), trees=[((), ((), None))])
    assert right.largest <= 1e-12
    assert right.largest_difference <= 1e-9
    assert [name.split(".")[0] for name in right.autodiff] == ["params"] * 3 + ["xs"]

    class Wrong(gr.TreeRNN):
        """The slope left out of the backward rule, and twice the state from `compose`."""

        rule = gr.TreeRNN.rule._replace(
            linearize=lambda cell, params, record: jnp.ones_like(record.after.h)
        )

        def compose(self, params, children, x):
            return jax.tree.map(lambda v: 2 * v, super().compose(params, children, x))

    wrong = gr.check_tree_rule(Wrong(2))
    assert wrong.autodiff["params.kernel"] > 1e-2
    assert wrong.largest_difference > 1e-2
    assert wrong.step > 1e-2
    with pytest.raises(ValueError, match="expected a cell with a rule"):
        gr.check_tree_rule(Mean(2))


@pytest.mark.parametrize(("kind", "mode"), [("binary", "reverse"), ("child_sum", "forward")])
def test_second_order(kind, mode):
    """Gradient and Hessian along the point itself, reverse or forward over reverse: differences."""
    cell = gr.TreeLSTM(H, kind=kind)
    forest, *primals = point(cell, trees_for(cell))
    primals = tuple(primals)

    def gradient(primals):
        return gradients(cell, *primals, forest, "hand")[1]

    def along(these):
        return sum(map(jnp.vdot, jax.tree.leaves(these), jax.tree.leaves(primals)))

    def differences(f, step=1e-3):
        """The derivative of `f` at the point along itself, to the fourth order of the step."""
        moved = (jax.tree.map(lambda v, n=n: v * (1 + n * step), primals) for n in (-2, -1, 1, 2))
        return jax.tree.map(
            lambda a, b, c, d: (a - 8 * b + 8 * c - d) / (12 * step), *map(f, moved)
        )

    slope = differences(lambda p: gradients(cell, *p, forest, "hand")[0])
    np.testing.assert_allclose(along(gradient(primals)), slope, rtol=1e-9)
    hessian = {
        "reverse": lambda p: jax.grad(lambda p: along(gradient(p)))(p),
        "forward": lambda p: jax.jvp(gradient, (p,), (p,))[1],
    }[mode]
    got = jax.jit(hessian)(primals)
    chex.assert_trees_all_close(got, differences(gradient), rtol=1e-7, atol=1e-9)


@structures
def test_only_states_are_saved(cell):
    """Beside parameters, inputs and the forest, the forward pass keeps the state of each slot."""
    forest, params, xs = point(cell, TREES)

    def run(params, xs):
        return gr.fold_tree(cell, params, xs, forest)[1]

    _, backward = jax.vjp(run, params, xs)
    kept = [v for v in jax.tree.leaves(backward) if jnp.issubdtype(v.dtype, jnp.floating)]
    sizes = forest.sizes
    states = cell.state((sizes.leaves + sizes.steps * sizes.width + 1,))
    given = sum(v.size for v in jax.tree.leaves((params, xs, states)))
    assert sum(v.size for v in kept) <= given


def scans(jaxpr):
    """Every scan of a program, however deep."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from scans(inner)


@structures
def test_what_is_in_the_loops(cell):
    """As many steps as the tallest tree is high, two loops, and no weight gradient in either."""
    cell = dataclasses.replace(cell, features=7)  # so that no other array has a kernel's shape
    forest, params, xs = point(cell, TREES)
    jaxpr = jax.make_jaxpr(partial(gradients, cell))(params, xs, forest).jaxpr
    found = list(scans(jaxpr))
    assert [equation.params["length"] for equation in found] == [4, 4]
    of_params = {leaf.shape for leaf in params}
    for equation in found:
        for inner in equation.params["jaxpr"].eqns:
            assert not of_params & {v.aval.shape for v in inner.outvars}


# Batches of trees --------------------------------------------------------------------------------


def test_padding_takes_part_in_nothing():
    """More of everything, NaN in padded inputs and cotangents: the same states and gradients."""
    cell = gr.TreeLSTM(H)
    forest, params, xs = point(cell, TREES)
    count, sizes = len(xs), forest.sizes
    more = gr.ForestSizes(*(n + 3 for n in sizes[:-1]), sizes.children)
    padded = gr.forest(TREES, more)
    assert padded.sizes == more
    wide = jnp.full((more.nodes, I), jnp.nan).at[:count].set(xs)

    def loss(params, xs, forest, factor):
        roots, states = gr.fold_tree(cell, params, xs, forest)
        roots = jax.tree.map(lambda v: v[: len(TREES)], roots)
        # what is cut off has a cotangent of zero, and zero times NaN is NaN
        return weighted((roots, jax.tree.map(lambda v: (v * factor)[:count], states)))

    run = jax.jit(jax.value_and_grad(loss, (0, 1)))
    value, (of_params, of_xs) = run(
        params, wide, padded, np.where(padded.tree < 0, np.nan, 1.0)[:, None]
    )
    expected, (expected_params, expected_xs) = run(params, xs, forest, np.ones((count, 1)))
    assert jnp.isfinite(expected)
    assert all(jnp.isfinite(leaf).all() for leaf in (expected_xs, *expected_params))
    chex.assert_trees_all_close(value, expected, rtol=1e-13)
    chex.assert_trees_all_close(of_params, expected_params, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_close(of_xs[:count], expected_xs, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(of_xs[count:], 0)
    roots, states = gr.fold_tree(cell, params, wide, padded)
    assert all((leaf[len(TREES) :] == 0).all() for leaf in roots)
    assert all((leaf[count:] == 0).all() for leaf in states)


def test_places_matter_and_do_not():
    """Left is not right for matrices of their own; a sum of children has no order."""
    xs = normal(3, I)
    left, right = np.array([[-1, -1], [-1, -1], [0, 1]]), np.array([[-1, -1], [-1, -1], [1, 0]])
    for cell, same in (
        (gr.TreeRNN(H), False),
        (gr.TreeLSTM(H), False),
        (gr.TreeLSTM(H, kind="child_sum"), True),
    ):
        params = random_params(cell)
        a, b = (gr.fold_tree(cell, params, xs, tree)[0].h for tree in (left, right))
        assert np.allclose(a, b, atol=1e-12) == same


@pytest.mark.parametrize("trees", [[], [()], [(), ()]], ids=["none", "node", "nodes"])
def test_forests_without_a_loop(trees):
    """No tree at all, or nothing but single nodes."""
    cell = gr.TreeLSTM(H)
    forest, params, xs = point(cell, trees)
    roots, states = gr.fold_tree(cell, params, xs, forest)
    assert roots.h.shape == states.c.shape == (len(trees), H)
    if trees:
        expected, _ = alone(cell, params, xs, trees)
        chex.assert_trees_all_close(tuple(roots), expected, rtol=0, atol=1e-12)
    _, (of_params, _) = gradients(cell, params, xs, forest)
    np.testing.assert_array_equal(of_params.recurrent_kernel, 0)


# A cell of one's own -----------------------------------------------------------------------------


class MeanState(NamedTuple):
    h: jax.Array  # [*B, H]


@dataclasses.dataclass(frozen=True)
class Mean:
    """A user's cell without a rule: `h = tanh(x U + (h_left − h_right) / 2)`."""

    features: int
    children: int = 2

    def init(self, key, in_features, dtype=jnp.float32):
        return {"kernel": jax.random.normal(key, (in_features, self.features), dtype)}

    def state(self, batch_shape, dtype=jnp.float32):
        return MeanState(jnp.zeros((*batch_shape, self.features), dtype))

    def compose(self, params, children, x):
        left, right = children.h[..., 0, :], children.h[..., 1, :]
        return MeanState(jnp.tanh(x @ params["kernel"] + (left - right) / 2))


def test_a_cell_without_a_rule():
    """It sees both its places whatever the trees have, and is differentiated by JAX."""
    cell, rnn = Mean(H), gr.TreeRNN(H, use_bias=False)
    params = {"kernel": normal(I, H)}
    half = jnp.concatenate([jnp.eye(H) / 2, -jnp.eye(H) / 2])
    same = gr.TreeRNNParams(params["kernel"], half, None)
    for trees in (UNARY, TREES):
        forest = gr.forest(trees)
        xs = normal(forest.sizes.nodes, I)
        _, states = gr.fold_tree(cell, params, xs, forest)
        _, expected = gr.fold_tree(rnn, same, xs, forest)
        chex.assert_trees_all_close(states.h, expected.h, rtol=0, atol=1e-13)
    _, (got, of_xs) = gradients(cell, params, xs, forest)
    _, (hand, hand_xs) = gradients(rnn, same, xs, forest)
    chex.assert_trees_all_close(got["kernel"], hand.kernel, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_close(of_xs, hand_xs, rtol=1e-12, atol=1e-13)


# Transformations ---------------------------------------------------------------------------------


def test_batches_of_equal_sizes_share_a_program():
    """In `jit` and outside it; the cell is looked up by its value."""
    traces = []

    class Counted(gr.TreeRNN):
        """A cell that tells when it is traced."""

        rule = gr.TreeRNN.rule._replace(
            recur=lambda *args: traces.append(1) or gr.TreeRNN.rule.recur(*args)
        )

    batches = [TREES, TREES[:2], [(0, 1)]]
    sizes = gr.forest_sizes(batches)
    params, xs = random_params(gr.TreeRNN(H)), normal(sizes.nodes, I)
    counts = []
    for trees in batches:
        gr.fold_tree(Counted(H), params, xs, gr.forest(trees, sizes))
        counts.append(len(traces))
    assert counts[0] == counts[-1] > 0


def test_vmap():
    """Over parameters, inputs and whole forests of equal sizes."""
    cell = gr.TreeLSTM(H)
    batches = [TREES[:3], TREES[2:]]
    sizes = gr.forest_sizes(batches)
    forests = [gr.forest(trees, sizes) for trees in batches]
    stacked = jax.tree.map(lambda *v: np.stack(v), *forests)
    params = [random_params(cell, seed=s) for s in range(2)]
    both = jax.tree.map(lambda *v: jnp.stack(v), *params)
    xs = normal(2, sizes.nodes, I)
    got = jax.vmap(partial(gradients, cell))(both, xs, stacked)
    each = [gradients(cell, p, x, f) for p, x, f in zip(params, xs, forests, strict=True)]
    expected = jax.tree.map(lambda *v: jnp.stack(v), *each)
    chex.assert_trees_all_close(got, expected, rtol=1e-12, atol=1e-13)


def test_bfloat16():
    """States in the dtype of `xs`, the memory in float32, gradients in that of what they are of."""
    cell = gr.TreeLSTM(H)
    forest, params, xs = point(cell, TREES)
    _, expected = gr.fold_tree(cell, params, xs, forest)
    _, (exact, _) = gradients(cell, params, xs, forest)

    def loss(params, xs):
        states = gr.fold_tree(cell, params, xs, forest)
        return weighted(jax.tree.map(lambda v: v.astype(jnp.float64), states))

    def cast(tree, dtype):
        return jax.tree.map(lambda v: v.astype(dtype), tree)

    xs, gradient = cast(xs, jnp.bfloat16), jax.grad(loss, (0, 1))
    of_params, of_xs = jax.eval_shape(gradient, cast(params, jnp.bfloat16), xs)
    assert {leaf.dtype for leaf in (of_xs, *of_params)} == {jnp.dtype(jnp.bfloat16)}

    params = cast(params, jnp.float32)  # the mixture that is allowed
    _, states = gr.fold_tree(cell, params, xs, forest)
    assert (states.h.dtype, states.c.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(states.h.astype(jnp.float64), expected.h, atol=0.05)
    of_params, of_xs = jax.jit(gradient)(params, xs)
    assert of_xs.dtype == jnp.bfloat16
    for got, wanted in zip(of_params, exact, strict=True):
        assert got.dtype == jnp.float32
        assert jnp.max(jnp.abs(cast(got, jnp.float64) - wanted)) < 0.05 * jnp.max(jnp.abs(wanted))


def test_inside_shard_map():
    """A forest for each device, parameters on all, with `check_vma=True`: the same gradients."""
    cell = gr.TreeLSTM(H, kind="child_sum")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batches = [TREES[:3], TREES[2:]]
    sizes = gr.forest_sizes(batches)
    forests = [gr.forest(trees, sizes) for trees in batches]
    stacked = jax.tree.map(lambda *v: np.stack(v), *forests)
    params, xs = random_params(cell), normal(2, sizes.nodes, I)
    spread = PartitionSpec("data")

    @jax.jit
    @jax.grad
    def of_params(params):
        @partial(
            jax.shard_map, mesh=mesh, in_specs=(PartitionSpec(), spread, spread), out_specs=spread
        )
        def each(params, xs, forest):
            forest = jax.tree.map(lambda v: v[0], forest)
            roots, _ = gr.fold_tree(cell, params, xs[0], forest)
            return roots.h[None]

        return jnp.sum(jnp.sin(each(params, xs, stacked)))

    def loss(params):
        hs = [gr.fold_tree(cell, params, x, f)[0].h for x, f in zip(xs, forests, strict=True)]
        return sum(jnp.sum(jnp.sin(h)) for h in hs)

    got = of_params(params)
    chex.assert_trees_all_close(got, jax.grad(loss)(params), rtol=1e-12, atol=1e-13)


def test_forward_mode_needs_autodiff():
    """As for sequences: the rule is one for reverse mode, and the switch is an argument."""
    cell = gr.TreeRNN(H)
    forest, params, xs = point(cell, TREES)

    def run(xs, rule):
        return gr.fold_tree(cell, params, xs, forest, rule=rule)[1].h

    with pytest.raises(TypeError, match="can't apply forward-mode"):
        jax.jvp(partial(run, rule=None), (xs,), (xs,))
    _, tangent = jax.jvp(partial(run, rule="autodiff"), (xs,), (xs,))
    _, pull = jax.vjp(partial(run, rule="hand"), xs)
    np.testing.assert_allclose(jnp.sum(tangent), jnp.vdot(pull(jnp.ones_like(tangent))[0], xs))
