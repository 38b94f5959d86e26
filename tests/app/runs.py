"""What the tests of the program ask of a run, and how they disturb it."""

import functools
import os
import signal
from pathlib import Path

import jax
import msgspec
import numpy as np

from gatedrnn._app import config, learning, run_folder, tasks

TRAIN = ("train", "tiny.toml")
RUN = Path("runs/tiny")


def made(run):
    """The task of a run, made once in each test: that takes most of the time."""
    loaded = tasks.load(run / "config.toml")
    settings = msgspec.structs.replace(loaded, run=config.Run("anywhere"))
    return _made(settings, os.getcwd())  # each test has a folder of its own


@functools.lru_cache(maxsize=4)
def _made(settings, where):
    return settings.make()


def checkpoint(kind, run=RUN):
    """The checkpoint that the run holds, as NumPy arrays: `"latest"`, or `"best/LSTM"`."""
    settings = tasks.load(run / "config.toml")
    models = tuple(made(run).models.items())
    state = jax.eval_shape(
        lambda: learning.initial_state(
            jax.random.key(0),
            1,
            models=models,
            settings=settings.optimiser,
            batch=settings.train.batch,
        )
    )
    best, _, name = kind.partition("/")
    like = state.learners[name].params if best == "best" else state
    return jax.tree.map(np.asarray, run_folder.find(run).restore(kind, like))


def metrics(kind, run=RUN):
    """The step and the training loss, or else the criterion, of every record of one kind."""
    criterion = made(run).criterion.name
    return [
        (record["step"], record["loss" if kind == "train" else criterion])
        for record in run_folder.find(run).metrics(criterion)
        if record["kind"] == kind
    ]


def saved_steps(kind):
    """The steps of the checkpoints that are there; the record names just these."""
    there = sorted(os.listdir(RUN / kind))
    assert [f"{kind}/{step}" for step in there] == [run_folder.find(RUN).record.checkpoints[kind]]
    return there


def at_step(monkeypatch, step, action):
    """Have `action(loss)`, which returns the loss to report, of one model in step `step`."""
    real = learning.train_step

    def train_step(state, *args, **kwargs):
        new, losses = real(state, *args, **kwargs)
        if int(new.step) == step:
            name, loss = next(iter(losses.items()))
            losses = {**losses, name: action(loss)}
        return new, losses

    train_step.lower = real.lower
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
