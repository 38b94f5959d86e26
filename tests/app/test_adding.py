from pathlib import Path

import jax
import numpy as np
import pytest

from gatedrnn._app import tasks
from gatedrnn._app.tasks.adding import generate

from . import tiny


@pytest.fixture
def adding(workplace):
    """The task by a tiny configuration, with settings overridden."""
    Path("tiny.toml").write_text(tiny.configuration("adding"), encoding="utf-8")
    return lambda *overrides: tasks.load("tiny.toml", overrides).make()


@pytest.mark.parametrize("length", [2, 3, 10])
def test_the_sum_is_of_one_number_of_either_half(length):
    xs, sums = generate(np.random.default_rng(0), length, 500)
    numbers, marks = np.moveaxis(xs, -1, 0)
    assert xs.shape == (length, 500, 2)
    assert xs.dtype == sums.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.isin(marks, (0, 1)).all()
    for half in (marks[: length // 2], marks[length // 2 :]):
        np.testing.assert_array_equal(half.sum(axis=0), 1)
        assert half.any(axis=1).all()  # every step is marked in some sequence
    for column in range(500):
        assert sums[column] == np.float32(numbers[marks[:, column] == 1, column].sum())


def test_the_constant_guess_has_an_error_of_a_sixth(adding):
    baselines = adding("data.held_out=20000").baselines()
    assert baselines == {"always 1": pytest.approx(1 / 6, rel=0.03)}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_held_out_sequences_are_never_trained_on(adding, seed):
    task = adding(f"train.seed={seed}")
    held = {column.tobytes() for column in np.moveaxis(task.held.xs, 1, 0)}
    for step in (0, 1, 2):
        assert not held & {column.tobytes() for column in np.moveaxis(task.batch(step).xs, 1, 0)}
    np.testing.assert_array_equal(task.held.xs, adding("train.seed=7").held.xs)


def test_the_error_is_the_mean_of_the_squares(adding):
    """Of what the last step says; the loss is the same on a batch."""
    task = adding()
    model = task.models["GRU"]
    params = model.init(jax.random.key(1))
    _, ys = model.net.layer.apply(params, task.held.xs)
    expected = np.mean((np.asarray(ys[-1, :, 0]) - task.held.sums) ** 2)
    assert task.evaluate("GRU", params) == {"error": pytest.approx(expected, rel=1e-5)}
    loss, carry = model.loss(params, (), task.held, jax.random.key(0))
    assert (float(loss), carry) == (pytest.approx(expected, rel=1e-5), ())


def test_the_picture_has_a_panel_for_every_model(adding):
    task = adding()
    params = {name: model.init(jax.random.key(0)) for name, model in task.models.items()}
    panels = task.pictures(params)["predictions.png"].axes
    assert [axes.get_title(loc="left") for axes in panels] == ["Elman", "GRU"]
    for axes, name in zip(panels, params, strict=True):
        _, points = axes.lines
        np.testing.assert_array_equal(points.get_xdata(), task.held.sums)
        np.testing.assert_array_equal(points.get_ydata(), task.predictions(name, params[name]))


@pytest.mark.parametrize("length", [1, 100_001])
def test_lengths_that_cannot_be(adding, refuses, length):
    adding()
    words = (f"data.length: got {length}, an integer, expected an integer from 2 to 100000",)
    refuses("train", "tiny.toml", "--set", f"data.length={length}", words=words)
