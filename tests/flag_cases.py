"""A small run of everything in the suite's tables, for tests under JAX's flags.

`CASES` has, by name, a function of a dtype that makes a `Case`: a function, its arguments in that
dtype, and what it returns as arrays. Wherever there is padding, it holds NaN.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tables as tb
import test_layers
import test_losses
import test_seq2seq
import test_streaming
import test_trees
import tree_reference
from networks import outcome, random_params
from reference import FEW, SAMPLE, TREE_CELLS

import gatedrnn as gr
from gatedrnn import diagnostics
from gatedrnn._src.masks import draws

I, T, B = 3, 4, 3
MASK = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], bool)  # any pattern, an empty row
RESETS = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]], bool)
LENGTHS = np.array([T, 0, 2], np.int32)


class Case(NamedTuple):
    """A function of arrays, with arguments for it."""

    function: Callable
    arguments: tuple = ()
    differentiable: bool = True

    def run(self) -> Any:
        """What it returns, and the gradients for its floating-point arguments if it has some."""
        if self.differentiable:
            return outcome(self.function, *self.arguments)
        return self.function(*self.arguments)


def cast(tree, dtype):
    """The leaves of a tree of arrays in a floating-point dtype, or else in int32."""

    def leaf(v):
        v = np.asarray(v)
        return jnp.asarray(v.astype(dtype if v.dtype.kind == "f" else np.int32))

    return jax.tree.map(leaf, tree)


def noise(dtype, *shape, mask=None, seed=0):
    """Normal noise, NaN where a mask `[T, *B]` is False."""
    values = np.random.default_rng(seed).normal(size=shape)
    if mask is not None:
        values[~mask] = np.nan
    return jnp.asarray(values.astype(dtype))


# Cells over time ----------------------------------------------------------------------------------


def of_cell(cell, dtype):
    """A sequence with padding and resets, and a step; with random masks where the cell has some."""
    params = random_params(cell, I, dtype=dtype)
    zeros = jax.eval_shape(lambda: cell.carry((B,), dtype))
    carry = jax.tree.map(lambda v: noise(v.dtype, *v.shape, seed=2), zeros)
    key = {"key": jax.random.key(7)} if draws(cell) else {}

    def run(params, xs, carry, x):
        whole = gr.unroll(cell, params, xs, carry, mask=MASK, resets=RESETS, **key)
        return whole, cell.step(params, carry, x, **key)

    xs = noise(dtype, T, B, I, mask=MASK)
    return Case(run, (params, xs, carry, noise(dtype, B, I, seed=1)))


BPTTS = {
    "hand": gr.BPTT("hand", chunk=3, truncate=2, clip=0.7, save="boundaries"),
    "autodiff": gr.BPTT("autodiff", chunk=3, truncate=2, clip=0.7),
    "gates": gr.BPTT(save="gates"),
}


def of_bptt(bptt, dtype):
    """A trajectory from the end, with lengths, for a backward pass with options."""
    cell = gr.LSTM(4, peephole="diagonal", projection=3)
    xs = noise(dtype, T, B, I, mask=np.arange(T)[:, None] < LENGTHS)
    run = functools.partial(gr.trajectory, cell, lengths=LENGTHS, reverse=True, bptt=bptt)
    return Case(run, (random_params(cell, I, dtype=dtype), xs))


# Layers -------------------------------------------------------------------------------------------


def of_layer(net, dtype):
    """`apply` and `final` (where there is one) over ragged rows, and steps where it streams."""
    reads_tokens, key = net.reads_tokens, jax.random.key(3)
    params = random_params(net, None if reads_tokens else I, dtype=dtype)
    mask = np.arange(T)[:, None] < LENGTHS
    if reads_tokens:
        xs = jnp.asarray(np.random.default_rng(0).integers(0, 6, (T, B)), jnp.int32)
    else:
        xs = noise(dtype, T, B, I, mask=mask)
    clean = jnp.asarray(np.nan_to_num(xs))

    def run(params, xs, clean):
        ragged = net.apply(params, xs, lengths=LENGTHS, resets=RESETS, key=key)
        last = gr.final(net).apply(params, xs, lengths=LENGTHS) if net.causal else ()
        if not net.streams:
            return ragged, last
        step = lambda carry, x: net.step(params, carry, x, key=key)  # noqa: E731
        return ragged, last, jax.lax.scan(step, net.carry((B,), dtype, params), clean)

    return Case(run, (params, xs, clean))


LAYERS = {
    **test_layers.CAUSAL,
    **{f"both {name}": net for name, (net, _) in test_layers.BIDIRECTIONAL.items()},
    **{f"streams {name}": net for name, net in test_streaming.NETWORKS.items()},
    **{f"pool {how}": gr.pool(gr.bidirectional(gr.GRU(3)), how) for how in ("mean", "max")},
    "whole": test_layers.WHOLE,
    "final": gr.final(test_layers.WITHOUT_EMBED),
}


# Decoding -----------------------------------------------------------------------------------------


def decoding(function, dtype, *, key=False, **options):
    """All of what a decoding function returns; it compiles by itself."""
    step = jax.tree_util.Partial(tb.step, cast(tb.tables(0, 3, 5), dtype))
    carry, token = cast(tb.start(np.arange(3)), dtype)
    keys = (jax.random.key(7),) if key else ()
    options |= {"max_length": 4, "end": 1}
    run = lambda *arguments: function(*arguments, **options)  # noqa: E731
    return Case(run, (step, carry, token, *keys), differentiable=False)


DECODING = {
    "greedy": functools.partial(decoding, gr.greedy),
    "sample": functools.partial(decoding, gr.sample, key=True),
    "nucleus": functools.partial(
        decoding, gr.sample, key=True, top_k=4, top_p=0.9, temperature=0.5
    ),
    "beams": functools.partial(decoding, gr.beam_search, beams=3, alpha=0.6),
}


def free_running(dtype):
    """A network that reads its own outputs."""
    net = gr.stack(gr.GRU(4), gr.dense(I))

    def run(params, first):
        step = jax.tree_util.Partial(net.step, params)
        return gr.generate(step, net.carry((B,), dtype), first, steps=3)

    return Case(run, (random_params(net, I, dtype=dtype), noise(dtype, B, I)))


def of_model(model, dtype):
    """Teacher forcing over ragged rows, with a key; and the weights of its attention."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), dtype=dtype))
    params = jax.tree.map(lambda v: noise(v.dtype, *v.shape) / 2, shapes)
    rng = np.random.default_rng(0)
    tokens = [jnp.asarray(rng.integers(0, test_seq2seq.V, (n, 3)), jnp.int32) for n in (4, 3)]
    lengths = {"source_lengths": np.array([4, 0, 2]), "target_lengths": np.array([3, 2, 0])}

    def run(params):
        applied = model.apply(params, *tokens, **lengths, key=jax.random.key(1))
        weights = model.attention(params, *tokens, **lengths) if "Attention" in repr(model) else ()
        return applied, weights

    return Case(run, (params,))


