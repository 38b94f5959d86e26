from itertools import groupby
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.colors import to_hex

from gatedrnn._app import tasks
from gatedrnn._app.data import frames as data
from gatedrnn._app.tasks import label_figures

from . import tiny


@pytest.fixture
def frames(workplace):
    """The task by a tiny configuration, with settings overridden."""
    Path("tiny.toml").write_text(tiny.configuration("frames"), encoding="utf-8")
    return lambda *overrides: tasks.load("tiny.toml", overrides).make()


def test_the_bands_are_standardised_by_the_training_part(frames):
    task = frames()
    made = data.make(seed=0, train=5, held_out=2, syllables=(1, 1))
    bands = np.concatenate(task.corpus.train.sequences)
    np.testing.assert_allclose(bands.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(bands.std(axis=0), 1, atol=1e-4)
    mean, deviation = data.standardisation(made.train)
    for part, raw in zip((task.corpus.validation, task.corpus.test), made[1:], strict=True):
        for xs, labels, utterance in zip(*part, raw, strict=True):
            np.testing.assert_allclose(xs * deviation + mean, utterance.bands, atol=1e-3)
            np.testing.assert_array_equal(labels, utterance.labels)


def test_which_frames_a_model_sees(frames):
    """The classifier only the frame itself, the LSTM those before and after, padding none."""
    task = frames("classifier.features=16", "model.layers=1")
    xs = np.random.default_rng(0).standard_normal((6, 1, data.BANDS)).astype(np.float32)
    for name, seen in {"LSTM": {0, 1, 2, 3, 4}, "MLP": {2}}.items():
        body = task.models[name].body
        params = body.init(jax.random.key(0), data.BANDS)

        def third(xs, body=body, params=params):
            return body.apply(params, xs, lengths=np.array([5], np.int32))[1][2].sum()

        gradient = np.abs(jax.grad(third)(xs)).sum(axis=(1, 2))
        assert set(np.flatnonzero(gradient)) == seen


def test_the_most_frequent_phone(frames):
    task = frames()
    labels, learned = (
        np.concatenate(part.labels) for part in (task.corpus.validation, task.corpus.train)
    )
    share = np.mean(labels == np.bincount(learned).argmax())
    assert task.baselines() == {"the most frequent phone": share}


def test_the_picture_of_labels():
    """A bar for each run of a label, of another colour where it is wrong."""
    truth, found = np.array([0, 0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 0, 1, 1, 1])
    figure = label_figures.labelled(
        np.zeros((7, 3)), truth, {"model": found}, ("a", "b"), seconds=0.01, title="it"
    )
    top, bottom = figure.axes
    assert top.images[0].get_array().shape == (3, 7)
    bars = [
        (round(bar.get_y() + 0.4), round(100 * bar.get_x()), to_hex(bar.get_facecolor()))
        for bar in bottom.patches
    ]
    right, wrong = label_figures.RIGHT, label_figures.WRONG
    assert bars == [(0, 0, right), (0, 5, right), (1, 0, right), (1, 4, wrong), (1, 5, right)]
    assert [text.get_text() for text in bottom.texts] == ["a", "a"]  # where there is room
    assert [label.get_text() for label in bottom.get_yticklabels()] == ["true", "model\n86%"]


def test_the_pictures_are_of_the_test(frames):
    task = frames()
    params = {name: model.init(jax.random.key(0)) for name, model in task.models.items()}
    pictures = task.pictures(params)
    assert set(pictures) == {
        "LSTM_confusion.png",
        "MLP_confusion.png",
        "utterance.png",
        "scores.png",
        "scores.md",
    }
    lengths = [len(labels) for labels in task.corpus.test.labels]
    top, bottom = pictures["utterance.png"].axes
    assert top.images[0].get_array().shape[1] in lengths
    drawn = {round(bar.get_y() + 0.4) for bar in bottom.patches}
    assert drawn == {0, 1, 2}
    truth = [[label for label, _ in groupby(labels.tolist())] for labels in task.corpus.test.labels]
    assert sum(round(bar.get_y() + 0.4) == 0 for bar in bottom.patches) in map(len, truth)
    for name, values in params.items():
        measures = task.evaluate(name, values)
        line = f"| {name} | {measures['test accuracy']:.1%} |"
        assert line in pictures["scores.md"].splitlines()


@pytest.mark.parametrize("syllables", ["[5, 3]", "[1]", "[0, 1]", "[1, 1.5]", "[true, 2]", "3"])
def test_syllables_that_cannot_be(frames, refuses, syllables):
    frames()
    words = ("data.syllables: got", "expected an array of two integers from 1 to 100")
    refuses("train", "tiny.toml", "--set", f"data.syllables={syllables}", words=words)
