import numpy as np
import pytest

from gatedrnn._app.data import ragged


def test_sequences_are_kept_and_padded():
    sequences = [np.arange(n * 2, dtype=np.float32).reshape(n, 2) for n in (3, 0, 5)]
    values, lengths = ragged.pad(sequences, fill=-1)
    assert values.shape == (5, 3, 2)
    assert values.dtype == np.float32
    assert lengths.dtype == np.int32
    assert lengths.tolist() == [3, 0, 5]
    for place, sequence in enumerate(sequences):
        np.testing.assert_array_equal(values[: len(sequence), place], sequence)
        assert np.all(values[len(sequence) :, place] == -1)


def test_one_shape_for_every_batch():
    assert ragged.pad([np.zeros(3), np.zeros(1)], length=7).values.shape == (7, 2)
    with pytest.raises(ValueError, match="got one of 3 steps, expected at most 2"):
        ragged.pad([np.zeros(3)], length=2)
    with pytest.raises(ValueError, match="got none"):
        ragged.pad([])
