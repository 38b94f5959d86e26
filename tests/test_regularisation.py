"""Zoneout and recurrent dropout with a key; without one they are cells of `reference.ALL_CELLS`."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from networks import apply, assert_trees_close, assert_trees_equal, normal, random_params
from reference import FEW, random_carry

import gatedrnn as gr
from gatedrnn._src.masks import row_keys

I, H, T, B = 3, 4, 6, 3
KEY, OTHER = jax.random.key(7), jax.random.key(8)
INNER = {name: cell for name, cell in FEW.items() if not hasattr(cell, "cell")}
inner_cells = pytest.mark.parametrize("inner", INNER.values(), ids=INNER)


def problem(cell, length=T, batch=(B,)):
    """Parameters, inputs and carry, all random."""
    return random_params(cell, I), normal(length, *batch, I, seed=3), random_carry(cell, batch)


def both(inner):
    """Zoneout around recurrent dropout around a cell; of the memory too where there is one."""
    memory = 0.3 if len(inner.carry(())) > 1 else 0.0
    return gr.Zoneout(gr.RecurrentDropout(inner, 0.4), h=0.4, c=memory)


# The equations ----------------------------------------------------------------------------------


@inner_cells
def test_zoneout_keeps_some_units_and_makes_the_others_as_the_cell_does(inner):
    """`v_t = d ⊙ v_{t-1} + (1−d) ⊙ v̂_t`; which units are kept shows in the carries."""
    memory = len(inner.carry(())) > 1
    cell = gr.Zoneout(inner, h=0.3, c=0.6 if memory else 0.0)
    params, xs, carry = problem(cell, length=40)
    carries, ys = gr.trajectory(cell, params, xs, carry, key=KEY)
    before = jax.tree.map(lambda first, v: np.concatenate([first[None], v[:-1]]), carry, carries)
    kept = jax.tree.map(lambda old, new: np.equal(old, new), before, carries)
    made, _ = reference.one_step(inner, params, before, xs)
    assert_trees_close(carries, jax.tree.map(np.where, kept, before, made))
    assert_trees_equal(ys, carries[0])
    for rate, leaf in zip((cell.h, cell.c), kept, strict=False):
        error = 4 * np.sqrt(rate * (1 - rate) / leaf.size)  # four standard deviations
        assert abs(leaf.mean() - rate) < error
        assert len(np.unique(leaf.reshape(len(leaf), -1), axis=0)) > T  # anew at every step
    if memory and kept[0].shape == kept[1].shape:  # h and c apart
        together = np.mean(kept[0] & kept[1])
        assert abs(together - kept[0].mean() * kept[1].mean()) < 0.1


def mask_of(cell, params, xs):
    """The mask `[*B, F]` of recurrent dropout."""
    steps = jnp.zeros(xs.shape[:-1], int)
    return np.asarray(cell.draw(row_keys(KEY, xs.shape[1:-1]), params, xs, steps)[0].masks.mask)


@inner_cells
def test_recurrent_dropout_scales_rows_of_the_recurrent_kernel(inner):
    """`(m ⊙ h) U = h (diag(m) U)`, for each sequence its own, and nothing else reads the mask."""
    cell = gr.RecurrentDropout(inner, 0.4)
    params, xs, carry = problem(cell)
    mask = mask_of(cell, params, xs)
    assert set(np.unique(mask)) == {0.0, 1 / (1 - 0.4)}
    got = gr.unroll(cell, params, xs, carry, key=KEY)
    for row in range(B):
        scaled = params._replace(recurrent_kernel=mask[row][:, None] * params.recurrent_kernel)
        state = jax.tree.map(lambda v, row=row: v[row], carry)
        final, ys = reference.unroll(inner, scaled, xs[:, row], state)
        assert_trees_close(jax.tree.map(lambda v, row=row: v[row], got[0]), final)
        np.testing.assert_allclose(got[1][:, row], ys, rtol=1e-11, atol=1e-13)


def test_the_mask_has_the_rate_that_was_asked_for():
    """Of a large batch, rows apart."""
    cell = gr.RecurrentDropout(gr.GRU(50), 0.2)
    mask = mask_of(cell, None, jnp.zeros((1, 100, I)))
    assert abs(np.mean(mask == 0) - 0.2) < 4 * np.sqrt(0.2 * 0.8 / mask.size)
    assert len(np.unique(mask, axis=0)) == 100


# The rule ---------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("cell", "rule"))
def gradients(cell, rule, params, xs, carry):
    """Of a function of all that a keyed run returns."""

    def loss(*point):
        params, xs, carry = point
        out = gr.unroll(cell, params, xs, carry, key=KEY, bptt=gr.BPTT(rule))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(out))

    return jax.grad(loss, argnums=(0, 1, 2))(params, xs, carry)


@inner_cells
def test_rule_is_autodiff_with_masks(inner):
    """Of recurrent dropout, in the rule of every cell."""
    cell = gr.RecurrentDropout(inner, 0.4)
    point = problem(cell, length=3)
    got, want = (gradients(cell, rule, *point) for rule in ("hand", "autodiff"))
    assert_trees_close(got, want, rtol=1e-10, atol=1e-12)


@functools.partial(jax.jit, static_argnames=("cell", "bptt", "reverse"))
def everything(cell, bptt, reverse, params, carry, xs, mask, resets):
    """All that a keyed run returns, and the gradient of a function of all of it."""

    def loss(params, carry, xs):
        options = {"mask": mask, "resets": resets, "reverse": reverse, "bptt": bptt, "key": KEY}
        out = (
            gr.trajectory(cell, params, xs, carry, **options),
            gr.unroll(cell, params, xs, carry, **options),
        )
        leaves = jax.tree.leaves(out)
        return sum(jnp.vdot(normal(*v.shape, seed=i), v) for i, v in enumerate(leaves)), out

    gradients, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, carry, xs)
    return out, gradients


def flags():
    """A mask with holes, and resets."""
    noise = np.random.default_rng(1).random((2, T, B))
    return jnp.asarray(noise[0] < 0.7), jnp.asarray(noise[1] < 0.3)


OPTIONS = {"truncate": 3, "clip": 0.7}
BY_HAND = gr.BPTT("hand", chunk=3, **OPTIONS)
CASES = [
    (gr.Jordan(5, H, output_activation="tanh"), "carries", True),
    (gr.LSTM(H), "carries", False),
    (gr.GRU(H), "boundaries", True),
    (gr.LayerNormGRU(H), "gates", False),
]


@pytest.mark.parametrize(("inner", "save", "reverse"), CASES, ids=str)
def test_rule_is_autodiff_with_everything_on(inner, save, reverse):
    """Mask, resets, truncation, clipping: to 1e-10, with other chunks on either route."""
    cell = both(inner)
    params, xs, carry = problem(cell)
    by_hand = dataclasses.replace(BY_HAND, save=save)
    by_autodiff = gr.BPTT("autodiff", save="gates", **OPTIONS)
    arguments = (reverse, params, carry, xs, *flags())
    got, want = (everything(cell, bptt, *arguments) for bptt in (by_hand, by_autodiff))
    assert_trees_close(got, want, rtol=1e-10, atol=1e-11)


def test_cell_path_only_with_masks():
    """What zoneout lets past the cell is kept, what comes through the products is cut."""
    cell = both(gr.GRU(H))
    params, xs, carry = problem(cell)
    got, want = (
        everything(cell, gr.BPTT(rule, cell_path_only=True), False, params, carry, xs, None, None)
        for rule in ("hand", "autodiff")
    )
    assert_trees_close(got, want, rtol=1e-10, atol=1e-11)


def test_second_order():
    """The Hessian of a loss, times the point itself, with masks: as autodiff has it."""
    cell = both(gr.LSTM(H))
    point = problem(cell, length=2)

    def product(rule, *point):
        return jax.jvp(functools.partial(gradients, cell, rule), point, point)[1]

    got, want = (jax.jit(functools.partial(product, r))(*point) for r in ("hand", "autodiff"))
    chex.assert_trees_all_close(got, want, rtol=1e-9, atol=1e-10)


def test_nan_in_the_padding_changes_nothing():
    """Whatever a masked step holds reaches no output, carry or gradient."""
    cell = both(gr.LSTM(H))
    params, xs, carry = problem(cell)
    mask, resets = flags()
    run = functools.partial(everything, cell, BY_HAND, False, params, carry)
    dirty = jnp.where(mask[..., None], xs, jnp.nan)
    assert_trees_equal(run(dirty, mask, resets), run(xs, mask, resets))


def test_bfloat16_stays_close():
    """With the same masks, values and gradients are float64's within what eight bits hold."""
    cell = both(gr.LSTM(H))
    params, xs, _ = problem(cell)

    @jax.jit
    def gradient(params, xs):
        def loss(params, xs):
            _, ys = gr.unroll(cell, params, xs, key=KEY)
            assert ys.dtype == xs.dtype
            return jnp.sum(jnp.square(ys.astype(jnp.float32)))

        return jax.grad(loss, argnums=(0, 1))(params, xs)

    want = gradient(params, xs)
    got = gradient(jax.tree.map(lambda v: v.astype(jnp.float32), params), xs.astype(jnp.bfloat16))
    assert got[1].dtype == jnp.bfloat16
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.linalg.norm(np.asarray(a, np.float64) - b) < 0.1 * np.linalg.norm(b)


