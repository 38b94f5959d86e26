"""A tiny text and configuration, and the program run in this process."""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from gatedrnn._app import cli

from . import tiny


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to stand in, with `text.txt` and `tiny.toml`."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the cat sat on the mat. " * 20, encoding="utf-8")
    Path("tiny.toml").write_text(tiny.configuration("language"), encoding="utf-8")
    return tmp_path


@pytest.fixture
def command(workplace, capsys, monkeypatch):
    """The program: `command("train", "tiny.toml")` is its exit code and what it wrote."""
    monkeypatch.setattr(cli, "_leave", sys.exit)  # the process stays, and gives up this command

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        try:
            code = cli.main(arguments)
        except SystemExit as error:  # argparse, and the above
            code = error.code
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def refuses(command, workplace):
    """Assert that the program ends with one line that holds `words`, and changes nothing."""

    def check(*arguments: str, words: tuple[str, ...], code: int = 2) -> None:
        before = sorted(workplace.rglob("*"))
        outcome = command(*arguments)
        assert outcome.code == code
        assert outcome.err.count("\n") == 1, outcome.err
        assert outcome.err.startswith(f"gatedrnn {arguments[0]}: ")
        for word in words:
            assert word in outcome.err
        assert sorted(workplace.rglob("*")) == before

    return check
