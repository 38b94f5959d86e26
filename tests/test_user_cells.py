"""A user's own cell, with a rule and without: everything that a shipped cell does."""

import dataclasses
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gatedrnn as gr

T, B, I, H = 6, 3, 2, 4


class Params(NamedTuple):
    """Of a minimal gated unit (Zhou et al. 2016), without a bias."""

    kernel: jax.Array  # [I, 2H]
    recurrent_kernel: jax.Array  # [H, 2H]


@dataclasses.dataclass(frozen=True)
class Plain:
    """A cell with its three methods only: a plain dict for a carry, an output that is not in it."""

    features: int

    def init(self, key, in_features, dtype=jnp.float32):
        shapes = (in_features, 2 * self.features), (self.features, 2 * self.features)
        keys = jax.random.split(key)
        return Params(
            *(0.5 * jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))
        )

    def carry(self, batch_shape, dtype=jnp.float32):
        return {"h": jnp.zeros((*batch_shape, self.features), dtype)}

    def step(self, params, carry, x):
        h = carry["h"]
        a_f, a_n = jnp.split(x @ params.kernel, 2, axis=-1)
        u_f, u_n = jnp.split(params.recurrent_kernel, 2, axis=-1)
        f = jax.nn.sigmoid(a_f + h @ u_f)
        h = (1 - f) * h + f * jnp.tanh(a_n + (f * h) @ u_n)
        return {"h": h}, 2 * h


class Carry(NamedTuple):
    """The output first."""

    h: jax.Array


def _recur(cell, params, carry, a):
    n = jnp.tanh(a + carry.h @ params.recurrent_kernel)
    return Carry(carry.h + 0.3 * (n - carry.h)), n


def _contract(cell, params, record, da):
    leading = "...i,...o->io"
    dparams = Params(jnp.einsum(leading, record.xs, da), jnp.einsum(leading, record.before.h, da))
    return dparams, da @ params.kernel.T


@dataclasses.dataclass(frozen=True)
class Ruled:
    """A leaky network with a rule."""

    features: int

    rule: ClassVar = gr.Rule(
        project=lambda cell, params, xs: xs @ params.kernel,
        recur=_recur,
        linearize=lambda cell, params, record: 0.3 * (1 - record.gates**2),
        backward=lambda cell, params, slope, dcarry: (
            Carry(0.7 * dcarry.h + (dcarry.h * slope) @ params.recurrent_kernel.T),
            dcarry.h * slope,
        ),
        contract=_contract,
    )

    def init(self, key, in_features, dtype=jnp.float32):
        shapes = (in_features, self.features), (self.features, self.features)
        keys = jax.random.split(key)
        return Params(
            *(0.5 * jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))
        )

    def carry(self, batch_shape, dtype=jnp.float32):
        return Carry(jnp.zeros((*batch_shape, self.features), dtype))

    def step(self, params, carry, x):
        carry, _ = _recur(self, params, carry, x @ params.kernel)
        return carry, carry.h


CELLS = {"plain": Plain(H), "ruled": Ruled(H)}


def loop(cell, params, carry, xs, mask):
    """One step after another."""
    ys = []
    for x, m in zip(xs, mask, strict=True):
        new, y = cell.step(params, carry, x)
        carry = jax.tree.map(lambda a, b, m=m: jnp.where(m[:, None], a, b), new, carry)
        ys.append(jnp.where(m[:, None], y, 0))
    return carry, jnp.stack(ys)


@pytest.mark.parametrize("save", ["carries", "gates", "boundaries"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_unroll_is_the_loop(cell, save):
    """Values and gradients, masked, in chunks with a remainder, whatever is saved."""
    params = cell.init(jax.random.key(0), I, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (T, B, I))
    mask = jnp.asarray(np.arange(T)[:, None] < np.array([T, 0, 4]))
    carry = jax.tree.map(lambda v: v + 0.1, cell.carry((B,), jnp.float64))

    def loss(run):
        def of(params, carry, xs):
            return sum(jnp.sum(jnp.sin(v)) for v in jax.tree.leaves(run(params, carry, xs)))

        return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2)))(params, carry, xs)

    bptt = gr.BPTT(save=save, chunk=4)
    got = loss(lambda p, c, x: gr.unroll(cell, p, x, c, mask=mask, bptt=bptt))
    expected = loss(lambda p, c, x: loop(cell, p, c, x, mask))
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_in_every_layer(cell):
    """Lifted, repeated, in both directions, learned, and streamed."""
    xs = jax.random.normal(jax.random.key(1), (T, B, I))
    net = gr.stack(
        gr.recurrent(cell, initial="learned"), gr.repeat(gr.residual(cell), 2), gr.dense(3)
    )
    params = net.init(jax.random.key(0), I, jnp.float64)
    _, ys = net.apply(params, xs)
    carry = net.carry((B,), jnp.float64, params)
    for x, y in zip(xs, ys, strict=True):
        carry, streamed = net.step(params, carry, x)
        np.testing.assert_allclose(streamed, y, rtol=1e-10)

    both = gr.bidirectional(cell)
    params = both.init(jax.random.key(0), I, jnp.float64)
    _, ys = both.apply(params, xs)
    _, ends = gr.final(both).apply(params, xs)
    expected = jnp.concatenate([ys[-1, :, :H], ys[0, :, H:]], axis=-1)
    np.testing.assert_allclose(ends, expected, rtol=1e-10)


