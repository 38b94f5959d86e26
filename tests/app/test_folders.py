"""Which folders a run may use, and what it does to a run that is there."""

import os
from pathlib import Path

import numpy as np
import pytest

from gatedrnn._app import learning

from .runs import RUN, TRAIN, at_step, interrupt, saved_steps


def test_an_existing_run_is_refused(command, refuses):
    command(*TRAIN, "--set", "train.steps=1")
    refuses(*TRAIN, words=("run.folder: runs/tiny exists", "--resume", "--overwrite"))


def test_overwrite_replaces_the_run(command):
    command(*TRAIN, "--set", "train.steps=2")
    assert command(*TRAIN, "--set", "train.steps=1", "--overwrite").code == 0
    assert saved_steps("latest") == ["1"]
    assert os.listdir("runs") == ["tiny"]


def test_overwrite_of_nothing_is_a_new_run(command):
    assert command(*TRAIN, "--set", "train.steps=1", "--overwrite").code == 0
    assert os.listdir("runs") == ["tiny"]


def test_overwrite_keeps_the_old_run_until_the_new_one_is_saved(command, monkeypatch):
    command(*TRAIN, "--set", "train.steps=2")
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    at_step(monkeypatch, 1, lambda loss: loss * np.float32("nan"))
    assert command(*TRAIN, "--overwrite").code == 1
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before
    assert os.listdir("runs") == ["tiny"]


def test_an_early_interrupt_of_an_overwrite_keeps_the_old_run(command, monkeypatch):
    command(*TRAIN, "--set", "train.steps=2")
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    at_step(monkeypatch, 1, interrupt)
    outcome = command(*TRAIN, "--overwrite")
    assert outcome.code == 130
    assert "step 1 of 6, before a validation; runs/tiny holds the older run" in outcome.err
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before
    assert os.listdir("runs") == ["tiny"]


def test_two_runs_at_once_do_not_mix(command, monkeypatch):
    """The folder appears after it was found free, and before the run makes it."""
    real = learning.initial_state

    def initial_state(*args, **kwargs):
        RUN.mkdir(parents=True)
        (RUN / "config.toml").write_text("of the other run")
        return real(*args, **kwargs)

    monkeypatch.setattr(learning, "initial_state", initial_state)
    outcome = command(*TRAIN)
    assert outcome.code == 1
    assert "cannot write" in outcome.err
    assert "File exists" in outcome.err
    assert [path.read_text() for path in RUN.iterdir()] == ["of the other run"]


def test_overwrite_spares_what_is_no_run(refuses):
    RUN.mkdir(parents=True)
    (RUN / "thesis.tex").write_text("years of work")
    refuses(*TRAIN, "--overwrite", words=("runs/tiny is not to be overwritten", "thesis.tex"))


def test_a_file_in_the_place_of_the_folder(refuses):
    RUN.parent.mkdir()
    RUN.write_text("")
    refuses(*TRAIN, words=("runs/tiny exists",))
    refuses(*TRAIN, "--overwrite", words=("runs/tiny is not to be overwritten",))


def test_a_folder_that_cannot_be_made(refuses):
    Path("runs").write_text("")
    refuses(*TRAIN, words=("cannot write", "Not a directory"), code=1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.path=none.txt", ("data.path: cannot read none.txt: No such file",)),
        ("data.path=empty.txt", ("data.path: empty.txt is empty",)),
        ("data.path=latin.txt", ("data.path: latin.txt is not UTF-8",)),
        ("data.path=short.txt", ("validation part has 8 characters, expected at least 9",)),
        ("train.window=400", ("training part has 384 characters, expected at least 401",)),
        ("train.batch=0", ("train.batch: got 0", "expected an integer of at least 1")),
        ("train.bacth=3", ("train.bacth: got an unknown key",)),
    ],
)
def test_what_cannot_be_done_leaves_nothing_behind(refuses, override, words):
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes(b"caf\xe9" * 50)
    Path("short.txt").write_text("ab" * 20)
    refuses(*TRAIN, "--set", override, words=words)


def test_a_missing_and_a_broken_configuration(refuses):
    Path("broken.toml").write_text("[train\n")
    refuses("train", "none.toml", words=("cannot read the configuration none.toml: No such file",))
    refuses("train", "broken.toml", words=("the configuration broken.toml is not TOML",))


def test_resume_of_what_is_not_there(refuses):
    refuses(*TRAIN, "--resume", words=("runs/tiny: there is no such folder",))
    RUN.mkdir(parents=True)
    refuses(*TRAIN, "--resume", words=("runs/tiny holds no run: it has no config.toml",))


def test_resume_with_other_settings_or_another_text(command, refuses):
    command(*TRAIN, "--set", "train.steps=1")
    words = ("--resume: train.batch is 5, but 4 in runs/tiny",)
    refuses(*TRAIN, "--resume", "--set", "train.batch=5", words=words)
    Path("text.txt").write_text(Path("text.txt").read_text().replace("cat", "tac"))
    refuses(*TRAIN, "--resume", words=("--resume: the text is not the one",))


def test_resume_without_a_checkpoint(command, refuses, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda loss: loss * np.float32("nan"))
        command(*TRAIN)
    refuses(*TRAIN, "--resume", words=("has no saved latest parameters",))
