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


def test_the_parts_are_all_of_the_images_and_have_none_in_common(digits):
    task = digits("data.held_out_fraction=0.2")
    assert len(task.held[1]) == 359
    assert len(task.rest[1]) == 1797 - 359
    rows = {row.tobytes() for row in task.rest[0]}
    assert not any(row.tobytes() in rows for row in task.held[0])


def test_the_split_is_the_same_for_every_seed(digits):
    first, other = digits("train.seed=1"), digits("train.seed=2")
    np.testing.assert_array_equal(first.held[1], other.held[1])
    assert not np.array_equal(first.batch(0).labels, other.batch(0).labels)


def test_baselines_by_their_definition(digits):
    task = digits()
    frequent = np.bincount(task.rest[1]).argmax()
    baselines = task.baselines()
    assert baselines["the most frequent digit"] == np.mean(task.held[1] == frequent)
    assert 0.5 < baselines["logistic regression"] < 1


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
    labels = task.held[1]
    wrong = np.where(np.arange(len(labels)) < 100, (labels + 1) % 10, labels)
    monkeypatch.setattr(task, "predictions", lambda name, params: wrong)
    assert task.evaluate("LSTM", None) == {"accuracy": 1 - 100 / len(labels)}
    pictures = task.pictures({"LSTM": None})
    (axes,) = pictures["LSTM_mistakes.png"].axes
    assert axes.get_title(loc="left") == "LSTM: 100 mistakes"
    assert [text.get_text() for text in axes.texts] == [
        f"{label} taken for {(label + 1) % 10}" for label in labels[:24]
    ]
    monkeypatch.setattr(task, "predictions", lambda name, params: labels)
    assert set(task.pictures({"LSTM": None})) == {"LSTM_confusion.png"}


def test_a_split_without_a_part(digits, refuses):
    digits()
    override = "data.held_out_fraction=1e-4"
    words = ("data.held_out_fraction: got 0.0001, which parts the 1797 images into 1797 and 0",)
    refuses("train", "tiny.toml", "--set", override, words=words)
