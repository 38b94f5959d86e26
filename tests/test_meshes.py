"""Batches that are divided over the axes of a mesh, automatic and explicit ones.

Values and gradients equal those of one device, results lie as the arguments do, and devices talk to
each other only where the mathematics adds up over rows.
"""

import collections
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from meshes import collectives, compiled, equals_one_device, mesh_of, of_both_kinds, places, put
from networks import Leaky, normal, random_params
from reference import FEW

import gatedrnn as gr

P = PartitionSpec
T, B, I, H = 6, 8, 5, 4
WHOLE, ROWS, STEPS = P(), P("data"), P(None, "data")
LENGTHS = jnp.array([T, 0, 3, 5, T, 1, 2, 4])
RESETS = jnp.asarray(np.random.default_rng(0).random((T, B)) < 0.3)
KEY = jax.random.key(7)

CELLS = [cell for cell in FEW.values() if not isinstance(cell, gr.Attention)]


def outputs_and_gradients(function):
    """`(results, gradients)` of `function(params, xs, *rest)`, a tree, for the first two."""

    def run(params, xs, *rest):
        def loss(params, xs):
            results = function(params, xs, *rest)
            floats = [v for v in jax.tree.leaves(results) if jnp.issubdtype(v.dtype, jnp.floating)]
            return sum(jnp.sum(jnp.sin(v)) for v in floats), results

        (_, results), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, xs)
        return results, gradients

    return run


def check(kind, function, params, xs, *rest, specs=(), **options):
    """Run `function` and its gradients on a mesh and on one device; where all of it lies."""
    arguments, specs = (params, xs, *rest), (WHOLE, STEPS, *specs)
    run = outputs_and_gradients(function)
    got = equals_one_device(mesh_of(kind), run, arguments, specs, **options)
    (carry, ys), (dparams, dxs) = got
    if kind == "explicit":
        assert {places(leaf) for leaf in jax.tree.leaves(carry)} <= {("data",)}
        assert places(ys) in {("data",), (None, "data")}
        assert places(dxs) == (None, "data")
        assert {places(leaf) for leaf in jax.tree.leaves(dparams)} == {()}
    return got


# ------------------------------------------------------------------------------ recurrences


@of_both_kinds
@pytest.mark.parametrize("cell", FEW.values(), ids=FEW)
def test_cells(cell, kind):
    """Every cell, with lengths and resets, in chunks."""

    def run(params, xs, lengths, resets):
        bptt = gr.BPTT(chunk=4)
        return gr.unroll(cell, params, xs, lengths=lengths, resets=resets, bptt=bptt)

    params = random_params(cell, I)
    check(kind, run, params, normal(T, B, I), LENGTHS, RESETS, specs=(ROWS, STEPS))


OPTIONS = {
    "gates": {"bptt": gr.BPTT(save="gates")},
    "carries": {"bptt": gr.BPTT(save="carries", chunk=4)},
    "boundaries": {"bptt": gr.BPTT(save="boundaries", chunk=4)},
    "truncated": {"bptt": gr.BPTT(truncate=2, chunk=3)},
    "clipped": {"bptt": gr.BPTT(clip=0.1)},
    "cell path": {"bptt": gr.BPTT(cell_path_only=True)},
    "autodiff": {"bptt": gr.BPTT(rule="autodiff")},
    "reverse": {"reverse": True},
    "reset carry": {"reset_carry": gr.LSTM(H).carry((B,), jnp.float64)},
}


@of_both_kinds
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(options, kind):
    """Every option of the backward pass, with a carry, a mask and resets."""
    cell = gr.LSTM(H)
    carry = jax.tree.map(lambda v: v + 0.5, cell.carry((B,), jnp.float64))

    def run(params, xs, carry, mask, resets):
        return gr.unroll(cell, params, xs, carry, mask=mask, resets=resets, **options)

    mask, params = ~RESETS[::-1], random_params(cell, I)
    specs = (ROWS, STEPS, STEPS)
    check(kind, run, params, normal(T, B, I), carry, mask, RESETS, specs=specs)


DRAWING = {
    "zoneout": gr.Zoneout(gr.LSTM(H), 0.3, 0.2),
    "recurrent dropout": gr.RecurrentDropout(gr.GRU(H), 0.4),
    "both": gr.Zoneout(gr.RecurrentDropout(gr.LSTM(H), 0.4), 0.3),
}