def test_a_rule_of_ones_own_is_checked():
    """By the same function as the shipped ones; and it is what runs."""
    report = gr.check_rule(Ruled(H))
    assert report.largest <= 1e-10
    assert report.largest_difference <= 1e-7
    with pytest.raises(TypeError, match="forward-mode"):
        run_forward(Ruled(H), gr.BPTT())
    for cell, bptt in [(Ruled(H), gr.BPTT(rule="autodiff")), (Plain(H), gr.BPTT())]:
        run_forward(cell, bptt)


def run_forward(cell, bptt):
    params = cell.init(jax.random.key(0), I, jnp.float64)
    xs = jnp.ones((T, B, I))
    return jax.jvp(lambda xs: gr.unroll(cell, params, xs, bptt=bptt)[1], (xs,), (xs,))


@pytest.mark.parametrize("params_dtype", [jnp.float32, jnp.bfloat16])
def test_sixteen_bits_without_a_rule(params_dtype):
    """float32 parameters go with bfloat16 inputs here too: the carry keeps its dtype."""
    cell = Mixed(H)
    params = cell.init(jax.random.key(0), I, params_dtype)
    xs = jnp.ones((T, B, I), jnp.bfloat16)
    carry, ys = gr.unroll(cell, params, xs, lengths=jnp.array([T, 0, 2]))
    assert carry["h"].dtype == ys.dtype == jnp.bfloat16


class Mixed(Plain):
    """A cell that leaves promotion to JAX."""

    def step(self, params, carry, x):
        with jax.numpy_dtype_promotion("standard"):
            carry, y = super().step(params, carry, x)
            return carry, y.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Counting(Plain):
    """A cell that also counts its steps, in a leaf `[*B]` of integers."""

    def carry(self, batch_shape, dtype=jnp.float32):
        return {**super().carry(batch_shape, dtype), "steps": jnp.zeros(batch_shape, jnp.int32)}

    def step(self, params, carry, x):
        inner, y = super().step(params, {"h": carry["h"]}, x)
        return {**inner, "steps": carry["steps"] + 1}, y


@pytest.mark.parametrize("save", ["carries", "gates", "boundaries"])
def test_integers_in_a_carry(save):
    """They are masked and reset as all is, and no option of the backward pass minds them."""
    cell, lengths = Counting(H), jnp.array([T, 0, 2])
    params = cell.init(jax.random.key(0), I, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (T, B, I))
    bptt = gr.BPTT(clip=10.0, truncate=100, save=save, chunk=4)

    def loss(params, cell, bptt):
        carry, ys = gr.unroll(cell, params, xs, lengths=lengths, bptt=bptt)
        return jnp.sum(jnp.sin(ys)), carry

    gradient, carry = jax.grad(loss, has_aux=True)(params, cell, bptt)
    expected, _ = jax.grad(loss, has_aux=True)(params, Plain(H), gr.BPTT())
    chex.assert_trees_all_close(gradient, expected, rtol=1e-12)
    np.testing.assert_array_equal(carry["steps"], lengths)


@dataclasses.dataclass(frozen=True)
class CountingTogether(Plain):
    """A cell that counts the steps of all rows, in a leaf that it declares shared, or not."""

    declared: bool = True

    def carry(self, batch_shape, dtype=jnp.float32):
        count = jnp.zeros((), jnp.int32)
        count = gr.Shared(count) if self.declared else count
        return {**super().carry(batch_shape, dtype), "steps": count}

    def step(self, params, carry, x):
        inner, y = super().step(params, {"h": carry["h"]}, x)
        return {**inner, "steps": jax.tree.map(lambda n: n + 1, carry["steps"])}, y


