"""A tiny text and configuration, and the program run in this process."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
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


@pytest.fixture
def saved(workplace):
    """Make a run of a task with random parameters."""
    pytest.importorskip("optax")
    import jax

    from gatedrnn._app import run_folder, tasks
    from gatedrnn._app.record import Best

    def save(name):
        Path("tiny.toml").write_text(tiny.configuration(name), encoding="utf-8")
        config = tasks.load("tiny.toml")
        task = config.make()
        run = run_folder.create(config, task.stored, overwrite=False)
        rng, best = np.random.default_rng(0), {}
        for model, net in task.models.items():
            shapes = jax.eval_shape(net.init, jax.random.key(0))
            params = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), shapes)
            best[model] = (Best(4, {}), params)
        run.append()
        run.save(4, np.int32(4), best)
        return list(task.models)

    return save
