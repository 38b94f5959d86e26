"""Several processes: connected ones make one run, and else nothing."""

import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from gatedrnn._app import run_folder

from . import tiny
from .connected import (
    CONNECTED,
    ELSEWHERE,
    FAILING,
    PROGRAM,
    ended,
    is_listened_to,
    port,
    start,
    start_both,
    wait_for,
)
from .runs import RUN, TRAIN, checkpoint, metrics

STEPS = 80
LONG = (*TRAIN, "--set", f"train.steps={STEPS}")


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [TRAIN, ("eval", "runs/tiny")])
def test_connected_processes_are_refused_before_anything_is_written(workplace, arguments):
    """Each would write to the folder; nothing is made, and both end at once."""
    before = sorted(Path().rglob("*"))
    address = f"127.0.0.1:{port()}"
    both = [start("-c", CONNECTED, address, "2", str(i), *arguments) for i in range(2)]
    for number, (code, _, err) in enumerate(ended(both)):
        assert code == 2, err
        said = f"this is process {number} of 2 that JAX has connected; gatedrnn {arguments[0]} runs"
        assert said in err
    assert sorted(Path().rglob("*")) == before


def latest():
    """The step of the last checkpoint, 0 before the first."""
    return (run_folder.find(RUN).record.latest or 0) if RUN.is_dir() else 0


def started_to(step, *arguments):
    """One run of two processes that has saved a step after `step`."""
    both = start_both(*LONG, *arguments)
    wait_for(lambda: latest() > step, both)
    return both


@pytest.mark.processes
def test_killed_stopped_and_resumed_it_is_the_run_of_one_device(command):
    """With dropout and a carry; either process is killed, one is told to stop; at last one goes on.

    Parameters and losses are those of one process with one device to rounding in float32.
    """
    for victim, step, how in ((1, 0, ()), (0, 4, ("--resume",))):
        both = started_to(step, *how)
        both[victim].kill()
        code, out, err = ended(both)[1 - victim]
        assert code not in (0, 130), err
        assert ("devices     4 (cpu) in 2 processes, 1 of the 4 rows" in out) == (victim == 1)
    saved = latest()
    assert 0 < saved < STEPS

    both = started_to(saved, "--resume")
    both[1].send_signal(signal.SIGTERM)
    (code, out, err), (other, nothing, told) = ended(both)
    assert (code, other, nothing) == (130, 130, ""), err + told
    assert f"resumed at step {saved}\n" in out
    stopped = latest()
    assert saved < stopped < STEPS
    assert f"interrupted at step {stopped} of {STEPS}; the best parameters so far" in err
    assert "stopping after this step" in told
    assert "interrupted at" not in told

    assert command(*LONG, "--resume", "--set", "train.devices=1").code == 0
    state, best = checkpoint("latest"), checkpoint("best/LSTM")
    found = {kind: metrics(kind) for kind in ("train", "validation")}
    assert command(*LONG, "--overwrite", "--set", "train.devices=1").code == 0
    for kind, expected in found.items():
        np.testing.assert_allclose(metrics(kind), expected, rtol=1e-4)
    for got, expected in ((state, checkpoint("latest")), (best, checkpoint("best/LSTM"))):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.processes
@pytest.mark.parametrize("name", ["adding", "formulas"])
def test_two_processes_end_as_one_does(workplace, command, name):
    """The record, the pictures and what is said are those of one process; `eval` repeats them."""
    Path("tiny.toml").write_text(tiny.configuration(name), encoding="utf-8")
    (code, out, err), (other, nothing, told) = ended(start_both(*TRAIN))
    assert (code, other, nothing) == (0, 0, ""), err + told
    assert "6 steps, " in out
    assert "devices     4 (cpu) in 2 processes, 1 of the 4 rows of a batch on each\n" in out
    assert os.listdir("runs") == ["tiny"]
    assert command("eval", "runs/tiny").out in out
    found = {kind: metrics(kind) for kind in ("train", "validation")}
    files = {path.name for path in RUN.iterdir()}
    assert command(*TRAIN, "--overwrite", "--set", "train.devices=1").code == 0
    assert {path.name for path in RUN.iterdir()} == files
    for kind, expected in found.items():
        np.testing.assert_allclose(metrics(kind), expected, rtol=1e-4)