@of_both_kinds
@pytest.mark.parametrize("cell", DRAWING.values(), ids=DRAWING)
def test_masks_are_those_of_one_device(cell, kind):
    """They follow from a row's number in the whole batch."""

    def run(params, xs, lengths):
        return gr.unroll(cell, params, xs, lengths=lengths, key=KEY)

    check(kind, run, random_params(cell, I), normal(T, B, I), LENGTHS, specs=(ROWS,))


@of_both_kinds
def test_a_trajectory(kind):
    """Every carry lies as the steps do."""
    cell = gr.GRU(H)

    def run(params, xs):
        carries, ys = gr.trajectory(cell, params, xs)
        return carries, ys

    arguments = random_params(cell, I), normal(T, B, I)
    carries, ys = equals_one_device(mesh_of(kind), run, arguments, (WHOLE, STEPS))
    if kind == "explicit":
        assert places(carries.h) == places(ys) == (None, "data")


# ------------------------------------------------------------------------------------ layers


LAYERS = {
    "stack": gr.stack(gr.LSTM(H), gr.dropout(0.3), gr.GRU(H), gr.dense(3)),
    "bidirectional": gr.bidirectional(gr.GRU(H)),
    "learned": gr.recurrent(gr.LSTM(H), initial="learned"),
    "repeat": gr.stack(gr.dense(H), gr.repeat(gr.stack(gr.GRU(H), gr.dropout(0.2)), 2)),
    "reverse": gr.recurrent(gr.Elman(H), reverse=True),
    "final": gr.final(gr.stack(gr.bidirectional(gr.GRU(H)), gr.dense(2))),
    "pool": gr.pool(gr.stack(gr.GRU(H), gr.dense(2))),
    "user": gr.recurrent(Leaky(H, 3)),
    "zoneout": gr.stack(gr.Zoneout(gr.GRU(H), 0.2), gr.dropout(0.3, shared_in_time=True)),
}


def applied(layer, params, xs, lengths=None):
    return layer.apply(params, xs, lengths=lengths, key=KEY)


@of_both_kinds
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_layers(layer, kind):
    """Lengths and random masks included."""
    run = functools.partial(applied, layer)
    check(kind, run, random_params(layer, I), normal(T, B, I), LENGTHS, specs=(ROWS,))


@of_both_kinds
def test_an_embedding(kind):
    """Tokens lie as rows do, and one out of range is NaN."""
    layer = gr.stack(gr.embed(7, I), gr.GRU(H))
    params = random_params(layer, None)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 7, (T, B)))

    def run(params, tokens, lengths):
        def loss(params):
            carry, ys = layer.apply(params, tokens, lengths=lengths)
            return jnp.sum(jnp.sin(ys)), (carry, ys)

        return jax.grad(loss, has_aux=True)(params)

    arguments, specs = (params, tokens, LENGTHS), (WHOLE, STEPS, ROWS)
    _, (carry, ys) = equals_one_device(mesh_of(kind), run, arguments, specs)
    if kind == "explicit":
        assert places(ys) == (None, "data")
        assert places(carry[1].h) == ("data",)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("context", [True, False], ids=["set_mesh", "no context"])
@of_both_kinds
def test_contexts(kind, context, jit):
    """Under `jax.set_mesh` and without, inside `jit` and outside it.

    JAX itself takes no gradients outside both.
    """
    layer = LAYERS["stack"]
    arguments = random_params(layer, I), normal(T, B, I), LENGTHS
    run = functools.partial(applied, layer)
    if context or jit:
        run = outputs_and_gradients(run)
    specs = (WHOLE, STEPS, ROWS)
    equals_one_device(mesh_of(kind), run, arguments, specs, context=context, jit=jit)


@of_both_kinds
def test_steps(kind):
    """Streamed steps equal the whole sequence, with resets, and keep the rows where they are."""
    layer = gr.stack(gr.LSTM(H), gr.Zoneout(gr.GRU(H), 0.2), gr.dropout(0.3), gr.dense(3))
    params, xs = random_params(layer, I), normal(T, B, I)

    def run(params, xs, resets):
        carry, ys = None, []
        for x, reset in zip(xs, resets, strict=True):
            carry, y = layer.step(params, carry, x, resets=reset, key=KEY)
            ys.append(y)
        return carry, jnp.stack(ys)

    carry, ys = check(kind, run, params, xs, RESETS, specs=(STEPS,), rtol=1e-9)[0]
    expected = layer.apply(params, xs, resets=RESETS, key=KEY)
    chex.assert_trees_all_close((carry, np.asarray(ys)), expected, rtol=1e-10)


