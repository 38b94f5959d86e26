"""Attention: against its equations, its rule against autodiff, masks, weights, and one memory."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import Leaky, apply, assert_trees_close, normal, outcome, random_params

import gatedrnn as gr

T, B, S, I, M, H, A = 4, 3, 5, 2, 3, 4, 3  # steps, rows, positions, features of each

CELLS = {
    "lstm": gr.LSTM(H),
    "projected": gr.LSTM(H, projection=2),
    "gru": gr.GRU(H),
    "jordan": gr.Jordan(H, 2),
    "no-rule": Leaky(H, 2),
}
over_cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
LENGTHS = jnp.array([S, 0, 2])  # of the sources


@functools.partial(jax.jit, static_argnums=0)
def step(cell, params, carry, x):
    """`step` of a cell or layer, compiled once for equal ones."""
    return cell.step(params, carry, x)


def memory_of(batch=(B,), seed=1, dtype=jnp.float64):
    return normal(S, *batch, M, seed=seed, dtype=dtype)


def attention_of(cell):
    attention = gr.Attention(cell, M, A)
    return attention, random_params(attention, I)


# The equations ----------------------------------------------------------------------------------


def by_hand(attention, params, memory, lengths, xs):
    """Row by row and position by position, in NumPy; the inner cell's own step."""
    params_np = jax.tree.map(np.asarray, params)
    rows = []
    for b in range(B):
        carry = attention.cell.carry((), jnp.float64)
        outputs, weights = [], []
        for x in np.asarray(xs)[:, b]:
            s = np.asarray(jax.tree.leaves(carry)[0])
            e = [
                params_np.score @ np.tanh(m @ params_np.memory_kernel + s @ params_np.query_kernel)
                for m in np.asarray(memory)[: lengths[b], b]
            ]
            alpha = np.exp(e) / np.sum(np.exp(e)) if e else np.zeros(0)
            context = sum((a * m for a, m in zip(alpha, memory[:, b], strict=False)), np.zeros(M))
            carry, y = step(attention.cell, params.cell, carry, jnp.concatenate([x, context]))
            outputs.append(np.concatenate([y, context]))
            weights.append(np.pad(alpha, (0, S - len(alpha))))
        rows.append((np.stack(outputs), np.stack(weights)))
    return tuple(np.stack(part, axis=1) for part in zip(*rows, strict=True))


def before(attention, params, xs):
    """The carry before each step."""
    start = attention.carry(xs.shape[1:-1], xs.dtype)
    after, _ = gr.trajectory(attention, params, xs)
    return jax.tree.map(lambda s, v: jnp.concatenate([s[None], v])[:-1], start, after)


@over_cells
def test_the_equations(cell):
    """Outputs, and weights from the carries; a row without a position gets zeros for both."""
    attention, params = attention_of(cell)
    memory, xs = memory_of(), normal(T, B, I)
    want, alpha = by_hand(attention, params, memory, LENGTHS, xs)
    bound = gr.attend(params, memory, lengths=LENGTHS)
    ys = jax.jit(lambda p: gr.unroll(attention, p, xs)[1])(bound)
    np.testing.assert_allclose(ys, want, rtol=1e-10, atol=1e-12)
    weights = gr.attention_weights(bound, before(attention, bound, xs))
    np.testing.assert_allclose(weights, alpha, rtol=1e-10, atol=1e-12)
    assert attention.output_features(I) == ys.shape[-1]


@pytest.mark.parametrize(
    "cell", [CELLS["projected"], CELLS["no-rule"]], ids=["projected", "no-rule"]
)
def test_steps_are_the_whole_sequence(cell):
    """As every cell's."""
    attention, params = attention_of(cell)
    layer, xs = gr.recurrent(attention), normal(T, B, I)
    bound = gr.attend(gr.RecurrentParams(params, None), memory_of(), lengths=LENGTHS)
    carry, ys = layer.carry((B,), jnp.float64), []
    for x in xs:
        carry, y = step(layer, bound, carry, x)
        ys.append(y)
    assert_trees_close((carry, jnp.stack(ys)), apply(layer, bound, xs))


# The rule ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Bound(gr.Attention):
    """An attention whose `init` binds a memory of noise, so that `check_rule` can differentiate."""

    def init(self, key, in_features, dtype=jnp.float32):
        params = super().init(key, in_features, dtype)
        memory = jax.random.normal(key, (S, 2, self.memory_features), dtype)
        return gr.attend(params, memory)


@pytest.mark.parametrize(
    ("name", "save"),
    [("lstm", "carries"), ("jordan", "boundaries")],
)
def test_the_rule_is_exact(name, save):
    """Against autodiff and finite differences: memory, keys, queries, scores, the inner cell's."""
    report = gr.check_rule(Bound(CELLS[name], M, A), bptt=gr.BPTT(save=save, chunk=2))
    assert report.largest <= 1e-10
    assert report.largest_difference <= 1e-7


def test_the_rule_of_an_attention_within_another():
    """The inner one's memory, too, has its gradient."""
    report = gr.check_rule(Bound(gr.Attention(gr.Elman(H), M, A), M, A), steps=3)
    assert report.largest <= 1e-10
    assert report.largest_difference <= 1e-7


