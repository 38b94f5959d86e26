"""Runs that are killed at each write point in turn: what is left, and what resuming makes of it."""

import gc
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import msgspec
import numpy as np
import pytest

from gatedrnn._app import exchange, leftovers, record, run_folder, tasks

from . import kills, tiny
from .runs import RUN, TRAIN, checkpoint, made, metrics

RUNS = Path("runs")


@pytest.fixture
def place(workplace, monkeypatch):
    """Where `tiny.toml` is that of a task, which is made once."""

    def prepare(name):
        Path("tiny.toml").write_text(tiny.configuration(name), encoding="utf-8")
        kills.share_tasks(monkeypatch)
        return workplace

    return prepare


def put(copy):
    """Have the parent of the run be as in `copy`."""
    shutil.rmtree(RUNS, ignore_errors=True)
    shutil.copytree(copy, RUNS)


def bring_back(err):
    """Do what a message says that brings runs back."""
    for command in re.findall(r"mv [^;\n]+", err):
        _, source, target = shlex.split(command)
        os.rename(source, target)


def whole(run):
    """All files of a run, without what was half written."""
    return {name: content for name, content in kills.tree(run).items() if ".part" not in name}


def final():
    """All that a run comes to: record, metrics, parameters."""
    found = run_folder.find(RUN).record
    kinds = {kind: jax.tree.leaves(checkpoint(kind)) for kind in found.checkpoints}
    plain = msgspec.structs.replace(found, files=())
    return plain, (RUN / "metrics.jsonl").read_bytes(), kinds