@of_both_kinds
def test_steps_of_a_cell_in_a_scan(kind):
    """The carry of a step lies as the input does."""
    cell = gr.Zoneout(gr.LSTM(H), 0.2)
    params, xs = random_params(cell, I), normal(T, B, I)
    carry = cell.carry((B,), jnp.float64)

    def run(params, xs, carry):
        step = lambda carry, x: cell.step(params, carry, x, key=KEY)  # noqa: E731
        return jax.lax.scan(step, carry, xs)

    check(kind, run, params, xs, carry, specs=(ROWS,))


@of_both_kinds
def test_windows_of_a_stream(kind):
    """Carries go from window to window."""
    layer = gr.stack(gr.LSTM(H), gr.dropout(0.3))
    params, xs = random_params(layer, I), normal(2 * T, B, I)

    def run(params, xs):
        carry, first = layer.apply(params, xs[:T], key=KEY)
        carry, second = layer.apply(params, xs[T:], carry, key=KEY)
        return carry, jnp.concatenate([first, second])

    check(kind, run, params, xs)


# -------------------------------------------------------------------------- sequence to sequence


def writer():
    return gr.stack(gr.embed(6, 3), gr.Attention(gr.GRU(H), 2 * H, 3), gr.dense(6))


SEQ2SEQ = {
    "learned": gr.seq2seq(gr.stack(gr.embed(7, 3), gr.bidirectional(gr.LSTM(H))), writer()),
    "none": gr.seq2seq(gr.stack(gr.embed(7, 3), gr.bidirectional(gr.GRU(H))), writer(), None),
    "direct": gr.seq2seq(
        gr.stack(gr.embed(7, 3), gr.GRU(H)), gr.stack(gr.embed(6, 3), gr.GRU(H)), "direct"
    ),
}


@of_both_kinds
@pytest.mark.parametrize("model", SEQ2SEQ.values(), ids=SEQ2SEQ)
def test_sequence_to_sequence(model, kind):
    """With attention, and with every bridge."""
    params = jax.tree.map(lambda v: v + 0.1, model.init(jax.random.key(0), dtype=jnp.float64))
    rng = np.random.default_rng(0)
    sources, targets = (jnp.asarray(rng.integers(0, 6, (length, B))) for length in (5, T))
    lengths = jnp.array([5, 1, 2, 3, 4, 5, 5, 2])

    def run(params, sources, targets, source_lengths, target_lengths):
        def loss(params):
            carry, ys = model.apply(
                params,
                sources,
                targets,
                source_lengths=source_lengths,
                target_lengths=target_lengths,
            )
            return jnp.sum(jnp.sin(ys)), (carry, ys)

        return jax.grad(loss, has_aux=True)(params)

    arguments = params, sources, targets, lengths, LENGTHS
    specs = (WHOLE, STEPS, STEPS, ROWS, ROWS)
    _, (_, ys) = equals_one_device(mesh_of(kind), run, arguments, specs)
    if kind == "explicit":
        assert places(ys) == (None, "data")
    found = collectives(compiled(mesh_of(kind), run, arguments, specs))
    assert {name for _, name in found} == {"all-reduce"}
    assert max(depth for depth, _ in found) <= (kind == "auto")


@of_both_kinds
def test_weights_of_attention(kind):
    """For a picture, of a sharded batch."""
    model = SEQ2SEQ["learned"]
    params = model.init(jax.random.key(0), dtype=jnp.float64)
    rng = np.random.default_rng(0)
    sources, targets = (jnp.asarray(rng.integers(0, 6, (length, B))) for length in (5, T))
    arguments, specs = (params, sources, targets), (WHOLE, STEPS, STEPS)
    equals_one_device(mesh_of(kind), model.attention, arguments, specs, jit=False, context=False)
    weights = equals_one_device(mesh_of(kind), model.attention, arguments, specs)
    if kind == "explicit":
        assert places(weights) == (None, "data")


