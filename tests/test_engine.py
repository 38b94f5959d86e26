"""The engine against each sequence run alone, step by step, and against autodiff of the loop."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import FEW, random_carry, random_params

import gatedrnn as gr
from gatedrnn._registry.row import name_of

I = 3
CELLS = {name: cell for name, cell in FEW.items() if not hasattr(cell, "cell")}
LSTM = gr.LSTM(4, peephole="diagonal", projection=3)
GRU_AFTER = gr.GRU(4, reset="after", update="keeps")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def weighted(tree, seed=5):
    """A random linear function of all leaves: a cotangent for every element."""
    leaves = jax.tree.leaves(tree)
    return sum(jnp.vdot(leaf, normal(seed + i, *leaf.shape)) for i, leaf in enumerate(leaves))


def close(got, expected, tolerance=1e-10):
    """Every leaf equal, relative to its largest element."""
    chex.assert_trees_all_equal_shapes(got, expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if a.size:
            scale = max(float(jnp.max(jnp.abs(b))), 1e-3)
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


@functools.partial(jax.jit, static_argnames=("cell", "bptt", "reverse"))
def engine(cell, bptt, reverse, params, carry, xs, reset_carry, mask, resets):
    """All that `unroll` and `trajectory` return, and the gradient of a function of all of it."""
    options = {"mask": mask, "resets": resets, "reverse": reverse, "bptt": bptt}

    def reached(params, carry, xs, reset_carry):
        options["reset_carry"] = None if resets is None else reset_carry
        return (
            gr.unroll(cell, params, xs, carry, **options),
            gr.trajectory(cell, params, xs, carry, **options),
        )

    def loss(*arguments):
        outputs = reached(*arguments)
        return weighted(outputs), outputs

    arguments = (params, carry, xs, reset_carry)
    gradients, outputs = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(*arguments)
    return outputs, gradients


def problem(cell, length, batch, seed=0):
    """Parameters, carry, inputs and reset carry, all random."""
    params = random_params(cell, I, seed)
    carry, reset_carry = (random_carry(cell, batch, seed + i) for i in (1, 2))
    return params, carry, normal(seed + 3, length, *batch, I), reset_carry


def alone(cell, mask, resets, reverse, params, carry, xs, reset_carry):
    """Every row by itself, its masked steps taken out, one `step` after another.

    What `engine` returns, made without the engine.
    """
    length, *batch = xs.shape[:-1]
    zeros = jnp.zeros((length, *batch, jax.tree.leaves(carry)[0].shape[-1]))
    ys, finals = zeros, carry
    carries = jax.tree.map(lambda v: jnp.zeros((length, *v.shape)), carry)
    for row in np.ndindex(*batch):
        state = jax.tree.map(lambda v, row=row: v[row], carry)
        start = jax.tree.map(lambda v, row=row: v[row], reset_carry)
        steps = [t for t in range(length) if mask[(t, *row)]]
        order = steps[::-1] if reverse else steps
        # the boundary before step b lies between it and the valid step a that precedes it
        entered = {b for a, b in itertools.pairwise([None, *steps]) if resets[(b, *row)]}
        if reverse:
            entered = {a for a, b in itertools.pairwise(steps) if resets[(b, *row)]}
        for t in range(length)[:: -1 if reverse else 1]:
            if t in order:
                state = start if t in entered else state
                state, y = cell.step(params, state, xs[(t, *row)])
                ys = ys.at[(t, *row)].set(y)
            carries = jax.tree.map(lambda v, s, at=(t, *row): v.at[at].set(s), carries, state)
        finals = jax.tree.map(lambda v, s, row=row: v.at[row].set(s), finals, state)
    return (finals, ys), (carries, ys)


MASKS = {
    "full": lambda t, b: np.ones((t, *b), bool),
    "ragged": lambda t, b: np.arange(t)[:, None] < np.array([t, 0, t - 2]),
    "holes": lambda t, b: np.random.default_rng(1).random((t, *b)) < 0.6,
}


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("mask", MASKS)
def test_every_row_is_as_if_alone(mask, reverse):
    """Values and gradients of a masked batch with resets: those of each sequence run alone.

    In every mode of saving, with chunks that divide T and that do not.
    """
    cell, length, batch = gr.GRU(3), 5, (3,)
    mask = MASKS[mask](length, batch)
    resets = np.random.default_rng(2).random((length, *batch)) < 0.4
    arguments = problem(cell, length, batch)

    @jax.jit
    def expected(arguments):
        def loss(arguments):
            outputs = alone(cell, mask, resets, reverse, *arguments)
            return weighted(outputs), outputs

        return jax.grad(loss, has_aux=True)(arguments)

    gradients, outputs = expected(arguments)
    for save, chunk, rule in [
        ("carries", 2, "hand"),
        ("gates", 5, "hand"),
        ("boundaries", 2, "hand"),
        ("boundaries", 2, "autodiff"),
        ("gates", 2, "autodiff"),
    ]:
        bptt = gr.BPTT(rule=rule, save=save, chunk=chunk)
        got = engine(cell, bptt, reverse, *arguments, mask, resets)
        close(got, (outputs, gradients))


WAYS = [("carries", False), ("gates", False), ("boundaries", False), ("boundaries", True)]


def every_way():
    """Every cell in every way to save; in the long part but all of one cell, two of each other."""
    for k, (name, cell) in enumerate(CELLS.items()):
        for n, (save, reverse) in enumerate(WAYS):
            first = cell == LSTM or (n - k) % len(WAYS) < 2
            marks = () if first else pytest.mark.long
            label = f"{name}-{save}{'-reverse' * reverse}"
            yield pytest.param(cell, save, reverse, id=label, marks=marks)


@pytest.mark.parametrize(("cell", "save", "reverse"), list(every_way()))
def test_rule_is_autodiff_with_everything_on(cell, save, reverse):
    """Mask, resets, truncation and clipping at once: the rule's gradient is autodiff's."""
    length, batch = 6, (3,)
    arguments = problem(cell, length, batch)
    mask = MASKS["holes"](length, batch)
    resets = np.random.default_rng(2).random((length, *batch)) < 0.3
    options = {"chunk": 4, "truncate": 3, "clip": 0.7, "save": save}
    by_hand = engine(cell, gr.BPTT(**options), reverse, *arguments, mask, resets)
    by_autodiff = engine(cell, AUTODIFF, reverse, *arguments, mask, resets)
    close(by_hand, by_autodiff)


AUTODIFF = gr.BPTT(rule="autodiff", truncate=3, clip=0.7, save="gates")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_rule_is_autodiff_for_any_shape(data):
    """Any T (0 and 1 too), batch axes, chunk, mode of saving, mask, resets and direction."""
    cell = data.draw(st.sampled_from([LSTM, gr.GRU(4)]))
    length = data.draw(st.integers(0, 7))
    batch = data.draw(st.sampled_from([(), (1,), (3,), (2, 2), (0,)]))
    flags = st.one_of(st.none(), st.floats(0, 1))
    rows = np.random.default_rng(data.draw(st.integers(0, 9)))
    mask, resets = (
        None if share is None else rows.random((length, *batch)) < share
        for share in (data.draw(flags), data.draw(flags))
    )
    options = {
        "chunk": data.draw(st.one_of(st.none(), st.integers(1, 9))),
        "truncate": data.draw(st.one_of(st.none(), st.integers(1, 9))),
        "cell_path_only": data.draw(st.booleans()),
        "save": data.draw(st.sampled_from(["carries", "gates", "boundaries"])),
    }
    reverse = data.draw(st.booleans())
    arguments = problem(cell, length, batch)
    by_hand = engine(cell, gr.BPTT(**options), reverse, *arguments, mask, resets)
    options["rule"] = "autodiff"
    by_autodiff = engine(cell, gr.BPTT(**options), reverse, *arguments, mask, resets)
    close(by_hand, by_autodiff)


@pytest.mark.parametrize("rule", ["hand", "autodiff"])
@pytest.mark.parametrize("cell", [LSTM, GRU_AFTER], ids=["lstm", "gru"])
def test_nan_in_the_padding_changes_nothing(cell, rule):
    """Whatever a masked step holds reaches no output, carry or gradient."""
    length, batch = 5, (3,)
    params, carry, xs, reset_carry = problem(cell, length, batch)
    mask = MASKS["ragged"](length, batch)
    run = functools.partial(engine, cell, gr.BPTT(rule=rule, chunk=2), False, params, carry)
    clean = run(xs, reset_carry, mask, None)
    dirty = run(jnp.where(mask[..., None], xs, jnp.nan), reset_carry, mask, None)
    chex.assert_trees_all_equal(clean, dirty)


def test_lengths_are_masks():
    """`lengths` says the same as the mask that it stands for."""
    cell, length, batch = gr.GRU(4), 5, (3,)
    params, carry, xs, _ = problem(cell, length, batch)
    got = gr.unroll(cell, params, xs, carry, lengths=jnp.array([5, 0, 3]))
    expected = gr.unroll(cell, params, xs, carry, mask=MASKS["ragged"](length, batch))
    chex.assert_trees_all_equal(got, expected)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", [LSTM, gr.Elman(4)], ids=["lstm", "elman"])
def test_truncation_is_windows_run_apart(cell, reverse):
    """`truncate=k`: the k-step windows run apart, the state carried and stopped between them."""
    length, k = 7, 3
    params, carry, xs, _ = problem(cell, length, (2,))
    cuts = [slice(i, i + k) for i in range(0, length, k)]

    def windows(params, carry, xs):
        pieces = []
        for cut in cuts[::-1] if reverse else cuts:
            carry, ys = gr.unroll(cell, params, xs[cut], carry, reverse=reverse)
            pieces.append(ys)
            last, carry = carry, jax.lax.stop_gradient(carry)
        return last, jnp.concatenate(pieces[::-1] if reverse else pieces)

    def whole(params, carry, xs):
        bptt = gr.BPTT(truncate=k, chunk=2)
        return gr.unroll(cell, params, xs, carry, reverse=reverse, bptt=bptt)

    def gradients(run):
        return jax.jit(jax.grad(lambda *a: weighted(run(*a)), argnums=(0, 1, 2)))(params, carry, xs)

    close(gradients(whole), gradients(windows))


@pytest.mark.parametrize("rule", ["hand", "autodiff"])
def test_clip_bounds_the_recurrent_cotangent(rule):
    """Every `δh` that leaves a step is clipped: the recurrence of an Elman network, written out."""
    cell, bound = gr.Elman(4, use_bias=False), 0.05
    params, carry, xs, _ = problem(cell, 4, (2,))

    def loss(carry, xs):
        return weighted(gr.unroll(cell, params, xs, carry, bptt=gr.BPTT(rule, clip=bound)))

    dcarry, dxs = jax.grad(loss, argnums=(0, 1))(carry, xs)
    _, ys = gr.unroll(cell, params, xs, carry)
    dh, direct = np.array(normal(5, 2, 4)), np.array(normal(6, *ys.shape))
    expected = []
    for t in range(3, -1, -1):
        da = (dh + direct[t]) * np.array(1 - ys[t] ** 2)
        dh = np.clip(da @ params.recurrent_kernel.T, -bound, bound)
        expected.insert(0, da @ params.kernel.T)
    close((dcarry.h, dxs), (jnp.array(dh), jnp.array(expected)))
    assert np.any(np.abs(dh) == bound)


@pytest.mark.parametrize(
    ("cell", "save"),
    [*((cell, "carries") for cell in CELLS.values()), (LSTM, "gates"), (LSTM, "boundaries")],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
def test_bfloat16_stays_close(cell, save):
    """In bfloat16 the rule's gradient is float64's, within what eight bits can hold."""
    params, carry, xs, _ = problem(cell, 6, (4,))
    bptt = gr.BPTT(save=save, chunk=4)

    def gradient(dtype, params_dtype):
        cast = jax.tree.map(lambda v: v.astype(params_dtype), (params, carry))

        def loss(params, xs):
            _, ys = gr.unroll(cell, params, xs, cast[1], bptt=bptt)
            assert ys.dtype == dtype
            return jnp.sum(jnp.square(ys.astype(jnp.float32)))

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(cast[0], xs.astype(dtype))

    exact = gradient(jnp.float64, jnp.float64)
    for params_dtype in (jnp.float32, jnp.bfloat16):
        dparams, dxs = gradient(jnp.bfloat16, params_dtype)
        assert dxs.dtype == jnp.bfloat16
        assert {v.dtype for v in jax.tree.leaves(dparams)} == {jnp.dtype(params_dtype)}
        close(jax.tree.map(lambda v: v.astype(jnp.float64), (dparams, dxs)), exact, 0.1)


def test_trajectory_ends_with_what_unroll_returns():
    """The last of all carries is the final one, and a mask repeats the carry that it keeps."""
    cell = LSTM
    params, carry, xs, _ = problem(cell, 5, (3,))
    mask = MASKS["ragged"](5, (3,))
    final, ys = gr.unroll(cell, params, xs, carry, mask=mask)
    carries, same = gr.trajectory(cell, params, xs, carry, mask=mask)
    chex.assert_trees_all_equal(jax.tree.map(lambda v: v[-1], carries), final)
    chex.assert_trees_all_equal(same, ys)
    chex.assert_trees_all_equal(jax.tree.map(lambda v: v[1], final), random_row(carry, 1))


def random_row(tree, row):
    return jax.tree.map(lambda v: v[row], tree)


def test_ensembles():
    """`vmap` over parameters is a loop over them, values and gradients."""
    cell = GRU_AFTER
    _, carry, xs, _ = problem(cell, 5, (2,))
    members = [random_params(cell, I, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *members)

    def run(params):
        return jax.value_and_grad(lambda p: weighted(gr.unroll(cell, p, xs, carry)))(params)

    expected = jax.tree.map(lambda *v: jnp.stack(v), *map(jax.jit(run), members))
    close(jax.vmap(run)(stacked), expected)
