"""What the compiled program holds: traces, loops, weight gradients, collectives, memory."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from meshes import collectives
from reference import FEW, random_params

import gatedrnn as gr

T, B, I, H = 12, 8, 5, 6
CELLS = {name: cell for name, cell in FEW.items() if not hasattr(cell, "cell")}


def mean_square(cell, params, xs, **options):
    """A loss over all outputs."""
    return jnp.mean(jnp.square(gr.unroll(cell, params, xs, **options)[1]))


def inputs(length=T, batch=B, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(0).normal(size=(length, batch, I)), dtype)


def test_equal_cells_do_not_retrace():
    """A cell is looked up by its value, in `jit` and outside it."""
    traces = []

    class Counted(gr.GRU):
        """A GRU that tells when it is traced."""

        rule = gr.GRU.rule._replace(
            recur=lambda *args, **options: traces.append(1) or gr.GRU.rule.recur(*args, **options)
        )

    params, xs = random_params(gr.GRU(H), I), inputs()
    gr.unroll(Counted(H), params, xs)
    first = len(traces)
    assert first > 0
    gr.unroll(Counted(H), params, xs + 1)
    assert len(traces) == first

    loss = chex.assert_max_traces(mean_square, n=1)
    step = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)
    for _ in range(3):
        step(Counted(H), params, xs)


@pytest.mark.parametrize("of", ["apply", "step", "grad"])
def test_no_call_outside_jit_compiles_twice(of):
    """Every layer, eager: the second call with equal shapes finds what the first compiled."""
    net = gr.stack(
        gr.recurrent(gr.LSTM(H), initial="learned"),
        gr.dropout(0.1),
        gr.repeat(gr.residual(gr.GRU(H)), 2),
        *(() if of == "step" else (gr.bidirectional(gr.GRU(H)),)),
        gr.dense(2),
    )
    params = net.init(jax.random.key(0), I, jnp.float64)
    key, xs, lengths = jax.random.key(1), inputs(4), jnp.array([4, 0, 1, 2, 3, 4, 4, 4])

    def call():
        if of == "step":
            return net.step(params, net.carry((B,), jnp.float64, params), xs[0], key=key)
        if of == "apply":
            return net.apply(params, xs, lengths=lengths, key=key)
        return jax.grad(lambda p: jnp.sum(net.apply(p, xs, lengths=lengths, key=key)[1]))(params)

    call()
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    call()
    assert not compiled


@pytest.mark.parametrize("remainder", [0, 1])
def test_the_program_is_bounded_in_time(remainder):
    """Ten times the steps make the same program, but for its numbers."""

    def size(length):
        loss = jax.grad(lambda p, xs: mean_square(gr.LSTM(H), p, xs, bptt=gr.BPTT(chunk=4)))
        arguments = random_params(gr.LSTM(H), I), inputs(length)
        return len(jax.jit(loss).lower(*arguments).as_text().splitlines())

    assert size(12 + remainder) == size(120 + remainder)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_no_weight_gradient_per_example(cell):
    """No array in the gradient's program is a weight gradient with a batch or time axis."""
    params, xs = random_params(cell, I), inputs()
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda p: mean_square(cell, p, xs)))(params))
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    shapes = {tuple(map(int, m.split(","))) for m in re.findall(r"f64\[([\d,]+)\]", jaxpr)}
    assert {shape for shape in shapes if shape in kernels} == set(kernels)
    assert not [s for s in shapes if len(s) > 2 and s[-2:] in kernels and s[0] in (T, B)]


# ------------------------------------------------------------------------------ collectives


def layers():
    """A recurrence, both directions, and a stack: what may be sharded over the batch."""
    bptt = gr.BPTT(chunk=4)
    yield from ((name, gr.recurrent(cell, bptt)) for name, cell in CELLS.items())
    yield "bidirectional", gr.bidirectional(gr.recurrent(gr.LSTM(H), bptt))
    yield (
        "stack",
        gr.stack(
            gr.recurrent(gr.LSTM(H), bptt, initial="learned"),
            gr.residual(gr.recurrent(gr.GRU(H), bptt)),
            gr.repeat(gr.recurrent(gr.GRU(H), bptt), 2),
            gr.dense(3),
        ),
    )