@of_both_kinds
@pytest.mark.parametrize("memory_rows", [True, False], ids=["memory of rows", "memory whole"])
def test_attention_over_every_step(kind, memory_rows):
    """Without lengths no step is skipped, and the output's cotangent ends in the step itself."""
    layer = gr.stack(gr.Attention(gr.GRU(H), 3, 2))
    params, memory = random_params(layer, I), normal(5, B, 3)

    def run(params, xs, memory):
        return layer.apply(gr.attend(params, memory), xs)

    specs = (STEPS if memory_rows else WHOLE,)
    check(kind, run, params, normal(T, B, I), memory, specs=specs)


# ------------------------------------------------------------------------------ collectives


@of_both_kinds
@pytest.mark.parametrize(
    "layer",
    [
        *LAYERS.values(),
        *(pytest.param(gr.recurrent(cell), marks=pytest.mark.long) for cell in CELLS),
    ],
)
def test_collectives(layer, kind):
    """Weight gradients are added up once, outside every loop over time where axes are explicit.

    Where they are automatic, at most once in a chunk.
    """
    if layer is LAYERS["user"]:
        pytest.skip("without a rule JAX adds up in every step")
    arguments, specs = (random_params(layer, I), normal(T, B, I), LENGTHS), (WHOLE, STEPS, ROWS)
    drawing = "Zoneout" in repr(layer) or "ropout" in repr(layer)

    def gradient(params, xs, lengths):
        key = KEY if drawing else None
        loss = lambda p: jnp.sum(jnp.sin(layer.apply(p, xs, lengths=lengths, key=key)[1]))  # noqa: E731
        return jax.grad(loss)(params)

    found = collectives(compiled(mesh_of(kind), gradient, arguments, specs))
    assert {name for _, name in found} == {"all-reduce"}
    over_depth = "repeat" in repr(layer)  # a loop around those over chunks
    assert max(depth for depth, _ in found) <= (kind == "auto") + over_depth
    if kind == "explicit" and not over_depth:
        assert len(found) == 1


# ------------------------------------------------------------------- what else may be divided


def same_places(tree, other):
    """Raise unless all leaves of both trees lie alike."""
    assert [*map(places, jax.tree.leaves(tree))] == [*map(places, jax.tree.leaves(other))]


def matrices_over(axes, params):
    """Specs that divide the axes of every matrix that divides, and leave vectors whole."""
    return jax.tree.map(lambda v: P(*axes) if v.ndim == 2 and v.shape[0] % 4 == 0 else P(), params)


@of_both_kinds
@pytest.mark.parametrize("axes", [("data",), (None, "data")], ids=["rows", "columns"])
def test_parameters_over_the_axis_of_the_batch(kind, axes):
    """Fully sharded: weights are gathered once, and gradients come back divided as they are."""
    layer = gr.stack(gr.LSTM(8), gr.GRU(8), gr.dense(4))
    params, xs = random_params(layer, 8), normal(T, B, 8)
    divided = matrices_over(axes, params)
    run = outputs_and_gradients(functools.partial(applied, layer))
    mesh, specs = mesh_of(kind), (divided, STEPS, ROWS)
    arguments = params, xs, LENGTHS
    _, (dparams, _) = equals_one_device(mesh, run, arguments, specs)
    found = collectives(compiled(mesh, run, arguments, specs))
    if kind == "explicit":
        same_places(dparams, put(mesh, params, divided))
    inside = {(depth, name) for depth, name in found if depth}
    assert inside <= ({(1, "all-reduce")} if kind == "auto" else set())


@of_both_kinds
def test_tensor_parallel(kind):
    """Kernels over an axis of their own: at most a gather and a reduction in a step."""
    cell = gr.LSTM(8)
    params, xs = random_params(cell, I), normal(T, B, I)
    mesh = mesh_of(kind, (2, 2), ("data", "model"))
    over = jax.tree.map(lambda v: P(*[None] * (v.ndim - 1), "model"), params)
    run = outputs_and_gradients(lambda p, xs: gr.unroll(cell, p, xs))
    (_, ys), (dparams, _) = equals_one_device(mesh, run, (params, xs), (over, STEPS))
    found = collectives(compiled(mesh, run, (params, xs), (over, STEPS)))
    if kind == "explicit":
        same_places(dparams, put(mesh, params, over))
        assert places(ys) == (None, "data")
    inside = collections.Counter(name for depth, name in found if depth)
    assert inside == {"all-gather": 1, "all-reduce": 1}


