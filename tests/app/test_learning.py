import jax
import numpy as np
import pytest

from gatedrnn._app.config import Optimiser
from gatedrnn._app.learning import learning_rate


@pytest.mark.parametrize(("high", "low"), [(1e-2, 1e-4), (3e-3, 3e-3), (1e-4, 1e-2)])
@pytest.mark.parametrize("steps", [1, 2, 1500])
def test_the_learning_rate_is_half_a_cosine_and_then_the_final_one(high, low, steps):
    rate = learning_rate(Optimiser(high, low, clip_norm=1.0), steps)
    counts = np.arange(2 * steps + 1)
    progress = np.minimum(counts / steps, 1)
    expected = low + (high - low) * 0.5 * (1 + np.cos(np.pi * progress))
    with jax.numpy_dtype_promotion("standard"):  # which optax needs
        got = jax.vmap(rate)(counts)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * max(high, low))
