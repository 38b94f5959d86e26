"""`gatedrnn export` to a program of `jax.export` and to a file of `gr.load`, for every task."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gatedrnn as gr
from gatedrnn._app import evaluation, export_program, run_folder, tasks
from gatedrnn._app.errors import CommandError
from gatedrnn._app.served import example, of_layer
from gatedrnn._app.task import Input, Model, Served

from . import tiny

pytest.importorskip("optax")
pytest.importorskip("flatbuffers")
pytest.importorskip("safetensors")

ALL = ("xs", "lengths", "carry")
READS = {  # the inputs of each model that becomes a program, and the reason why another cannot
    "adding": {"Elman": ALL, "GRU": ALL},
    "dates": dict.fromkeys(("attention", "no attention"), ("sources", "lengths")),
    "digit_writer": {"GRU": ALL},
    "digits": {"LSTM": ALL},
    "forecast": {"LSTM": ALL},
    "formulas": {
        "TreeRNN": "it reads no sequences; orbax reads its parameters, in best/TreeRNN",
        "LSTM": ALL,
    },
    "frames": {"LSTM": ALL, "MLP": ALL},
    "language": {"LSTM": ALL},
    "tagger": {"LSTM": ALL},
}
SIZES = (1, 1), (6, 3), (17, 5)  # of time and batch


def models_of_the_run():
    """Every model by name, with its parameters."""
    found = run_folder.find("runs/tiny")
    models = tasks.load(found.path / "config.toml").models_of(found)
    return {name: (model, evaluation.best_of(name, model, found)) for name, model in models.items()}


def numbered(name, tree):
    """The arrays of a tree by a name and their numbers."""
    return {f"{name}{i}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def answer(model, params, given):
    """The outputs and the state, by names, that the network itself has for these inputs."""
    xs, lengths, carry = given
    like, structure = jax.tree.flatten_with_path(model.net.carry((xs.shape[1],), params=params))
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in like]
    state = jax.tree.unflatten(structure, [carry[name] for name in names])
    after, ys = model.net.apply(params, xs, state, lengths=lengths)
    return ys, dict(zip(names, jax.tree.leaves(after), strict=True))


def test_every_task_is_here():
    assert sorted(READS) == sorted(tiny.TASKS)


# It reads what the command has written, as the command says, and prints the cases that it compared
ELSEWHERE = """
import sys
import jax, jax.export
import numpy as np

for name, line in {lines!r}:
    program = eval(line.rpartition(".call")[0])
    assert program.platforms == ("cpu", "cuda", "tpu")
    for n in range(3):
        arrays = np.load(f"{{name}}.{{n}}.npz")
        leaves = [arrays[f"given{{i}}"] for i in range(len(program.in_avals))]
        given, _ = jax.tree.unflatten(program.in_tree, leaves)
        got = jax.tree.leaves(program.call(*given))
        assert len(got) + len(leaves) == len(arrays.files)
        for i, leaf in enumerate(got):
            np.testing.assert_allclose(leaf, arrays[f"want{{i}}"], rtol=1e-5, atol=1e-6)
        print(name.replace(" ", "_"), n)