@of_both_kinds
def test_several_batch_axes(kind):
    """Each over an axis of the mesh, or one over both."""
    layer = LAYERS["stack"]
    mesh = mesh_of(kind, (2, 2), ("data", "model"))
    run = outputs_and_gradients(functools.partial(applied, layer))
    params = random_params(layer, I)
    xs = normal(T, 4, 2, I)
    lengths = LENGTHS.reshape(4, 2)
    both = P(None, "data", "model")
    got = equals_one_device(mesh, run, (params, xs, lengths), (P(), both, P("data", "model")))
    if kind == "explicit":
        assert places(got[0][1]) == (None, "data", "model")
    both = P(None, ("data", "model"))
    arguments = params, normal(T, B, I), LENGTHS
    got = equals_one_device(mesh, run, arguments, (P(), both, P(("data", "model"))))
    if kind == "explicit":
        assert places(got[0][1]) == (None, ("data", "model"))


def test_time_that_is_divided_is_refused():
    """In one sentence, with the way out."""
    cell = gr.GRU(H)
    xs = put(mesh_of("explicit"), normal(4, B, I), P("data"))
    with pytest.raises(ValueError, match=r"xs: got its time axis divided over 'data' of the mesh"):
        jax.jit(lambda p, xs: gr.unroll(cell, p, xs))(random_params(cell, I), xs)


@of_both_kinds
@pytest.mark.parametrize("what", ["cell", "layer", "gates"])
def test_a_mask_over_another_axis(kind, what):
    """All that accompanies the inputs comes to the devices of the inputs, outside jit too."""
    cell, mesh = gr.LSTM(H), mesh_of(kind, (2, 2), ("data", "model"))
    layer, params = gr.recurrent(cell), random_params(gr.LSTM(H), I)

    def run(params, xs, mask, resets):
        options = {"mask": mask, "resets": resets}
        if what == "cell":
            return gr.unroll(cell, params, xs, **options)
        if what == "gates":
            return gr.diagnostics.gates(cell, params, xs, **options)
        return layer.apply(gr.RecurrentParams(params, None), xs, **options)

    arguments = params, normal(T, B, I), ~RESETS[::-1], RESETS
    for places_ in ((WHOLE, STEPS, P(None, "model"), P()), (WHOLE, P(), STEPS, WHOLE)):
        for jit in (True, False):
            equals_one_device(mesh, run, arguments, places_, jit=jit, context=False)


# ------------------------------------------------------------------------- around the networks


def taken(index):
    return lambda params, xs: gr.take_rows(gr.unroll(gr.LSTM(H), params, xs)[0], index)


def started_anew(params, xs):
    carry, ys = gr.unroll(gr.LSTM(H), params, xs)
    initial = gr.LSTM(H).carry((B,), jnp.float64)
    return gr.where_rows(ys[-1, :, 0] > 0, initial, carry)


def last(carries, ys):
    return jnp.sum(jnp.sin(ys[-1]))


AROUND = {
    "every second row": taken(slice(None, None, 2)),
    "three rows": taken(np.array([0, 5, 2])),
    "one row": taken(-1),
    "rows started anew": started_anew,
    "gates": functools.partial(gr.diagnostics.gates, gr.LSTM(H)),
    "gradients of carries": lambda p, xs: gr.diagnostics.carry_gradients(gr.LSTM(H), p, xs, last),
    "reach": lambda p, xs: gr.diagnostics.gradient_reach({"": (gr.LSTM(H), p)}, xs, of="carry"),
    "exponents": lambda p, xs: gr.diagnostics.lyapunov_exponents(
        gr.diagnostics.step_jacobians(gr.LSTM(H), p, xs)
    ),
}


@of_both_kinds
@pytest.mark.parametrize("function", AROUND.values(), ids=AROUND)
def test_rows_and_diagnostics(function, kind):
    """What reads the results of a network, of which rows are divided."""
    arguments = random_params(gr.LSTM(H), I), normal(T, B, I)
    equals_one_device(mesh_of(kind), function, arguments, (WHOLE, STEPS), rtol=1e-8)


@pytest.mark.parametrize(("rows", "where"), [(4, ("data",)), (3, ())])
def test_rows_that_are_taken_stay_divided_where_their_number_allows_it(rows, where):
    mesh = mesh_of("explicit")
    carry = put(mesh, gr.GRU(H).carry((B,)), ROWS)
    with jax.set_mesh(mesh):
        assert places(gr.take_rows(carry, slice(rows)).h) == where
