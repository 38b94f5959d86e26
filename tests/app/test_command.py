"""The program from outside: processes, signals, pipes, and what is not installed."""

import importlib.util
import os
import signal
import subprocess
import sys
import types

import pytest

from gatedrnn._app import cli

PROGRAM = (sys.executable, "-m", "gatedrnn")


@pytest.fixture
def environment(pytestconfig):
    """That of a process which finds the package, wherever it is started."""
    return os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}


def test_train_stopped_by_the_keyboard_then_sample_cut_short(workplace, environment):
    train = (*PROGRAM, "train", "tiny.toml", "--set", "train.steps=1000000")
    with subprocess.Popen(
        train, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stdout:
            if "the best so far" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    last = err.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("gatedrnn train: interrupted at step ")
    # the bar and the last line, and no noise of the libraries
    noise = [
        line
        for line in err.replace("\r", "\n").splitlines()[:-1]
        if line.strip() and "char/s" not in line
    ]
    assert noise == []
    assert (workplace / "runs/tiny/curve.png").is_file()

    sample = (*PROGRAM, "sample", "runs/tiny", "--prompt", "the ", "--length", "1000000")
    with subprocess.Popen(
        sample, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.read(6).startswith("the ")
        process.stdout.close()  # as `head` does
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_the_library_needs_none_of_the_packages_of_the_program(workplace, environment):
    code = f"""
import sys
import gatedrnn
from gatedrnn._app import cli
found = set(sys.modules) & {set(cli.TRAINING)!r}
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(
    ("arguments", "absent", "expected"),
    [
        (("train", "tiny.toml"), {"optax"}, "needs optax;"),
        (("train", "tiny.toml"), {"tqdm", "tomli_w"}, "needs tqdm, tomli-w;"),
        (("sample", "runs/tiny"), {"orbax", "optax"}, "needs orbax-checkpoint;"),
    ],
)
def test_missing_packages(refuses, monkeypatch, arguments, absent, expected):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else real(name)
    )
    refuses(*arguments, words=(expected, 'install with: pip install "gatedrnn[train]"'))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("train", "tiny.toml", "--overwrite", "--resume"), "not allowed with argument"),
        (("sample", "runs/tiny", "--length", "many"), "--length: invalid int value: 'many'"),
    ],
)
def test_misused(command, arguments, message):
    outcome = command(*arguments)
    assert outcome.code == 2
    assert message in outcome.err


def test_interrupted_before_anything_is_done(command, monkeypatch):
    def need(packages):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_need", need)
    assert command("train", "tiny.toml") == (130, "", "gatedrnn train: interrupted\n")


@pytest.mark.parametrize(("given", "cell"), [((), None), (("--cell", "LSTM"), "LSTM")])
def test_check_is_handed_on(command, monkeypatch, given, cell):
    import gatedrnn._app

    seen = []
    check = types.SimpleNamespace(run=lambda args: seen.append(args.cell) or 7)
    monkeypatch.setitem(sys.modules, "gatedrnn._app.check", check)
    monkeypatch.setattr(gatedrnn._app, "check", check, raising=False)
    assert command("check", *given).code == 7
    assert seen == [cell]
