import builtins

import numpy as np
import pytest

from gatedrnn._app.data import digits
from gatedrnn._app.errors import CommandError

pytest.importorskip("sklearn")


def test_the_parts_hold_every_image_once():
    from sklearn.datasets import load_digits

    parts = digits.load(seed=3)
    everything = np.concatenate([part.images.reshape(-1, 64) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    expected = load_digits()
    found, given = np.c_[everything * 16, labels], np.c_[expected.data, expected.target]
    np.testing.assert_array_equal(found[np.lexsort(found.T)], given[np.lexsort(given.T)])
    assert everything.dtype == np.float32
    assert labels.dtype == np.int32
    assert everything.min() == 0.0
    assert everything.max() == 1.0


def test_each_part_has_the_same_share_of_each_digit():
    for part, share in zip(digits.load(), (0.7, 0.1, 0.2), strict=True):
        np.testing.assert_allclose(np.bincount(part.labels), 179.7 * share, atol=4)
        assert np.any(np.diff(part.labels) < 0)  # shuffled


def test_the_seed_decides():
    once, again, other = digits.load(seed=1), digits.load(seed=1), digits.load(seed=2)
    for part, same in zip(once, again, strict=True):
        np.testing.assert_array_equal(part.images, same.images)
        np.testing.assert_array_equal(part.labels, same.labels)
    assert not np.array_equal(once.train.images, other.train.images)


def test_rows_and_pixels_run_as_one_reads():
    images = np.arange(2 * 64).reshape(2, 8, 8)
    assert digits.rows(images)[3, 1].tolist() == images[1, 3].tolist()
    assert digits.pixels(images)[:, 1, 0].tolist() == list(range(64, 128))
    np.testing.assert_array_equal(digits.from_rows(digits.rows(images)), images)


def test_without_scikit_learn(monkeypatch):
    original = builtins.__import__

    def missing(name, *rest, **more):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(CommandError, match="pip install scikit-learn"):
        digits.load()
