"""Gradients, reach and gates are what a loop over the steps finds, under every option."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from networks import Leaky, assert_trees_close, normal, random_params
from reference import SAMPLE

import gatedrnn as gr
from gatedrnn import diagnostics

I, T, B = 5, 5, 3
SOME = {
    "jordan": gr.Jordan(4, 3, "relu", "sigmoid", use_bias=False),
    "lstm": gr.LSTM(4, peephole="diagonal", projection=3, coupled=True),
    "gru": gr.GRU(4),
}
GATED = {name: cell for name, cell in SAMPLE.items() if cell.rule.gate_names}
MASK = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]], bool)
RESETS = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)


def at_once(*functions):
    """What each of them returns, compiled together."""
    return jax.jit(lambda: tuple(function() for function in functions))()


@dataclasses.dataclass(frozen=True)
class Unruled:
    """A cell as a user may write it: without its rule."""

    cell: gr.Cell

    def init(self, key, in_features, dtype=jnp.float32):
        return self.cell.init(key, in_features, dtype)

    def carry(self, batch_shape, dtype=jnp.float32):
        return self.cell.carry(batch_shape, dtype)

    def step(self, params, carry, x):
        return self.cell.step(params, carry, x)


def loss(carries, ys):
    """Reaches every leaf of every carry and every output, each element with another weight."""
    return sum(
        jnp.sum(jnp.sin(v) * (1 + jnp.arange(v.size, dtype=v.dtype).reshape(v.shape) % 7))
        for v in jax.tree.leaves((carries, ys))
    )


# Gradients over time ----------------------------------------------------------------------------


def by_steps(cell, params, xs, *, mask=None, resets=None, truncate=None, clip=None, reverse=False):
    """`δcarry_t` of every step, by the vector-Jacobian product of one step after another."""

    def select(flag, this, other):
        return jax.tree.map(lambda a, b: jnp.where(flag[:, None], a, b), this, other)

    def stack(by_time):
        return jax.tree.map(lambda *v: jnp.stack(v), *(by_time[t] for t in range(len(xs))))

    order = range(len(xs))[::-1] if reverse else range(len(xs))
    mask = jnp.ones(xs.shape[:-1], bool) if mask is None else jnp.asarray(mask)
    starts = jnp.zeros_like(mask) if resets is None else jnp.asarray(resets) & mask
    initial = cell.carry(xs.shape[1:-1], xs.dtype)
    carry, carries, ys, backs = initial, {}, {}, {}
    for t in order:
        before = select(starts[t], initial, carry)
        (new, y), backs[t] = jax.vjp(lambda c, t=t: cell.step(params, c, xs[t]), before)
        carry = carries[t] = select(mask[t], new, carry)
        ys[t] = jnp.where(mask[t][:, None], y, 0)
    dcarries, dys = jax.grad(loss, (0, 1))(stack(carries), stack(ys))

    zero = jax.tree.map(jnp.zeros_like, initial)
    flow, found = zero, {}
    for t in reversed(order):
        full = jax.tree.map(lambda d, direct, t=t: d + direct[t], flow, dcarries)
        dy = jnp.where(mask[t][:, None], dys[t], 0)
        if not isinstance(cell, Leaky):  # its output is the first leaf of the carry
            full = type(full)(full[0] + dy, *full[1:])
            dy = jnp.zeros_like(dy)
        found[t] = select(mask[t], full, zero)
        (through,) = backs[t]((found[t], dy))
        if clip is not None:
            through = jax.tree.map(lambda d: jnp.clip(d, -clip, clip), through)
        flow = select(mask[t], select(starts[t], zero, through), full)
        if truncate is not None and (t + reverse) % truncate == 0:
            flow = zero
    return stack(found)


@pytest.mark.parametrize("name", SOME)
def test_gradients_are_those_of_step_after_step(name):
    """By the cell's rule."""
    cell = SOME[name]
    params, xs = random_params(cell, I), normal(T, B, I)
    assert_trees_close(
        *at_once(
            lambda: diagnostics.carry_gradients(cell, params, xs, loss),
            lambda: by_steps(cell, params, xs),
        )
    )


