from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gatedrnn._app import tasks
from gatedrnn._app.data import dates
from gatedrnn._app.tasks.dates import Batch, by_format, first_of_languages, mistakes

from . import tiny


@pytest.fixture
def task(workplace):
    """The task by a tiny configuration, without dropout."""
    Path("tiny.toml").write_text(tiny.configuration("dates"), encoding="utf-8")
    return tasks.load("tiny.toml", ["model.dropout=0"]).make()


def parameters(task):
    return {name: model.init(jax.random.key(1)) for name, model in task.models.items()}


def test_a_batch_holds_dates_and_their_iso(task):
    pairs = dict(zip(task.pairs.train.sources, task.pairs.train.targets, strict=True))
    for step in (0, 7):
        sources, lengths, targets = task.batch(step)
        assert (lengths.shape, targets.shape) == ((4,), (12, 4))
        for column in range(4):
            text = dates.decode(sources[: lengths[column], column])
            assert not sources[lengths[column] :, column].any()
            assert dates.decode(targets[:, column]) == pairs[text]
    assert task.batch(0).sources.shape == task.new_forms.sources[:, :4].shape  # one shape for all


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("6.8.1958", "1958-08-06"),
        ("06.08.58", "1958-08-06"),
        ("9/15/1973", "1973-09-15"),
        ("1/2/49", "2049-01-02"),
        ("29.2.52", "1952-02-29"),
        ("50-12-31", "1950-12-31"),
        ("2001-3-4", "2001-03-04"),
        ("THU 31 AUG 2000", "2000-08-31"),
        ("march 9, 2024", "2024-03-09"),
        ("3 Mar '68", "1968-03-03"),
        ("3 mars 1968", ""),
        ("the 3rd of March, 1968", ""),
        ("31.2.1968", ""),
    ],
)
def test_the_formats_of_the_baseline(text, iso):
    assert by_format(text) == iso


def test_baselines_by_their_definition(task, monkeypatch):
    monkeypatch.setattr(
        task,
        "pairs",
        dates.Dates(
            train=dates.Pairs(("",) * 3, ("1999-01-02", "1968-03-03", "1968-03-03"), ()),
            validation=dates.Pairs(
                ("3 mars 1968", "1/2/1999", "2.1.1999", "2 jan 1999"),
                ("1968-03-03", "1999-01-02", "1999-01-02", "1999-01-02"),
                (),
            ),
            new_dates=task.pairs.new_dates,
            new_forms=task.pairs.new_forms,
        ),
    )
    assert task.baselines() == {"the most frequent date": 0.25, "strptime": 0.75}


@pytest.mark.parametrize("name", ["attention", "no attention"])
def test_the_loss_is_that_of_each_token_after_the_right_ones(task, name):
    """Against one step after another, each date alone, without its padding."""
    model = task.models[name]
    net, params = model.net, model.init(jax.random.key(1))
    batch = Batch(*(array[..., :2] for array in task.batch(0)))
    encode, step, losses = jax.jit(net.encode), jax.jit(net.step), []
    for column, length in enumerate(batch.lengths):
        carry, bound = encode(params, batch.sources[:length, column])
        tokens = batch.targets[:, column]
        for read, wanted in pairwise(tokens):
            carry, logits = step(bound, carry, read)
            logits = np.asarray(logits, np.float64)
            losses.append(np.log(np.exp(logits).sum()) - logits[wanted])
    expected = pytest.approx(np.mean(losses), rel=1e-5)
    of_batch = jax.jit(model.loss)
    loss, carry = of_batch(params, (), batch, jax.random.key(0))
    assert (float(loss), carry) == (expected, ())
    # whatever the padding holds
    padding = np.arange(len(batch.sources))[:, None] >= batch.lengths
    other = batch._replace(sources=np.where(padding, 7, batch.sources))
    assert float(of_batch(params, (), other, jax.random.key(0))[0]) == expected


def test_only_a_date_that_is_wholly_right_counts(task, monkeypatch):
    model = task.models["attention"]
    beams = model.settings.beams

    def written(model, params, part, beams=1):
        got = part.targets[1:].copy()
        if part is task.new_dates:
            got[3, 0] += 1  # a wrong character
            got[9:, 2] = dates.END  # ends early
        elif part is task.new_forms and beams == 1:
            got[10, :4] = got[9, :4]  # does not end
        return got

    monkeypatch.setattr(task, "written", written)
    measures = {"exact": 1.0, "new dates": 0.6, "new forms": 0.2, f"new forms, {beams} beams": 1.0}
    assert task.evaluate("attention", None) == pytest.approx(measures)


def test_what_is_written_is_the_likeliest_after_what_was_written(task):
    model, params = task.models["attention"], parameters(task)["attention"]
    sources, lengths, _ = task.new_forms
    got = task.written(model, params, task.new_forms)
    carry, bound = jax.jit(model.net.encode)(params, sources, lengths=lengths)
    token, ended = jnp.full(len(lengths), dates.START), np.zeros(len(lengths), bool)
    step = jax.jit(model.net.step)
    for wrote in got:
        carry, logits = step(bound, carry, token)
        token = jnp.where(ended, dates.END, logits.argmax(axis=-1))
        np.testing.assert_array_equal(wrote, token)
        ended |= wrote == dates.END


def test_pictures(task, monkeypatch):
    """A panel of the attention for one date of each language; none without attention."""
    right = task.new_forms.targets[1:]
    monkeypatch.setattr(task, "written", lambda model, params, part, beams=1: right)
    pictures = task.pictures(parameters(task))
    assert set(pictures) == {
        "attention.png",
        "attention_mistakes.txt",
        "no_attention_mistakes.txt",
    }
    pairs = task.pairs.new_forms
    chosen = first_of_languages(pairs.forms)
    assert len(chosen) == len({form.language for form in pairs.forms})
    panels = pictures["attention.png"].axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        f"{pairs.sources[k]} → {pairs.targets[k]}" for k in chosen
    ]
    for axes, k in zip(panels, chosen, strict=True):
        weights = axes.images[0].get_array()
        assert weights.shape == (10, len(pairs.sources[k]))
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert pictures["attention_mistakes.txt"] == "0 of 5 dates in new forms are wrong\n"


def test_mistakes_show_what_was_read_wanted_and_written():
    pairs = dates.Pairs(("4/5/2001", "5.5.2002"), ("2001-04-05", "2002-05-05"), ())
    wrote = ["2001-05-04", "2002-05-05"]
    got = np.stack([[*dates.encode(text), dates.END] for text in wrote], axis=1)
    first, empty, *rest = mistakes(pairs, got).splitlines()
    assert (first, empty) == ("1 of 2 dates in new forms are wrong", "")
    assert [line.split() for line in rest] == [["4/5/2001", "2001-04-05", "2001-05-04"]]
