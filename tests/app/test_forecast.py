from pathlib import Path

import jax
import numpy as np
import pytest

from gatedrnn._app import tasks
from gatedrnn._app.data import mackey_glass
from gatedrnn._app.tasks.forecast import over_the_horizon

from . import tiny


@pytest.fixture
def forecast(workplace):
    """The task by a tiny configuration (P = 6, H = 3), with settings overridden."""
    Path("tiny.toml").write_text(tiny.configuration("forecast"), encoding="utf-8")
    return lambda *overrides: tasks.load("tiny.toml", overrides).make()


def test_batches_are_stretches_of_the_training_readings(forecast):
    task = forecast()
    observed = task.parts.train.observed
    known = ((observed - observed.mean()) / observed.std()).astype(np.float32)
    stretches = np.lib.stride_tricks.sliding_window_view(known, 9)
    seen = set()
    for step in range(40):
        batch = task.batch(step)
        assert batch.shape == (9, 4, 1)
        assert batch.dtype == np.float32
        for stretch in batch[..., 0].T:
            (place,) = np.flatnonzero((stretches == stretch).all(axis=1))
            seen.add(int(place))
    assert seen == set(range(len(stretches)))  # an epoch, and a little more


def test_a_forecast_feeds_on_itself(forecast):
    """The outputs from the end of the context on are those of `apply` on contexts that grow."""
    task = forecast()
    model = task.models["LSTM"]
    params = model.init(jax.random.key(1))
    xs = task.batch(0)[:6]
    got = np.asarray(model.forecast(params, xs))
    assert got.shape == (3, 4, 1)
    for horizon in range(3):
        _, ys = model.net.apply(params, np.concatenate([xs, got[:horizon]]))
        np.testing.assert_allclose(got[horizon], ys[-1], rtol=1e-5, atol=1e-6)


def test_the_loss_is_over_all_horizons(forecast):
    task = forecast()
    model, batch = task.models["LSTM"], task.batch(0)
    params = model.init(jax.random.key(1))
    errors = np.asarray(model.forecast(params, batch[:6])) - batch[6:]
    loss, carry = model.loss(params, (), batch, jax.random.key(0))
    assert (float(loss), carry) == (pytest.approx(np.mean(errors**2), rel=1e-5), ())


def test_measures_are_of_the_series_without_noise(forecast, monkeypatch):
    """A forecast that is off by one standard deviation has an error of 1, whatever the horizon."""
    task = forecast()

    def off(name, params, part):
        _, truth = mackey_glass.forecasts(part, context=6, horizon=3, stride=2)
        return truth + part.clean.std() * np.array([1.0, 2.0, 3.0])

    monkeypatch.setattr(task, "predictions", off)
    close = pytest.approx
    assert task.evaluate("LSTM", None) == {
        "error": close(2),
        "one step": close(1),
        "3 steps": close(3),
        "test: error": close(2),
        "test: one step": close(1),
        "test: 3 steps": close(3),
    }


def test_predictions_are_in_the_units_of_the_series(forecast):
    """Persistence by a network: no change is added to the last reading."""
    task = forecast()
    model = task.models["LSTM"]
    nothing = jax.tree.map(np.zeros_like, model.init(jax.random.key(0)))
    part = task.parts.test
    contexts, _ = mackey_glass.forecasts(part, context=6, horizon=3, stride=2)
    expected = mackey_glass.persistence(contexts, 3)
    np.testing.assert_allclose(task.predictions("LSTM", nothing, part), expected, rtol=1e-5)
    part = task.parts.validation
    error = task.evaluate("LSTM", nothing)["error"]
    assert task.baselines()["persistence"] == pytest.approx(error, rel=1e-5)


def test_the_autoregression_reads_the_training_part_and_whole_contexts(forecast):
    task = forecast()
    weights = mackey_glass.fit_autoregression(task.parts.train.observed, 6)
    part = task.parts.validation
    contexts, truth = mackey_glass.forecasts(part, context=6, horizon=3, stride=2)
    errors = mackey_glass.autoregression(weights, contexts, 3) - truth
    expected = np.sqrt((errors**2).mean(axis=0)).mean() / part.clean.std()
    assert task.baselines()["linear autoregression"] == pytest.approx(expected, rel=1e-9)


def test_pictures(forecast):
    task = forecast('model.cells=["GRU", "LSTM"]')
    params = {name: model.init(jax.random.key(0)) for name, model in task.models.items()}
    pictures = task.pictures(params)
    names = ["persistence", "linear autoregression", "GRU", "LSTM"]
    panels = pictures["forecasts.png"].axes
    assert len(panels) == 3
    _, truth = mackey_glass.forecasts(task.parts.test, context=6, horizon=3, stride=2)
    lines = {line.get_label(): line.get_ydata() for line in panels[-1].lines}
    np.testing.assert_array_equal(lines["truth"], truth[-1])
    np.testing.assert_array_equal(
        lines["GRU"], task.predictions("GRU", params["GRU"], task.parts.test)[-1]
    )
    (axes,) = pictures["horizon.png"].axes
    assert [line.get_label() for line in axes.lines] == names
    mean = np.mean(axes.lines[-1].get_ydata())
    assert task.evaluate("LSTM", params["LSTM"])["test: error"] == pytest.approx(mean)


def test_every_model_of_many_has_a_line():
    errors = {f"{n}": np.ones(2) for n in range(9)}
    assert len(over_the_horizon(errors).axes[0].lines) == 9


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("data.context=18",),
            "data.context, data.horizon: got 18 and 3, expected a sum of at most 20, the readings",
        ),
        (("data.length=99",), "data.length: got 99, an integer, expected an integer from 100"),
        (("data.snr_db=nan",), "data.snr_db: got nan, a number, expected a number from -20 to 100"),
    ],
)
def test_settings_that_do_not_fit(forecast, refuses, overrides, words):
    forecast("data.context=17")
    arguments = [part for override in overrides for part in ("--set", override)]
    refuses("train", "tiny.toml", *arguments, words=(words,))