def whole(attention, route, lengths=None, target_lengths=None):
    """A loss that reaches everything, from unbound parameters, memory and inputs."""
    bptt = gr.BPTT(rule=route, chunk=3)

    def run(params, memory, xs):
        bound = gr.attend(params, memory, lengths=lengths)
        return gr.unroll(attention, bound, xs, lengths=target_lengths, bptt=bptt)

    return run


@pytest.mark.parametrize("cell", [CELLS["lstm"], CELLS["no-rule"]], ids=["lstm", "no-rule"])
def test_routes_agree_on_ragged_sources_and_targets(cell):
    """Gradients of parameters, memory and inputs, `W_m` included."""
    attention, params = attention_of(cell)
    options = LENGTHS, jnp.array([2, T, 0])
    arguments = params, memory_of(), normal(T, B, I)
    want = outcome(whole(attention, "autodiff", *options), *arguments)
    assert_trees_close(outcome(whole(attention, None, *options), *arguments), want, rtol=1e-9)
    gradients = jax.tree.unflatten(jax.tree.structure(arguments), want[1])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_second_order():
    """The gradient of a gradient, by the rule and by autodiff."""
    attention, params = attention_of(gr.Elman(2))
    memory, xs = memory_of(), normal(2, B, I)

    @functools.partial(jax.jit, static_argnums=0)
    def twice(route, params, memory):
        def loss(params, memory):
            return jnp.sum(jnp.sin(whole(attention, route, LENGTHS)(params, memory, xs)[1]))

        def of_gradient(params, memory):
            gradients = jax.grad(loss, argnums=(0, 1))(params, memory)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(gradients))

        return jax.grad(of_gradient, argnums=(0, 1))(params, memory)

    want = twice("autodiff", params, memory)
    assert_trees_close(twice(None, params, memory), want, rtol=1e-9)


# Masks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "no-rule"])
def test_padding_reaches_nothing(name):
    """NaN in the padding of the sources changes no value and no gradient to the last bit."""
    attention, params = attention_of(CELLS[name])
    mask = np.arange(S)[:, None] < np.asarray(LENGTHS)
    clean = jnp.where(mask[..., None], memory_of(), 0.0)
    dirty = jnp.where(mask[..., None], clean, jnp.nan)
    xs = normal(T, B, I)
    run = whole(attention, None, LENGTHS)
    got, gradients = outcome(run, params, dirty, xs)
    assert_trees_close((got, gradients), outcome(run, params, clean, xs), rtol=0, atol=0)
    assert all(np.all(np.isfinite(leaf)) for leaf in gradients)


def test_a_mask_of_any_pattern():
    """The same as the positions that it keeps, alone."""
    attention, params = attention_of(gr.GRU(H))
    memory, xs = memory_of(), normal(T, B, I)
    kept = np.array([True, False, True, True, False])
    mask = jnp.broadcast_to(kept[:, None], (S, B))
    some = gr.attend(params, memory, mask=mask)
    alone = gr.attend(params, memory[kept])
    assert_trees_close(gr.unroll(attention, some, xs), gr.unroll(attention, alone, xs))


def test_scores_far_from_zero():
    """No overflow in the softmax, forward or backward, and a position of weight 1 in the limit."""
    attention, params = attention_of(gr.GRU(H))
    params = params._replace(score=1e4 * params.score)
    out, gradients = outcome(whole(attention, None, LENGTHS), params, memory_of(), normal(T, B, I))
    assert all(np.all(np.isfinite(leaf)) for leaf in [*jax.tree.leaves(out), *gradients])


# Shapes, dtypes, composition ---------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_any_batch_axes(batch):
    """Also none: each row as alone."""
    attention, params = attention_of(gr.LSTM(H))
    memory, xs = memory_of(batch), normal(T, *batch, I)

    @jax.jit
    def run(memory, xs):
        return gr.unroll(attention, gr.attend(params, memory), xs)[1]

    ys = run(memory, xs)
    for row in np.ndindex(*batch):
        each = (slice(None), *row)
        np.testing.assert_allclose(ys[each], run(memory[each], xs[each]), rtol=1e-10)


def test_no_positions_at_all():
    """`S = 0`: as a row without any."""
    attention, params = attention_of(gr.LSTM(H))
    xs = normal(T, B, I)
    _, ys = gr.unroll(attention, gr.attend(params, memory_of()[:0]), xs)
    none = gr.attend(params, memory_of(), lengths=jnp.zeros(B, int))
    assert_trees_close(ys, gr.unroll(attention, none, xs)[1])


def test_sixteen_bits():
    """bfloat16 inputs and memory beside float32 parameters."""
    attention = gr.Attention(gr.LSTM(H), M, A)
    params = random_params(attention, I, dtype=jnp.float32)
    xs, memory = normal(T, B, I, dtype=jnp.bfloat16), memory_of(dtype=jnp.bfloat16)
    run = whole(attention, None, LENGTHS)
    carry, _ = jax.eval_shape(run, params, memory, xs)
    assert carry.cell.h.dtype == carry.output.dtype == jnp.bfloat16

    def outputs(*arguments):
        return run(*arguments)[1]

    ys, gradients = outcome(outputs, params, memory, xs)
    assert ys.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in gradients} == {jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, memory, xs))
    np.testing.assert_allclose(ys.astype(jnp.float64), outputs(*wide), rtol=0.05, atol=0.05)