@pytest.mark.parametrize("save", ["carries", "gates", "boundaries"])
def test_a_leaf_that_all_rows_share(save):
    """Every step moves it, a masked one too, and resets leave it; gradients are as without it."""
    cell = CountingTogether(H)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (T, B, I))
    options = {"lengths": jnp.array([T, 0, 2]), "resets": jnp.ones((T, B), bool)}
    options["bptt"] = gr.BPTT(save=save, chunk=2, clip=10.0)
    apply = jax.jit(lambda p, cell: gr.unroll(cell, p, xs, **options), static_argnums=1)
    carry, ys = apply(params, cell)
    assert carry["steps"].value == T
    plain, want = apply(params, Plain(H))
    np.testing.assert_allclose(ys, want, rtol=1e-12)
    np.testing.assert_allclose(carry["h"], plain["h"], rtol=1e-12)
    got, want = (
        jax.grad(lambda p, c=c: jnp.sum(apply(p, c)[1] ** 2))(params) for c in (cell, Plain(H))
    )
    chex.assert_trees_all_close(got, want, rtol=1e-12)


@pytest.mark.parametrize("use", ["unroll", "trajectory", "recurrent", "attention", "check"])
def test_an_undeclared_leaf_is_refused(use):
    """Wherever a cell is taken, also where its batch happens to fit."""
    cell = CountingTogether(H, declared=False)
    params, xs = Plain(H).init(jax.random.key(0), I, jnp.float64), jnp.ones((T, B, I))
    uses = {
        "unroll": lambda: gr.unroll(cell, params, xs),
        "trajectory": lambda: gr.trajectory(cell, params, xs),
        "recurrent": lambda: gr.recurrent(cell),
        "attention": lambda: gr.Attention(cell, 2, 3),
        "check": lambda: gr.check_rule(cell),
    }
    with pytest.raises(TypeError, match=r"carry\['steps'\] has shape \(\) .* goes into gr.Shared"):
        uses[use]()


def test_a_rule_has_rows_alone():
    """Its backward pass knows of nothing that rows share."""

    class SharedRuled(Ruled):
        def carry(self, batch_shape, dtype=jnp.float32):
            return gr.Shared(super().carry(batch_shape, dtype))

    with pytest.raises(TypeError, match=r"gr.Shared, expected none in a cell with a rule"):
        gr.recurrent(SharedRuled(H))


def test_a_rule_lays_out_its_weights_before_any_loop():
    """`prepare` runs once for each pass, and its two layouts reach the steps of either."""
    calls = []

    def prepare(cell, params):
        calls.append(1)
        return params._replace(kernel=(params.kernel,)), params.recurrent_kernel.T

    def project(cell, params, xs):
        kernel = params.kernel
        return xs @ (kernel[0] if isinstance(kernel, tuple) else kernel)

    def backward(cell, recurrent_transposed, slope, dcarry):
        da = dcarry.h * slope
        return Carry(0.7 * dcarry.h + da @ recurrent_transposed), da

    class Prepared(Ruled):
        """With weights laid out for its steps."""

        rule = Ruled.rule._replace(project=project, backward=backward, prepare=prepare)

    params = Ruled(H).init(jax.random.key(0), I, jnp.float64)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, I)))

    def gradients(cell):
        def loss(p, xs):
            return jnp.sum(gr.unroll(cell, p, xs, bptt=gr.BPTT(chunk=2))[1] ** 2)

        return jax.grad(loss, argnums=(0, 1))(params, xs)

    chex.assert_trees_all_close(gradients(Prepared(H)), gradients(Ruled(H)), rtol=1e-12)
    assert len(calls) <= 4  # as it is, forward, backward, and to find what a step makes


def test_the_carry_of_a_cell_of_ones_own_is_asked_for_anew():
    """It is no compiled program, and may read what has changed."""
    start = [1.0]

    @dataclasses.dataclass(frozen=True)
    class Starting:
        def init(self, key, in_features, dtype=jnp.float32):
            return ()

        def carry(self, batch_shape, dtype=jnp.float32):
            return jnp.full((*batch_shape, 1), start[0], dtype)

        def step(self, params, carry, x):
            return carry, carry

    xs = jnp.zeros((1, 1))
    for value in (1.0, 5.0):
        start[0] = value
        assert gr.unroll(Starting(), (), xs)[1].item() == value
        assert gr.recurrent(Starting()).apply(gr.RecurrentParams((), None), xs)[1].item() == value
