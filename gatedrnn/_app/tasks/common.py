"""Parts of several tasks: cells by name, compiled methods, shuffled batches, digests of data."""

import hashlib
from functools import lru_cache, partial
from typing import Annotated

import jax
import numpy as np

import gatedrnn as gr
from gatedrnn._app import memory
from gatedrnn._app.config import Count, Settings, some_of

CELLS: dict[str, type[gr.Elman] | type[gr.LSTM] | type[gr.GRU]] = {
    "Elman": gr.Elman,
    "LSTM": gr.LSTM,
    "GRU": gr.GRU,
}

# for a method of a model, which is compiled once for all models that are equal
compiled = partial(jax.jit, static_argnames="self")


class Cells(Settings, frozen=True):
    """For each of `cells`, one layer of `features` units."""

    cells: Annotated[tuple[str, ...], some_of(*CELLS)]
    features: Count


def demand_batch(batch: int, example: int) -> None:
    """Raise if `train.batch`, of examples of at least so many bytes, is more than the memory."""
    # places and epochs, int64
    memory.demand("the examples of a batch", batch * (example + 32), {"train.batch": batch})


def shuffled(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """The places, below `count`, of the examples in the batch of a step, int64 [batch].

    Every epoch is a new permutation, and batches go on across its end: each example comes once
    in an epoch, and the batch is a function of `step` alone.
    """
    places = step * batch + np.arange(batch)
    epochs = places // count
    chosen = [_permutation(count, int(epoch), seed) for epoch in np.unique(epochs)]
    return np.concatenate(
        [p[places[epochs == e] % count] for p, e in zip(chosen, np.unique(epochs), strict=True)]
    )


@lru_cache(maxsize=2)
def _permutation(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def digest(*arrays: np.ndarray) -> str:
    """The SHA-256 of arrays, hexadecimal, by which a run knows its data again."""
    known = hashlib.sha256()
    for array in arrays:
        known.update(f"{array.dtype} {array.shape}".encode())
        known.update(np.ascontiguousarray(array).tobytes())
    return known.hexdigest()
