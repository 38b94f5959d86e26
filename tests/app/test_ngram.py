import numpy as np
import pytest

from gatedrnn._app.tasks.language import ngram


def test_components_by_hand():
    # a b a b c, over an alphabet of four: a = 0, b = 1, c = 2
    frequencies = ngram.count(np.array([0, 1, 0, 1, 2]), 4)
    # ... of each character after the first two of: a b a, b c, d
    rows = ngram.components(frequencies, np.array([0, 1, 0, 1, 2, 3]))
    np.testing.assert_allclose(
        rows,
        [
            [1 / 4, 2 / 5, 1 / 2, 1 / 2],  # a after a b: b goes on with a and c, ab also
            [1 / 4, 2 / 5, 2 / 2, 1 / 1],  # b after b a
            [1 / 4, 1 / 5, 1 / 2, 1 / 2],  # c after a b
            [1 / 4, 0, 0, 0],  # d after b c: as contexts, neither c nor bc is known
        ],
    )


def test_each_component_sums_to_one():
    rng = np.random.default_rng(0)
    frequencies = ngram.count(rng.integers(0, 4, 60), 6)
    for context in [(0, 1), (3, 3), (5, 0), (0, 5), (5, 5)]:  # 5 is never seen
        rows = [ngram.components(frequencies, np.array([*context, c]))[0] for c in range(6)]
        np.testing.assert_allclose(np.sum(rows, axis=0), 1.0, atol=1e-12)


def test_a_context_at_the_end_of_the_text_does_not_count():
    frequencies = ngram.count(np.array([0, 1, 0]), 2)
    # a is followed once, by b; "ba" never
    np.testing.assert_allclose(
        ngram.components(frequencies, np.array([1, 0, 1]))[0], [1 / 2, 1 / 3, 1.0, 1.0]
    )


def test_weights_go_to_the_component_that_explains():
    probabilities = np.array([[0.1, 0.6], [0.1, 0.9], [0.1, 0.5]])
    weights = ngram.fit_weights(probabilities)
    assert weights.sum() == pytest.approx(1.0)
    # one character more than it explains for each: (3 + 1) / (3 + 2), and a little less
    assert 0.7 < weights[1] < 0.8


def test_weights_are_at_the_maximum():
    rng = np.random.default_rng(1)
    probabilities = rng.uniform(0.01, 1.0, (200, 4))
    weights = ngram.fit_weights(probabilities, iterations=2000)

    def posterior(w):
        return np.log(probabilities @ w).sum() + np.log(w).sum()

    for _ in range(50):
        near = np.abs(weights + rng.normal(0, 1e-3, 4))
        assert posterior(near / near.sum()) <= posterior(weights) + 1e-9


def test_weights_of_no_characters_are_equal():
    np.testing.assert_allclose(ngram.fit_weights(np.ones((0, 4))), 0.25)


def test_the_trigram_knows_a_pattern_of_three():
    text = np.tile([0, 1, 0, 2], 100)
    bits = ngram.bits_per_character(text, text[:41], 3)
    assert bits["unigram"] == pytest.approx(1.5, abs=0.02)
    assert bits["trigram"] < 0.15


def test_validation_takes_no_part_in_the_weights(monkeypatch):
    seen = []
    monkeypatch.setattr(ngram, "fit_weights", lambda p: seen.append(p) or np.full(p.shape[1], 0.25))
    train = np.tile([0, 1], 50)
    for validation in (np.array([0, 1, 0]), np.array([1, 1, 1, 1])):
        ngram.bits_per_character(train, validation, 3)
    np.testing.assert_array_equal(seen[0], seen[2])
    np.testing.assert_array_equal(seen[1], seen[3])


def test_an_unseen_character_is_dear_and_not_impossible():
    bits = ngram.bits_per_character(np.tile([0, 1], 50), np.array([0, 1, 2]), 3)
    assert 1 < bits["unigram"] < bits["trigram"] < 10


def test_large_vocabularies():
    # a million cubed does not fit into 32 bits, nor a table of it into memory
    bits = ngram.bits_per_character(np.tile([0, 999_999], 50), np.array([0, 999_999]), 1_000_000)
    assert np.isfinite(bits["trigram"])
