from pathlib import Path

import jax
import numpy as np
import pytest

import gatedrnn as gr
from gatedrnn._app import tasks
from gatedrnn._app.data.formulas import NODES, TOKENS, parse
from gatedrnn._app.tasks.formulas import collate

from . import tiny

SHORT, LONG = "not True", "(True or False) and not (False and True or False)"


@pytest.fixture
def make(workplace):
    """The task by a tiny configuration, with settings overridden."""
    Path("tiny.toml").write_text(tiny.configuration("formulas"), encoding="utf-8")
    return lambda *overrides: tasks.load("tiny.toml", overrides).make()


@pytest.fixture
def task(make):
    return make()


def parameters(task):
    return {name: model.init(jax.random.key(1)) for name, model in task.models.items()}


def words_of(batch, column):
    return [TOKENS[token] for token in batch.tokens[: batch.lengths[column], column]]


def test_formulas_side_by_side_in_both_ways_of_reading():
    pair = [parse(SHORT), parse(LONG)]
    sizes = gr.forest_sizes([[formula.children for formula in pair]])
    batch = collate(pair, sizes._replace(nodes=sizes.nodes + 3), length=20)
    assert batch.tokens.shape == (20, 2)
    assert " ".join(words_of(batch, 0)) == SHORT
    assert " ".join(words_of(batch, 1)).replace("( ", "(").replace(" )", ")") == LONG
    np.testing.assert_array_equal(batch.values, [eval(SHORT), eval(LONG)])
    of_tree = [
        [NODES[kind] for kind in batch.kinds[np.asarray(batch.forest.tree) == tree]]
        for tree in (0, 1)
    ]
    assert of_tree[0] == ["True", "not"]
    assert of_tree[1] == [
        "True",
        "False",
        "or",
        "False",
        "True",
        "and",
        "False",
        "or",
        "not",
        "and",
    ]


def test_every_formula_is_trained_on_in_every_epoch(make):
    task = make("train.batch=5", "data.per_depth=40")
    count = len(task.batches)
    shapes = {tuple(leaf.shape for leaf in jax.tree.leaves(task.batch(k))) for k in range(count)}
    assert len(shapes) == 1
    epochs = [
        sorted(" ".join(words_of(batch, column)) for batch in batches for column in range(5))
        for batches in ([task.batch(count * epoch + k) for k in range(count)] for epoch in (0, 1))
    ]
    assert epochs[0] == epochs[1]
    held = {
        " ".join(words_of(part, column))
        for part in task.parts
        for column in range(len(part.values))
    }
    assert not held & set(epochs[0])
    assert 5 * (count - 1) < len(set(epochs[0])) <= 5 * count


@pytest.mark.parametrize("count", [1, 2, 5])
def test_batches_for_several_devices(make, count):
    """They have the formulas of one device's, step by step, and one shape, an equal part on each.

    A device has the trees, the texts and the values of the same formulas, in the same order.
    """
    whole = make("train.batch=10", "data.per_depth=40")
    task, steps = whole.divided(count), range(2 * len(whole.batches))
    batches = [task.batch(step) for step in steps]
    assert len({tuple(leaf.shape for leaf in jax.tree.leaves(batch)) for batch in batches}) == 1
    for step, batch in zip(steps, batches, strict=True):
        of_one = whole.batch(step)
        assert of_one.forest.shards is None
        assert batch.forest.roots.shape == (count, 10 // count)
        texts = [words_of(batch, column) for column in range(10)]
        assert sorted(texts) == sorted(words_of(of_one, column) for column in range(10))
        roots = np.argwhere(batch.forest.roots < batch.forest.sizes.nodes)
        for text, value, (shard, place) in zip(texts, batch.values, roots, strict=True):
            trees, root = batch.forest.tree[shard], batch.forest.roots[shard, place]
            formula = parse(" ".join(text))
            np.testing.assert_array_equal(batch.kinds[shard][trees == trees[root]], formula.nodes)
            assert value == formula.values[-1]


@pytest.mark.parametrize("name", ["TreeRNN", "TreeLSTM", "LSTM"])
def test_a_formula_alone_and_beside_another(name, make):
    """What is read is the tree or the text: neither its neighbours nor the padding."""
    model = make('model.readers=["TreeRNN", "TreeLSTM", "LSTM"]').models[name]
    params = model.init(jax.random.key(1))
    pair = [parse(SHORT), parse(LONG)]
    sizes = gr.forest_sizes([[formula.children for formula in pair]])
    beside = collate(pair, sizes._replace(nodes=sizes.nodes + 3), length=20)
    kinds = np.where(np.asarray(beside.forest.tree) < 0, 3, beside.kinds)
    padding = np.arange(20)[:, None] >= beside.lengths
    beside = beside._replace(kinds=kinds, tokens=np.where(padding, 6, beside.tokens))

    @jax.jit
    def run(batch):
        return model.logits(params, batch), *model.loss(params, (), batch, jax.random.key(0))

    together, loss, carry = run(beside)
    together = np.asarray(together)
    alone = [run(collate([formula]))[0][0] for formula in pair]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert together[0] != together[1]
    signs = np.where(beside.values > 0, 1, -1)
    assert float(loss) == pytest.approx(np.log1p(np.exp(-signs * together)).mean(), rel=1e-5)
    assert carry == ()


def test_accuracy_is_counted_at_each_depth(task, monkeypatch):
    assert set(task.depths[: len(task.parts[0].values)]) <= {1, 2}
    assert set(task.depths[len(task.parts[0].values) :]) == {3}
    right = task.depths == 2
    right[-1] = True
    monkeypatch.setattr(task, "right", lambda name, params: right)
    known, deeper = np.sum(task.depths < 3), np.sum(task.depths == 3)
    assert task.evaluate("LSTM", None) == pytest.approx(
        {
            "accuracy": np.sum(task.depths == 2) / known,
            "deeper": 1 / deeper,
            "depth 3": 1 / deeper,
        }
    )
    axes = task.pictures({"LSTM": None, "TreeRNN": None})["depth.png"].axes[0]
    for line in axes.lines[1:]:
        np.testing.assert_array_equal(line.get_xdata(), np.unique(task.depths))
        assert line.get_ydata()[-1] == 1 / deeper


def test_right_is_what_has_the_sign_of_the_truth(task):
    params = parameters(task)["LSTM"]
    logits = jax.jit(task.models["LSTM"].logits)
    got = [np.asarray(logits(params, part)) > 0 for part in task.parts]
    truth = [part.values == 1 for part in task.parts]
    expected = np.concatenate(got) == np.concatenate(truth)
    np.testing.assert_array_equal(task.right("LSTM", params), expected)


def test_the_constant_guess_is_right_half_the_time(task):
    assert task.baselines() == {"always True": 0.5}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.test_depth=2", "data.test_depth: got 2, expected more than data.train_depth = 2"),
        ("data.test_depth=13", "data.test_depth: got 13, an integer, expected an integer from 1"),
        ("data.per_depth=4", "data.per_depth: got 4, which leaves none for validation"),
        ('model.readers=["GRU"]', "one or more of TreeLSTM, TreeRNN, LSTM"),
    ],
)
def test_settings_that_cannot_be(make, refuses, override, words):
    make()
    refuses("train", "tiny.toml", "--set", override, words=(words,))
