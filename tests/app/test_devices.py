"""Batches divided over devices: the same training, and what cannot be divided is refused."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gatedrnn as gr
from benchmarks import hlo
from gatedrnn._app import devices, learning, memory, tasks
from gatedrnn._app.errors import CommandError
from gatedrnn._app.tasks.language import Language

from . import tiny
from .runs import TRAIN, checkpoint, metrics

ONE = "devices     1 of 4 (cpu)\n"
# ragged; a carry from batch to batch, and dropout; trees
QUICK = ("frames", "language", "formulas")
DIVIDED = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in tiny.TASKS
]


def started(name):
    """The settings of a tiny task on two devices, its division, and what a step is given."""
    text = tiny.configuration(name).replace("steps = 6", "steps = 6\ndevices = 2")
    Path("tiny.toml").write_text(text, encoding="utf-8")
    config = tasks.load("tiny.toml")
    task = config.make()
    static = {"models": tuple(task.models.items()), "settings": config.optimiser}
    begin = {"steps": 6, "batch": config.train.batch, **static}
    state = learning.initial_state(jax.random.key(0), **begin)
    return devices.division(config, task.batch_axes), task, state, static


@pytest.mark.parametrize("name", DIVIDED)
def test_divided_steps_are_the_whole_ones(workplace, name):
    """Of every task, in float32; of the gradients one all-reduce, nothing is gathered."""
    division, task, whole, static = started(name)
    divided, laid_out = division.state(whole), task.divided(2)
    key = jax.random.key(1)
    for step in range(2):
        whole, losses = learning.train_step(whole, task.batch(step), key, 6, **static)
        batch = laid_out.batch(step)
        divided, same = learning.train_step(divided, division.batch(batch), key, 6, **static)
        divided = division.state(divided)
        np.testing.assert_allclose(*(list(found.values()) for found in (same, losses)), rtol=1e-4)
    for got, expected in zip(*map(jax.tree.leaves, (divided, whole)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)
    for leaf, axis in zip(jax.tree.leaves(division.batch(batch)), task.batch_axes, strict=True):
        (first, second) = (shard.data.shape for shard in leaf.addressable_shards)
        assert first == second
        assert first[axis] * 2 == leaf.shape[axis]
    shapes = division.shapes(whole, batch)
    text = learning.train_step.lower(*shapes, key, 6, **static).compile().as_text()
    kinds = {kind for found in hlo.collectives(text).values() for kind in found}
    assert kinds == {"all-reduce"}


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("language", "all"),
        ("language", "2"),
        pytest.param("formulas", "2", marks=pytest.mark.long),
    ],
)
def test_the_command_divides(command, name, devices):
    """The run is that of one device, and goes on with any other number."""
    Path("tiny.toml").write_text(tiny.configuration(name), encoding="utf-8")
    runs = []
    for wanted, said in (
        (devices, "4 (cpu), 1" if devices == "all" else "2 of 4 (cpu), 2"),
        ("1", 0),
    ):
        chosen = ("--set", f"train.devices={wanted}")
        outcome = command(*TRAIN, "--overwrite", "--set", "train.steps=4", *chosen)
        assert outcome.code == 0, outcome.err
        line = f"devices     {said} of the 4 rows of a batch on each\n" if said else ONE
        assert line in outcome.out
        # all of them are what a configuration means that does not say
        written = Path("runs/tiny/config.toml").read_text()
        assert ("devices" in written) == (wanted != "all")
        resumed = command(*TRAIN, "--resume")
        assert (resumed.code, "devices     4 (cpu), " in resumed.out) == (0, True)
        assert "devices" not in Path("runs/tiny/config.toml").read_text()
        assert command("eval", "runs/tiny").out in resumed.out
        runs.append(
            (
                *(metrics(kind) for kind in ("train", "validation")),
                jax.tree.leaves(checkpoint("latest").learners),
            )
        )
    (losses, bits, state), (expected_losses, expected_bits, expected) = runs
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    np.testing.assert_allclose(bits, expected_bits, rtol=1e-4)
    for got, wanted in zip(state, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (3, "3 of 4 (cpu), 1 of the 3 rows of a batch on each, the most that divide train.batch"),
        (10, "2 of 4 (cpu), 5 of the 10 rows of a batch on each, the most that divide train.batch"),
        (1, "1 of 4 (cpu), the most that divide train.batch"),
    ],
)
def test_as_many_of_all_as_divide(workplace, batch, words):
    """A batch that all devices would not divide runs on fewer, which the introduction says."""
    config = tasks.load("tiny.toml", [f"train.batch={batch}"])
    division = devices.division(config, (1, 1))
    assert devices.described(config, (1, 1), division) == words


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ("train.devices=3",),
            (
                "train.batch: got 4, expected a multiple of train.devices, 3; the most that divide"
                " it are 2",
            ),
        ),
        (("train.devices=64",), ("train.devices: got 64, expected at most 4",)),
        (
            ("train.devices=0",),
            ('train.devices: got 0, an integer, expected "all" or an integer from 1 to 2**31',),
        ),
        (("train.devices=al",), ("train.devices: got 'al', a string, expected \"all\" or",)),
    ],
)
def test_what_does_not_divide_is_refused(refuses, settings, words):
    refuses(*TRAIN, *(part for setting in settings for part in ("--set", setting)), words=words)


def test_a_task_that_does_not_say_is_not_divided(refuses, monkeypatch):
    """By default it runs on one device."""
    monkeypatch.setattr(Language, "batch_axes", None)
    config = tasks.load("tiny.toml")
    assert devices.division(config, None) is None
    said = devices.described(config, None, None)
    assert said == "1 of 4 (cpu), the task does not say how its batches are divided (batch_axes)"
    words = (
        "train.devices: got 2, expected 1: the task language does not say how its batches are"
        " divided (batch_axes)",
    )
    refuses(*TRAIN, "--set", "train.devices=2", words=words)


def test_axes_for_every_array(workplace):
    division, task, _, _ = started("language")
    with pytest.raises(CommandError, match="batch_axes: got 1, expected 2, one for each array"):
        dataclasses.replace(division, axes=(1,)).batch(task.batch(0))


def test_what_rows_share_is_not_divided(workplace):
    """Of a carry; all else of it is, and the parameters are not."""
    division, *_ = started("language")
    carry = {"rows": jnp.zeros((4, 3)), "shared": gr.Shared((jnp.zeros(3), jax.random.key(0)))}
    learner = learning.Learner(jnp.zeros(4), (), carry)
    placed = division.state(learning.State(jnp.int32(0), {"LSTM": learner}))
    (found,) = placed.learners.values()
    assert not found.carry["rows"].is_fully_replicated
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(found.carry["shared"]))
    assert found.params.is_fully_replicated


def test_devices_of_a_cpu_share_its_memory():
    assert memory.of_device(2) == memory.available() // 2


@pytest.mark.parametrize(
    ("share", "count"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8)]
)
def test_cores_within_the_share_of_a_container(tmp_path, monkeypatch, share, count):
    monkeypatch.setattr(devices, "SHARE", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    if share:
        devices.SHARE.write_text(f"{share}\n")
    assert devices.cores() == count


@pytest.mark.processes
def test_a_cpu_shows_its_cores(workplace):
    """Without a flag of XLA, with that of the tests, and what its user has set."""
    command = [sys.executable, "-m", "gatedrnn", *TRAIN]
    bare = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    cores = devices.cores()
    most = next(count for count in (4, 2, 1) if count <= cores)
    for environment, chosen, said in (
        (bare, (), f"{most}{f' of {cores}' if cores > most else ''} (cpu)"),
        (bare | {"JAX_NUM_CPU_DEVICES": "3"}, (), "2 of 3 (cpu)"),
        (os.environ, ("--set", "train.devices=2"), "2 of 4 (cpu)"),
    ):
        done = subprocess.run(
            [*command, "--overwrite", *chosen],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"devices     {said}" in done.stdout
    command += ["--set", "train.devices=1000000"]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "train.devices: got 1000000, expected at most" in done.stderr
