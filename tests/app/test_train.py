import json
import os
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from gatedrnn._app import learning, record, run_folder, tasks
from gatedrnn._app.tasks.language import Batch, Language, LanguageModel, ngram, text

from .runs import (
    RUN,
    TRAIN,
    at_step,
    checkpoint,
    interrupt,
    metrics,
    saved_steps,
)


def test_a_run_leaves_all_its_files(command):
    outcome = command(*TRAIN)
    assert outcome.code == 0
    assert {path.name for path in RUN.iterdir()} == {*record.ALWAYS, "best", "latest"}
    assert os.listdir("runs") == ["tiny"]  # and no lock
    assert tasks.load(RUN / "config.toml") == tasks.load("tiny.toml")
    assert json.loads((RUN / "data.json").read_text())["characters"] == " .acehmnost"
    assert [step for step, _ in metrics("train")] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in metrics("validation")] == [2, 4, 6]
    best_step, best_bits = min(metrics("validation"), key=lambda pair: pair[1])
    assert saved_steps("best/LSTM") == [str(best_step)]
    assert saved_steps("latest") == ["6"]
    assert (RUN / "curve.png").read_bytes().startswith(b"\x89PNG")
    # what it says is what it saved
    baselines = [r for r in run_folder.find(RUN).metrics("bits") if r["kind"] == "baseline"]
    for baseline in baselines:
        assert f"{baseline['name']:<10}".strip() in outcome.out
        assert f"{baseline['bits']:.3f}" in outcome.out
    assert f"LSTM, step {best_step}" in outcome.out
    assert f"{best_bits:.3f}" in outcome.out
    # the bar, with the loss and characters per second
    assert "char/s, loss " in outcome.err


def test_overrides_are_kept_with_the_run(command):
    assert command(*TRAIN, "--set", "train.steps=1", "--set", "run.folder=runs/tiny").code == 0
    assert tasks.load(RUN / "config.toml").train.steps == 1


def test_saved_parameters_have_the_validation_that_was_reported(command):
    command(*TRAIN, "--set", "train.steps=2")
    task = tasks.load("tiny.toml").make()
    ((_, bits),) = metrics("validation")
    assert task.evaluate("LSTM", checkpoint("best/LSTM")) == {"bits": bits}
    corpus = text.prepare(text.load_text("text.txt"), validation_fraction=0.2, window=8, batch=4)
    assert ngram.bits_per_character(corpus.train, corpus.validation, corpus.vocabulary.size) == {
        r["name"]: r["bits"]
        for r in run_folder.find(RUN).metrics("bits")
        if r["kind"] == "baseline"
    }


def test_validation_in_streams_is_the_mean_over_the_characters(workplace):
    # one stream, by step: the definition
    Path("text.txt").write_text("abcd" * 10 + "x" + "abcdcbbaxa")
    task = tasks.load("tiny.toml", ["train.batch=1", "data.validation_fraction=0.2157"]).make()
    net, tokens = task.model.net, task.corpus.validation
    assert tokens.tolist() == [0, 1, 2, 3, 4, 3, 2, 2, 1, 0, 1]
    params = net.init(jax.random.key(3), in_features=None)
    carry, bits = net.carry((1,), params=params), []
    for now, after in pairwise(tokens):
        carry, logits = net.step(params, carry, now[None])
        bits.append(-float(jax.nn.log_softmax(logits[0])[after]) / np.log(2))
    assert task.evaluate("LSTM", params) == {"bits": pytest.approx(np.mean(bits), rel=1e-5)}


def test_the_fused_losses_are_those_of_the_logits(workplace):
    # the whole network, the same dropout, and the carry too
    settings = tasks.load("tiny.toml", ["model.dropout=0.5"])
    model = LanguageModel(settings.model, 12)
    net = model.net
    params, key = net.init(jax.random.key(3), in_features=None), jax.random.key(4)
    inputs, targets = jax.random.randint(key, (2, 8, 4), 0, 12)
    carry = net.apply(params, targets, key=key)[0]
    new, logits = net.apply(params, inputs, carry, key=key)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    got, losses = model.losses(params, carry, inputs, targets, key)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, *map(without_keys, (got, new)))


def without_keys(carry):
    """The floating-point leaves."""
    return [v for v in jax.tree.leaves(carry) if jax.numpy.issubdtype(v.dtype, np.floating)]


def test_the_carry_goes_on_and_the_loss_falls(command):
    command(*TRAIN, "--set", "train.steps=30", "--set", "train.validate_every=30")
    bits = [bits for _, bits in metrics("train")]
    assert bits[-1] < bits[0] - 0.3
    leaves = jax.tree.leaves(checkpoint("latest").learners["LSTM"].carry)
    assert any(np.any(leaf != 0) for leaf in leaves if leaf.dtype == np.float32)


