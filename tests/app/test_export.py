"""`gatedrnn export`, over a tiny run of every task with parameters that were never trained."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from gatedrnn._app import evaluation, run_folder, tasks

from . import tiny

onnx = pytest.importorskip("onnx")
pytest.importorskip("optax")
ort = pytest.importorskip("onnxruntime")

READS = {  # the models of each task that become a file, and the others with the reason
    "adding": {"Elman": "", "GRU": ""},
    "dates": dict.fromkeys(("attention", "no attention"), "no place for a Seq2Seq layer"),
    "digit_writer": {"GRU": ""},
    "digits": {"LSTM": ""},
    "forecast": {"LSTM": ""},
    "formulas": {"TreeRNN": "it reads no sequences", "LSTM": ""},
    "frames": {"LSTM": "", "MLP": "no place for a Rectifier layer"},
    "language": {"LSTM": ""},
    "tagger": {"LSTM": ""},
}


def test_every_task_is_here():
    assert sorted(READS) == sorted(tiny.TASKS)


@pytest.mark.parametrize("task", READS)
def test_every_model_becomes_a_file_or_is_refused(saved, command, refuses, task):
    models = saved(task)
    assert models == list(READS[task])
    for model, why in READS[task].items():
        arguments = ("export", "runs/tiny", "--to", f"{model}.onnx", "--model", model)
        if why:
            refuses(*arguments, words=(f"{model} cannot become an ONNX graph: ", why))
            continue
        code, out, err = command(*arguments, "--lengths", "--carry")
        assert (code, err) == (0, "")
        assert f"wrote       {model}.onnx, " in out
        assert f"{model} at step 4\n" in out
        onnx.checker.check_model(f"{model}.onnx", full_check=True)
        error = float(out.split("differs by at most ")[1].split()[0])
        assert error < 1e-5


def test_says_what_goes_in_and_comes_out(saved, command):
    saved("tagger")
    code, out, _ = command("export", "runs/tiny", "--to", "m.onnx", "--lengths", "--carry")
    assert code == 0
    shown = [line for line in out.splitlines() if line.startswith(("input", "output"))]
    assert shown[:3] == [
        "input       xs int32 [T, B]",
        "input       lengths int32 [B]",
        "input       carry.0.1.forward.h float32 [B, 4]",
    ]
    assert "output      final.0.1.backward.c float32 [B, 4]" in shown
    (ys,) = [line for line in shown if " ys " in line]
    assert ys.startswith("output      ys float32 [T, B, ")
    assert [p.name for p in Path().glob("*m.onnx*")] == ["m.onnx"]  # no part of it beside


def test_the_file_is_the_trained_network(command):
    assert command("train", "tiny.toml", "--set", "train.steps=2").code == 0
    Path("text.txt").unlink()  # which is not needed any more
    assert command("export", "runs/tiny", "--to", "lm.onnx", "--carry").code == 0
    found = run_folder.find("runs/tiny")
    model = tasks.load(found.path / "config.toml").models_of(found)["LSTM"]
    params = evaluation.best_of("LSTM", model, found)
    tokens = np.array([[1, 2], [3, 1], [0, 4]], np.int32)
    want = model.net.apply(params, tokens)[1]
    session = ort.InferenceSession("lm.onnx", providers=["CPUExecutionProvider"])
    zeros = {
        value.name: np.zeros((2, value.shape[1]), np.float32) for value in session.get_inputs()[1:]
    }
    (got,) = session.run(["ys"], {"xs": tokens, **zeros})
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_which_model(saved, refuses):
    saved("adding")
    arguments = ("export", "runs/tiny", "--to", "m.onnx")
    refuses(*arguments, words=("holds several models; --model names one of them: Elman, GRU",))
    refuses(*arguments, "--model", "LSTM", words=("--model: got 'LSTM', expected one of Elman",))


def test_where_to(saved, refuses, command, workplace):
    saved("language")
    refuses("export", "runs/tiny", "--to", "runs", words=("--to: runs is a folder",))
    refuses("export", "runs/tiny", "--to", "no/m.onnx", words=("--to: there is no folder no",))
    refuses("export", "nowhere", "--to", "m.onnx", words=("nowhere: there is no such folder",))
    Path("m.onnx").write_text("an older file")
    assert command("export", "runs/tiny", "--to", "m.onnx").code == 0
    onnx.checker.check_model("m.onnx")


def test_a_disk_that_is_full(saved, command, monkeypatch):
    saved("language")
    Path("m.onnx").write_text("an older file")

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    outcome = command("export", "runs/tiny", "--to", "m.onnx")
    assert outcome.code == 1
    assert outcome.err == "gatedrnn export: cannot write m.onnx: No space left on device\n"
    assert Path("m.onnx").read_text() == "an older file"
    assert [path.name for path in Path().glob("*m.onnx*")] == ["m.onnx"]


def test_without_onnx_and_without_onnxruntime(saved, command, refuses, monkeypatch):
    saved("language")
    real, absent = importlib.util.find_spec, {"onnx"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else real(name)
    )
    needs = ("this command needs onnx;", 'pip install "gatedrnn[train,onnx]"')
    refuses("export", "runs/tiny", "--to", "m.onnx", words=needs)
    absent.clear()
    absent.add("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = command("export", "runs/tiny", "--to", "m.onnx")
    assert outcome.code == 0
    assert "compared    not: onnxruntime is not installed\n" in outcome.out
