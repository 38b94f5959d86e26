import datetime
from datetime import date

import numpy as np
import pytest

from gatedrnn._app.data import date_forms, dates
from gatedrnn._app.data.date_forms import Form


@pytest.fixture(scope="module")
def made():
    return dates.make(seed=0, train=6000, held_out=600)


@pytest.mark.parametrize(
    ("day", "form", "text"),
    [
        ((2021, 3, 3), ("English", "month the ordinal", "as usual"), "March the 3rd, 2021"),
        ((2021, 3, 11), ("English", "month first, ordinal", "upper"), "MARCH 11TH, 2021"),
        ((2021, 3, 3), ("German", "ordinal", "as usual"), "den 3. März 2021"),
        ((2021, 3, 3), ("German", "weekday", "upper"), "MITTWOCH, 3. MÄRZ 2021"),
        ((2021, 3, 1), ("French", "ordinal", "as usual"), "le 1er mars 2021"),
        ((2021, 3, 3), ("French", "ordinal", "as usual"), "le 3 mars 2021"),
        ((1999, 1, 31), ("Spanish", "day month year", "as usual"), "31 de enero de 1999"),
        ((1999, 1, 31), ("Dutch", "short weekday, dots", "as usual"), "zo 31.1.99"),
        ((2049, 8, 22), ("Swedish", "ordinal", "lower"), "den 22:a augusti 2049"),
        ((2021, 4, 3), ("French", "dashes", "as usual"), "03-avr-2021"),
        ((2021, 4, 3), ("dots", "plain", "as usual"), "3.4.2021"),
        ((2021, 4, 3), ("slashes", "plain", "as usual"), "4/3/2021"),
        ((2021, 4, 3), ("slashes", "padded, short year", "as usual"), "04/03/21"),
        ((2021, 4, 3), ("dashes", "plain, short year", "as usual"), "21-4-3"),
    ],
)
def test_dates_as_people_write_them(day, form, text):
    assert date_forms.write(date(*day), Form(*form)) == text


def test_no_text_has_two_readings():
    readings = {}
    rng = np.random.default_rng(0)
    some = [date_forms.FIRST + datetime.timedelta(int(k)) for k in rng.choice(36_525, 200)]
    some += [date(2021, month, day) for month in (3, 4, 12) for day in (1, 3, 4, 12)]
    some += [date(2012, month, day) for month in (3, 4, 12) for day in (4, 12, 21)]
    for form in date_forms.all_forms():
        for day in some:
            assert readings.setdefault(date_forms.write(day, form), day) == day, form
    assert len(readings) > 40_000


def test_the_pivot():
    assert (
        date_forms.write(date(1950, 2, 1), Form("dots", "plain, short year", "as usual"))
        == "1.2.50"
    )
    assert (
        date_forms.write(date(2049, 2, 1), Form("dots", "plain, short year", "as usual"))
        == "1.2.49"
    )
    assert (date_forms.FIRST.year, date_forms.LAST.year) == (1950, 2049)


def test_parts_of_forms_held_out_are_known():
    train, held_out = date_forms.forms()
    assert not set(train) & set(held_out)
    assert len(held_out) >= 20
    for language, template, case in held_out:
        others = {
            (form.language == language, form.template == template, form.case == case)
            for form in train
        }
        together = (True, True, False) in others
        assert together or {(False, True, True), (True, False, True)} <= others


def test_no_form_to_train_on_writes_as_one_held_out():
    train, held_out = date_forms.forms()
    days = [
        date(year, month, day) for year in (1987, 2021) for month in (3, 5, 9) for day in (1, 4)
    ]
    known = {date_forms.write(day, form) for form in train for day in days}
    assert not known & {date_forms.write(day, form) for form in held_out for day in days}


def test_held_out_parts_are_new(made):
    train, held_out = date_forms.forms()
    days = [set(part.targets) for part in made]
    assert not days[0] & (days[1] | days[2] | days[3])
    assert not days[1] & (days[2] | days[3])
    for part in made[:3]:
        assert set(part.forms) <= set(train)
    assert set(made.new_forms.forms) == set(held_out)
    assert set(made.train.forms) == set(train)


def test_pairs_agree(made):
    for part, count in zip(made, (6000, 600, 600, 600), strict=True):
        assert len(part.sources) == len(part.targets) == len(part.forms) == count
        for source, target, form in zip(*part, strict=True):
            assert date_forms.write(date.fromisoformat(target), form) == source


def test_batches(made):
    chosen = np.array([5, 0, 77])
    sources, targets = dates.batch(made.train, chosen, length=48)
    assert sources.values.shape == (48, 3)
    assert targets.values.shape == (12, 3)
    assert sources.values.dtype == targets.values.dtype == np.int32
    for place, k in enumerate(chosen):
        assert sources.lengths[place] == len(made.train.sources[k])
        assert dates.decode(sources.values[:, place]) == made.train.sources[k]
        assert dates.decode(targets.values[1:, place]) == made.train.targets[k]
        assert np.all(sources.values[sources.lengths[place] :, place] == dates.PAD)
    assert np.all(targets.values[0] == dates.START)
    assert np.all(targets.values[-1] == dates.END)
    assert sources.values.max() < len(dates.characters()) + 3


def test_a_text_ends_at_its_first_end():
    tokens = np.concatenate([dates.encode("1950"), [dates.END], dates.encode("7")])
    assert dates.decode(tokens) == "1950"


def test_characters_of_no_date():
    with pytest.raises(ValueError, match="got '@' in '3@4'"):
        dates.encode("3@4")


def test_the_seed_decides(made):
    assert dates.make(seed=0, train=6000, held_out=600) == made
    assert dates.make(seed=1, train=6000, held_out=600).train != made.train
