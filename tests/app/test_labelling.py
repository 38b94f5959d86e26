import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gatedrnn as gr
from gatedrnn._app.tasks.frames import perceptron
from gatedrnn._app.tasks.labelling import (
    Batch,
    Corpus,
    Labeller,
    Pair,
    Part,
    Width,
    accuracy,
    bidirectional,
    score_table,
    scores,
)

BODIES = {
    "LSTM": gr.stack(*bidirectional(Width(features=3, layers=1, dropout=0.2))),
    "MLP": perceptron(Width(features=4, layers=2, dropout=0.2)),
}
every_body = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)


def part(rng, lengths, features=2, classes=3):
    return Part(
        [rng.standard_normal((length, features)) for length in lengths],
        [rng.integers(0, classes, length, np.int32) for length in lengths],
    )


@pytest.fixture
def corpus():
    rng = np.random.default_rng(0)
    parts = part(rng, [4, 1, 6, 3, 2]), part(rng, [5, 2]), part(rng, [3, 3, 1, 7, 2])
    return Corpus(*parts, classes=("a", "b", "c"), batch_size=2)


def parameters(model):
    """Biases too: with none, steps of zeros would leave no trace."""
    rng = np.random.default_rng(10)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda p: 2 * rng.standard_normal(p.shape), shapes)


def test_a_batch_is_of_sequences_with_their_labels(corpus):
    seen = []
    for step in range(5):  # two epochs
        xs, labels, lengths = corpus.batch(step, seed=0)
        assert xs.shape == (7, 2, 2)
        for row, length in enumerate(lengths):
            known = [len(own) for own in corpus.train.labels].index(length)
            np.testing.assert_array_equal(xs[:length, row], corpus.train.sequences[known])
            np.testing.assert_array_equal(labels[:length, row], corpus.train.labels[known])
            seen.append(known)
    assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5))


@every_body
def test_the_loss_is_the_mean_over_what_is_no_padding(corpus, body):
    """By NumPy, from each sequence alone; the padding may hold anything."""
    model = Labeller(body, 2, 3)
    params = parameters(model)
    losses = []
    for xs, labels in zip(*corpus.validation, strict=True):
        _, hs = body.apply(params[0], xs[:, None])
        logits = np.asarray(hs)[:, 0] @ params[1].kernel + params[1].bias
        logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        losses += [-log[label] for log, label in zip(logs, labels, strict=True)]
    padded, wild = np.full((7, 2, 2), np.nan), np.full((7, 2), 99, np.int32)
    for row, (xs, labels) in enumerate(zip(*corpus.validation, strict=True)):
        padded[: len(xs), row], wild[: len(xs), row] = xs, labels
    batch = Batch(padded, wild, np.array([5, 2], np.int32))

    def loss(params):
        return model.loss(params, (), batch, None)[0]

    value, gradient = jax.value_and_grad(loss)(params)
    assert float(value) == pytest.approx(np.mean(losses), rel=1e-12)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@every_body
def test_there_is_dropout_in_training_alone(corpus, body):
    model = Labeller(body, 2, 3)
    params, batch = parameters(model), corpus.batch(0, seed=0)
    losses = {
        float(model.loss(params, (), batch, key)[0])
        for key in (None, jax.random.key(0), jax.random.key(1))
    }
    assert len(losses) == 3


@every_body
def test_each_sequence_is_labelled_as_if_alone(corpus, body):
    """Whatever the batches: there are five sequences in batches of two."""
    model = Labeller(body, 2, 3)
    params = parameters(model)
    found = corpus.label(model, params, corpus.test.sequences)
    assert [len(labels) for labels in found] == [3, 3, 1, 7, 2]
    wild = np.full((9, 5, 2), np.nan)  # the padding may hold anything
    for row, xs in enumerate(corpus.test.sequences):
        wild[: len(xs), row] = xs
    lengths = np.array([3, 3, 1, 7, 2], np.int32)
    also = np.asarray(model.label(params, wild, lengths))
    for row, (labels, xs) in enumerate(zip(found, corpus.test.sequences, strict=True)):
        _, hs = body.apply(params[0], xs[:, None])
        expected = (np.asarray(hs)[:, 0] @ params[1].kernel + params[1].bias).argmax(axis=-1)
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_array_equal(also[: len(xs), row], expected)
    assert len(set(np.concatenate(found))) > 1


