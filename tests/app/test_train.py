import json
import os
import shlex
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest

from gatedrnn._app import config, learning, model, ngram, run_folder, text

from gatedrnn._app.interrupt import deferred

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


def test_a_run_leaves_all_its_files(command):
    outcome = command(*TRAIN)
    assert outcome.code == 0
    assert {path.name for path in RUN.iterdir()} == run_folder.NAMES
    assert config.load(RUN / "config.toml") == config.load("tiny.toml")
    assert json.loads((RUN / "vocabulary.json").read_text())["characters"] == " .acehmnost"
    assert [step for step, _ in metrics("train")] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in metrics("validation")] == [2, 4, 6]
    best_step, best_bits = min(metrics("validation"), key=lambda pair: pair[1])
    assert saved_steps("best") == [str(best_step)]
    assert saved_steps("latest") == ["6"]
    assert (RUN / "curve.png").read_bytes().startswith(b"\x89PNG")
    # what it says is what it saved
    baselines = [r for r in run_folder.find(RUN).metrics() if r["kind"] == "baseline"]
    for record in baselines:
        assert f"{record['name']:<10}".strip() in outcome.out
        assert f"{record['bits']:.3f}" in outcome.out
    assert f"LSTM, step {best_step}" in outcome.out
    assert f"{best_bits:.3f}" in outcome.out
    # the bar, with the loss, bits per character and characters per second
    assert "char/s, loss " in outcome.err
    assert "bits/char" in outcome.err


def test_overrides_are_kept_with_the_run(command):
    assert command(*TRAIN, "--set", "train.steps=1", "--set", "run.folder=runs/tiny").code == 0
    assert config.load(RUN / "config.toml").train.steps == 1


def test_saved_parameters_have_the_validation_that_was_reported(command):
    command(*TRAIN, "--set", "train.steps=2")
    settings = config.load("tiny.toml")
    corpus = text.prepare(text.load_text("text.txt"), validation_fraction=0.2, window=8, batch=4)
    net = model.build(settings.model, corpus.vocabulary.size)
    windows = text.evaluation_windows(corpus.validation, window=8, batch=4)
    ((_, bits),) = metrics("validation")
    assert learning.validation_bits(net, checkpoint("best"), windows) == pytest.approx(bits)
    assert ngram.bits_per_character(corpus.train, corpus.validation, corpus.vocabulary.size) == {
        r["name"]: r["bits"] for r in run_folder.find(RUN).metrics() if r["kind"] == "baseline"
    }


def test_validation_in_streams_is_the_mean_over_the_characters(workplace):
    # one stream, by step: the definition
    settings = config.load("tiny.toml")
    net = model.build(settings.model, 5)
    params = net.init(jax.random.key(3), in_features=None)
    tokens = np.array([0, 1, 2, 3, 4, 3, 2, 2, 1, 0, 1], np.int32)
    carry, bits = net.carry((1,), params=params), []
    for now, after in pairwise(tokens):
        carry, logits = net.step(params, carry, now[None])
        bits.append(-float(jax.nn.log_softmax(logits[0])[after]) / np.log(2))
    windows = text.evaluation_windows(tokens, window=8, batch=1)
    assert learning.validation_bits(net, params, windows) == pytest.approx(np.mean(bits), rel=1e-5)


def test_the_carry_goes_on_and_the_loss_falls(command):
    command(*TRAIN, "--set", "train.steps=30", "--set", "train.validate_every=30")
    bits = [bits for _, bits in metrics("train")]
    assert bits[-1] < bits[0] - 0.3
    leaves = jax.tree.leaves(checkpoint("latest").carry)
    assert any(np.any(leaf != 0) for leaf in leaves if leaf.dtype == np.float32)


def test_every_step_has_its_own_dropout(workplace):
    settings = config.load("tiny.toml", ["model.dropout=0.5"])
    net = model.build(settings.model, 12)
    key = jax.random.key(0)
    state = learning.initial_state(key, 9, net=net, settings=settings.optimiser, batch=4)
    window = text.training_window(np.arange(12, dtype=np.int32), 0, window=8, batch=4)
    losses = {
        float(
            learning.train_step(
                state._replace(step=np.int32(step)),
                *window,
                key,
                9,
                net=net,
                settings=settings.optimiser,
            )[1]
        )
        for step in (0, 1, 2, 2)
    }
    assert len(losses) == 3


def test_the_best_parameters_are_those_of_the_lowest_validation(command, monkeypatch):
    values = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(learning, "validation_bits", lambda *args: next(values))
    outcome = command(*TRAIN)
    assert saved_steps("best") == ["4"]
    assert saved_steps("latest") == ["6"]
    assert "LSTM, step 4" in outcome.out


def test_resumed_equals_uninterrupted(command, monkeypatch):
    assert command(*TRAIN).code == 0
    whole, whole_best = checkpoint("latest"), checkpoint("best")
    whole_metrics = metrics("train"), metrics("validation")
    shutil.rmtree(RUN)

    with monkeypatch.context() as patch:  # between two validations
        at_step(patch, 3, interrupt)
        outcome = command(*TRAIN)
    assert outcome.code == 130
    assert outcome.err.count("\n") >= 1
    assert "interrupted at step 3 of 6; the best parameters so far (step 2, " in outcome.err
    assert "Traceback" not in outcome.err
    assert saved_steps("latest") == ["3"]
    assert (RUN / "curve.png").is_file()

    outcome = command(*TRAIN, "--resume")
    assert outcome.code == 0
    assert "resumed at step 3" in outcome.out
    jax.tree.map(np.testing.assert_array_equal, checkpoint("latest"), whole)
    jax.tree.map(np.testing.assert_array_equal, checkpoint("best"), whole_best)
    assert (metrics("train"), metrics("validation")) == whole_metrics