def assert_same(got, expected):
    assert got[:2] == expected[:2]
    assert got[2].keys() == expected[2].keys()
    for kind, leaves in expected[2].items():
        for a, b in zip(got[2][kind], leaves, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def assert_told(outcome, command):
    """The report is that of `eval`, and of the record."""
    assert outcome.code == 0, outcome.err
    evaluated = command("eval", "runs/tiny")
    assert evaluated.code == 0, evaluated.err
    assert evaluated.out in outcome.out
    show, key = (criterion := made(RUN).criterion).show, criterion.name
    for name, best in run_folder.find(RUN).record.best.items():
        (line,) = (w for w in evaluated.out.splitlines() if w.startswith(f"  {name}, step "))
        assert line.split(", step ")[1].split()[:2] == [str(best.step), show(best.measures[key])]


def recover(command, copy, *, criterion=None):
    """The run that a kill left, by its owner: None where there was none yet.

    With a `criterion` what resuming does first is done at once, so that equal trees are one case.
    """
    put(copy)
    if not RUN.exists():
        outcome = command("eval", "runs/tiny")
        assert outcome.code == 2
        if "; " not in outcome.err:
            leftovers.settle("runs/tiny")
            assert set(os.listdir(RUNS)) <= {".tiny.gatedrnn.lock"}
            return None
        bring_back(outcome.err)
    found = run_folder.find(RUN)
    if criterion:
        found = found.rewind(criterion)
        assert all(map(found.record.lists, record.contents(RUN)))
        assert all(map(found.record.counts, record.contents(RUN)))
    return found.record.latest


def survive(command, copies, arguments, expected, *, each):
    """Go on from every copy, and find what is `expected` for its committed step.

    The figures: copies, those that differ once resuming has dropped what does not count, and steps.
    Where `each` is to be gone on from, equal or not, it is every third one.
    """
    criterion = tasks.load("tiny.toml").make().criterion.name
    seen, steps = set(), set()
    for copy in copies[:: 3 if each else 1]:
        step = recover(command, copy, criterion=None if each else criterion)
        state = None if step is None else tuple(sorted(kills.tree(RUN).items()))
        if not each and hash(state) in seen:
            continue
        seen.add(hash(state))
        steps.add(step)
        outcome = command(*arguments, *(() if step is None else ("--resume",)))
        assert_told(outcome, command)
        assert_same(final(), expected)
        assert os.listdir(RUNS) == ["tiny"]
    return len(copies), len(seen), steps


@pytest.mark.parametrize(
    ("name", "each"),
    [
        pytest.param("adding", True, marks=pytest.mark.long),
        # one model and several, a carry of streams, trees
        *(
            pytest.param(name, False, marks=pytest.mark.long)
            for name in ("adding", "dates", "language", "formulas")
        ),
    ],
)
def test_killed_at_any_write_and_resumed_is_as_if_never_killed(
    command, place, tmp_path, name, each
):
    place(name)
    train = (*TRAIN, "--set", "train.steps=4")
    with kills.copied(RUNS, tmp_path / "copies") as copies:
        assert command(*train).code == 0
    expected = final()
    number, states, steps = survive(command, copies, train, expected, each=each)
    print(f"\n{name}: {number} kills, {states} states, {steps}")
    assert number > 100
    assert steps == {None, 2, 4}


@pytest.mark.long
def test_killed_while_it_goes_on_to_other_steps(command, place, tmp_path):
    """A run of 2 steps goes on to 3, is killed on the way and goes on again: all say the same."""
    place("adding")
    assert command(*TRAIN, "--set", "train.steps=2").code == 0
    onward = (*TRAIN, "--resume", "--set", "train.steps=3")
    with kills.copied(RUNS, tmp_path / "copies") as copies:
        assert command(*onward).code == 0
    expected = final()
    number, _, steps = survive(command, copies, onward, expected, each=False)
    assert number > 50
    assert steps == {2, 3}


@pytest.mark.parametrize("at_once", [pytest.param(True, marks=pytest.mark.long), False])
def test_killed_while_it_replaces_an_older_run(command, place, tmp_path, monkeypatch, at_once):
    place("adding")
    assert command(*TRAIN, "--set", "train.steps=3").code == 0
    older = whole(RUN)
    if not at_once:
        monkeypatch.setattr(exchange, "_at_once", lambda one, other: False)
    with kills.copied(RUNS, tmp_path / "copies") as copies:
        assert command(*TRAIN, "--set", "train.steps=2", "--overwrite").code == 0
    replaced = homeless = 0
    for copy in copies:
        put(copy)
        if not RUN.exists():  # between two renames
            homeless += 1
            said = command("eval", "runs/tiny").err
            bring_back(said)
            assert older in [whole(root) for root in RUNS.iterdir() if root != RUN]
        found = run_folder.find(RUN).record
        assert found.latest in (2, 3)
        named = [root for root in RUNS.glob(".*") if leftovers.is_whole(root)]
        if found.latest == 3:
            assert whole(RUN) == older
        else:
            replaced += 1
            assert [whole(root) for root in named] in ([], [older])
        capture = command("train", "tiny.toml")  # refused, and says what is left
        assert capture.code == 2
        assert capture.err.count("\n") == 1 + len(named)
        assert sorted(RUNS.glob(".*")) == sorted(named)
        bring_back(capture.err)
        assert all(run_folder.find(root).record.latest in (2, 3) for root in RUNS.iterdir())
    assert replaced
    assert homeless == (0 if at_once else 1)


def stopped(command, arguments, point, signals):
    """Run, with signals at one write point of a process; whether there was such a point."""
    passed = iter(range(point + 1))

    def tell(event, path):
        if next(passed, None) == point:
            for number in signals:
                # elsewhere this signal ends a process at once, as a kill does
                if signal.getsignal(number) is not signal.SIG_DFL:
                    signal.raise_signal(number)

    with kills.told(RUNS, tell):
        outcome = command(*arguments)
    assert outcome.code in (0, 130), outcome.err
    assert "Traceback" not in outcome.err
    return next(passed, None) is None


@pytest.mark.parametrize(
    ("signals", "stride"),
    [
        ((signal.SIGINT,), 60),
        ((signal.SIGINT, signal.SIGINT), 70),
        pytest.param((signal.SIGINT,), 3, marks=pytest.mark.long),
        pytest.param((signal.SIGTERM,), 7, marks=pytest.mark.long),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed event loop")  # of orbax, by the second signal
def test_stopped_at_a_write_and_resumed_is_as_if_never_stopped(command, place, signals, stride):
    """By Ctrl-C or SIGTERM, which end a step first, and by another Ctrl-C, which does not."""
    place("adding")
    train = (*TRAIN, "--set", "train.steps=4")
    assert command(*train).code == 0
    expected, point = final(), 0
    shutil.rmtree(RUNS)
    while stopped(command, train, point, signals):
        if RUNS.exists() and not RUN.exists():  # saved, and not yet at home
            bring_back(command("eval", "runs/tiny").err)
        others = [root for root in RUNS.glob("*") if root != RUN] if RUNS.exists() else []
        assert not any(map(leftovers.is_whole, others))
        outcome = command(*train, *(("--resume",) if RUN.exists() else ()))
        assert outcome.code == 0, outcome.err
        # what a second signal left of a run that was never saved went at the start
        assert os.listdir(RUNS) == ["tiny"]
        assert_same(final(), expected)
        shutil.rmtree(RUNS)
        point += stride
    gc.collect()  # here, where what was interrupted may be left unclosed
    print(f"\n{[n.name for n in signals]}: {point // stride} stops")
    assert point > 100


@pytest.mark.processes
def test_processes_that_are_ended_and_resumed(command, workplace, pytestconfig):
    """For real: a run that is killed, again and again, ends as one that is left alone."""
    environment = os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}
    settings = ("--set", "train.steps=400", "--set", "train.validate_every=5")
    program = (sys.executable, "-m", "gatedrnn", *TRAIN, *settings)
    alone = (*program, "--set", "run.folder=runs/whole")
    subprocess.run(alone, env=environment, check=True, capture_output=True)
    endings = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGKILL]
    for turn, number in enumerate(endings):
        resume = ("--resume",) if RUN.exists() else ()
        with subprocess.Popen(
            (*program, *resume),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process:
            for line in process.stdout:
                if line.startswith("step "):
                    break
            time.sleep(0.03 * turn)
            other = command(*TRAIN, *settings, "--resume")  # beside the first
            assert f"runs/tiny is in use by process {process.pid} of " in other.err
            process.send_signal(number)
            process.communicate(timeout=60)
        assert process.returncode == (-number if number == signal.SIGKILL else 130)
    subprocess.run((*program, "--resume"), env=environment, check=True, capture_output=True)
    for kind in ("latest", "best/LSTM"):
        pairs = zip(
            *(jax.tree.leaves(checkpoint(kind, RUNS / n)) for n in ("tiny", "whole")), strict=True
        )
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)
    assert metrics("train") == metrics("train", RUNS / "whole")
    assert metrics("validation") == metrics("validation", RUNS / "whole")
    assert sorted(os.listdir(RUNS)) == ["tiny", "whole"]
