import numpy as np
import pytest

from gatedrnn._app.errors import CommandError
from gatedrnn._app.tasks.language import text


def test_default_text_is_the_help_of_this_python():
    loaded = text.load_text(None)
    assert len(loaded) > 300_000
    assert loaded.startswith('The "assert" statement')


def test_text_of_a_file_without_its_byte_order_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffnaïve\r\ntext".encode())
    assert text.load_text(str(path)) == "naïve\ntext"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "data.path: cannot read .*a.txt: No such file or directory"),
        (b"", "data.path: .*a.txt is empty"),
        (b"caf\xe9 noir", "a.txt is not UTF-8 \\(byte 0xe9 at position 3: "),
    ],
)
def test_files_that_are_no_text(tmp_path, content, message):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandError, match=message):
        text.load_text(str(path))


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(CommandError, match=r"data.path: cannot read .*: Is a directory"):
        text.load_text(str(tmp_path))


def test_split_and_vocabulary_of_the_training_part():
    corpus = text.prepare("abcabcabxa", validation_fraction=0.2, window=1, batch=1)
    assert corpus.vocabulary.characters == "abc"
    assert corpus.vocabulary.size == 4
    assert corpus.train.tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    assert corpus.validation.tolist() == [text.UNKNOWN, 1]
    assert corpus.train.dtype == np.int32
    assert [corpus.vocabulary.decode(token) for token in (0, 1, 3)] == ["\ufffd", "a", "c"]


@pytest.mark.parametrize(("fraction", "part"), [(0.1, "validation"), (0.9, "training")])
def test_text_shorter_than_a_window(fraction, part):
    message = f"data.window: got 10, but the {part} part has 10 characters, expected at least 11"
    with pytest.raises(CommandError, match=message):
        text.prepare("ab" * 50, validation_fraction=fraction, window=10, batch=1)
    text.prepare("ab" * 50, validation_fraction=fraction, window=9, batch=1)


def test_a_stream_starts_at_a_character_of_its_own():
    message = "train.batch: got 81, expected at most the 80 characters to train on"
    with pytest.raises(CommandError, match=message):
        text.prepare("ab" * 50, validation_fraction=0.2, window=8, batch=81)
    text.prepare("ab" * 50, validation_fraction=0.2, window=8, batch=80)


def test_training_windows_go_on_where_the_last_ended():
    tokens = np.arange(23, dtype=np.int32)
    windows = [text.training_window(tokens, step, window=4, batch=3) for step in range(9)]
    inputs = np.concatenate([inputs for inputs, _ in windows])
    targets = np.concatenate([targets for _, targets in windows])
    assert inputs.shape == (36, 3)
    assert inputs[0].tolist() == [0, 7, 15]
    np.testing.assert_array_equal(np.diff(inputs, axis=0) % 23, 1)  # without a gap, in a circle
    np.testing.assert_array_equal(targets, (inputs + 1) % 23)
    assert windows[0][0].dtype == np.int32


@pytest.mark.parametrize(
    ("n", "batch", "streams"),
    [(40, 3, 3), (41, 3, 3), (42, 3, 3), (9, 3, 1), (5, 3, 1), (17, 8, 2)],
)
def test_evaluation_windows_hold_every_pair_once(n, batch, streams):
    tokens = np.arange(100, 100 + n, dtype=np.int32)
    windows = text.evaluation_windows(tokens, window=8, batch=batch)
    assert windows.inputs.shape[1:] == (8, streams)
    valid = windows.weights == 1
    assert np.all(valid | (windows.weights == 0))
    assert sorted(windows.targets[valid].tolist()) == list(range(101, 100 + n))
    np.testing.assert_array_equal(windows.inputs[valid] + 1, windows.targets[valid])
    # along each stream, first to last, without a gap
    flat, weights = (a.reshape(-1, streams) for a in (windows.inputs, windows.weights))
    for column, weight in zip(flat.T, weights.T, strict=True):
        real = column[weight == 1]
        assert np.all(np.diff(real) == 1)
        assert np.all(weight[: len(real)] == 1)