def test_resumed_after_a_crash_equals_uninterrupted(command, monkeypatch):
    assert command(*TRAIN).code == 0
    whole, whole_metrics = checkpoint("latest"), (metrics("train"), metrics("validation"))
    shutil.rmtree(RUN)

    def crash(loss):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        at_step(patch, 6, crash)
        with pytest.raises(RuntimeError):
            command(*TRAIN)
    with open(RUN / "metrics.jsonl", "a") as file:
        file.write('{"kind": "trai')  # a line that was being written
    assert saved_steps("latest") == ["4"]
    assert command(*TRAIN, "--resume").code == 0
    jax.tree.map(np.testing.assert_array_equal, checkpoint("latest"), whole)
    assert (metrics("train"), metrics("validation")) == whole_metrics


def test_resume_with_more_steps(command):
    command(*TRAIN, "--set", "train.steps=2")
    outcome = command(*TRAIN, "--resume", "--set", "train.steps=3")
    assert outcome.code == 0
    assert [step for step, _ in metrics("train")] == [1, 2, 3]
    assert config.load(RUN / "config.toml").train.steps == 3


def test_resume_of_a_finished_run_repeats_its_result(command):
    first = command(*TRAIN, "--set", "train.steps=2")
    again = command(*TRAIN, "--resume", "--set", "train.steps=2")
    assert again.code == 0
    rows = [[line for line in o.out.splitlines() if "LSTM, step 2" in line] for o in (first, again)]
    assert rows[0] == rows[1] != []


def test_interrupted_before_any_validation_the_parameters_are_kept(command, monkeypatch):
    at_step(monkeypatch, 1, interrupt)
    outcome = command(*TRAIN)
    assert outcome.code == 130
    assert "the parameters, not yet validated, are in runs/tiny" in outcome.err
    assert saved_steps("best") == saved_steps("latest") == ["1"]
    assert command("sample", "runs/tiny", "--prompt", "the ", "--length", "3").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_is_not_held_back(command, monkeypatch, capfd, number):
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
        (diverge, 1, "loss became nan at step 1 (a lower optimiser.learning_rate may help)"),
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
    monkeypatch.setattr(
        learning, "initial_state", lambda *args, **kwargs: interrupt(real(*args, **kwargs))
    )
    outcome = command(*TRAIN)
    assert outcome.code == 130
    last = outcome.err.splitlines()[-1]
    assert last == "gatedrnn train: interrupted at step 0 of 6; nothing was saved yet"
    assert not os.path.exists("runs")


def test_the_curve_is_drawn_when_the_reader_has_gone(command, monkeypatch):
    at_step(monkeypatch, 3, broken_pipe)
    assert command(*TRAIN).code == 1
    assert (RUN / "curve.png").is_file()


def test_resume_with_fewer_steps_than_were_done(command, refuses):
    command(*TRAIN, "--set", "train.steps=4")
    for steps in (3, 1):
        words = (f"train.steps: got {steps}, expected more than the 4 steps that the run has done",)
        refuses(*TRAIN, "--resume", "--set", f"train.steps={steps}", words=words)
    assert config.load(RUN / "config.toml").train.steps == 4
    assert len(metrics("train")) == 4


def test_what_it_suggests_can_be_done(command):
    Path("text.txt").write_text("-n' isn’t any\n" * 40, encoding="utf-8")
    outcome = command(*TRAIN, "--set", "train.steps=1", "--set", "run.folder=my runs/it's")
    program, *arguments = shlex.split(outcome.out.splitlines()[-1])
    assert (program, *arguments) == ("gatedrnn", "sample", "my runs/it's", "--prompt=-n'")
    assert command(*arguments, "--length", "3").out.startswith("-n'")


def test_a_text_of_blanks_suggests_no_prompt(command):
    Path("text.txt").write_text(" \n" * 100)
    assert command(*TRAIN, "--set", "train.steps=1").out.endswith("gatedrnn sample runs/tiny\n")


def test_the_bar_fits_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    at_step(monkeypatch, 6, lambda loss: loss * 0 + np.float32(12.345))
    lines = command(*TRAIN).err.replace("\r", "\n").splitlines()
    (bar,) = [line for line in lines if "100%" in line and line.endswith("bits/char")]
    assert len(bar) <= 80
    assert "char/s, loss 12.345, 17.810 bits/char" in bar


def test_a_loss_that_is_no_number_stops_the_run(command, monkeypatch):
    at_step(monkeypatch, 3, lambda loss: loss * np.float32("nan"))
    outcome = command(*TRAIN)
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("gatedrnn train: the training loss became nan at step 3 (")
    assert last.endswith("may help); what was saved before stays")
    assert (RUN / "curve.png").is_file()
    assert saved_steps("best") == saved_steps("latest") == ["2"]
    assert [step for step, _ in metrics("train")] == [1, 2]


def test_parameters_that_are_no_numbers_are_not_saved(command, monkeypatch):
    real = learning.validation_bits
    values = iter([real, lambda *args: float("nan")])
    monkeypatch.setattr(learning, "validation_bits", lambda *args: next(values)(*args))
    outcome = command(*TRAIN)
    assert outcome.code == 1
    assert "the validation loss became nan at step 4" in outcome.err
    assert saved_steps("best") == saved_steps("latest") == ["2"]


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
    assert saved_steps("best") == saved_steps("latest") == ["2"]
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
        lambda self: [json.loads(line) for text in kept for line in text.splitlines()],
    )
    at_step(monkeypatch, 3, fill)
    outcome = command(*TRAIN)
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.endswith("metrics.jsonl: No space left on device; what was saved before stays")
    assert saved_steps("best") == ["2"]
    assert (RUN / "curve.png").is_file()
