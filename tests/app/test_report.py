"""What a run says at its end, its curves, and what tasks share."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import gatedrnn
from gatedrnn._app import curve, report
from gatedrnn._app.record import Best
from gatedrnn._app.task import Criterion
from gatedrnn._app.tasks.common import digest, shuffled
from gatedrnn._app.tasks.figures import confusion

ACCURACY = Criterion("accuracy", "held-out accuracy", higher=True, format=".1%")
BITS = Criterion("bits", "bits per character", of_loss=2.0)


def test_the_general_part_knows_no_task():
    """Only those that make a task from a configuration import their registry."""
    folder = Path(gatedrnn.__file__).parent / "_app"
    asks = {"train", "evaluation", "export"}
    for path in folder.glob("*.py"):
        found = {
            f"{node.module}.{name.name}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for name in node.names
        }
        found = {name for name in found if name.startswith("gatedrnn._app.tasks")}
        if path.stem == "cli":
            assert found == {"gatedrnn._app.tasks.language.sample"}
        else:
            assert found == ({"gatedrnn._app.tasks"} if path.stem in asks else set())


def test_the_table_ranks_baselines_and_compares_with_the_best_of_them():
    task = SimpleNamespace(criterion=ACCURACY, held_out="9 digits")
    best = {
        "LSTM": Best(20, {"accuracy": 0.98, "f1": 0.5}),
        "GRU": Best(3, {"accuracy": 0.9, "recall": 0.25, "f1": 1 / 3}),
    }
    assert report.results(task, best, {"good": 0.95, "bad": 0.1}) == (
        "held-out accuracy on 9 digits\n"
        "  bad            10.0%\n"
        "  good           95.0%\n"
        "  LSTM, step 20  98.0%  3.0 points above good\n"
        "  GRU, step 3    90.0%  5.0 points below good\n"
        "\n"
        "          LSTM     GRU\n"
        "  f1       0.5  0.3333\n"
        "  recall          0.25"
    )
    lower = SimpleNamespace(criterion=BITS, held_out="9 characters")
    assert report.results(lower, {"LSTM": Best(1, {"bits": 2.5})}, {"a": 3.0, "b": 2.0}) == (
        "bits per character on 9 characters\n"
        "  a             3.000\n"
        "  b             2.000\n"
        "  LSTM, step 1  2.500  0.500 above b"
    )
    assert "step 1  2.500" in report.results(lower, {"LSTM": Best(1, {"bits": 2.5})}, {})


METRICS = [
    {"kind": "baseline", "name": "rival", "bits": 1.5, "accuracy": 0.5},
    *(
        {"kind": "train", "step": step, "model": model, "loss": loss}
        for model, loss in (("LSTM", 1.0), ("GRU", 0.5))
        for step in (1, 2)
    ),
    {"kind": "validation", "step": 2, "model": "GRU", "bits": 2.0, "accuracy": 0.25},
    {"kind": "validation", "step": 4, "model": "GRU", "bits": 3.0, "accuracy": 0.75},
]


def lines(axes):
    return [tuple(line.get_ydata()) for line in axes.lines]


def test_curves_on_one_scale_where_the_loss_is_the_criterion():
    (axes,) = curve.plot(METRICS, BITS).axes
    assert lines(axes) == [(2.0, 2.0), (1.0, 1.0), (2.0, 3.0), (1.5, 1.5)]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["GRU 2.000"]
    assert [text.get_text() for text in axes.texts] == ["rival\n1.500"]


def test_curves_on_two_scales_where_it_is_not():
    top, bottom = curve.plot(METRICS, ACCURACY).axes
    assert lines(top) == [(0.25, 0.75), (0.5, 0.5)]
    assert lines(bottom) == [(1.0, 1.0), (0.5, 0.5)]
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["GRU 75.0%"]
    assert bottom.get_ylabel() == "training loss"


def test_a_long_curve_is_drawn_by_means():
    records = [{"kind": "train", "step": s, "model": "LSTM", "loss": s % 2} for s in range(1, 4001)]
    (axes,) = curve.plot(records, BITS).axes
    assert lines(axes) == [(1.0,) * curve.POINTS]


def test_confusion_counts():
    (axes,) = confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), ["a", "b", "c"], "x").axes
    got = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert got == {(0, 0): "1", (0, 1): "1", (1, 1): "1", (2, 0): "1"}
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.5, 0.5, 0], [0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (10, 5), (3, 7), (1, 1)])
def test_every_epoch_has_every_example_once(count, batch):
    chosen = np.concatenate([shuffled(count, batch, step, 5) for step in range(20)])
    for start in range(0, len(chosen) - count + 1, count):
        assert sorted(chosen[start : start + count]) == list(range(count))
    np.testing.assert_array_equal(shuffled(count, batch, 3, 5), chosen[3 * batch : 4 * batch])
    if count == 10:
        assert chosen[:10].tolist() != chosen[10:20].tolist()
        assert chosen[:10].tolist() != shuffled(10, 10, 0, 6).tolist()


def test_digests_tell_arrays_apart():
    a = np.arange(6, dtype=np.int32)
    different = [(a,), (a, a), (a.reshape(2, 3),), (a.view(np.float32),), (a + 1,), (a[:3], a[3:])]
    assert len({digest(*arrays) for arrays in different}) == len(different)
    assert digest(a.reshape(2, 3).T) == digest(np.ascontiguousarray(a.reshape(2, 3).T))
