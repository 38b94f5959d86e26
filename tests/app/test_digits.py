from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from gatedrnn._app import tasks
from gatedrnn._app.tasks.digits import Batch

from . import tiny


@pytest.fixture
def digits(workplace):
    """The task by a tiny configuration, with settings overridden."""
    Path("tiny.toml").write_text(tiny.configuration("digits"), encoding="utf-8")
    return lambda *overrides: tasks.load("tiny.toml", overrides).make()


@pytest.mark.parametrize(("read_by", "shape"), [("rows", (8, 4, 8)), ("pixels", (64, 4, 1))])
def test_images_are_read_from_the_top_left(digits, read_by, shape):
    task = digits(f"data.read_by={read_by}")
    images, labels = load_digits(return_X_y=True)
    batch = task.batch(5)
    assert batch.xs.shape == shape
    assert batch.xs.dtype == np.float32
    for index, label in enumerate(batch.labels):
        found = np.all(images == 16 * batch.xs[:, index].reshape(64), axis=1)
        assert labels[found].tolist() == [label]


def test_the_split_is_the_same_for_every_seed(digits):
    first, other = digits("train.seed=1"), digits("train.seed=2")
    np.testing.assert_array_equal(first.test.labels, other.test.labels)
    assert not np.array_equal(first.batch(0).labels, other.batch(0).labels)


def test_baselines_by_their_definition(digits):
    task = digits()
    frequent = np.bincount(task.train.labels).argmax()
    baselines = task.baselines()
    assert baselines["the most frequent digit"] == np.mean(task.validation.labels == frequent)
    assert 0.9 < baselines["logistic regression"] < 1


def test_the_loss_is_that_of_the_last_output(digits):
    """The cross-entropy of the label under the logits after the last step, without dropout."""
    task = digits("model.dropout=0")
    model = task.models["LSTM"]
    params, batch = model.init(jax.random.key(3)), task.batch(0)
    net = model.net.layer
    _, logits = net.apply(params, batch.xs)
    logits = np.asarray(logits[-1], np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = -logs[np.arange(4), batch.labels].mean()
    loss, carry = model.loss(params, (), Batch(*batch), jax.random.key(0))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert carry == ()


def test_accuracy_counts_the_right_answers(digits, monkeypatch):
    task = digits()
    labels = task.test.labels

    def predictions(name, params, part):
        wrong = 100 if part is task.test else 9
        return np.where(np.arange(len(part.labels)) < wrong, (part.labels + 1) % 10, part.labels)

    monkeypatch.setattr(task, "predictions", predictions)
    assert task.evaluate("LSTM", None) == {
        "accuracy": 1 - 9 / len(task.validation.labels),
        "test: accuracy": 1 - 100 / len(labels),
    }
    pictures = task.pictures({"LSTM": None})
    (axes,) = pictures["LSTM_mistakes.png"].axes
    assert axes.get_title(loc="left") == "LSTM: 100 mistakes"
    assert [text.get_text() for text in axes.texts] == [
        f"{label} taken for {(label + 1) % 10}" for label in labels[:24]
    ]
    monkeypatch.setattr(task, "predictions", lambda *args: labels)
    assert set(task.pictures({"LSTM": None})) == {"LSTM_confusion.png"}
