"""Slices of the loss and paths of descent are what is found point by point and step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import normal

import gatedrnn as gr
from gatedrnn import diagnostics

CELL = gr.Elman(1, activation="identity", use_bias=False)
PARAMS = gr.ElmanParams(jnp.zeros((1, 1)), jnp.full((1, 1), 0.9), None)
DIRECTIONS = (
    PARAMS._replace(kernel=jnp.ones((1, 1)), recurrent_kernel=jnp.zeros((1, 1))),
    PARAMS._replace(kernel=jnp.full((1, 1), 0.5), recurrent_kernel=jnp.ones((1, 1))),
)
XS = normal(6, 1)


def loss(params):
    """`(h_T − 1)²` from `h_0 = 0.5`: a plateau below `w = 1`, a wall above it."""
    final, _ = gr.unroll(CELL, params, XS, gr.ElmanCarry(jnp.full(1, 0.5)))
    return jnp.sum(final.h - 1) ** 2


def by_hand(u, v):
    """The same in NumPy, at the point with these coordinates."""
    kernel, w, h = u + 0.5 * v, 0.9 + v, 0.5
    for x in np.asarray(XS)[:, 0]:
        h = x * kernel + h * w
    return (h - 1) ** 2


def test_slice_over_a_plane():
    """Every point of the grid, the first direction on the first axis; under `jit`."""
    u, v = np.linspace(-1, 1, 13), np.linspace(-0.5, 0.5, 7)
    take = jax.jit(lambda p: diagnostics.loss_slice(loss, p, DIRECTIONS, (u, v)))
    surface = take(PARAMS)
    assert surface.losses.shape == (13, 7)
    np.testing.assert_allclose(surface.losses, by_hand(u[:, None], v[None, :]), rtol=1e-10)
    np.testing.assert_array_equal(surface.coordinates[0], u)
    np.testing.assert_array_equal(surface.coordinates[1], v)


def test_slice_along_a_line():
    """One direction, `[N]`."""
    v = np.linspace(-0.5, 0.5, 5)
    surface = diagnostics.loss_slice(loss, PARAMS, DIRECTIONS[1:], [v])
    np.testing.assert_allclose(surface.losses, by_hand(0.0, v), rtol=1e-10)


@pytest.mark.parametrize("clip", [None, 2.0])
def test_path_is_that_of_gradient_descent(clip):
    """By optax, over the coordinates; the path lies on the surface."""
    start, rate, steps = jnp.array([0.4, 0.3]), 0.02, 4

    def at(point):
        parts = [
            jax.tree.map(lambda d, u=u: u * d, way)
            for u, way in zip(point, DIRECTIONS, strict=True)
        ]
        return loss(jax.tree.map(lambda p, a, b: p + a + b, PARAMS, *parts))

    path = jax.jit(
        lambda start: diagnostics.descent_path(
            loss, PARAMS, DIRECTIONS, start, learning_rate=rate, steps=steps, clip=clip
        )
    )(start)
    clipping = optax.identity() if clip is None else optax.clip_by_global_norm(clip)
    optimiser = optax.chain(clipping, optax.sgd(rate))
    state, point, norms = optimiser.init(start), start, []
    slope = jax.jit(jax.grad(at))
    for got in path.coordinates:
        np.testing.assert_allclose(got, point, rtol=1e-10)
        norms.append(np.linalg.norm(slope(point)))
        updates, state = optimiser.update(slope(point), state)
        point = point + updates
    np.testing.assert_allclose(path.gradient_norms, norms, rtol=1e-10)
    np.testing.assert_allclose(path.losses, by_hand(*np.asarray(path.coordinates).T), rtol=1e-10)
    if clip is not None:  # some steps are clipped, others are not
        assert min(norms[:-1]) < clip < max(norms)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": ()}, "directions: got 0, expected 1 or 2"),
        ({"directions": (PARAMS, np.zeros(3))}, r"directions\[1\]: got \(3,\), expected ElmanP"),
        ({"start": np.zeros(3)}, r"start: got shape \(3,\), expected \(2,\)"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0"),
        ({"steps": 0}, "steps: got 0"),
        ({"clip": -1.0}, "clip: got -1.0"),
        ({"loss": lambda p: p.kernel}, "loss: got a value of shape"),
    ],
)
def test_errors_of_paths(changes, message):
    """Name the argument, what it got and what it expected."""
    arguments = {"loss": loss, "params": PARAMS, "directions": DIRECTIONS, "start": np.zeros(2)}
    arguments |= {"learning_rate": 0.1, "steps": 2}
    with pytest.raises(ValueError, match=message):
        diagnostics.descent_path(**(arguments | changes))


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        ([np.zeros(2)], "coordinates: got 1, expected 2"),
        ([np.zeros(2), np.zeros((2, 2))], r"coordinates: got shape \(2, 2\)"),
    ],
)
def test_errors_of_slices(coordinates, message):
    """Name the argument, what it got and what it expected."""
    with pytest.raises(ValueError, match=message):
        diagnostics.loss_slice(loss, PARAMS, DIRECTIONS, coordinates)


def test_coordinates_of_integers_and_arrays_and_a_counter_among_the_parameters():
    """Any sequence serves, integers are numbers, and no direction moves what is no number."""

    def squared(params):
        return jnp.sum(params["w"] ** 2)

    params = {"w": jnp.ones(1), "n": jnp.array(3)}
    along = [{"w": jnp.ones(1), "n": jnp.array(0)}]
    for coordinates in ([[-1, 0, 1]], [np.arange(-1, 2)], jnp.array([[-1.0, 0.0, 1.0]])):
        found = diagnostics.loss_slice(squared, params, along, coordinates)
        assert found.losses.tolist() == [0, 1, 4]
    path = diagnostics.descent_path(squared, params, along, [0], learning_rate=0.5, steps=1)
    assert path.coordinates.tolist() == [[0], [-1]]
