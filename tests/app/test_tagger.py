from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gatedrnn._app import tasks
from gatedrnn._app.data import tagger as data
from gatedrnn._app.tasks.labelling import Part
from gatedrnn._app.tasks.tagger import Table

from . import tiny


@pytest.fixture
def tagger(workplace):
    """The task by a tiny configuration, with settings overridden."""
    Path("tiny.toml").write_text(tiny.configuration("tagger"), encoding="utf-8")
    return lambda *overrides: tasks.load("tiny.toml", overrides).make()


def right_but_for_the_first(task):
    """A guess at the pieces of the test: all right, but the first character of each file."""
    answers = {}
    for file in task.files:
        start, *rest = data.pieces(file, 40)
        for piece in (start, *rest):
            kinds = file.kinds[piece].astype(np.int32)
            if piece == start:
                kinds[0] = (kinds[0] + 1) % len(data.KINDS)
            answers[data.encode(file.text[piece]).tobytes()] = kinds
    return lambda sequences: [answers[tokens.tobytes()] for tokens in sequences]


def test_pieces_are_the_files_with_their_kinds(tagger):
    task = tagger("data.held_out=900")
    assert len(task.files) > 1
    text = "".join(file.text for file in task.files)
    np.testing.assert_array_equal(np.concatenate(task.corpus.test.sequences), data.encode(text))
    kinds = np.concatenate([file.kinds for file in task.files])
    np.testing.assert_array_equal(np.concatenate(task.corpus.test.labels), kinds)
    assert max(map(len, task.corpus.test.labels)) <= 40
    assert f"test: {len(text)} of {len(task.files)} others" in task.held_out


@pytest.mark.parametrize("neighbours", [False, True])
def test_a_table_has_the_most_frequent_kind(neighbours):
    """By counting; where kinds are level the first in `KINDS` wins."""
    rng = np.random.default_rng(0)

    def some(count):
        tokens = [rng.integers(1, 6, rng.integers(1, 9), np.int32) for _ in range(count)]
        return Part(tokens, [rng.integers(0, 9, len(t), np.int32) for t in tokens])

    def trigrams(tokens):
        return zip([None, *tokens[:-1]], tokens, [*tokens[1:], None], strict=True)

    train, test = some(20), some(30)
    by_trigram, by_character, by_all = {}, {}, Counter()
    for tokens, kinds in zip(*train, strict=True):
        rows = zip(trigrams(tokens.tolist()), tokens.tolist(), kinds.tolist(), strict=True)
        for trigram, character, kind in rows:
            by_trigram.setdefault(trigram, Counter())[kind] += 1
            by_character.setdefault(character, Counter())[kind] += 1
            by_all[kind] += 1

    def most(counts):
        return min(counts, key=lambda kind: (-counts[kind], kind))

    table = Table(train, neighbours=neighbours)
    test.sequences.append(np.array([7, 1], np.int32))  # a character that is new
    unseen = 0
    for tokens, got in zip(test.sequences, table(test.sequences), strict=True):
        for trigram, kind in zip(trigrams(tokens.tolist()), got, strict=True):
            fallback = by_character.get(trigram[1], by_all)
            unseen += trigram not in by_trigram
            assert kind == most(by_trigram.get(trigram, fallback) if neighbours else fallback)
    assert unseen


def test_baselines_are_of_the_validation(tagger):
    task = tagger()
    tokens, kinds = (np.concatenate(arrays) for arrays in task.corpus.validation)
    frequent = np.bincount(np.concatenate(task.corpus.train.labels)).argmax()
    table = Table(task.corpus.train, neighbours=False)
    baselines = task.baselines()
    assert baselines["the most frequent kind"] == np.mean(kinds == frequent)
    assert baselines["a table of characters"] == np.mean(table([tokens])[0] == kinds)
    assert set(baselines) == {
        "the most frequent kind",
        "a table of characters",
        "a table of trigrams",
    }


def test_the_page_is_of_the_file_in_the_middle(tagger, monkeypatch):
    """The shorter of two files, in which one wrong character is more, is the worse one."""
    task = tagger("data.held_out=900")
    monkeypatch.setattr(task, "_network", lambda name, params: right_but_for_the_first(task))
    pictures = task.pictures({"LSTM": None})
    assert set(pictures) == {
        "LSTM_confusion.png",
        "LSTM_source.html",
        "scores.md",
        "scores.png",
    }
    ranked = sorted(task.files, key=lambda file: len(file.text))
    page = pictures["LSTM_source.html"]
    middle = ranked[len(ranked) // 2]
    assert f"<h1>{middle.path}, as it was tagged</h1>" in page
    assert page.count('class="k') - page.count('class="k0"') > 9
    assert f"{1 - 1 / len(middle.text):.2%} of {len(middle.text)} characters" in page


@pytest.mark.parametrize("key", ["characters", "held_out"])
def test_too_few_characters(tagger, refuses, key):
    tagger()
    words = (f"data.{key}: got 1, in which no line of the standard library's files fits",)
    refuses("train", "tiny.toml", "--set", f"data.{key}=1", words=words)