def test_an_empty_batch_has_no_loss(corpus):
    model = Labeller(BODIES["LSTM"], 2, 3)
    xs, labels, lengths = corpus.batch(0, seed=0)
    loss, _ = model.loss(parameters(model), (), Batch(xs, labels, 0 * lengths), None)
    assert float(loss) == 0


def test_scores_by_hand():
    pair = Pair(np.array([0, 0, 0, 0, 1, 1, 3]), np.array([0, 0, 0, 1, 1, 0, 2]))
    found = scores(pair, 5)
    np.testing.assert_allclose(found.precision, [3 / 4, 1 / 2, 0, 0, 0])
    np.testing.assert_allclose(found.recall, [3 / 4, 1 / 2, 0, 0, 0])
    np.testing.assert_allclose(found.f1, [3 / 4, 1 / 2, 0, 0, 0])
    assert found.total.tolist() == [4, 2, 0, 1, 0]
    assert accuracy(pair) == 4 / 7


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_scores_by_counting(rows):
    labels, got = np.array(rows).T
    found = scores(Pair(labels, got), 4)
    for k in range(4):
        precision = np.mean(labels[got == k] == k) if k in got else 0
        recall = np.mean(got[labels == k] == k) if k in labels else 0
        total = precision + recall
        assert found.precision[k] == pytest.approx(precision)
        assert found.recall[k] == pytest.approx(recall)
        assert found.f1[k] == pytest.approx(2 * precision * recall / total if total else 0)


def guess_zero(sequences):
    return [np.zeros(len(sequence), np.int32) for sequence in sequences]


def test_the_validation_decides_and_the_test_is_told(corpus):
    measures = corpus.measures(guess_zero)
    validation, test = (np.concatenate(p.labels) for p in (corpus.validation, corpus.test))
    share = np.mean(test == 0)
    f1 = 2 * share / (1 + share)
    assert measures == {
        "accuracy": np.mean(validation == 0),
        "test accuracy": share,
        "test F1, mean of classes": pytest.approx(f1 / len(set(test))),
        "test F1, a": pytest.approx(f1),
        "test F1, b": 0,
        "test F1, c": 0,
    }


def test_a_class_that_is_nowhere_does_not_lower_the_mean(corpus):
    ones = Part(corpus.test.sequences, guess_zero(corpus.test.sequences))
    measures = Corpus(corpus.train, corpus.validation, ones, ("a", "b"), 2).measures(guess_zero)
    assert measures["test F1, mean of classes"] == 1
    assert measures["test F1, b"] == 0


def test_the_most_frequent_class_is_that_of_the_training_part(corpus):
    frequent = np.bincount(np.concatenate(corpus.train.labels)).argmax()
    found = corpus.most_frequent(corpus.test.sequences)
    assert [labels.tolist() for labels in found] == [[frequent] * n for n in (3, 3, 1, 7, 2)]


def test_the_table_of_scores(corpus):
    pair = corpus.pair(corpus.test, guess_zero)
    table = score_table({"zero": pair}, corpus.classes).splitlines()
    labels = np.concatenate(corpus.test.labels)
    share, count = np.mean(labels == 0), int(np.sum(labels == 0))
    assert f"| zero | {share:.1%} |" in table
    assert f"| a | {share:.3f} | 1.000 | {2 * share / (1 + share):.3f} | {count} |" in table
    assert f"| b | 0.000 | 0.000 | 0.000 | {np.sum(labels == 1)} |" in table
