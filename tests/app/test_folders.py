"""Which folders a run may use, and what it does to a run that is there."""

import os
import shutil
from pathlib import Path

import pytest

from gatedrnn._app import exchange, files, learning, tasks

from .runs import RUN, TRAIN, at_step, diverge, interrupt, saved_steps


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
    at_step(monkeypatch, 1, diverge)
    assert command(*TRAIN, "--overwrite").code == 1
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before
    assert os.listdir("runs") == ["tiny"]


def test_an_early_interrupt_of_an_overwrite_keeps_the_old_run(command, monkeypatch):
    command(*TRAIN, "--set", "train.steps=2")
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    at_step(monkeypatch, 1, interrupt)
    outcome = command(*TRAIN, "--overwrite")
    assert outcome.code == 130
    expected = "at step 1 of 6; nothing was saved yet; runs/tiny holds the older run as it was\n"
    assert outcome.err.endswith(expected)
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before
    assert os.listdir("runs") == ["tiny"]


def test_two_runs_at_once_do_not_mix(command, monkeypatch):
    """The folder appears after it was found free, and before the run is saved in it."""
    real = learning.initial_state

    def initial_state(*args, **kwargs):
        RUN.mkdir(exist_ok=True)
        (RUN / "config.toml").write_text("of the other run")
        return real(*args, **kwargs)

    monkeypatch.setattr(learning, "initial_state", initial_state)
    outcome = command(*TRAIN)
    assert outcome.code == 1
    assert "cannot write" in outcome.err
    last = outcome.err.splitlines()[-1]
    assert "Directory not empty; the run is in /" in last
    assert [path.read_text() for path in RUN.iterdir()] == ["of the other run"]
    assert command("eval", last.rpartition(" is in ")[2]).code == 0


def test_overwrite_spares_what_is_no_run(refuses):
    RUN.mkdir(parents=True)
    (RUN / "thesis.tex").write_text("years of work")
    refuses(*TRAIN, "--overwrite", words=("runs/tiny is not to be overwritten", "thesis.tex"))


@pytest.mark.parametrize("at_once", [True, False])
def test_an_older_run_that_cannot_be_replaced_stays(command, monkeypatch, at_once):
    command(*TRAIN, "--set", "train.steps=2")
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    real = os.rename

    def rename(source, target):
        if str(source).endswith(".new") and Path(target).name == "tiny":
            raise OSError(28, "No space left on device")
        real(source, target)

    def exchange_at_once(one, other):
        if at_once:
            raise OSError(28, "No space left on device")
        return False

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(exchange, "_at_once", exchange_at_once)
    outcome = command(*TRAIN, "--overwrite")
    assert outcome.code == 1
    assert "No space left on device; the run is in /" in outcome.err
    assert outcome.err.endswith("; runs/tiny holds the older run as it was\n")
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before
    (hidden,) = set(os.listdir("runs")) - {"tiny"}
    assert command("eval", f"runs/{hidden}").code == 0


def test_a_folder_that_is_no_run_is_not_to_be_resumed(command, refuses):
    RUN.mkdir(parents=True)
    (RUN / "config.toml").touch()
    refuses(*TRAIN, words=("runs/tiny exists and holds no run; --set run.folder=FOLDER names",))
    assert "--resume" not in command(*TRAIN).err


def test_a_folder_that_cannot_be_looked_at(refuses, monkeypatch):
    (RUN / "config.toml").mkdir(parents=True)

    real = files.read

    def read(path, most):
        if path.name == "run.json":
            raise PermissionError(13, "Permission denied")
        return real(path, most=most)

    monkeypatch.setattr(files, "read", read)
    for option in ((), ("--overwrite",), ("--resume",)):
        refuses(*TRAIN, *option, words=("run.json: Permission denied",))


def test_a_folder_whose_name_is_too_long(refuses):
    folder = f"run.folder=new/{'n' * 300}"
    refuses(*TRAIN, "--set", folder, words=("cannot write", "File name too long"), code=1)
    folder = f"run.folder={'n' * 300}"
    refuses(*TRAIN, "--resume", "--set", folder, words=("cannot read", "File name too long"))


def test_a_parent_that_cannot_be_looked_at(refuses, monkeypatch):
    real = Path.exists

    def exists(path):
        if path.name == "runs":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    refuses(*TRAIN, words=("cannot write runs/tiny: Permission denied",), code=1)


def test_a_file_in_the_place_of_the_folder(refuses):
    RUN.parent.mkdir()
    RUN.write_text("")
    refuses(*TRAIN, words=("runs/tiny exists",))
    refuses(*TRAIN, "--overwrite", words=("runs/tiny is not to be overwritten",))


def test_a_folder_that_cannot_be_made(refuses):
    Path("runs").write_text("")
    refuses(*TRAIN, words=("cannot write runs/tiny: File exists",), code=1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.path=none.txt", ("data.path: cannot read none.txt: No such file",)),
        ("data.path=empty.txt", ("data.path: empty.txt is empty",)),
        ("data.path=latin.txt", ("data.path: latin.txt is not UTF-8",)),
        ("data.path=short.txt", ("validation part has 8 characters, expected at least 9",)),
        ("data.window=400", ("training part has 384 characters, expected at least 401",)),
        ("train.batch=0", ("train.batch: got 0", "expected an integer from 1 to 2**31 - 1")),
        ("train.batch=385", ("train.batch: got 385, expected at most the 384 characters",)),
        ("data.path=a\0b", ("data.path: got 'a\\x00b'", "no NUL")),
        ("run.folder=a\0b", ("run.folder: got 'a\\x00b'", "no NUL")),
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
    refuses(*TRAIN, "--resume", words=("runs/tiny holds no run: it has no run.json",))


def test_resume_with_other_settings_or_another_text(command, refuses):
    command(*TRAIN, "--set", "train.steps=1")
    words = (
        "--resume: train.batch is 5, but 4 in runs/tiny",
        "; data.path, run.folder, train.devices, train.steps alone may differ, of the same data",
    )
    refuses(*TRAIN, "--resume", "--set", "train.batch=5", words=words)
    Path("text.txt").write_text(Path("text.txt").read_text().replace("cat", "tac"))
    refuses(*TRAIN, "--resume", words=("--resume: the data are not those that the run began with",))


def test_resume_with_the_text_and_the_folder_elsewhere(command):
    command(*TRAIN, "--set", "train.steps=1")
    shutil.copy("text.txt", "copy.txt")
    RUN.rename("moved")
    elsewhere = ("--set", "data.path=copy.txt", "--set", "run.folder=moved")
    assert command(*TRAIN, "--resume", *elsewhere).code == 0
    assert tasks.load("moved/config.toml").data.path == "copy.txt"


def test_resume_without_a_checkpoint(command, refuses):
    command(*TRAIN, "--set", "train.steps=1")
    shutil.rmtree(RUN / "latest")
    words = ("cannot read the checkpoint", "latest/1")
    refuses(*TRAIN, "--resume", words=words, code=1)


def test_resume_with_damaged_metrics(command, refuses):
    command(*TRAIN, "--set", "train.steps=1")
    no_number = b'{"kind": "validation", "step": 1, "model": "LSTM", "bits": "2"}'
    no_model = b'{"kind": "train", "step": 1, "loss": 2.0}'
    for line in (b"\xff", b"3", b"{}", no_number, no_model, b"[" * 100):
        (RUN / "metrics.jsonl").write_bytes(line + b"\n")
        refuses(*TRAIN, "--resume", words=("cannot read", "metrics.jsonl"))
