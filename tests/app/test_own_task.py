"""A task of somebody else's package, found by its entry point."""

import json
import sys
from pathlib import Path

import pytest

from gatedrnn._app import tasks
from gatedrnn._app.errors import CommandError

from . import tiny

PARITY = '''
"""The parity of a sequence of bits."""

import dataclasses
from typing import Annotated, NamedTuple

import numpy as np
import optax
from msgspec import Meta

import gatedrnn as gr
from gatedrnn._app import config
from gatedrnn._app.config import Count, Settings, rule
from gatedrnn._app.task import Criterion, Model, Task


class Data(Settings, frozen=True):
    length: Annotated[int, rule("an even integer from 2", lambda v: v % 2 == 0, ge=2)]


class Net(Settings, frozen=True):
    features: Annotated[int, Meta(ge=1)]

    def __post_init__(self):
        if self.features == 13:
            raise ValueError("13 features bring bad luck")


class Config(config.Config, frozen=True):
    data: Data
    model: Net

    def make(self):
        return Parity(self)


class Batch(NamedTuple):
    bits: np.ndarray
    odd: np.ndarray


@dataclasses.dataclass(frozen=True)
class Reader(Model):
    features: int
    in_features = 1

    @property
    def net(self):
        return gr.final(gr.stack(gr.GRU(self.features), gr.dense(1)))

    def logits(self, params, bits):
        return self.net.apply(params, bits)[1][:, 0]

    def mean_loss(self, params, batch, key):
        logits = self.logits(params, batch.bits)
        return optax.sigmoid_binary_cross_entropy(logits, batch.odd).mean()


class Parity(Task):
    criterion = Criterion("accuracy", "accuracy", higher=True, format=".1%")
    unit, data, held_out = "sequence", "random bits", "32 others"

    def __init__(self, settings):
        self.length, self.amount = settings.data.length, settings.train.batch
        self.models = {"GRU": Reader(settings.model.features)}

    def draw(self, seed, count):
        bits = np.random.default_rng(seed).integers(0, 2, (self.length, count, 1))
        return Batch(bits.astype(np.float32), (bits.sum((0, 2)) % 2).astype(np.float32))

    def batch(self, step):
        return self.draw([1, step], self.amount)

    def evaluate(self, name, params):
        held = self.draw([0], 32)
        found = self.models[name].logits(params, held.bits) > 0
        return {"accuracy": float(np.mean(np.asarray(found) == held.odd))}
'''


@pytest.fixture
def install(workplace, monkeypatch):
    """Install a package of one module with an entry point, as pip leaves it, and nothing else."""

    def put(name, entry, code):
        site = workplace / f"site-{name}"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[gatedrnn.tasks]\n{entry}\n")
        monkeypatch.syspath_prepend(site)
        monkeypatch.setitem(sys.modules, name, None)  # to be forgotten at the end
        del sys.modules[name]

    settings = "[data]\nlength = 4\n\n[model]\nfeatures = 3\n"
    Path("parity.toml").write_text(f'task = "parity"\n{settings}{tiny.COMMON}')
    return put


def test_a_task_of_ones_own_from_the_configuration_to_the_file(install, command):
    """It needs no more than its configuration, a batch, a loss and an evaluation."""
    install("parity", "parity = parity:Config", PARITY)
    done = command("train", "parity.toml")
    assert (done.code, "100%" in done.err) == (0, True)
    assert done.out.startswith("data        random bits\nmodel       GRU, ")
    assert "to beat" not in done.out
    assert "accuracy on 32 others\n  GRU, step " in done.out
    assert json.loads(Path("runs/tiny/data.json").read_text()) == {}
    assert not Path("runs/tiny/pictures").exists()
    again = command("eval", "runs/tiny")
    assert (again.code, again.err) == (0, "")
    assert again.out in done.out
    resumed = command("train", "parity.toml", "--resume", "--set", "train.steps=8")
    assert (resumed.code, "resumed at step 6" in resumed.out) == (0, True)


def test_its_settings_are_checked(install, refuses):
    """By rules of its own, or in the words of msgspec."""
    install("parity", "parity = parity:Config", PARITY)
    for override, words in (
        ("data.length=3", "data.length: got 3, an integer, expected an even integer from 2"),
        ("data.length=0", "data.length: got 0, an integer, expected an even integer from 2"),
        ("model.features=0", "model.features: got 0, an integer, expected `int` >= 1"),
        ("model.features=many", "model.features: got 'many', a string, expected `int`"),
        ("model.features=13", "model: 13 features bring bad luck"),
        ("model.featured=1", "(did you mean model.features?), expected one of features"),
    ):
        refuses("train", "parity.toml", "--set", override, words=(words,))
    without = Path("parity.toml").read_text().replace("features = 3", "")
    Path("parity.toml").write_text(without)
    refuses("train", "parity.toml", words=("model.features: got nothing, expected a value",))


def test_an_unknown_task_names_those_that_exist(install, refuses):
    names = ", ".join(sorted(tiny.TASKS))
    refuses("train", "parity.toml", words=(f"got 'parity', a string, expected one of {names}",))
    install("parity", "a_parity = parity:Config", PARITY)
    words = (f"task: got 'parity', a string, expected one of a_parity, {names}",)
    refuses("train", "parity.toml", words=words)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import torchish", "ModuleNotFoundError: No module named 'torchish'"),
        ("Confg = 3", "AttributeError: module 'parity' has no attribute 'Config'"),
        ("class Config(:", "SyntaxError: invalid syntax (parity.py, line 1)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_task_that_cannot_be_imported(install, refuses, code, reason):
    install("parity", "parity = parity:Config", code)
    words = f"task: cannot import parity:Config, which 'parity' is registered as: {reason}"
    refuses("train", "parity.toml", words=(words,))
    assert tasks.load(Path(__file__).parents[2] / "configs" / "adding.toml").task == "adding"


def test_an_entry_point_of_something_else(install, refuses):
    install("parity", "parity = parity:Config", "class Config: pass")
    words = ("got 'parity', registered as parity:Config, expected a class of configurations",)
    refuses("train", "parity.toml", words=words)


def test_two_packages_with_one_name(install, refuses):
    install("parity", "parity = parity:Config", PARITY)
    install("other", "parity = other:Config", PARITY)
    refuses("train", "parity.toml", words=("several packages register: other:Config, parity:",))


def test_a_registry_that_is_empty(workplace, monkeypatch):
    """As in a checkout that was never installed."""
    monkeypatch.setattr(tasks, "GROUP", "nothing.here")
    with pytest.raises(CommandError, match="gatedrnn, which has to be installed for them"):
        tasks.load("tiny.toml")