# Losses, trees, rows ------------------------------------------------------------------------------


def read_out(vocabulary, dtype):
    """The cross-entropy over blocks of the vocabulary, at positions of which some are masked."""
    params, hs, labels = test_losses.arguments(vocabulary, dtype=dtype)
    mask = np.asarray(test_losses.MASK)
    hs = jnp.where(mask[..., None], hs, jnp.asarray(np.nan, dtype))
    run = lambda params, hs: gr.softmax_cross_entropy(params, hs, labels, mask)  # noqa: E731
    return Case(run, (params, hs))


def of_trees(cell, rule, dtype):
    """A batch of trees of every kind, padded to larger sizes."""
    forest = gr.forest(test_trees.trees_for(cell))
    params = random_params(cell, tree_reference.IN_FEATURES, dtype=dtype)
    xs = noise(dtype, forest.sizes.nodes, tree_reference.IN_FEATURES)
    return Case(functools.partial(gr.fold_tree, cell, children=forest, rule=rule), (params, xs))


def of_rows(dtype):
    """Rows of a carry, chosen and taken."""
    cell = gr.LSTM(4)
    carry = jax.tree.map(lambda v: noise(dtype, *v.shape), cell.carry((B,), dtype))

    def run(carry):
        fresh = gr.where_rows(np.array([True, False, True]), cell.carry((B,), dtype), carry)
        return fresh, gr.take_rows(carry, np.array([2, 0])), gr.take_rows(carry, 1)

    return Case(run, (carry,))