LAYERS = dict(layers())


@pytest.fixture(scope="module")
def mesh():
    assert jax.device_count() == 4
    return jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_data_parallel(layer, mesh):
    """Over four devices the gradient is that of one, and only all-reduces are added.

    Under `jit` none is in the loop over steps and at most one in a chunk; inside `shard_map` there
    is one in all, outside every loop.
    """
    params, xs = layer.init(jax.random.key(0), I, jnp.float64), inputs()
    lengths = jnp.array([T, 0, 3, 5, T, 7, 1, 2])

    def loss(params, xs, lengths):
        _, ys = layer.apply(params, xs, lengths=lengths)
        return jnp.sum(jnp.square(ys))

    gradient = jax.grad(loss)
    expected = gradient(params, xs, lengths)
    whole, rows = PartitionSpec(), PartitionSpec("data")
    steps = PartitionSpec(None, "data")

    shardings = [NamedSharding(mesh, spec) for spec in (whole, steps, rows)]
    automatic = jax.jit(gradient, in_shardings=shardings, out_shardings=shardings[0])
    compiled = automatic.lower(params, xs, lengths).compile()
    chex.assert_trees_all_close(compiled(params, xs, lengths), expected, rtol=1e-10)
    found = collectives(compiled.as_text())
    assert {name for _, name in found} == {"all-reduce"}
    over_depth = "repeat" in repr(layer)  # a loop around those over chunks
    assert max(depth for depth, _ in found) <= 1 + over_depth

    manual = jax.shard_map(
        gradient, mesh=mesh, in_specs=(whole, steps, rows), out_specs=whole, check_vma=True
    )
    compiled = jax.jit(manual).lower(params, xs, lengths).compile()
    chex.assert_trees_all_close(compiled(params, xs, lengths), expected, rtol=1e-10)
    found = collectives(compiled.as_text())
    assert found == [(0, "all-reduce")]


def test_data_parallel_over_what_a_scan_over_depth_closes_over(mesh):
    """Inputs on every device alike, but resets and dropout keys of its own."""
    layer = gr.repeat(gr.stack(gr.GRU(I), gr.dropout(0.5)), 2)
    params, xs = layer.init(jax.random.key(0), I, jnp.float64), inputs(batch=2)
    resets = jnp.asarray(np.random.default_rng(0).random((4, T, 2)) < 0.3)
    keys = jax.random.split(jax.random.key(1), 4)

    def gradient(params, resets, keys):
        def loss(params):
            return jnp.sum(layer.apply(params, xs, resets=resets[0], key=keys[0])[1])

        return jax.grad(loss)(params)

    whole, each = PartitionSpec(), PartitionSpec("data")
    run = jax.shard_map(gradient, mesh=mesh, in_specs=(whole, each, each), out_specs=whole)
    expected = [gradient(params, resets[i : i + 1], keys[i : i + 1]) for i in range(4)]
    total = jax.tree.map(lambda *v: sum(v), *expected)
    chex.assert_trees_all_close(jax.jit(run)(params, resets, keys), total, rtol=1e-10)


# ------------------------------------------------------------------------------- memory


def test_saving_less_takes_less_memory():
    """Gates more than carries, carries more than the boundaries of chunks."""
    params, xs = random_params(gr.LSTM(H), I), inputs(1000)

    def temporary(save):
        loss = jax.grad(
            lambda p: jnp.sum(gr.unroll(gr.LSTM(H), p, xs, bptt=gr.BPTT(save=save))[0].h)
        )
        return jax.jit(loss).lower(params).compile().memory_analysis().temp_size_in_bytes

    gates, carries, boundaries = map(temporary, ("gates", "carries", "boundaries"))
    assert gates > 1.3 * carries
    assert carries > 1.3 * boundaries
