"""What holds for every task: the row in `tiny.py` is what 'supported' means."""

import inspect
import tomllib
from functools import partial
from importlib.metadata import distribution
from pathlib import Path

import jax
import numpy as np
import pytest

from gatedrnn._app import config, learning, record, run_folder, tasks
from gatedrnn._app.task import Task

from . import tiny
from .runs import RUN, TRAIN, at_step, checkpoint, interrupt, metrics

CONFIGS = Path(__file__).parents[2] / "configs"
every_task = pytest.mark.parametrize("name", tiny.TASKS)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def prepared(workplace, name):
    """Where `tiny.toml` is that of the task, made."""
    Path("tiny.toml").write_text(tiny.configuration(name), encoding="utf-8")
    return tasks.load("tiny.toml").make()


def test_every_task_has_a_tiny_configuration():
    ours = {e.name for e in distribution("gatedrnn").entry_points if e.group == tasks.GROUP}
    assert ours == set(tiny.TASKS)
    assert ours <= set(tasks.names())
    assert tasks.names() == sorted(tasks.names())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configurations_state_every_setting(path):
    loaded = tasks.load(path)
    assert config.to_table(loaded) == tomllib.loads(path.read_text(encoding="utf-8"))
    assert loaded.run.folder == f"runs/{path.stem}"
    assert hash(loaded) == hash(tasks.load(path))


def test_every_task_is_shipped():
    assert {tasks.load(path).task for path in CONFIGS.glob("*.toml")} == set(tiny.TASKS)


@every_task
def test_a_task_has_what_the_training_asks_for(prepared, name):
    asked = {key for key in vars(Task) | Task.__annotations__ if not key.startswith("_")}
    assert {key for key in asked if not hasattr(prepared, key)} == set()
    for key in asked:
        if inspect.isfunction(getattr(Task, key, None)):
            assert inspect.signature(getattr(type(prepared), key)).parameters.keys() == (
                inspect.signature(getattr(Task, key)).parameters.keys()
            )


@every_task
def test_batches_are_a_function_of_the_step(prepared, name):
    again = tasks.load("tiny.toml").make()
    assert again.stored == prepared.stored
    third = prepared.batch(3)
    prepared.batch(0)
    assert_equal(third, again.batch(3))
    leaves = zip(jax.tree.leaves(third), jax.tree.leaves(prepared.batch(4)), strict=True)
    assert not all(np.array_equal(a, b) for a, b in leaves)


@every_task
def test_models_are_values(prepared, name):
    again = tasks.load("tiny.toml").make()
    assert list(prepared.models) == list(again.models)
    for model, other in zip(prepared.models.values(), again.models.values(), strict=True):
        assert (model, hash(model)) == (other, hash(other))


def assert_measured(task, run):
    """Saved parameters have exactly the measures that were reported, and so have baselines."""
    found, key = run_folder.find(run), task.criterion.name
    records = found.metrics(key)
    reported = {(r["model"], r["step"]): r for r in records if r["kind"] == "validation"}
    for model in task.models:
        step = found.record.best[model].step
        measures = task.evaluate(model, checkpoint(f"best/{model}", run))
        expected = {"kind": "validation", "step": step, "model": model, **measures}
        assert reported[model, step] == expected
    baselines = {r["name"]: r[key] for r in records if r["kind"] == "baseline"}
    assert baselines == task.baselines()


SLOW = {"dates", "digit_writer", "frames", "tagger"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in SLOW else n for n in tiny.TASKS]
)
def test_trained_stopped_resumed_and_evaluated(command, monkeypatch, prepared, name):
    """A run that is stopped and resumed ends as one that is not, and `eval` repeats its figures.

    Which are those of the parameters that were saved, exactly.
    """
    train = (*TRAIN, "--set", "train.steps=4")
    whole = command(*train, "--set", "run.folder=runs/whole")
    assert whole.code == 0, whole.err
    assert_measured(prepared, Path("runs/whole"))
    with monkeypatch.context() as patch:  # between two validations
        at_step(patch, 3, interrupt)
        outcome = command(*train)
    assert outcome.code == 130
    assert "interrupted at step 3 of 4; the best parameters so far (" in outcome.err
    assert command(*train, "--resume").code == 0
    assert all(map(run_folder.find(RUN).record.lists, record.contents(RUN)))
    assert metrics("train") == metrics("train", Path("runs/whole"))
    assert metrics("validation") == metrics("validation", Path("runs/whole"))
    for kind in ("latest", *(f"best/{model}" for model in prepared.models)):
        assert_equal(checkpoint(kind), checkpoint(kind, Path("runs/whole")))

    drawn = {path.name: path.read_bytes() for path in RUN.glob("pictures/*")}
    for path in (*RUN.glob("pictures/*"), RUN / "curve.png"):
        path.unlink()
    evaluated = command("eval", "runs/tiny")
    assert (evaluated.code, evaluated.err) == (0, "")
    _, _, table = whole.out.partition("\n\n")
    assert table.startswith(evaluated.out)
    assert prepared.criterion.unit in evaluated.out
    for baseline in prepared.baselines():
        assert f"  {baseline} " in evaluated.out
    assert (RUN / "curve.png").is_file()
    assert {path.name: path.read_bytes() for path in RUN.glob("pictures/*")} == drawn
    assert all(content.startswith(b"\x89PNG") or content.decode() for content in drawn.values())