def test_in_a_network_and_by_vmap():
    """Deep inside a stack, bound by one call; an ensemble by `vmap` over parameters."""
    net = gr.stack(gr.GRU(3), gr.residual(gr.stack(gr.Attention(gr.LSTM(H), M, A), gr.dense(3))))
    members = [random_params(net, I, seed) for seed in range(2)]
    memory, xs = memory_of(), normal(T, B, I)

    def run(params):
        return net.apply(gr.attend(params, memory, lengths=LENGTHS), xs)[1]

    together = jax.jit(jax.vmap(run))(jax.tree.map(lambda *v: jnp.stack(v), *members))
    alone = jax.jit(run)
    chex.assert_trees_all_close(together, jnp.stack([alone(p) for p in members]), rtol=1e-12)


def test_the_memory_is_not_saved_at_every_step():
    """What the forward pass keeps for the backward grows with each step by its carry alone."""
    attention = gr.Attention(gr.GRU(2), 8, 2)
    params = attention.init(jax.random.key(0), I)
    memory = jnp.ones((100, 2, 8), jnp.float32)

    def kept(length):
        def run(params, memory, xs):
            return gr.unroll(attention, gr.attend(params, memory), xs)[1]

        def backward(*arguments):
            return jax.vjp(run, *arguments)[1]

        xs = jax.ShapeDtypeStruct((length, 2, I), jnp.float32)
        return sum(
            leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, params, memory, xs))
        )

    # of 2 rows: the inputs, the carry (2 and 2 + 8 features) and, with it, the output
    assert kept(40) - kept(20) <= 20 * 2 * (I + 2 + 2 * (2 + 8))


# Errors -----------------------------------------------------------------------------------------


def test_errors():
    """Each names the argument, what it got and what it expected."""
    attention, params = attention_of(gr.GRU(H))
    memory, xs = memory_of(), normal(T, B, I)
    with pytest.raises(ValueError, match=r"params.memory: got None, expected .* gr.attend"):
        gr.unroll(attention, params, xs)
    with pytest.raises(ValueError, match=r"params.memory: got None"):
        attention.step(params, attention.carry((B,), jnp.float64), xs[0])
    with pytest.raises(
        ValueError, match=r"params.memory: got batch axes \(2,\), expected the last of \(3,\)"
    ):
        gr.unroll(attention, gr.attend(params, memory[:, :2]), xs)
    with pytest.raises(ValueError, match=r"memory: got 2 features, expected 3"):
        gr.attend(params, memory[..., :2])
    with pytest.raises(ValueError, match=r"memory: got shape \(5,\), expected \[S, \*B, M\]"):
        gr.attend(params, memory[:, 0, 0])
    with pytest.raises(TypeError, match="memory: got dtype int32, expected a floating"):
        gr.attend(params, jnp.ones((S, B, M), jnp.int32))
    with pytest.raises(ValueError, match=r"lengths: got shape \(2,\), expected \(3,\)"):
        gr.attend(params, memory, lengths=jnp.array([1, 2]))
    for drawing in (gr.Zoneout(gr.GRU(4), h=0.1), gr.RecurrentDropout(gr.GRU(4), 0.1)):
        with pytest.raises(TypeError, match=r"cell: got .*, expected a cell that draws no masks"):
            gr.Attention(drawing, memory_features=3, features=2)
    attention = gr.Attention(gr.GRU(4), memory_features=3, features=2)
    with pytest.raises(TypeError, match=r"cell: got Attention.*, expected one whose carry holds"):
        gr.Zoneout(attention, h=0.1)
    with pytest.raises(ValueError, match=r"params: got none of a gr.Attention"):
        gr.attend(params.cell, memory)
    repeated = gr.repeat(gr.stack(gr.Attention(gr.GRU(H), M, A), gr.dense(I)), 2)
    with pytest.raises(ValueError, match=r"inside gr.repeat cannot be bound"):
        gr.attend(random_params(repeated, I), memory)
    bound = gr.attend(params, memory)
    carry = attention.carry((B,), jnp.float64)
    with pytest.raises(ValueError, match=r"params: got 2 of a gr.Attention, expected one"):
        gr.attention_weights((bound, bound), carry)
    with pytest.raises(ValueError, match=r"carry: got 0 of a gr.Attention, expected one"):
        gr.attention_weights(bound, carry.cell)
    with pytest.raises(ValueError, match=r"params.memory: got None"):
        gr.attention_weights(params, carry)
    with pytest.raises(TypeError, match=r"cell: got"):
        gr.Attention(gr.dense(3), M, A)
    with pytest.raises(ValueError, match="memory_features: got 0"):
        gr.Attention(gr.GRU(3), 0, A)
    with pytest.raises(ValueError, match="features: got 0"):
        gr.Attention(gr.GRU(3), M, 0)
