"""Runs that end before their last step: what they say, and what they leave."""

import json
import os
import signal
from pathlib import Path

import jax
import pytest

from gatedrnn._app import learning, run_folder
from gatedrnn._app.interrupt import deferred
from gatedrnn._app.tasks.language import Language

from .runs import (
    RUN,
    TRAIN,
    at_step,
    broken_pipe,
    checkpoint,
    diverge,
    interrupt,
    metrics,
    out_of_memory,
    saved_steps,
)


def test_interrupted_before_any_validation_the_parameters_are_kept(command, monkeypatch):
    at_step(monkeypatch, 1, interrupt)
    outcome = command(*TRAIN)
    assert outcome.code == 130
    assert "the parameters, not yet validated, are in runs/tiny" in outcome.err
    assert saved_steps("best/LSTM") == saved_steps("latest") == ["1"]
    assert command("sample", "runs/tiny", "--prompt", "the ", "--length", "3").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_is_not_held_back(command, monkeypatch, number):
    at_step(monkeypatch, 1, lambda loss: interrupt(interrupt(loss, number), number))
    outcome = command(*TRAIN)
    assert outcome.code == 130
    assert outcome.err.endswith("gatedrnn train: interrupted\n")
    assert not os.path.exists("runs")


def test_the_first_interrupt_is_answered(workplace, capfd):
    with deferred() as interrupted:
        assert not interrupted()
        interrupt(None, signal.SIGTERM)
        assert interrupted()
    message = "\nstopping after this step; press again to stop at once\n"
    assert capfd.readouterr().err == message


@pytest.mark.parametrize(
    ("action", "code", "words"),
    [
        (
            diverge,
            1,
            "loss of LSTM became nan at step 1 (a lower optimiser.learning_rate may help)",
        ),
        (broken_pipe, 1, ""),
        (out_of_memory, 1, "out of memory: RESOURCE_EXHAUSTED: 9 TB"),
    ],
)
def test_a_run_that_ends_before_it_is_saved_leaves_nothing(
    command, monkeypatch, action, code, words
):
    at_step(monkeypatch, 1, action)
    outcome = command(*TRAIN)
    assert outcome.code == code
    assert words in outcome.err.splitlines()[-1]
    if action is diverge:
        assert outcome.err.endswith("; nothing was saved yet\n")
    assert not os.path.exists("runs")


def test_interrupted_before_the_first_step_nothing_is_left(command, monkeypatch):
    real = learning.initial_state

    def initial_state(key, **kwargs):
        made = real(key, **kwargs)
        return made if isinstance(key, jax.core.Tracer) else interrupt(made)

    monkeypatch.setattr(learning, "initial_state", initial_state)
    outcome = command(*TRAIN)
    assert outcome.code == 130
    last = outcome.err.splitlines()[-1]
    assert last == "gatedrnn train: interrupted at step 0 of 6; nothing was saved yet"
    assert not os.path.exists("runs")


def test_the_curve_is_drawn_when_the_reader_has_gone(command, monkeypatch):
    at_step(monkeypatch, 3, broken_pipe)
    assert command(*TRAIN).code == 1
    assert (RUN / "curve.png").is_file()


def test_a_loss_that_is_no_number_stops_the_run(command, monkeypatch):
    at_step(monkeypatch, 3, diverge)
    outcome = command(*TRAIN)
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("gatedrnn train: the training loss of LSTM became nan at step 3 (")
    assert last.endswith("may help); what was saved before stays")
    assert (RUN / "curve.png").is_file()
    assert saved_steps("best/LSTM") == saved_steps("latest") == ["2"]
    assert [step for step, _ in metrics("train")] == [1, 2]


def test_parameters_that_are_no_numbers_are_not_saved(command, monkeypatch):
    values = iter([3.0, float("nan")])
    monkeypatch.setattr(Language, "evaluate", lambda *args: {"bits": next(values)})
    outcome = command(*TRAIN)
    assert outcome.code == 1
    assert "the validation of LSTM became nan at step 4" in outcome.err
    assert saved_steps("best/LSTM") == saved_steps("latest") == ["2"]


def test_a_full_disk_at_a_checkpoint_keeps_the_last(command, monkeypatch):
    import orbax.checkpoint as ocp

    real = ocp.StandardCheckpointer.save

    def save(self, directory, *args, **kwargs):
        if Path(directory).name.startswith("4"):
            raise OSError(28, "No space left on device")
        return real(self, directory, *args, **kwargs)

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", save)
    outcome = command(*TRAIN)
    assert outcome.code == 1
    assert "No space left on device; what was saved before stays" in outcome.err
    assert saved_steps("best/LSTM") == saved_steps("latest") == ["2"]
    assert checkpoint("latest").step == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_at_the_metrics(command, monkeypatch):
    kept = []

    def fill(loss):
        kept.append((RUN / "metrics.jsonl").read_text())
        (RUN / "metrics.jsonl").unlink()
        (RUN / "metrics.jsonl").symlink_to("/dev/full")
        return loss

    # which would be read without an end
    monkeypatch.setattr(
        run_folder.RunFolder,
        "metrics",
        lambda self, criterion: [json.loads(line) for text in kept for line in text.splitlines()],
    )
    at_step(monkeypatch, 3, fill)
    outcome = command(*TRAIN)
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.endswith("metrics.jsonl: No space left on device; what was saved before stays")
    assert saved_steps("best/LSTM") == ["2"]
    assert (RUN / "curve.png").is_file()