# What the masks follow from ---------------------------------------------------------------------


def test_windows_in_reverse_are_the_whole_sequence():
    """The number of a step counts in the order in which steps run."""
    cell = gr.Zoneout(gr.GRU(H), h=0.5)
    params, xs, carry = problem(cell)
    whole = gr.unroll(cell, params, xs, carry, key=KEY, reverse=True)
    run = functools.partial(gr.unroll, cell, params, key=KEY, reverse=True)
    middle, late = run(xs[3:], carry)
    first, early = run(xs[:3], middle, first_step=3)
    assert_trees_close((first, jnp.concatenate([early, late])), whole)


@pytest.mark.parametrize("reverse", [False, True])
def test_an_episode_sees_the_masks_that_it_would_see_alone(reverse):
    """A row counts its own valid steps, and anew after a reset, in the order in which they run."""
    cell = gr.Zoneout(gr.GRU(H), h=0.5)
    params, xs, _ = problem(cell)
    resets = jnp.zeros((T, B), bool).at[2, 0].set(True)
    _, ys = gr.unroll(cell, params, xs, resets=resets, key=KEY, reverse=reverse)
    own = xs[:2] if reverse else xs[2:]
    _, alone = gr.unroll(cell, params, own, key=KEY, reverse=reverse)
    np.testing.assert_allclose((ys[:2] if reverse else ys[2:])[:, 0], alone[:, 0], rtol=1e-12)
    _, whole = gr.unroll(cell, params, xs, key=KEY, reverse=reverse)
    np.testing.assert_allclose(ys[:, 1:], whole[:, 1:], rtol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_changes_no_mask(reverse):
    """A row that is masked here and there draws what its valid steps alone would."""
    cell = gr.Zoneout(gr.GRU(H), h=0.5)
    params, xs, _ = problem(cell)
    mask = jnp.ones((T, B), bool).at[jnp.array([0, 2]), 0].set(False)
    carry, ys = gr.unroll(cell, params, xs, mask=mask, key=KEY, reverse=reverse)
    valid = np.flatnonzero(mask[:, 0])
    alone = gr.unroll(cell, params, xs[valid], key=KEY, reverse=reverse)
    np.testing.assert_allclose(ys[valid, 0], alone[1][:, 0], rtol=1e-12)
    np.testing.assert_allclose(carry.h[0], alone[0].h[0], rtol=1e-12)


@pytest.mark.parametrize("cell", [both(gr.GRU(H)), gr.RecurrentDropout(gr.Elman(H), 0.5)], ids=str)
def test_directions_draw_apart_and_alike_in_one_loop_or_two(cell):
    """In one loop they are what each gives alone; with equal weights their masks differ."""
    one_loop = gr.bidirectional(cell)
    two_loops = gr.bidirectional(cell, gr.recurrent(cell, gr.BPTT(chunk=2)))
    params, xs, _ = problem(one_loop)
    mask, resets = flags()
    options = {"mask": mask, "resets": resets, "key": KEY}
    got, want = (apply(net, params, xs, **options) for net in (one_loop, two_loops))
    assert_trees_close(got, want)
    # a sequence that reads alike from either end
    same = gr.Directions(params.forward, params.forward)
    _, ys = apply(one_loop, same, jnp.ones_like(xs), key=KEY)
    ahead, back = jnp.split(ys, 2, axis=-1)
    assert not np.allclose(ahead, back[::-1])


def test_an_initial_carry_of_both_directions_is_taken():
    """Also a counted one, in either number of loops, and by `gr.final`."""
    cell = both(gr.GRU(H))
    one_loop = gr.bidirectional(cell)
    two_loops = gr.bidirectional(cell, gr.recurrent(cell, gr.BPTT(chunk=2)))
    params, xs, _ = problem(one_loop)
    carry, _ = apply(one_loop, params, xs, key=KEY)
    assert carry.backward.step.tolist() == [T] * B
    nets = (gr.final(one_loop), two_loops)
    (got, y), (want, ys) = (apply(net, params, xs, carry, key=KEY) for net in nets)
    assert_trees_close(got, want)
    np.testing.assert_allclose(y, jnp.concatenate([ys[-1, :, :H], ys[0, :, H:]], axis=-1))


def test_a_key_is_all_that_is_random():
    """Equal keys, of either kind, give equal results, others do not; none is an expectation."""
    net = gr.recurrent(both(gr.GRU(H)))
    params, xs, _ = problem(net)
    first = apply(net, params, xs, key=KEY)
    assert_trees_equal(apply(net, params, xs, key=jax.random.PRNGKey(7)), first)
    assert not np.allclose(apply(net, params, xs, key=OTHER)[1], first[1])
    _, ys = apply(net, params, xs)
    assert_trees_close(ys, reference.unroll(net.cell, params.cell, xs)[1])


def test_a_vmap_over_keys_is_a_loop_over_them():
    """An ensemble of masks, its gradients too; another key does not retrace."""
    cell = both(gr.Elman(H))
    params, xs, carry = problem(cell)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def gradient(key):
        def loss(params):
            return jnp.sum(jnp.sin(gr.unroll(cell, params, xs, carry, key=key)[1]))

        return jax.grad(loss)(params)

    keys = jax.random.split(KEY, 3)
    want = jax.tree.map(lambda *v: jnp.stack(v), *map(gradient, keys))
    assert_trees_close(jax.vmap(gradient.__wrapped__.__wrapped__)(keys), want)


def test_no_mask_is_stored_for_a_whole_sequence():
    """With the carries Zoneout saves what the cell saves, and a key for each row and step."""

    def saved(cell, key):
        params, xs, carry = problem(cell, length=64)
        bptt = gr.BPTT(save="carries")
        _, pull = jax.vjp(lambda p: gr.unroll(cell, p, xs, carry, key=key, bptt=bptt)[1], params)
        return sum(v.size for v in jax.tree.leaves(pull) if v.shape[:1] == (64,))

    plain, zoned = saved(gr.LSTM(H), None), saved(both(gr.LSTM(H)), KEY)
    assert zoned <= plain + 64 * B


# Errors -----------------------------------------------------------------------------------------


class Plain:
    """A user's cell without a rule."""

    features, use_bias, reset = 2, True, "before"
    init, carry, step = gr.GRU.init, gr.GRU.carry, gr.GRU.step


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: gr.Zoneout(Plain()),
            TypeError,
            "cell: got .*Plain.*, expected a cell with a rule",
        ),
        (
            lambda: gr.Zoneout(gr.Zoneout(gr.GRU(2), h=0.1), h=0.1),
            TypeError,
            r"cell: got Zoneout\(.*, expected .* itself not gr.Zoneout",
        ),
        (lambda: gr.Zoneout(gr.GRU(2), h=1.0), ValueError, r"h: got 1.0, expected .*\[0, 1\)"),
        (lambda: gr.Zoneout(gr.LSTM(2), c=-0.1), ValueError, r"c: got -0.1, expected .*\[0, 1\)"),
        (lambda: gr.Zoneout(gr.GRU(2), c=0.1), ValueError, r"c: got 0.1, expected 0.0: GRU\("),
        (lambda: gr.Zoneout(gr.dense(2)), TypeError, r"cell: got dense.*\(a layer, not a cell\)"),
        (
            lambda: gr.RecurrentDropout(Plain(), 0.1),
            TypeError,
            "cell: got .*Plain.*, expected a cell with a rule that takes a mask",
        ),
        (
            lambda: gr.RecurrentDropout(gr.Zoneout(gr.GRU(2), h=0.1), 0.1),
            TypeError,
            r"cell: got Zoneout\(.*, expected a cell with a rule that takes a mask",
        ),
        (lambda: gr.RecurrentDropout(gr.GRU(2), 1), ValueError, "rate: got 1, expected"),
        (
            lambda: gr.unroll(gr.GRU(2), *problem(gr.GRU(2))[:2], key=KEY),
            ValueError,
            r"key: got one for GRU\(.*, expected None: it draws nothing",
        ),
        (
            lambda: gr.unroll(
                both(gr.GRU(2)), *problem(gr.GRU(2))[:2], key=jax.random.split(KEY, 2)
            ),
            ValueError,
            r"key: got keys of shape \(2,\), expected a single key",
        ),
        (
            lambda: gr.recurrent(both(gr.GRU(2))).apply(
                gr.RecurrentParams(random_params(gr.GRU(2), I), None),
                normal(T, B, I),
                gr.GRU(2).carry((B,)),
            ),
            ValueError,
            r"carry: got GRUCarry.*, expected CountedCarry\(step=",
        ),
        (
            lambda: gr.LayerNormLSTM(2, forget_bias=1.0, use_bias=False),
            ValueError,
            "forget_bias: got 1.0 with use_bias=False",
        ),
        (lambda: gr.LayerNormLSTM(0), ValueError, "features: got 0"),
        (lambda: gr.LayerNormGRU(2, use_bias=1), ValueError, "use_bias: got 1"),
    ],
)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        make()
