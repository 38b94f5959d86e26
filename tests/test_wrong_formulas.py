"""Formulas for back-propagation through time that people learn from, and that are wrong.

Each network below is differentiated by hand in NumPy, one named line per quantity. With the exact
lines the result is the library's gradient and autodiff's. A row of the tables replaces lines by
what lecture slides and notes print, and its gradient is shown to be another one.

Inside the lines, `v` holds the quantities of step `t` and `after` those of step `t+1` (row vectors,
`[B, H]`); `dh` is `∂J/∂h_t`, `da` the cotangent of a pre-activation. The loss is a weighted sum of
all outputs.
"""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from reference import random_carry, random_params

import gatedrnn as gr
from gatedrnn._registry.equations import sigmoid

T, B, IN, H, OUT = 5, 2, 3, 4, 2
XS, DYS = (np.random.default_rng(seed).normal(size=(T, B, n)) for seed, n in ((7, IN), (8, H)))
DOS = np.random.default_rng(9).normal(size=(T, B, OUT))
HAND = gr.BPTT(rule="hand")
AUTODIFF = gr.BPTT(rule="autodiff")
CELL_PATH_ONLY = gr.BPTT(cell_path_only=True)


class Readout(NamedTuple):
    """`o_t = h_t V + c`, for the Elman network."""

    V: Any
    c: Any


class Network(NamedTuple):
    """A cell, and its gradients by hand: `by_hand(params, carry, lines) -> like gradients()`."""

    cell: Any
    exact: dict[str, Callable]
    by_hand: Callable

    def inputs(self):
        params, carry = random_params(self.cell, IN, scale=0.8), random_carry(self.cell, (B,))
        if isinstance(self.cell, gr.Elman):
            rng = np.random.default_rng(10)
            return (params, Readout(rng.normal(size=(H, OUT)), rng.normal(size=OUT))), carry
        return params, carry

    def gradients(self, bptt):
        """Gradients for parameters, initial carry and inputs, by the library."""
        return self.differentiate(functools.partial(gr.unroll, self.cell, bptt=bptt))

    def differentiate(self, run):
        """The same of `run(params, xs, carry) -> (carry, ys)`."""

        def loss(params, carry, xs):
            if isinstance(self.cell, gr.Elman):
                params, readout = params
                _, ys = run(params, xs, carry)
                return jnp.vdot(jnp.asarray(DOS), ys @ readout.V + readout.c[None, None])
            _, ys = run(params, xs, carry)
            return jnp.vdot(jnp.asarray(DYS), ys)

        inputs = jax.tree.map(jnp.asarray, (*self.inputs(), XS))
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)

    def gradients_by_hand(self, **printed):
        """The same in NumPy, with some lines as printed elsewhere."""
        unknown = printed.keys() - self.exact.keys()
        assert not unknown
        params, carry = jax.tree.map(np.asarray, self.inputs())
        return self.by_hand(params, carry, SimpleNamespace(**(self.exact | printed)))