@pytest.mark.parametrize("cell", [Unruled(gr.LSTM(3)), Leaky(3, 2)])
def test_gradients_of_cells_without_a_rule(cell):
    """An output that is in the carry counts; one that is computed from it acts within its step."""
    params, xs = random_params(cell, I), normal(T, B, I)
    options = {"mask": jnp.asarray(MASK), "resets": jnp.asarray(RESETS)}
    assert_trees_close(
        *at_once(
            lambda: diagnostics.carry_gradients(cell, params, xs, loss, **options),
            lambda: by_steps(cell, params, xs, **options),
        )
    )


@pytest.mark.parametrize(
    "options",
    [
        {"mask": MASK, "resets": RESETS},
        {"truncate": 2, "mask": MASK},
        {"clip": 0.5, "resets": RESETS},
        {"truncate": 2, "clip": 0.5, "reverse": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_gradients_under_every_option(options):
    """On both routes, whatever the padding holds."""
    cell = gr.LSTM(3)
    params, xs = random_params(cell, I), normal(T, B, I)
    outside = {k: jnp.asarray(v) for k, v in options.items() if k in ("mask", "resets")}
    outside["reverse"] = options.get("reverse", False)
    inside = {k: v for k, v in options.items() if k in ("truncate", "clip")}
    padded = jnp.where(MASK[..., None], xs, jnp.nan) if "mask" in options else xs

    def got(rule):
        bptt = gr.BPTT(rule, chunk=2, **inside)
        return diagnostics.carry_gradients(cell, params, padded, loss, bptt=bptt, **outside)

    hand, autodiff, want = at_once(
        lambda: got("hand"),
        lambda: got("autodiff"),
        lambda: by_steps(cell, params, xs, **options),
    )
    assert_trees_close(hand, want)
    assert_trees_close(autodiff, want)


def test_the_cell_path_alone_is_the_product_of_the_forget_gates():
    """`∂c_T/∂c_t = f_{t+1} ⊙ … ⊙ f_T` without the recurrent input, and nothing reaches `h`."""
    cell = gr.LSTM(3)
    params, xs = random_params(cell, I), normal(T, B, I)

    def last(carries, ys):
        return jnp.sum(carries.c[-1])

    bptt = gr.BPTT(cell_path_only=True)
    got, gates = at_once(
        lambda: diagnostics.carry_gradients(cell, params, xs, last, bptt=bptt),
        lambda: diagnostics.gates(cell, params, xs),
    )
    f = np.asarray(gates["f"])
    want = [np.prod(f[t + 1 :], axis=0) for t in range(T)]
    np.testing.assert_allclose(got.c, np.stack(want), rtol=1e-12)
    assert not np.any(got.h)


@dataclasses.dataclass(frozen=True)
class Counting(Unruled):
    """Its carry has the number of steps beside it, which is not differentiated."""

    def carry(self, batch_shape, dtype=jnp.float32):
        return self.cell.carry(batch_shape, dtype), jnp.zeros(batch_shape, jnp.int32)

    def step(self, params, carry, x):
        new, y = self.cell.step(params, carry[0], x)
        return (new, carry[1] + 1), y


def test_leaves_that_are_not_differentiated():
    """Gradients and Jacobians are those of the cell without them."""
    cell, counting = gr.Elman(3), Counting(gr.Elman(3))
    params, xs = random_params(cell, I), normal(T, B, I)

    def last(carries, ys):
        return jnp.sum(ys[-1])

    (got, none), want, steps, plain = at_once(
        lambda: diagnostics.carry_gradients(counting, params, xs, last),
        lambda: diagnostics.carry_gradients(cell, params, xs, last),
        lambda: diagnostics.step_jacobians(counting, params, xs),
        lambda: diagnostics.step_jacobians(cell, params, xs),
    )
    assert none is None
    assert_trees_close(got, want)
    assert_trees_close(steps, plain)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_norms_of_every_leaf(batch):
    """`[T, *B]` for any batch axes, under `jit`; each row is that of its own sequence."""
    cell = gr.LSTM(3, projection=2)
    params, xs = random_params(cell, I), normal(T, *batch, I)

    def total(carries, ys):
        return jnp.sum(ys**2) + jnp.sum(carries.c**2)

    first = (slice(None), *(0,) * len(batch))
    norms, of_one, whole = at_once(
        lambda: diagnostics.gradient_norms(cell, params, xs, total),
        lambda: diagnostics.gradient_norms(cell, params, xs[first], total),
        lambda: diagnostics.carry_gradients(cell, params, xs, total),
    )
    for norm, one, gradient in zip(norms, of_one, whole, strict=True):
        assert norm.shape == (T, *batch)
        np.testing.assert_allclose(norm, np.linalg.norm(gradient, axis=-1), rtol=1e-12)
        np.testing.assert_allclose(norm[first], one, rtol=1e-12)


def test_gradients_vmap_and_need_little_precision():
    """Over an ensemble; in bfloat16 near float64."""
    cell = gr.GRU(3)
    xs = normal(T, B, I)

    def final(carries, ys):
        return jnp.sum(ys[-1].astype(jnp.float32))

    each = [random_params(cell, I, seed) for seed in (0, 1)]
    both = jax.tree.map(lambda *v: jnp.stack(v), *each)
    low = jax.tree.map(lambda v: v.astype(jnp.bfloat16), (each[1], xs))
    norms, alone, rough = at_once(
        lambda: jax.vmap(lambda p: diagnostics.gradient_norms(cell, p, xs, final))(both),
        lambda: diagnostics.gradient_norms(cell, each[1], xs, final),
        lambda: diagnostics.gradient_norms(cell, *low, final),
    )
    np.testing.assert_allclose(norms.h[1], alone.h, rtol=1e-6)
    assert rough.h.dtype == jnp.float32
    np.testing.assert_allclose(rough.h, alone.h, rtol=0.1)


# Reach ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_reach_is_the_norm_of_the_jacobian(name):
    """Of the last output by every input, and by every carry, which products of Jacobians give."""
    cell = SOME[name]
    params, xs = random_params(cell, I), normal(T, B, I)
    cells = {name: (cell, params)}
    reach, of_carry, whole, products = at_once(
        lambda: diagnostics.gradient_reach(cells, xs)[name],
        lambda: diagnostics.gradient_reach(cells, xs, of="carry")[name],
        lambda: jax.jacrev(lambda x: gr.unroll(cell, params, x)[1][-1])(xs[:, 1]),  # of row 1
        lambda: diagnostics.product_jacobians(diagnostics.step_jacobians(cell, params, xs)),
    )
    np.testing.assert_allclose(reach[::-1, 1], np.linalg.norm(whole, axis=(0, 2)), rtol=1e-11)
    outputs = len(whole)
    norms = np.linalg.norm(products[..., :outputs, :], axis=(-2, -1))
    np.testing.assert_allclose(of_carry[1:], norms[:0:-1], rtol=1e-11)
    np.testing.assert_allclose(of_carry[0], np.sqrt(outputs), rtol=1e-12)  # the identity


def test_reach_of_cells_side_by_side():
    """One of them a user's; the linear network with one weight gives its powers."""
    cells = {
        "linear": (gr.Elman(1, activation="identity", use_bias=False), None),
        "leaky": (Leaky(3, 2), random_params(Leaky(3, 2), 1)),
    }
    weight = gr.ElmanParams(jnp.ones((1, 1)), jnp.full((1, 1), 0.5), None)
    cells["linear"] = (cells["linear"][0], weight)
    reach = jax.jit(lambda xs: diagnostics.gradient_reach(cells, xs))(normal(T, B, 1))
    np.testing.assert_allclose(reach["linear"], np.repeat(0.5 ** np.arange(T)[:, None], B, 1))
    assert reach["leaky"].shape == (T, B)


# Gates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", GATED.values(), ids=GATED)
def test_gates_are_those_of_the_equations(cell):
    """Of every gated cell with every option, gate by gate in NumPy."""
    params, xs = reference.random_params(cell), normal(T, B, I)
    start = reference.random_carry(cell, (B,))
    gates = diagnostics.gates(cell, params, xs, start)
    seen, carry = [], start
    for x in np.asarray(xs):
        carry, _, opened = reference.step(cell, params, carry, x)
        seen.append(opened)
    assert list(gates) == list(seen[0])  # in the order of the equations
    for name, gate in gates.items():
        np.testing.assert_allclose(gate, np.stack([step[name] for step in seen]), rtol=1e-12)


def test_gates_of_a_cell_around_a_cell():
    """Those of the inner cell, from the carries that the outer one leaves behind."""
    inner = gr.LSTM(3)
    params, xs = random_params(inner, I), normal(T, B, I)
    for cell in (gr.RecurrentDropout(inner, 0.5), gr.Zoneout(inner, h=0.3, c=0.6)):
        carries, _ = gr.trajectory(cell, params, xs)
        found = diagnostics.gates(cell, params, xs)
        assert list(found) == ["i", "f", "o"]
        before = jax.tree.map(lambda v: v[1], carries)
        at_two = diagnostics.gates(inner, params, xs[2:3], before)
        for name, gate in found.items():
            np.testing.assert_allclose(gate[2], at_two[name][0], rtol=1e-12)


def test_gates_where_steps_are_skipped_and_reset():
    """Masked steps are zeros; those at a boundary are those of a sequence that starts there."""
    cell = gr.GRU(3)
    params, xs = random_params(cell, I), normal(T, 1, I)
    mask = jnp.array([True, True, False, True, True])[:, None]
    resets = jnp.array([False, False, False, True, False])[:, None]
    holes = jnp.where(mask[..., None], xs, jnp.nan)
    gates, start, end, backwards, flipped = at_once(
        lambda: diagnostics.gates(cell, params, holes, mask=mask, resets=resets),
        lambda: diagnostics.gates(cell, params, xs[:2]),
        lambda: diagnostics.gates(cell, params, xs[3:]),
        lambda: diagnostics.gates(cell, params, xs, reverse=True),
        lambda: diagnostics.gates(cell, params, xs[::-1]),
    )
    for name, gate in gates.items():
        nothing = np.zeros((1, 1, 3))
        np.testing.assert_allclose(gate, np.concatenate([start[name], nothing, end[name]]))
    assert_trees_close(backwards, {name: gate[::-1] for name, gate in flipped.items()})


def test_saturation_counts_the_steps():
    """Per unit, over valid steps alone, with thresholds of one's own."""
    gate = jax.random.uniform(jax.random.key(0), (T, B, 4), jnp.float64)
    mask = jnp.asarray(MASK)
    counted = jax.jit(lambda g: diagnostics.saturation({"f": g}, mask=mask, low=0.2, high=0.6))
    low, high = counted(gate)["f"]
    rows = np.asarray(gate)[MASK]
    np.testing.assert_allclose(low, np.mean(rows < 0.2, axis=0))
    np.testing.assert_allclose(high, np.mean(rows > 0.6, axis=0))
    every = diagnostics.saturation({"f": gate})["f"]
    np.testing.assert_allclose(every.low, np.mean(np.asarray(gate) < 0.1, axis=(0, 1)))
    lengths = diagnostics.saturation({"f": gate}, lengths=jnp.array([2, 0, 1]))["f"].high
    rows = np.concatenate([gate[:2, 0], gate[:1, 2]])
    np.testing.assert_allclose(lengths, np.mean(rows > 0.9, axis=0))


# Errors -----------------------------------------------------------------------------------------

CELL = gr.GRU(3)
XS = np.zeros((T, B, I), np.float32)


def params_of(cell=CELL):
    return cell.init(jax.random.key(0), I)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: diagnostics.gradient_norms(CELL, params_of(), XS, lambda c, y: y),
            "loss: got a v",
        ),
        (lambda: diagnostics.gradient_norms(CELL, params_of(), XS[..., :2], loss), "features on"),
        (lambda: diagnostics.gradient_norms(CELL, params_of(), XS[0, 0], loss), "xs: got shape"),
        (
            lambda: diagnostics.carry_gradients(CELL, params_of(), XS, loss, gr.ElmanCarry(XS[0])),
            r"carry: got ElmanCarry.*as in GRU\(",
        ),
        (lambda: diagnostics.gradient_reach({"a": (CELL, params_of())}, XS, of="x"), "of: got 'x'"),
        (lambda: diagnostics.gradient_reach({"a": (CELL, params_of())}, XS[:0]), "one step"),
        (
            lambda: diagnostics.gates(gr.Elman(3), params_of(gr.Elman(3)), XS),
            r"cell: got Elman.*names its gates",
        ),
        (lambda: diagnostics.saturation({"f": XS}, low=0.5, high=0.4), "low and high: got 0.5"),
        (lambda: diagnostics.saturation({"f": XS[0, 0]}), r"gates\['f'\]: got shape \(5,\)"),
        (lambda: diagnostics.saturation({"f": XS}, mask=np.ones(3, bool)), "mask: got shape"),
    ],
)
def test_errors(call, message):
    """Name the argument, what it got and what it expected."""
    with pytest.raises(ValueError, match=message):
        call()
