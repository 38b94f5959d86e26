from pathlib import Path

import pytest
import tomli_w

from gatedrnn._app import config, tasks
from gatedrnn._app.errors import CommandError

SHIPPED = Path(__file__).parents[2] / "configs" / "char_lm.toml"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_configuration_is_two_layers_on_the_help_text():
    loaded = tasks.load(SHIPPED)
    assert loaded.model.layers == 2
    assert loaded.data.path is None
    assert loaded.run.folder == "runs/char_lm"


@pytest.mark.parametrize("overrides", [[], ["data.path=a b.txt", "train.seed=4294967295"]])
def test_round_trip(tmp_path, overrides):
    loaded = tasks.load(SHIPPED, overrides)
    path = write(tmp_path / "config.toml", tomli_w.dumps(config.to_table(loaded)))
    assert tasks.load(path) == loaded


def test_configurations_are_frozen_and_hashable():
    loaded = tasks.load(SHIPPED)
    assert hash(loaded) == hash(tasks.load(SHIPPED))
    with pytest.raises(AttributeError, match="immutable"):
        loaded.train.steps = 3


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.steps=7", 7),
        ("train.steps = 7", 7),
        ("train.steps=1_000", 1000),
        ("optimiser.learning_rate=1", 1.0),
        ("optimiser.learning_rate=1e-4", 1e-4),
        ("model.dropout=0", 0.0),
        ("data.path=some/file.txt", "some/file.txt"),
        ('data.path="quoted.txt"', "quoted.txt"),
        ("data.path=2024", "2024"),
        ("data.path=true", "true"),
        ("data.path=a=b.txt", "a=b.txt"),
    ],
)
def test_overrides(override, value):
    section, key = override.partition("=")[0].strip().split(".")
    got = getattr(getattr(tasks.load(SHIPPED, [override]), section), key)
    assert (got, type(got)) == (value, type(value))


def test_the_last_of_two_overrides_counts():
    assert tasks.load(SHIPPED, ["train.steps=7", "train.steps=8"]).train.steps == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.steps=0",
            "train.steps: got 0, an integer, expected an integer from 1 to 2**31 - 1",
        ),
        ("train.steps=many", "train.steps: got 'many', a string, expected an integer"),
        ("train.steps=1.5", "train.steps: got 1.5, a number, expected an integer"),
        ("train.batch=true", "train.batch: got True, a boolean, expected an integer"),
        ("train.batch=[4]", "train.batch: got an array, expected an integer"),
        ("data.window=", "data.window: got '', a string, expected an integer"),
        (
            "train.seed=-1",
            "train.seed: got -1, an integer, expected an integer from 0 to 2**32 - 1",
        ),
        ("model.dropout=1.0", "model.dropout: got 1.0, a number, expected a number of at least 0"),
        ("model.dropout=-0.1", "model.dropout: got -0.1"),
        ("model.dropout=nan", "model.dropout: got nan"),
        ("optimiser.learning_rate=inf", "optimiser.learning_rate: got inf"),
        ("optimiser.clip_norm=0", "optimiser.clip_norm: got 0, an integer, expected a positive"),
        (
            "data.validation_fraction=1",
            "data.validation_fraction: got 1, an integer, expected a number",
        ),
        ("data.path=", "data.path: got '', a string, expected a string that is not empty"),
        ("train.bacth=3", "train.bacth: got an unknown key (did you mean train.batch?), expected"),
        ("trian.batch=3", "trian: got an unknown key (did you mean train?), expected one of task"),
        ("train=3", "train: got 3, an integer, expected a table of settings"),
        ("train=no", "train: got 'no', a string, expected a table of settings"),
        ("train.steps=2147483648", "train.steps: got 2147483648, an integer, expected an integer"),
        ("train.steps=1e9", "train.steps: got 1000000000.0, a number, expected an integer"),
        ("model.layers=1001", "model.layers: got 1001, an integer, expected an integer from 1 to"),
        (f"train.steps=1{'0' * 400}", "train.steps: got an integer of 1329 bits, expected"),
        (f"train.steps=0x1{'0' * 9999}", "train.steps: got an integer of 39997 bits, expected"),
        (f"train.steps=1{'0' * 5000}", "train.steps: got '10000"),
        (f"train.steps={'[' * 5000}", "train.steps: got '[[["),
        (
            f"optimiser.learning_rate=1{'0' * 400}",
            "got an integer of 1329 bits, expected a positive number from 1.2e-38 to 3.4e+38",
        ),
        ("optimiser.learning_rate=1e300", "optimiser.learning_rate: got 1e+300, a number"),
        ("optimiser.learning_rate=1e-300", "optimiser.learning_rate: got 1e-300, a number"),
        (
            "data.path=a\0b",
            "data.path: got 'a\\x00b', a string, expected a string that is not empty",
        ),
        ('run.folder="a\\u0000b"', "run.folder: got 'a\\x00b', a string"),
        ("run.folder=a\udcff", "run.folder: got 'a\\udcff', a string, expected a string that"),
        ("train.batch.size=3", "--set train.batch.size: batch is no table of settings"),
        ("train.batch", "--set: got 'train.batch', expected key=value"),
        ("=3", "--set: got '=3', expected key=value"),
        ("train.batch=3\nsteps = 4", "train.batch: got '3\\nsteps = 4', a string, expected"),
    ],
)
def test_bad_overrides_name_the_key_and_what_was_expected(override, message):
    with pytest.raises(CommandError) as caught:
        tasks.load(SHIPPED, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "steps = 1500",
            "stepz = 1500",
            "train.stepz: got an unknown key (did you mean train.steps?)",
        ),
        ("seed = 0", "", "train.seed: got nothing, expected an integer from 0 to 2**32 - 1"),
        ("[run]\nfolder", "#", "run: got nothing, expected a table of settings"),
        ('"runs/char_lm"', "3", "run.folder: got 3, an integer, expected a string"),
        ('"runs/char_lm"', "", "is not TOML: "),
        (
            "[data]",
            "[more]",
            "more: got an unknown key (did you mean model?), expected one of task",
        ),
        ("[data]", "data = 3\n[more]", "data: got 3, an integer, expected a table of settings"),
        ("steps = 1500", f"steps = {'[' * 5000}", "is not TOML: "),
        ("steps = 1500", f"steps = 1{'0' * 5000}", "is not TOML: "),
    ],
)
def test_bad_files(tmp_path, old, new, message):
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(CommandError) as caught:
        tasks.load(write(tmp_path / "bad.toml", text.replace(old, new)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CommandError, match=r"cannot read the configuration .*: No such file"):
        tasks.load(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(CommandError, match="is not UTF-8"):
        tasks.load(tmp_path / "latin.toml")


def test_a_byte_order_mark_is_no_setting(tmp_path):
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf" + SHIPPED.read_bytes())
    assert tasks.load(tmp_path / "bom.toml") == tasks.load(SHIPPED)


def test_differences():
    old, new = tasks.load(SHIPPED), tasks.load(SHIPPED, ["train.seed=3", "data.path=a"])
    assert config.differences(old, new) == {"train.seed": (0, 3), "data.path": (None, "a")}
    assert config.differences(old, old) == {}