@pytest.mark.processes
def test_a_process_that_fails_alone_ends_the_others(workplace):
    """Within the time of a heartbeat; what was saved before stays."""
    (code, _, err), (other, _, told) = ended(
        start_both(*TRAIN, programs=(PROGRAM, ("-c", FAILING)))
    )
    assert (code, other) in ((1, 1), (-signal.SIGABRT, 1)), err + told  # by us, or by JAX
    assert told.endswith("ValueError: of its own\n")
    assert latest() == 2


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "others", "words"),
    [
        (("--resume",), (), "runs/tiny: there is no such folder, and so no run"),
        ((), ("--set", "train.seed=3"), "the settings of process 1 are not those of process 0"),
        ((), ("--resume",), "--overwrite and --resume of process 1 are not those of process 0"),
        (("--set", "data.path=none.txt"), (), "data.path: cannot read none.txt: No such file"),
        (("--set", "train.batch=3"), (), "train.batch: got 3, expected a multiple of the number"),
        (("--set", "train.devices=3"), (), "train.devices: got 3, expected a multiple of the"),
        (("--set", "train.devices=8"), (), "train.devices: got 8, expected at most 4, what JAX"),
    ],
)
def test_processes_that_cannot_go_on_are_refused(workplace, arguments, others, words):
    """All end, process 0 says it in one line, and nothing is written."""
    before = sorted(Path().rglob("*"))
    (code, out, err), (other, nothing, told) = ended(start_both(*TRAIN, *arguments, others=others))
    assert (code, out, other, nothing) == (2, "", 2, ""), err + told
    assert words in err.splitlines()[-1]
    assert "gatedrnn train:" not in told
    assert sorted(Path().rglob("*")) == before


@pytest.mark.processes
def test_unequal_processes_are_refused(workplace):
    """JAX would exchange nothing between them."""
    before = sorted(Path().rglob("*"))
    (code, _, err), (other, _, told) = ended(start_both(*TRAIN, devices=(2, 1)))
    assert (code, other) == (2, 2), err + told
    assert "the processes have 2, 1 devices, expected equally many" in err.splitlines()[-1]
    assert "gatedrnn train:" not in told
    assert sorted(Path().rglob("*")) == before


@pytest.mark.processes
def test_another_file_system_is_refused(workplace):
    """Nothing is left of what process 0 wrote there."""
    before = sorted(Path().rglob("*"))
    (code, _, err), (other, _, _) = ended(start_both(*TRAIN, programs=(PROGRAM, ("-c", ELSEWHERE))))
    assert (code, other) == (2, 2), err
    assert "is not there in another process: all need the same file system" in err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--process", "0"), "--coordinator, --processes and --process go with --distributed"),
        (("--distributed", "--coordinator", "here"), "--coordinator: got 'here', expected HOST:"),
        (("--distributed", "--processes", "0"), "--processes: got 0, expected at least 1"),
        (
            ("--distributed", "--processes", "2", "--process", "2"),
            "--process: got 2, expected at least 0 and below --processes, 2",
        ),
        (("--distributed", "--process", "-1"), "--process: got -1, expected at least 0"),
        # this very process has begun to compute
        (("--distributed",), "cannot connect: jax.distributed.initialize() must be called before"),
    ],
)
def test_places_that_cannot_be(refuses, arguments, words):
    jax.devices()
    refuses(*TRAIN, *arguments, words=(words,))


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_the_others_can_be_stopped(workplace, number):
    """At once, and nothing is written; after some seconds it says that it waits."""
    before, address = sorted(Path().rglob("*")), port()
    place = ("--coordinator", f"127.0.0.1:{address}", "--processes", "2", "--process", "0")
    process = start(*PROGRAM, *TRAIN, "--distributed", *place)
    wait_for(lambda: is_listened_to(address), [process])
    assert "waiting for the other processes" in process.stderr.readline()
    process.send_signal(number)
    began = time.monotonic()
    assert ended([process])[0][:2] == (-number, "")
    assert time.monotonic() - began < 20
    assert sorted(Path().rglob("*")) == before


@pytest.mark.processes
def test_no_cluster_is_found(workplace):
    ((code, _, err),) = ended([start(*PROGRAM, *TRAIN, "--distributed")])
    assert code == 2
    assert err.splitlines()[-1].endswith("give --coordinator HOST:PORT --processes N --process I")
