from pathlib import Path

import jax
import numpy as np
import pytest

from gatedrnn._app import tasks
from gatedrnn._app.data import digits
from gatedrnn._app.tasks import digit_writer
from gatedrnn._app.tasks.digit_writer import Batch, from_tokens

from . import tiny


@pytest.fixture
def writer(workplace):
    """The task by a tiny configuration, with settings overridden."""
    Path("tiny.toml").write_text(tiny.configuration("digit_writer"), encoding="utf-8")
    return lambda *overrides: tasks.load("tiny.toml", overrides).make()


def test_images_are_written_from_the_top_left(writer):
    task = writer()
    for part, given in zip((task.train, task.validation, task.test), digits.load(), strict=True):
        assert (part.levels.dtype, part.levels.min(), part.levels.max()) == (np.int32, 0, 16)
        assert part.levels[13, 5] == round(16 * given.images[5, 1, 5])
        np.testing.assert_array_equal(from_tokens(part.levels), given.images)
        np.testing.assert_array_equal(part.labels, given.labels)
    batch = task.batch(3)
    assert (batch.levels.shape, batch.labels.shape) == ((64, 4), (4,))
    for levels, label in zip(batch.levels.T, batch.labels, strict=True):
        (place,) = np.flatnonzero(np.all(levels == task.train.levels.T, axis=1))
        assert task.train.labels[place] == label


def test_every_pixel_is_told_from_the_label_and_the_pixels_before(writer):
    """The loss is that of the network by steps, the label first."""
    task = writer("model.dropout=0")
    model, (levels, labels) = task.models["GRU"], task.batch(0)
    params = jax.tree.map(lambda a: 3 * a, model.init(jax.random.key(2)))
    carry, token, total = model.net.carry((4,), params=params), 17 + labels, 0.0
    step = jax.jit(model.net.step)
    for pixel in levels:
        carry, logits = step(params, carry, token)
        logits = np.asarray(logits, np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        total -= logs[np.arange(4), pixel].mean() / 64
        token = pixel
    loss, carry = model.loss(params, (), Batch(levels, labels), jax.random.key(0))
    assert (float(loss), carry) == (pytest.approx(total, rel=1e-5), ())


def test_samples_are_drawn_from_the_model(writer):
    """Where the last layer ignores the rest, every pixel has the same levels with its shares."""
    task = writer()
    params = jax.tree.map(np.zeros_like, task.models["GRU"].init(jax.random.key(0)))
    shares = np.arange(1, 18) / 153.0
    params = (*params[:-1], params[-1]._replace(bias=np.log(shares).astype(np.float32)))
    labels = np.zeros(200, np.int32)
    drawn = task.samples("GRU", params, labels)
    assert drawn.shape == (64, 200)
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / drawn.size, shares, atol=0.01)
    np.testing.assert_array_equal(drawn, task.samples("GRU", params, labels))
    expected = -np.log2(shares[task.validation.levels]).mean()
    assert task.evaluate("GRU", params)["bits"] == pytest.approx(expected, rel=1e-5)


def test_samples_are_read_by_a_classifier_of_real_digits(writer, monkeypatch):
    task = writer("data.samples=3")
    images = {d: task.train.levels[:, task.train.labels == d] for d in range(10)}

    def copies(name, params, labels):
        """Of real digits, but for the nines, which are zeros."""
        assert np.bincount(labels).tolist() == [3] * 10
        return np.stack([images[d % 9][:, k % 3] for k, d in enumerate(labels)], axis=1)

    monkeypatch.setattr(task, "samples", copies)
    monkeypatch.setattr(digit_writer.Writer, "mean_loss", lambda *args: np.log(2.0))
    measures = task.evaluate("GRU", None)
    assert measures.pop("test images read as theirs") > 0.9
    assert measures == {
        "bits": pytest.approx(1.0),
        "test: bits": pytest.approx(1.0),
        "samples read as their digit": pytest.approx(0.9),
    }


def test_baselines_by_their_definition(writer):
    task = writer()
    (levels, labels), held = task.train, task.validation
    expected = {"pixels alone": 0.0, "pixels alone, by digit": 0.0}
    for pixel in range(64):
        for name, of in (("pixels alone", None), ("pixels alone, by digit", 8)):
            counts = np.full(17, 2.0 if of is None else 0.2)
            seen = levels[pixel] if of is None else levels[pixel, labels == of]
            counts += np.bincount(seen, minlength=17)
            asked = held.levels[pixel] if of is None else held.levels[pixel, held.labels == of]
            expected[name] -= np.log2(counts / counts.sum())[asked].mean() / 64
    assert task.baselines()["pixels alone"] == pytest.approx(expected["pixels alone"])
    task.validation = Batch(held.levels[:, held.labels == 8], held.labels[held.labels == 8])
    got = task.baselines()["pixels alone, by digit"]
    assert got == pytest.approx(expected["pixels alone, by digit"])


def test_the_sheet_has_a_row_for_every_digit(writer):
    task = writer()
    params = task.models["GRU"].init(jax.random.key(0))
    real, drawn = task.pictures({"GRU": params})["GRU_sheet.png"].axes
    assert [axes.get_title(loc="left") for axes in (real, drawn)] == ["real digits", "GRU"]
    picture = np.asarray(real.images[0].get_array())
    assert picture.shape == (100, 100)
    for digit in range(10):
        tile = picture[10 * digit + 1 : 10 * digit + 9, 31:39]  # the fourth of its row
        given = digits.load().test
        np.testing.assert_array_equal(tile, given.images[given.labels == digit][3])
    labels = np.repeat(np.arange(10, dtype=np.int32), 10)
    images = from_tokens(task.samples("GRU", params, labels))
    picture = np.asarray(drawn.images[0].get_array())
    np.testing.assert_array_equal(picture[71:79, 21:29], images[72])