# Diagnostics, checks ------------------------------------------------------------------------------


def diagnosed(dtype):
    """Every diagnostic of a cell, over ragged rows with resets."""
    cell = gr.LSTM(4, peephole="diagonal")
    params, xs = random_params(cell, I, dtype=dtype), noise(dtype, T, B, I, mask=MASK)
    options = {"mask": MASK, "resets": RESETS}

    def loss(carries, ys):
        return jnp.sum(jnp.sin(carries.c)) + jnp.sum(ys * ys)

    def run(params, xs):
        gates = diagnostics.gates(cell, params, xs, **options)
        clean = jnp.nan_to_num(xs)
        jacobians = diagnostics.step_jacobians(cell, params, clean)
        return (
            gates,
            diagnostics.saturation(gates, mask=MASK),
            diagnostics.step_jacobians(cell, params, xs, leaf="c", **options),
            diagnostics.singular_values(diagnostics.product_jacobians(jacobians)),
            diagnostics.lyapunov_exponents(jacobians, warm_up=1),
            diagnostics.carry_gradients(cell, params, xs, loss, **options),
            diagnostics.gradient_norms(cell, params, xs, loss, **options),
            [
                diagnostics.gradient_reach({"cell": (cell, params)}, clean, of=of)
                for of in ("inputs", "carry")
            ],
        )

    return Case(jax.jit(run), (params, xs), differentiable=False)


def surface(dtype):
    """The loss over a plane of parameters, a path of descent, and the bound on its gradients."""
    cell = gr.Elman(2)
    params, xs = random_params(cell, I, dtype=dtype), noise(dtype, T, B, I)
    directions = [random_params(cell, I, seed, dtype) for seed in (1, 2)]
    grid, start = [noise(dtype, 3, seed=3), noise(dtype, 2, seed=4)], noise(dtype, 2, seed=5)

    def run(params, xs, directions, grid, start):
        loss = lambda p: jnp.sum(gr.unroll(cell, p, xs)[1])  # noqa: E731
        return (
            diagnostics.loss_slice(loss, params, directions, grid),
            diagnostics.descent_path(
                loss, params, directions, start, learning_rate=0.1, steps=3, clip=0.5
            ),
            diagnostics.jacobian_bound(cell, params, 3),
        )

    return Case(jax.jit(run), (params, xs, directions, grid, start), differentiable=False)


def check(cell, dtype):
    """The report of a rule, which is exact: always in float64."""
    function = gr.check_tree_rule if hasattr(cell, "compose") else gr.check_rule

    def run():
        report = function(cell, in_features=2)
        assert report.largest < 1e-10, report
        assert report.largest_difference < 1e-7, report
        return sorted(report.autodiff)

    return Case(run, differentiable=False)


CASES = {
    **{f"cell {name}": functools.partial(of_cell, cell) for name, cell in SAMPLE.items()},
    **{f"bptt {name}": functools.partial(of_bptt, bptt) for name, bptt in BPTTS.items()},
    **{f"layer {name}": functools.partial(of_layer, net) for name, net in LAYERS.items()},
    **{f"decoding {name}": make for name, make in DECODING.items()},
    "decoding generate": free_running,
    **{f"seq2seq {n}": functools.partial(of_model, m) for n, m in test_seq2seq.MODELS.items()},
    **{f"loss {v}": functools.partial(read_out, v) for v in test_losses.VOCABULARIES},
    **{
        f"{rule} {name}": functools.partial(of_trees, cell, rule)
        for name, cell in TREE_CELLS.items()
        for rule in ("hand", "autodiff")
    },
    "rows": of_rows,
    "diagnostics": diagnosed,
    "surface": surface,
}
CHECKS = {f"check {n}": functools.partial(check, c) for n, c in (FEW | TREE_CELLS).items()}