def test_models_of_a_run_are_trained_as_if_alone(command):
    """The batch is shared; the gradient, its clipping and the keys are those of a run of one."""
    Path("tiny.toml").write_text(tiny.configuration("adding"), encoding="utf-8")
    narrow = ("--set", "optimiser.clip_norm=1e-3", "--set", "train.steps=2")
    assert command(*TRAIN, *narrow).code == 0
    together = checkpoint("latest").learners
    alone = ("--set", "run.folder=runs/alone", "--set", 'model.cells=["GRU"]')
    assert command(*TRAIN, *narrow, *alone).code == 0
    (learner,) = checkpoint("latest", Path("runs/alone")).learners.values()
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, together["GRU"], learner)


def test_each_model_keeps_its_own_best(command, monkeypatch):
    from gatedrnn._app.tasks.adding import Adding

    Path("tiny.toml").write_text(tiny.configuration("adding"), encoding="utf-8")
    values = {"Elman": iter([0.2, 0.3, 0.3]), "GRU": iter([0.5, 0.4, 0.45])}
    monkeypatch.setattr(
        Adding, "evaluate", lambda self, name, params: {"error": next(values[name])}
    )
    outcome = command(*TRAIN)
    assert [path.name for path in sorted(RUN.glob("best/*/*"))] == ["2", "4"]
    assert "Elman, step 2  0.2000" in outcome.out
    assert "GRU, step 4    0.4000" in outcome.out


def test_a_higher_criterion_is_better_where_the_task_says_so(command, monkeypatch):
    from gatedrnn._app.tasks.digits import Digits

    Path("tiny.toml").write_text(tiny.configuration("digits"), encoding="utf-8")
    values = iter([0.5, 0.4, 0.5])
    monkeypatch.setattr(Digits, "evaluate", lambda *args: {"accuracy": next(values), "also": 7.0})
    outcome = command(*TRAIN)
    assert [path.name for path in RUN.glob("best/LSTM/*")] == ["2"]
    table = [line.split() for line in outcome.out.splitlines()]
    assert ["LSTM,", "step", "2", "50.0%"] in [row[:4] for row in table]
    assert ["also", "7"] in table


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", f"task: got nothing, expected one of {', '.join(tasks.names())}"),
        ("task = 3", "task: got 3, an integer, expected one of adding,"),
        ('task = "langage"', "task: got 'langage', a string, expected one of adding,"),
        ("task = []", "task: got an array, expected one of"),
    ],
)
def test_no_such_task(refuses, text, words):
    Path("tiny.toml").write_text(text, encoding="utf-8")
    refuses(*TRAIN, words=(words,))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            'model.cells=["Elmann"]',
            "model.cells: got an array, expected an array of one or more of",
        ),
        ("model.cells=[]", "model.cells: got an array, expected an array of one or more of Elman,"),
        ('model.cells=["GRU", "GRU"]', "each once"),
        ("model.cells=GRU", "model.cells: got 'GRU', a string, expected an array"),
        ("model.cells=[[1]]", "model.cells: got an array, expected"),
    ],
)
def test_cells_that_are_none(refuses, override, words):
    Path("tiny.toml").write_text(tiny.configuration("adding"), encoding="utf-8")
    refuses(*TRAIN, "--set", override, words=(words,))


def test_a_run_is_of_one_task(command, refuses):
    Path("tiny.toml").write_text(tiny.configuration("adding"), encoding="utf-8")
    assert command(*TRAIN, "--set", "train.steps=1").code == 0
    refuses("sample", "runs/tiny", words=("runs/tiny holds a run of the task adding, expected",))
    Path("tiny.toml").write_text(tiny.configuration("digits"), encoding="utf-8")
    refuses(*TRAIN, "--resume", words=("is 'digits', but 'adding' in runs/tiny",))


def test_eval_of_other_data_and_of_no_run(command, refuses):
    assert command(*TRAIN, "--set", "train.steps=1").code == 0
    Path("text.txt").write_text(Path("text.txt").read_text().replace("cat", "tac"))
    refuses("eval", "runs/tiny", words=("the data are not those that the run began with",))
    refuses("eval", "nowhere", words=("nowhere: there is no such folder",))


def test_a_single_step_is_one_program(command, monkeypatch):
    """Several models are one call of the training step, and a second run of equal ones compiles
    nothing anew.
    """
    Path("tiny.toml").write_text(tiny.configuration("adding"), encoding="utf-8")
    train = (*TRAIN, "--set", "train.steps=1")
    assert command(*train).code == 0
    before = learning.train_step._cache_size()
    assert command(*train, "--overwrite").code == 0
    assert learning.train_step._cache_size() == before
