"""What the tests of the program ask of a run, and how they disturb it."""

import os
import signal
from pathlib import Path

import jax
import numpy as np

from gatedrnn._app import checkpoints, config, learning, model, run_folder

TRAIN = ("train", "tiny.toml")
RUN = Path("runs/tiny")


def checkpoint(kind):
    """The checkpoint that the run holds, as NumPy arrays."""
    settings = config.load(RUN / "config.toml")
    vocabulary, _ = run_folder.find(RUN).vocabulary()
    state = jax.eval_shape(
        lambda: learning.initial_state(
            jax.random.key(0),
            1,
            net=model.build(settings.model, vocabulary.size),
            settings=settings.optimiser,
            batch=settings.train.batch,
        )
    )
    like = state if kind == "latest" else state.params
    return jax.tree.map(np.asarray, checkpoints.restore(RUN.absolute() / kind, like))


def metrics(kind):
    return [
        (record["step"], record["bits"])
        for record in run_folder.find(RUN).metrics()
        if record["kind"] == kind
    ]


def saved_steps(kind):
    return sorted(os.listdir(RUN / kind))


def at_step(monkeypatch, step, action):
    """Have `action(loss)`, which returns the loss to report, in training step `step`."""
    real = learning.train_step

    def train_step(state, *args, **kwargs):
        new, loss = real(state, *args, **kwargs)
        return new, action(loss) if int(new.step) == step else loss

    monkeypatch.setattr(learning, "train_step", train_step)


def interrupt(loss, number=signal.SIGINT):
    signal.raise_signal(number)
    return loss


def diverge(loss):
    return loss * np.float32("nan")


def broken_pipe(loss):
    raise BrokenPipeError


def out_of_memory(loss):
    raise RuntimeError("RESOURCE_EXHAUSTED: 9 TB")
