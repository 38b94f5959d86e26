"""Configurations of the package by name, and files by their path."""

import os
from pathlib import Path

import pytest

import gatedrnn as gr
from gatedrnn._app import shipped
from gatedrnn._app.errors import CommandError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_names_are_the_files_in_configs():
    assert shipped.names() == sorted(path.stem for path in CONFIGS.iterdir())
    assert len(shipped.names()) == 9


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONFIGS.glob("*.toml"))])
def test_a_name_is_the_configuration_that_is_shipped(workplace, name):
    Path(name).mkdir()  # a folder is no configuration
    assert shipped.path_of(name).read_bytes() == (CONFIGS / f"{name}.toml").read_bytes()


def test_a_wheel_has_its_own(tmp_path, monkeypatch):
    """Not those of a folder beside it."""
    packaged, beside = tmp_path / "package" / "configs", tmp_path / "configs"
    for folder in (packaged, beside):
        folder.mkdir(parents=True)
        (folder / f"{folder.parent.name}.toml").touch()
    monkeypatch.setattr(shipped, "PLACES", (packaged, beside))
    assert shipped.path_of("package") == packaged / "package.toml"
    assert shipped.names() == ["package"]


def test_a_package_without_configurations_still_takes_files(workplace, monkeypatch):
    monkeypatch.setattr(shipped, "PLACES", (Path("none"), Path("neither")))
    assert shipped.names() == []
    assert shipped.path_of("tiny.toml") == Path("tiny.toml")


@pytest.mark.parametrize("path", ["char_lm.toml", "digits.", f".{os.sep}adding", "there"])
def test_a_path_is_a_path(workplace, path):
    """By a suffix, by a separator, or since there is such a file."""
    Path("there").touch()
    assert shipped.path_of(path) == Path(path)


def test_a_file_wins_over_a_name(workplace, refuses):
    Path("digits").write_text("task = 7\n")
    refuses("train", "digits", words=("task: got 7",))


@pytest.mark.parametrize("word", ["chr_lm", "", ".", "\0", "char_lm ", "CHAR_LM"])
def test_an_unknown_name_is_refused(workplace, word):
    with pytest.raises(CommandError) as refused:
        shipped.path_of(word)
    said = f"config: got {word!r}, expected a TOML file or one of {', '.join(shipped.names())}"
    assert str(refused.value) == said


def test_the_command_refuses_an_unknown_name(refuses):
    refuses("train", "chr_lm", words=("config: got 'chr_lm', expected", "adding, char_lm, dates"))


def test_the_command_trains_by_name(command):
    """In a folder that has no such file."""
    tiny = {"data.length": 8, "model.features": 3, "train.steps": 1, "train.validate_every": 1}
    overrides = [part for key, value in tiny.items() for part in ("--set", f"{key}={value}")]
    done = command("train", "adding", *overrides)
    assert done.code == 0, done.err
    assert Path("runs/adding/run.json").is_file()


def test_help_and_version(command):
    said = command("train", "--help").out
    assert all(name in said for name in shipped.names())
    assert command("--version") == (0, f"gatedrnn {gr.__version__}\n", "")
