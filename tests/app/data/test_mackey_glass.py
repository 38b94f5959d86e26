from itertools import pairwise

import numpy as np
import pytest

from gatedrnn._app.data import mackey_glass as mg


def test_the_integrator_is_of_order_four():
    """Halving the step divides the error by 2⁴, across the kinks at multiples of the delay too."""
    exact = mg.integrate(60, per_unit=64)
    errors = [np.abs(mg.integrate(60, per_unit=n) - exact).max() for n in (2, 4, 8)]
    assert errors[-1] < 1e-7
    for coarse, fine in pairwise(errors):
        assert 11 < coarse / fine < 24


def test_before_the_delay_has_passed_the_equation_is_linear():
    """The delayed value is the constant c, so x relaxes to β c / (1 + cⁿ) / γ at the rate γ."""
    t = np.arange(18)
    limit = 0.2 * 1.2 / (1 + 1.2**10) / 0.1
    np.testing.assert_allclose(
        mg.integrate(17), limit + (1.2 - limit) * np.exp(-0.1 * t), rtol=0, atol=1e-9
    )


def test_a_fixed_point_stays():
    """β / (1 + xⁿ) = γ at x = 1."""
    np.testing.assert_allclose(mg.integrate(40, start=1.0), 1.0, atol=1e-12)


def test_the_series_is_the_known_one():
    clean = mg.generate(3000, seed=0).clean
    assert 0.2 < clean.min() < 0.5
    assert 1.25 < clean.max() < 1.45
    assert clean.std() == pytest.approx(0.23, abs=0.02)
    spectrum = np.abs(np.fft.rfft(clean - clean.mean()))
    assert 40 < 3000 / spectrum.argmax() < 60  # it swings with a period of about 50


def test_the_series_is_chaotic():
    """Two histories that are nearly the same part, at about 0.007 per unit of time."""
    near = [mg.integrate(3000, start=start, per_unit=5) for start in (1.2, 1.2 + 1e-6)]
    apart = np.abs(near[0] - near[1])
    assert apart[:300].max() < 1e-4
    assert apart[-500:].max() > 0.1


def test_noise_has_the_stated_power():
    for snr_db in (10.0, 30.0):
        series = mg.generate(4000, seed=1, snr_db=snr_db)
        noise = series.observed - series.clean
        assert 10 * np.log10(series.clean.var() / noise.var()) == pytest.approx(snr_db, abs=0.3)
        assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.06


def test_the_seed_decides():
    once, again, other = (mg.generate(50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once.observed, again.observed)
    assert np.abs(once.clean - other.clean).max() > 0.01


def test_parts_follow_one_another():
    series = mg.generate(100, seed=0, burn_in=0)
    parts = mg.split(series, validation_fraction=0.1, test_fraction=0.25)
    assert [len(part.observed) for part in parts] == [65, 10, 25]
    for name in ("clean", "observed"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(series, name))


def test_forecasts_start_where_their_context_ends():
    part = mg.Series(np.arange(20.0), np.arange(20.0) + 0.5)
    contexts, truth = mg.forecasts(part, context=4, horizon=3, stride=5)
    assert contexts.tolist() == [[k + 0.5 for k in range(s, s + 4)] for s in (0, 5, 10)]
    assert truth.tolist() == [[s + 4, s + 5, s + 6] for s in (0, 5, 10)]
    assert len(mg.forecasts(part, context=17, horizon=3)[0]) == 1
    with pytest.raises(ValueError, match=r"got 20 readings, expected .* = 21"):
        mg.forecasts(part, context=17, horizon=4)


def test_the_error_of_the_mean_is_one():
    truth = np.random.default_rng(0).normal(3.0, 2.0, (50, 1))
    error = mg.nrmse(np.full_like(truth, truth.mean()), truth, deviation=truth.std())
    np.testing.assert_allclose(error, [1.0])


def test_autoregression_finds_a_linear_recurrence():
    """x(t) = 2 cos ω x(t-1) - x(t-2) + constant is a sine around a mean; it then runs freely."""
    wave = 3.0 + np.sin(0.3 * np.arange(200))
    weights = mg.fit_autoregression(wave, 2)
    np.testing.assert_allclose(
        weights, [-1.0, 2 * np.cos(0.3), 3.0 * (2 - 2 * np.cos(0.3))], atol=1e-9
    )
    contexts, truth = mg.forecasts(mg.Series(wave, wave), context=5, horizon=40)
    np.testing.assert_allclose(mg.autoregression(weights, contexts, 40), truth, atol=1e-6)
    assert np.all(mg.persistence(contexts, 40) == contexts[:, -1:])


def test_the_baselines_are_ranked_as_known():
    parts = mg.split(mg.generate(3000, seed=0))
    contexts, truth = mg.forecasts(parts.test, context=40, horizon=84, stride=7)
    deviation = parts.test.clean.std()
    weights = mg.fit_autoregression(parts.train.observed, 40)
    linear = mg.nrmse(mg.autoregression(weights, contexts, 84), truth, deviation=deviation)
    last = mg.nrmse(mg.persistence(contexts, 84), truth, deviation=deviation)
    assert linear[0] < 0.6 * last[0] < 0.15
    assert 0.2 < linear[-1] < 1.3  # a linear model loses a chaotic series
