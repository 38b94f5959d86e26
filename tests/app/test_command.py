"""The program from outside: processes, signals, pipes, and what is not installed."""

import importlib.util
import os
import signal
import subprocess
import sys

import jax
import pytest

import gatedrnn as gr
from gatedrnn._app import check, cli

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
    assert noise == ["stopping after this step; press again to stop at once"]
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
import jax  # which itself takes those that it finds
before = set(sys.modules)
import gatedrnn
from gatedrnn._app import cli
found = (set(sys.modules) - before) & {set(cli.TRAINING)!r}
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(
    ("arguments", "absent", "expected"),
    [
        (("train", "tiny.toml"), {"optax"}, "needs optax;"),
        (("train", "tiny.toml"), {"tqdm", "tomli_w"}, "needs tqdm, tomli-w;"),
        (("eval", "runs/tiny"), {"sklearn"}, "needs scikit-learn;"),
        (("sample", "runs/tiny"), {"orbax", "optax"}, "needs orbax-checkpoint;"),
        (("sample", "runs/tiny"), {"msgspec"}, "needs msgspec;"),
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
    assert outcome.err.count("\n") == 1


def test_interrupted_before_anything_is_done(command, monkeypatch):
    def need(packages):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_need", need)
    assert command("train", "tiny.toml") == (130, "", "gatedrnn train: interrupted\n")


def test_a_reader_of_the_output_who_has_gone_and_a_disk_that_is_full(command, monkeypatch):
    for number, expected in ((32, ""), (28, "gatedrnn train: cannot write: No space left\n")):
        failure = OSError(number, "No space left")

        def need(packages, failure=failure):
            raise failure

        monkeypatch.setattr(cli, "_need", need)
        assert command("train", "tiny.toml") == (1, "", expected)


def test_leaving_at_once_writes_what_is_held_back(environment):
    code = "import sys; from gatedrnn._app import cli; print('out'); cli._leave(130)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "out\n", "")


def test_check_for_real(command):
    outcome = command("check", "--cell", "elman activation=relu use_bias=F")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[3].split() == ["cell", "vs", "NumPy", "vs", "autodiff", "vs", "differences"]
    assert lines[4].startswith("Elman activation=relu use_bias=False ")
    for figure, limit in zip(lines[4].split()[-3:], check.LIMITS, strict=True):
        assert 0 <= float(figure) < limit
    assert lines[-1] == "1 of 1 exact"


def test_check_finds_a_wrong_rule(command, monkeypatch):
    class Wrong(gr.Elman):
        rule = gr.Elman.rule._replace(
            backward=lambda *args: jax.tree.map(lambda a: 1.001 * a, gr.Elman.rule.backward(*args))
        )

    monkeypatch.setattr(check, "cells", lambda: [gr.GRU(4), Wrong(4)])
    outcome = command("check", "--cell", "wrong")
    assert outcome.code == 1
    assert outcome.out.endswith("   WRONG\n\n0 of 1 exact\n")


def test_check_of_no_cell(refuses):
    refuses("check", "--cell", "zzz", words=("--cell: got 'zzz', which is in the name of no cell",))


@pytest.mark.parametrize(("given", "cell"), [((), None), (("--cell", "LSTM"), "LSTM")])
def test_check_is_handed_on(command, monkeypatch, given, cell):
    seen = []
    monkeypatch.setattr(check, "run", lambda args: seen.append(args.cell) or 7)
    assert command("check", *given).code == 7
    assert seen == [cell]
