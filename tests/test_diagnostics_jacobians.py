"""Jacobians against NumPy and against the whole recurrence, exponents of maps that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import Leaky, assert_trees_close, normal, random_params

import gatedrnn as gr
from gatedrnn import diagnostics

I, T, B, H = 3, 5, 2, 3
MASK = np.array([[1, 1], [1, 0], [0, 1], [1, 1], [1, 0]], bool)
RESETS = np.array([[0, 0], [0, 0], [1, 0], [0, 1], [0, 0]], bool)


def elman(kernel, activation="tanh"):
    """An Elman network with this `W`, no bias, one input."""
    kernel = jnp.asarray(kernel, jnp.float64)
    cell = gr.Elman(len(kernel), activation=activation, use_bias=False)
    return cell, gr.ElmanParams(jnp.ones((1, len(kernel))), kernel, None)


# Steps ------------------------------------------------------------------------------------------


def test_step_jacobians_of_an_elman_network():
    """`diag(1 − h_t²) Wᵀ`, in NumPy."""
    cell = gr.Elman(H)
    params, xs = random_params(cell, I), normal(T, B, I)
    got = jax.jit(lambda xs: diagnostics.step_jacobians(cell, params, xs))(xs)
    hs = np.asarray(gr.unroll(cell, params, xs)[1])
    want = (1 - hs**2)[..., :, None] * np.asarray(params.recurrent_kernel).T
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_step_jacobians_of_one_leaf():
    """The memory of an LSTM by itself: `diag(f_t)`; and it is a block of the whole."""
    cell = gr.LSTM(H, projection=2)
    params, xs = random_params(cell, I), normal(T, B, I)
    alone = diagnostics.step_jacobians(cell, params, xs, leaf="c")
    f = np.asarray(diagnostics.gates(cell, params, xs)["f"])
    np.testing.assert_allclose(alone, f[..., :, None] * np.eye(H), rtol=1e-12)
    whole = diagnostics.step_jacobians(cell, params, xs)
    assert whole.shape == (T, B, 2 + H, 2 + H)
    np.testing.assert_allclose(whole[..., 2:, 2:], alone, rtol=1e-12)


@pytest.mark.parametrize("cell", [gr.GRU(H), gr.LSTM(2, peephole="full"), Leaky(H, 2)])
@pytest.mark.parametrize("reverse", [False, True])
def test_products_are_the_jacobian_of_the_recurrence(cell, reverse):
    """Of the final carry by the initial one, masked steps, resets and direction included."""
    params, xs = random_params(cell, I), normal(T, B, I)
    start = jax.tree.map(lambda v: normal(*v.shape, seed=1), cell.carry((B,), jnp.float64))
    # one row is reset, the other is not
    mask, resets = jnp.asarray(MASK), jnp.asarray(RESETS & [[False, True]])
    options = {"mask": mask, "resets": resets, "reverse": reverse}
    padded = jnp.where(mask[..., None], xs, jnp.nan)

    def flat(carry):
        return jnp.concatenate(jax.tree.leaves(carry), axis=-1)

    def final(start):
        return flat(gr.unroll(cell, params, xs, start, **options)[0])

    steps, whole = jax.jit(
        lambda: (
            diagnostics.step_jacobians(cell, params, padded, start, **options),
            jax.jacrev(final)(start),
        )
    )()
    got = diagnostics.product_jacobians(steps[::-1] if reverse else steps)
    for row in range(B):
        of_row = jax.tree.map(lambda v, row=row: v[row, :, row], whole)
        np.testing.assert_allclose(got[0, row], flat(of_row), rtol=1e-10, atol=1e-12)
    assert np.any(got[0, 0])
    assert not np.any(got[0, 1])  # nothing crosses the reset
    np.testing.assert_allclose(steps[2, 0], np.eye(steps.shape[-1]))


def test_products_and_singular_values_against_numpy():
    """`J_T … J_{t+1}` at index `t`, for any batch axes."""
    steps = normal(T, 2, 1, H, H)
    products = jax.jit(diagnostics.product_jacobians)(steps)
    want = np.eye(H)
    for t in reversed(range(T)):
        want = want @ np.asarray(steps[t])
        np.testing.assert_allclose(products[t], want, rtol=1e-10, atol=1e-12)
    values = diagnostics.singular_values(steps)
    np.testing.assert_allclose(values, np.linalg.svd(steps, compute_uv=False), rtol=1e-10)


# The bound --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("activation", "steepest"), [("tanh", 1), ("relu", 1), ("sigmoid", 0.25)])
def test_the_bound_of_an_elman_network_holds(activation, steepest):
    """`‖∂h_T/∂h_t‖ <= (γλ)^(T−t)`, `γ` the steepest slope, `λ` the largest singular value."""
    kernel = normal(H, H)
    cell, params = elman(kernel, activation)
    bound = diagnostics.jacobian_bound(cell, params, T)
    largest = np.linalg.norm(kernel, 2)
    np.testing.assert_allclose(bound, (steepest * largest) ** np.arange(T, 0, -1), rtol=1e-12)
    steps = diagnostics.step_jacobians(cell, params, normal(T, B, 1))
    norms = diagnostics.singular_values(diagnostics.product_jacobians(steps))[..., 0]
    assert np.all(norms <= bound[:, None] * (1 + 1e-12))


def test_the_linear_network_reaches_its_bound():
    """`h_n = wⁿ h_0`; under tanh the same `λ > 1/γ` shrinks: necessary, not enough."""
    cell, params = elman(1.5 * np.eye(H), "identity")
    steps = diagnostics.step_jacobians(cell, params, normal(T, B, 1))
    norms = diagnostics.singular_values(diagnostics.product_jacobians(steps))[..., 0]
    bound = diagnostics.jacobian_bound(cell, params, T)
    np.testing.assert_allclose(norms, np.broadcast_to(bound[:, None], norms.shape), rtol=1e-12)

    cell, params = elman(1.5 * np.eye(H), "tanh")
    steps = diagnostics.step_jacobians(cell, params, 1 + normal(60, B, 1) ** 2)
    norms = diagnostics.singular_values(diagnostics.product_jacobians(steps))[..., 0]
    assert np.all(norms[0] < 1e-6)
    assert diagnostics.jacobian_bound(cell, params, 60)[0] > 1e10


# Lyapunov exponents -----------------------------------------------------------------------------


def test_exponents_of_the_linear_network():
    """The logarithms of the moduli of the eigenvalues of `W`, which are not its singular values."""
    kernel = np.array([[0.5, 3.0, 0.0], [0.0, 1.2, -2.0], [0.0, 0.0, 0.8]])
    cell, params = elman(kernel, "identity")
    steps = diagnostics.step_jacobians(cell, params, jnp.zeros((300, B, 1)))
    got = diagnostics.lyapunov_exponents(steps, warm_up=200)
    want = np.sort(np.log(np.abs(np.linalg.eigvals(kernel))))[::-1]
    np.testing.assert_allclose(got, np.stack([want] * B), rtol=1e-9)
    half = diagnostics.lyapunov_exponents(steps, warm_up=200, dt=0.5)
    np.testing.assert_allclose(half, 2 * got, rtol=1e-12)


def test_exponent_of_a_rotation_that_scales():
    """Singular values all the same: the exponents are their logarithm from the first step on."""
    turn = np.linalg.qr(np.asarray(normal(H, H)))[0]
    cell, params = elman(1.1 * turn, "identity")
    steps = diagnostics.step_jacobians(cell, params, jnp.zeros((4, 1)))
    got = diagnostics.lyapunov_exponents(steps)
    np.testing.assert_allclose(got, np.full(H, np.log(1.1)), rtol=1e-10)


def test_exponent_of_the_logistic_map():
    """`x' = 4x(1 − x)` has the exponent `log 2` (Ruelle 1977)."""
    xs = [0.3]
    for _ in range(4000):
        xs.append(4 * xs[-1] * (1 - xs[-1]))
    steps = jnp.asarray(4 - 8 * np.array(xs))[:, None, None]
    (got,) = diagnostics.lyapunov_exponents(steps)
    assert abs(got - np.log(2)) < 0.005


def test_exponents_of_the_henon_map():
    """0.419 for `a = 1.4, b = 0.3`; every step shrinks areas by `b`, so they add up to `log b`."""
    x, y, steps = 0.1, 0.1, []
    for _ in range(4000):
        steps.append([[-2.8 * x, 1.0], [0.3, 0.0]])
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
    got = diagnostics.lyapunov_exponents(jnp.asarray(steps), warm_up=100)
    np.testing.assert_allclose(jnp.sum(got), np.log(0.3), rtol=1e-10)
    assert abs(got[0] - 0.419) < 0.02


def test_a_step_that_forgets_all():
    """After a reset nothing is left: minus infinity, not NaN."""
    steps = jnp.stack([jnp.eye(2), jnp.zeros((2, 2)), jnp.eye(2)])
    assert_trees_close(diagnostics.lyapunov_exponents(steps), jnp.full(2, -jnp.inf))


# Errors -----------------------------------------------------------------------------------------

CELL = gr.LSTM(H)
STEPS = np.zeros((4, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: diagnostics.step_jacobians(
                CELL, CELL.init(jax.random.key(0), I), np.zeros((T, I), np.float32), leaf="m"
            ),
            ValueError,
            "leaf: got 'm', expected None or one of 'h', 'c'",
        ),
        (
            lambda: diagnostics.jacobian_bound(CELL, CELL.init(jax.random.key(0), I), 3),
            TypeError,
            r"cell: got LSTM.*expected a gr\.Elman",
        ),
        (lambda: diagnostics.jacobian_bound(*elman(np.eye(2)), 0), ValueError, "steps: got 0"),
        (lambda: diagnostics.singular_values(STEPS[0, 0]), ValueError, r"shape \(2,\)"),
        (lambda: diagnostics.product_jacobians(STEPS[0]), ValueError, r"expected \[T, \*B, K, K\]"),
        (lambda: diagnostics.lyapunov_exponents(STEPS[:, :1]), ValueError, "jacobians: got shape"),
        (lambda: diagnostics.lyapunov_exponents(STEPS, warm_up=4), ValueError, "warm_up: got 4"),
        (lambda: diagnostics.lyapunov_exponents(STEPS, dt=0.0), ValueError, "dt: got 0.0"),
    ],
)
def test_errors(call, error, message):
    """Name the argument, what it got and what it expected."""
    with pytest.raises(error, match=message):
        call()