assert not [name for name in sys.modules if name.startswith("gatedrnn")]
"""


@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=pytest.mark.processes) for task in READS],
)
def test_a_program_runs_where_this_package_is_not(saved, command, refuses, task):
    """It gives the values of the network at several sizes; the command has compared them, too."""
    saved(task)
    lines = []
    for name, (model, params) in models_of_the_run().items():
        inputs = READS[task][name]
        arguments = ("export", "runs/tiny", "--to", f"{name}.stablehlo", "--model", name)
        if isinstance(inputs, str):
            refuses(*arguments, words=(f"{name} cannot become a program of jax.export: ", inputs))
            continue
        options = [f"--{option}" for option in ("lengths", "carry") if inputs == ALL]
        code, out, err = command(*arguments, *options)
        assert (code, err) == (0, "")
        assert float(out.split("differs by at most ")[1].split()[0]) < 1e-5
        last = out.splitlines()[-1]
        assert last.startswith("run it      jax.export.deserialize(open(")
        assert last.endswith(f".call({', '.join(inputs)})")
        lines.append((name, last.removeprefix("run it      ")))
        function = model.served or of_layer(
            model.net, model.in_features, params, lengths=True, carry=True
        )
        assert tuple(function.inputs) == inputs
        for n, (steps, batch) in enumerate(SIZES):
            given = example(function, S=steps, T=steps, B=batch)
            want = answer(model, params, given) if inputs == ALL else function.call(params, *given)
            np.savez(f"{name}.{n}.npz", **numbered("given", given), **numbered("want", want))
    Path("elsewhere.py").write_text(ELSEWHERE.format(lines=lines))
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = [sys.executable, "elsewhere.py"]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    want = [f"{name.replace(' ', '_')} {n}" for name, _ in lines for n in range(len(SIZES))]
    assert done.stdout.splitlines() == want


def test_says_what_goes_in_and_comes_out(saved, command):
    """Without options, a sequence goes in and its outputs come out; the file is the only one."""
    saved("language")
    code, out, _ = command("export", "runs/tiny", "--to", "m.stablehlo")
    assert code == 0
    (given,) = [line for line in out.splitlines() if line.startswith("input")]
    (found,) = [line for line in out.splitlines() if line.startswith("output")]
    assert given == "input       xs int32 [T, B]"
    assert found.startswith("output      float32 [T, B, ")
    assert [p.name for p in Path().glob("*m.stablehlo*")] == ["m.stablehlo"]
    code, out, _ = command("export", "runs/tiny", "--to", "m.stablehlo", "--carry", "--lengths")
    given = [line.split()[1] for line in out.splitlines() if line.startswith("input")]
    assert given[:3] == ["xs", "lengths", "carry.1.c"]  # in the order of the call
    assert "input       carry.1.h float32 [B, 8]\n" in out
    assert "output      [1]['1.h'] float32 [B, 8]\n" in out


def test_a_carry_goes_on(saved, command):
    """A sequence in two halves, the second from the state of the first, is the whole sequence."""
    saved("language")
    assert command("export", "runs/tiny", "--to", "m.stablehlo", "--carry").code == 0
    ((model, params),) = models_of_the_run().values()
    program = jax.export.deserialize(bytearray(Path("m.stablehlo").read_bytes()))
    tokens = np.arange(12, dtype=np.int32).reshape(6, 2) % 5
    ((_, shapes), _) = jax.tree.unflatten(program.in_tree, program.in_avals)
    carry = {name: np.zeros((2, *leaf.shape[1:]), leaf.dtype) for name, leaf in shapes.items()}
    first, carry = program.call(tokens[:4], carry)
    second, _ = program.call(tokens[4:], carry)
    want = model.net.apply(params, tokens)[1]
    np.testing.assert_allclose(np.concatenate([first, second]), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", READS)
def test_every_network_becomes_a_layer_or_is_refused(saved, command, refuses, task):
    """And comes back, equal to the bit."""
    saved(task)
    refused = {
        "TreeRNN": "it reads no sequences; orbax reads its parameters, in best/TreeRNN",
        "MLP": "classes=[Rectifier]",
    }
    for name, (model, params) in models_of_the_run().items():
        arguments = ("export", "runs/tiny", "--to", "net.safetensors", "--model", name)
        if name in refused:
            words = (f"{name} cannot become a file of gr.load: ", refused[name])
            refuses(*arguments, words=words)
            continue
        code, out, err = command(*arguments)
        assert (code, err) == (0, "")
        assert '\nread it     layer, params = gr.load("net.safetensors")\n' in out
        layer, found = gr.load("net.safetensors")
        Path("net.safetensors").unlink()
        assert layer == model.net
        assert jax.tree.structure(found) == jax.tree.structure(params)
        jax.tree.map(np.testing.assert_array_equal, found, params)


def test_options_that_a_file_does_not_have(saved, refuses):
    saved("dates")
    arguments = ("export", "runs/tiny", "--model", "attention", "--to")
    for option in ("--lengths", "--carry"):
        words = (f"{option}: net.safetensors holds a layer, which takes either anyway",)
        refuses(*arguments, "net.safetensors", option, words=words)
        words = (f"{option}: attention has inputs of its own, sources, lengths",)
        refuses(*arguments, "m.stablehlo", option, words=words)


def test_a_name_that_ends_in_no_kind_of_file(saved, refuses):
    saved("language")
    for to in ("model", "model.pb", "model.ONNX"):
        words = (f"--to: got {to}, expected a name that ends in .onnx or .stablehlo or .safetens",)
        refuses("export", "runs/tiny", "--to", to, words=words)


@pytest.mark.parametrize("ending", ["onnx", "stablehlo", "safetensors"])
def test_what_is_no_regular_file_is_not_replaced(saved, refuses, ending):
    """It may be a device; nor is the end of a link to one."""
    if ending == "onnx":
        pytest.importorskip("onnx")
    saved("language")
    os.mkfifo("pipe")
    Path(f"link.{ending}").symlink_to("pipe")
    words = (f"--to: link.{ending} is no regular file",)
    refuses("export", "runs/tiny", "--to", f"link.{ending}", words=words)
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize("to", ["m.stablehlo", "m.safetensors"])
def test_a_disk_that_is_full(saved, command, monkeypatch, to):
    saved("language")
    Path(to).write_text("an older file")

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    outcome = command("export", "runs/tiny", "--to", to)
    assert outcome.code == 1
    assert outcome.err == f"gatedrnn export: cannot write {to}: No space left on device\n"
    assert Path(to).read_text() == "an older file"
    assert [path.name for path in Path().glob("*m.s*")] == [to]


@pytest.mark.parametrize(
    ("package", "to", "extra"),
    [("flatbuffers", "m.stablehlo", "export"), ("safetensors", "m.safetensors", "files")],
)
def test_a_package_that_is_missing(saved, refuses, monkeypatch, package, to, extra):
    saved("language")
    real = importlib.util.find_spec
    missing = lambda name: None if name == package else real(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    needs = (f"this command needs {package};", f'pip install "gatedrnn[train,{extra}]"')
    refuses("export", "runs/tiny", "--to", to, words=needs)


def test_parameters_that_are_too_large(saved, refuses, monkeypatch):
    """The way out has no such limit."""
    saved("language")
    monkeypatch.setattr(export_program, "MOST", 100)
    words = ("LSTM cannot become a program of jax.export: its parameters have ", "a file holds 100")
    refuses("export", "runs/tiny", "--to", "m.stablehlo", words=(*words, "--to NAME.safetensors"))


def test_a_platform_that_the_program_is_not_for(saved, command, monkeypatch):
    """The file is written, and not compared."""
    saved("language")
    monkeypatch.setattr(export_program, "PLATFORMS", ("tpu",))
    code, out, _ = command("export", "runs/tiny", "--to", "m.stablehlo")
    assert code == 0
    assert "\ncompared    not: " in out
    assert Path("m.stablehlo").is_file()


@dataclasses.dataclass(frozen=True)
class Odd(Model):
    """A model of another package, which asks for the value of a size or of an input."""

    by: str

    @property
    def served(self):
        def call(params, xs):
            if self.by == "size":
                return xs[: len(xs) // 2 + 1] if len(xs) > 3 else xs
            return xs if xs[0, 0] > 3 else params

        return Served(call, {"xs": Input("T, B", "float32")})


@pytest.mark.parametrize("by", ["size", "value"])
def test_a_model_that_cannot_be_traced(by, tmp_path):
    with pytest.raises(CommandError, match=r"^odd cannot become a program of jax\.export: "):
        export_program.write(
            tmp_path / "m.stablehlo", "odd", Odd(by), jnp.ones(3), lengths=False, carry=False
        )
    assert not list(tmp_path.iterdir())