def error(got, want):
    """The largest relative error of any gradient (absolute, where nothing is expected)."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    errors = jax.tree.map(lambda a, b: norm(a - b) / (norm(b) or 1.0), got, want)
    return max(jax.tree.leaves(errors))


def norm(a):
    return np.linalg.norm(np.ravel(a))


def sum_outer(lefts, rights):
    """`Σ leftᵀ right` over time and batch."""
    return np.einsum("tbi,tbo->io", np.stack(lefts), np.stack(rights))


def through_time(steps):
    """`(v, after)` from the last step to the first; after the last, every cotangent is zero."""
    return zip(reversed(steps), [NOTHING, *reversed(steps[1:])], strict=True)


class _Nothing:
    """What follows the last step: zero whatever is asked of it."""

    def __getattr__(self, name):
        return np.zeros((B, H))


NOTHING = _Nothing()

# The Elman network with a read-out ----------------------------------------------------------------


ELMAN = {
    "dh": lambda v, after: v.do @ v.V.T + after.da @ v.W.T,
    "da": lambda v: v.dh * v.slope,
    "da_of_weights": lambda v, after: v.da,
}


def elman_by_hand(activation, slope, params, carry, lines):
    (p, readout), h = params, carry.h
    steps = []
    for x, do in zip(XS, DOS, strict=True):
        v = SimpleNamespace(x=x, do=do, before=h, V=readout.V, W=p.recurrent_kernel)
        h = v.h = activation(x @ p.kernel + h @ v.W + p.bias)
        v.slope = slope(h)
        steps.append(v)
    for v, after in through_time(steps):
        v.dh = lines.dh(v, after)
        v.da = lines.da(v)
        v.da_of_weights = lines.da_of_weights(v, after)
    das = [v.da_of_weights for v in steps]
    dparams = p._replace(
        kernel=sum_outer(XS, das),
        recurrent_kernel=sum_outer([v.before for v in steps], das),
        bias=np.sum(das, axis=(0, 1)),
    )
    dreadout = Readout(sum_outer([v.h for v in steps], DOS), DOS.sum((0, 1)))
    first = steps[0]
    dh_0 = first.da @ first.W.T
    return (dparams, dreadout), carry._replace(h=dh_0), np.stack([v.da @ p.kernel.T for v in steps])


def solve_for_itself(v, after):
    """`dh = do Vᵀ + (dh ⊙ f') Wᵀ`: literally, `dh` stands on both sides."""
    coupling = np.eye(H) - v.slope[:, :, None] * v.W.T
    return np.linalg.solve(coupling.swapaxes(1, 2), (v.do @ v.V.T)[..., None])[..., 0]


# The LSTM, with a recurrent projection R (the unit matrix without one) ----------------------------

LSTM = {
    "dr": lambda v, after: v.dy + through_gates(v, after),
    "dm": lambda v, after: v.dr @ v.R.T,
    "da_o": lambda v: v.dm * v.tanh_c * v.o * (1 - v.o),
    "dc": lambda v, after: v.dm * v.o * (1 - v.tanh_c**2) + after.dc * after.f,
    "da_g": lambda v: v.dc * v.i * (1 - v.g**2),
    "da_i": lambda v: v.dc * v.g * v.i * (1 - v.i),
    "da_f": lambda v: v.dc * v.c_before * v.f * (1 - v.f),
}


def through_gates(v, after):
    """What comes back to `r_t` through the four gates of step `t+1`."""
    return after.da_i @ v.W_i.T + after.da_f @ v.W_f.T + after.da_g @ v.W_g.T + after.da_o @ v.W_o.T


def lstm_by_hand(params, carry, lines):
    p, (r, c) = params, carry
    R = np.eye(H) if p.projection_kernel is None else p.projection_kernel
    weights = {"R": R}
    weights["W_i"], weights["W_f"], weights["W_g"], weights["W_o"] = np.hsplit(
        p.recurrent_kernel, 4
    )
    steps = []
    for x, dy in zip(XS, DYS, strict=True):
        v = SimpleNamespace(dy=dy, r_before=r, c_before=c, **weights)
        a_i, a_f, a_g, a_o = np.hsplit(x @ p.kernel + r @ p.recurrent_kernel + p.bias, 4)
        v.i, v.f, v.g, v.o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
        c = v.f * c + v.i * v.g
        v.tanh_c = np.tanh(c)
        v.m = v.o * v.tanh_c
        r = v.m @ R
        steps.append(v)
    for v, after in through_time(steps):
        v.dr = lines.dr(v, after)
        v.dm = lines.dm(v, after)
        v.da_o = lines.da_o(v)
        v.dc = lines.dc(v, after)
        v.da_i, v.da_f, v.da_g = lines.da_i(v), lines.da_f(v), lines.da_g(v)
    das = [np.hstack([v.da_i, v.da_f, v.da_g, v.da_o]) for v in steps]
    dprojection = sum_outer([v.m for v in steps], [v.dr for v in steps])
    dparams = p._replace(
        kernel=sum_outer(XS, das),
        recurrent_kernel=sum_outer([v.r_before for v in steps], das),
        bias=np.sum(das, axis=(0, 1)),
        projection_kernel=None if p.projection_kernel is None else dprojection,
    )
    nowhere = SimpleNamespace(dy=np.zeros((B, H)), dm=0, o=0, tanh_c=0, **weights)
    dcarry = carry._replace(h=lines.dr(nowhere, steps[0]), c=lines.dc(nowhere, steps[0]))
    return dparams, dcarry, np.stack([da @ p.kernel.T for da in das])


# The GRU, reset before the product, update gate writes --------------------------------------------

GRU = {
    "dh": lambda v, after: (
        v.dy
        + after.dh * (1 - after.z)
        + after.dh_reset
        + after.da_r @ v.W_rh.T
        + after.da_z @ v.W_zh.T
    ),
    "ds": lambda v: v.dh * v.z * (1 - v.n**2),
    "da_z": lambda v: v.dh * (v.n - v.before) * v.z * (1 - v.z),
    "da_z_of_weights": lambda v: v.da_z,
    "da_r": lambda v: (v.ds @ v.W_sh.T) * v.before * v.r * (1 - v.r),
    "dh_reset": lambda v: (v.ds @ v.W_sh.T) * v.r,  # to h_{t-1}, through r ⊙ h_{t-1}
}


def gru_by_hand(params, carry, lines):
    p, h = params, carry.h
    W_rx, W_zx, W_sx = np.split(p.kernel, 3, axis=-1)
    W_rh, W_zh, W_sh = np.split(p.recurrent_kernel, 3, axis=-1)
    b_r, b_z, b_s = np.split(p.bias, 3)
    steps = []
    for x, dy in zip(XS, DYS, strict=True):
        v = SimpleNamespace(x=x, dy=dy, before=h, W_rh=W_rh, W_zh=W_zh, W_sh=W_sh)
        v.r = sigmoid(x @ W_rx + h @ W_rh + b_r)
        v.z = sigmoid(x @ W_zx + h @ W_zh + b_z)
        v.n = np.tanh(x @ W_sx + (v.r * h) @ W_sh + b_s)
        h = (1 - v.z) * h + v.z * v.n
        steps.append(v)
    for v, after in through_time(steps):
        v.dh = lines.dh(v, after)
        v.ds = lines.ds(v)
        v.da_z, v.da_r = lines.da_z(v), lines.da_r(v)
        v.dh_reset = lines.dh_reset(v)

    def total(left, da):
        return sum_outer([left(v) for v in steps], [da(v) for v in steps])

    parts = {
        "r": (lambda v: v.before, lambda v: v.da_r),
        "z": (lambda v: v.before, lines.da_z_of_weights),
        "s": (lambda v: v.r * v.before, lambda v: v.ds),
    }
    dparams = p._replace(
        kernel=np.hstack([total(lambda v: v.x, da) for _, da in parts.values()]),
        recurrent_kernel=np.hstack([total(left, da) for left, da in parts.values()]),
        bias=np.hstack([sum(da(v).sum(0) for v in steps) for _, da in parts.values()]),
    )
    first = steps[0]
    nowhere = SimpleNamespace(dy=np.zeros((B, H)), z=first.z, W_rh=W_rh, W_zh=W_zh)
    dh_0 = lines.dh(nowhere, first)
    dxs = [v.da_r @ W_rx.T + v.da_z @ W_zx.T + v.ds @ W_sx.T for v in steps]
    return dparams, carry._replace(h=dh_0), np.stack(dxs)


# The tables ---------------------------------------------------------------------------------------

NETWORKS = {
    "elman": Network(
        gr.Elman(H), ELMAN, functools.partial(elman_by_hand, np.tanh, lambda h: 1 - h**2)
    ),
    "logistic": Network(
        gr.Elman(H, activation="sigmoid"),
        ELMAN,
        functools.partial(elman_by_hand, sigmoid, lambda h: h * (1 - h)),
    ),
    "linear": Network(
        gr.Elman(H, activation="identity"),
        ELMAN,
        functools.partial(elman_by_hand, lambda a: a, np.ones_like),
    ),
    "lstm": Network(gr.LSTM(H), LSTM, lstm_by_hand),
    "projected": Network(gr.LSTM(H, projection=H), LSTM, lstm_by_hand),
    "gru": Network(gr.GRU(H, reset="before", update="writes"), GRU, gru_by_hand),
}

# The printed formulas that are also exact for a truncated gradient, the cell path alone.
GRU_CELL_PATH = {"dh": lambda v, after: v.dy + after.dh * (1 - after.z)}
LSTM_CELL_PATH = {"dr": lambda v, after: v.dy}

WRONG = {
    # the GRU: the reset gate multiplies after the product with W_sh, not before
    "gru: through the reset, (δs ⊙ r) W_shᵀ for (δs W_shᵀ) ⊙ r": (
        "gru",
        {"dh_reset": lambda v: (v.ds * v.r) @ v.W_sh.T},
    ),
    "gru: to the reset gate, (δs ⊙ h) W_shᵀ for (δs W_shᵀ) ⊙ h": (
        "gru",
        {"da_r": lambda v: ((v.ds * v.before) @ v.W_sh.T) * v.r * (1 - v.r)},
    ),
    "gru: weights of z without z(1−z)": (
        "gru",
        {"da_z_of_weights": lambda v: v.dh * (v.n - v.before)},
    ),
    "gru: through time with 1 − z_t": (
        "gru",
        {"dh": lambda v, after: v.dy + after.dh * (1 - v.z)},
    ),
    "gru: through time with 1 − z_{t+1} and no gate": ("gru", GRU_CELL_PATH),
    # the LSTM: the output gate is logistic, and r_{t-1} feeds all four gates
    "lstm: output gate with 1 − o² for o(1−o)": (
        "lstm",
        {"da_o": lambda v: v.dm * v.tanh_c * (1 - v.o**2)},
    ),
    "lstm: through time without the gates": ("lstm", LSTM_CELL_PATH),
    "projection: the gates read m for r": (
        "projected",
        {
            "dr": lambda v, after: v.dy,
            "dm": lambda v, after: v.dr @ v.R.T + through_gates(v, after),
        },
    ),
    # Elman networks: a step's own slope, its own index
    "elman: f'(a_t) for f'(a_{t+1}) where step t+1 is crossed": (
        "elman",
        {"dh": lambda v, after: v.do @ v.V.T + (after.dh * v.slope) @ v.W.T},
    ),
    "elman: weights with the slope and cotangent of t+1": (
        "elman",
        {"da_of_weights": lambda v, after: after.da},
    ),
    "elman: δa_t for δa_{t+1} in what comes back": ("elman", {"dh": solve_for_itself}),
    "elman: unrolled without tanh'": ("elman", {"da": lambda v: v.dh}),
    # ∂J/∂i where ∂J/∂a^i is meant
    "lstm: input gate without i(1−i)": ("lstm", {"da_i": lambda v: v.dc * v.g}),
    "lstm: forget gate without f(1−f)": ("lstm", {"da_f": lambda v: v.dc * v.c_before}),
    "lstm: candidate without 1 − g²": ("lstm", {"da_g": lambda v: v.dc * v.i}),
    "lstm: output gate without o(1−o)": ("lstm", {"da_o": lambda v: v.dm * v.tanh_c}),
    "gru: reset gate without r(1−r)": (
        "gru",
        {"da_r": lambda v: (v.ds @ v.W_sh.T) * v.before},
    ),
    "gru: update gate without z(1−z)": ("gru", {"da_z": lambda v: v.dh * (v.n - v.before)}),
    "gru: candidate without 1 − n²": ("gru", {"ds": lambda v: v.dh * v.z}),
}


@functools.cache
def library_gradients(name, bptt):
    return NETWORKS[name].gradients(bptt)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_exact_lines_are_the_librarys_and_autodiffs_gradient(name):
    got = NETWORKS[name].gradients_by_hand()
    assert error(got, library_gradients(name, HAND)) < 1e-10
    assert error(got, library_gradients(name, AUTODIFF)) < 1e-10


@pytest.mark.parametrize(("name", "printed"), WRONG.values(), ids=WRONG)
def test_the_printed_line_is_wrong(name, printed):
    got = NETWORKS[name].gradients_by_hand(**printed)
    assert error(got, library_gradients(name, AUTODIFF)) > 1e-2


def test_leaving_out_the_slope_is_right_for_the_linear_network_only():
    got = NETWORKS["linear"].gradients_by_hand(da=lambda v: v.dh)
    assert error(got, library_gradients("linear", AUTODIFF)) < 1e-10


# Printed as the gradient, exact for the cell path alone -------------------------------------------


@pytest.mark.parametrize(
    ("name", "printed"), [("gru", GRU_CELL_PATH), ("lstm", LSTM_CELL_PATH)], ids=["gru", "lstm"]
)
def test_the_printed_line_is_the_cell_path_only_gradient(name, printed):
    network = NETWORKS[name]
    got = network.gradients_by_hand(**printed)
    assert error(got, library_gradients(name, CELL_PATH_ONLY)) < 1e-10
    assert error(got, network.differentiate(stopped(network.cell))) < 1e-10


@pytest.mark.parametrize(
    "cell",
    [
        gr.LSTM(H, peephole="diagonal", coupled=True),
        gr.LSTM(H, peephole="full", projection=H),
        gr.GRU(H, reset="after", update="keeps"),
    ],
    ids=repr,
)
def test_cell_path_only_is_autodiff_with_the_recurrent_input_stopped(cell):
    network = Network(cell, {}, None)
    got = network.gradients(CELL_PATH_ONLY)
    assert error(got, network.differentiate(stopped(cell))) < 1e-10


def stopped(cell):
    """`cell` through time, its recurrent input under `stop_gradient` where only the state is cut.

    An LSTM reads `h` in its pre-activations alone (`c` and the peepholes have a path of their own).
    A GRU also carries `h` on: what is added back moves with `h` and is zero.
    """

    def step(params, carry, x):
        seen = carry._replace(h=lax.stop_gradient(carry.h))
        after, y = cell.step(params, seen, x)
        if isinstance(cell, gr.GRU):
            kept = share_kept(cell, params, seen.h, x) * (carry.h - seen.h)
            after, y = after._replace(h=after.h + kept), y + kept
        return after, y

    return lambda params, xs, carry: lax.scan(functools.partial(step, params), carry, xs)


def share_kept(cell, p, h, x):
    """The share of the old state that a GRU keeps: `1 − z` (writes) or `z` (keeps)."""
    (_, W_zx, _), (_, W_zh, _), (_, b_z, _) = (
        jnp.split(w, 3, axis=-1) for w in (p.kernel, p.recurrent_kernel, p.bias)
    )
    a = x @ W_zx + h @ W_zh
    z = jax.nn.sigmoid(a + jnp.broadcast_to(b_z, a.shape))
    return 1 - z if cell.update == "writes" else z


# Statements rather than lines ---------------------------------------------------------------------


def test_projection_the_recurrence_reads_r_and_not_m():
    """A network whose gates read `m_{t-1}` and whose outputs are `m_t R` is another network."""
    cell = NETWORKS["projected"].cell
    params, carry = jax.tree.map(jnp.asarray, NETWORKS["projected"].inputs())
    plain = gr.LSTM(H)
    _, ms = gr.unroll(plain, params._replace(projection_kernel=None), XS, carry)
    _, ys = gr.unroll(cell, params, XS, carry)
    np.testing.assert_allclose(ys[0], (ms @ params.projection_kernel)[0], rtol=1e-12)
    assert error(ms @ params.projection_kernel, ys) > 1e-2


def jacobian_norm(activation, scale, steps=20):
    """`‖∂h_T/∂h_0‖₂` of `h_t = f(scale · h_{t-1})`."""
    cell = gr.Elman(H, activation=activation, use_bias=False)
    params = random_params(cell, IN)._replace(recurrent_kernel=scale * jnp.eye(H))
    xs = jnp.zeros((steps, IN))

    def last(h):
        carry, _ = gr.unroll(cell, params, xs, cell.carry((), dtype=h.dtype)._replace(h=h))
        return carry.h

    return np.linalg.norm(jax.jacrev(last)(jnp.linspace(0.2, 0.8, H)), ord=2)


def test_exploding_a_large_singular_value_is_necessary_and_not_sufficient():
    """With `γ = max|f'|`: below `1/γ` it must vanish, above it may explode, or shrink."""
    assert jacobian_norm("tanh", 0.9) < 0.9**20
    assert jacobian_norm("sigmoid", 3.9) < (3.9 / 4) ** 20
    assert jacobian_norm("identity", 1.5) == pytest.approx(1.5**20)
    assert jacobian_norm("tanh", 1.5) < 1e-5  # though λ = 1.5 > 1/γ = 1
    assert jacobian_norm("sigmoid", 4.1) < 1e-5  # though λ = 4.1 > 1/γ = 4


def test_clipping_is_of_the_gradients_and_not_of_the_parameters():
    limit, rate = 0.1, 0.5
    (params, _), _ = NETWORKS["elman"].inputs()
    (grads, _), _, _ = library_gradients("elman", HAND)

    clip = optax.chain(optax.clip(limit), optax.sgd(rate))
    updates, _ = clip.update(grads, clip.init(params))
    sizes = jnp.concatenate([jnp.ravel(leaf) for leaf in updates])
    np.testing.assert_allclose(jnp.abs(sizes).max(), rate * limit)  # a step of bounded length

    stepped = jax.tree.map(lambda p, g: p - rate * g, params, grads)
    printed = jax.tree.map(lambda p: jnp.clip(p, -limit, limit), stepped)
    assert error(printed, optax.apply_updates(params, updates)) > 1e-2
    # and clipped parameters are another network before anything is learnt
    unlearnt = jax.tree.map(lambda p: jnp.clip(p, -limit, limit), params)
    ys, clipped = (gr.unroll(gr.Elman(H), p, jnp.asarray(XS))[1] for p in (params, unlearnt))
    assert error(clipped, ys) > 1e-2