def test_every_step_has_its_own_dropout(workplace):
    settings = tasks.load("tiny.toml", ["model.dropout=0.5"])
    models = (("LSTM", LanguageModel(settings.model, 12)),)
    key = jax.random.key(0)
    state = learning.initial_state(key, 9, models=models, settings=settings.optimiser, batch=4)
    window = text.training_window(np.arange(12, dtype=np.int32), 0, window=8, batch=4)
    losses = {
        float(
            learning.train_step(
                state._replace(step=np.int32(step)),
                Batch(*window),
                key,
                9,
                models=models,
                settings=settings.optimiser,
            )[1]["LSTM"]
        )
        for step in (0, 1, 2, 2)
    }
    assert len(losses) == 3


def test_the_best_parameters_are_those_of_the_lowest_validation(command, monkeypatch):
    values = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(Language, "evaluate", lambda *args: {"bits": next(values)})
    outcome = command(*TRAIN)
    assert saved_steps("best/LSTM") == ["4"]
    assert saved_steps("latest") == ["6"]
    assert "LSTM, step 4" in outcome.out


def test_resumed_equals_uninterrupted(command, monkeypatch):
    assert command(*TRAIN).code == 0
    whole, whole_best = checkpoint("latest"), checkpoint("best/LSTM")
    whole_metrics = metrics("train"), metrics("validation")
    shutil.rmtree(RUN)

    with monkeypatch.context() as patch:  # between two validations
        at_step(patch, 3, interrupt)
        outcome = command(*TRAIN)
    assert outcome.code == 130
    assert outcome.err.count("\n") >= 1
    assert "interrupted at step 3 of 6; the best parameters so far (LSTM: step 2, " in outcome.err
    assert "Traceback" not in outcome.err
    assert saved_steps("latest") == ["3"]
    assert (RUN / "curve.png").is_file()

    outcome = command(*TRAIN, "--resume")
    assert outcome.code == 0
    assert "resumed at step 3" in outcome.out
    jax.tree.map(np.testing.assert_array_equal, checkpoint("latest"), whole)
    jax.tree.map(np.testing.assert_array_equal, checkpoint("best/LSTM"), whole_best)
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
    assert tasks.load(RUN / "config.toml").train.steps == 3


def test_resume_of_a_finished_run_repeats_its_result(command):
    first = command(*TRAIN, "--set", "train.steps=2")
    again = command(*TRAIN, "--resume", "--set", "train.steps=2")
    assert again.code == 0
    rows = [[line for line in o.out.splitlines() if "LSTM, step 2" in line] for o in (first, again)]
    assert rows[0] == rows[1] != []


def test_resume_with_fewer_steps_than_were_done(command, refuses):
    command(*TRAIN, "--set", "train.steps=4")
    for steps in (3, 1):
        words = (f"train.steps: got {steps}, expected more than the 4 steps that the run has done",)
        refuses(*TRAIN, "--resume", "--set", f"train.steps={steps}", words=words)
    assert tasks.load(RUN / "config.toml").train.steps == 4
    assert len(metrics("train")) == 4


def test_what_it_suggests_can_be_done(command):
    Path("text.txt").write_text("-n' isn’t any\n" * 40, encoding="utf-8")
    outcome = command(*TRAIN, "--set", "train.steps=1", "--set", "run.folder=my runs/it's")
    program, *arguments = shlex.split(outcome.out.splitlines()[-1])
    assert (program, *arguments) == ("gatedrnn", "sample", "my runs/it's", "--prompt=-n'")
    assert command(*arguments, "--length", "3").out.startswith("-n'")


@pytest.mark.parametrize(
    ("content", "option"),
    [
        (" \n", ""),
        ("\x1b[0m \n", ""),
        ("\x07 two words", " --prompt=two"),
        ("我" * 50, f" --prompt={'我' * 20}"),
    ],
)
def test_the_suggested_prompt_is_the_first_word(workplace, content, option):
    Path("text.txt").write_text(content * 40, encoding="utf-8")
    option = option and f" --prompt={shlex.quote(option[10:])}"
    assert tasks.load("tiny.toml").make().commands("a b") == [f"gatedrnn sample 'a b'{option}"]


def test_the_bar_fits_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    at_step(monkeypatch, 6, lambda loss: loss * 0 + np.float32(12.345))
    lines = command(*TRAIN).err.replace("\r", "\n").splitlines()
    bars = [line for line in lines if "%|" in line]
    assert max(map(len, bars)) <= 80
    assert bars[-1].startswith("100%|█")
    assert bars[-1].endswith("char/s, loss 12.345")
