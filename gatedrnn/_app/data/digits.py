"""scikit-learn's handwritten digits as sequences of rows or of pixels.

Axes: N images, T steps, F features of a step.
"""

from typing import NamedTuple

import numpy as np

from gatedrnn._app.errors import CommandError

SIDE = 8  # pixels; an image is SIDE × SIDE
CLASSES = 10


class Images(NamedTuple):
    """Images with their labels."""

    images: np.ndarray  # float32 [N, SIDE, SIDE], row by row, 0 is paper and 1 is ink
    labels: np.ndarray  # int32 [N], the digit


class Digits(NamedTuple):
    """The 1797 images in three parts, each with the same shares of the ten digits."""

    train: Images
    validation: Images
    test: Images


def load(*, seed: int = 0, validation_fraction: float = 0.1, test_fraction: float = 0.2) -> Digits:
    """Split the images, digit by digit, and shuffle each part.

    Raises `CommandError` where scikit-learn, which holds the images, is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise CommandError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    bunch = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)
    labels = bunch.target.astype(np.int32)
    rng = np.random.default_rng(seed)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for digit in range(CLASSES):
        members = rng.permutation(np.flatnonzero(labels == digit))
        first = round(len(members) * validation_fraction)
        second = first + round(len(members) * test_fraction)
        for part, chosen in zip(parts, np.split(members, [first, second]), strict=True):
            part.append(chosen)
    orders = [rng.permutation(np.concatenate(part)) for part in parts]
    validation, test, train = (Images(images[order], labels[order]) for order in orders)
    return Digits(train, validation, test)


def rows(images: np.ndarray) -> np.ndarray:
    """Images [N, SIDE, SIDE] from top to bottom: [T = SIDE, N, F = SIDE], time first."""
    return np.swapaxes(images, 0, 1)


def pixels(images: np.ndarray) -> np.ndarray:
    """Images [N, SIDE, SIDE] as one reads: [T = SIDE², N, F = 1], time first."""
    return images.reshape(len(images), -1).T[..., None]


def from_rows(sequence: np.ndarray) -> np.ndarray:
    """Undo `rows`, for what a network draws: [SIDE, N, SIDE] to [N, SIDE, SIDE]."""
    return np.swapaxes(sequence, 0, 1)
