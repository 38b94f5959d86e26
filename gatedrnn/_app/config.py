"""Configurations as typed, frozen values, and the rules of their settings.

A configuration states every setting but `data.path` and `train.devices`; other defaults there are
none in the code, so the file that a run leaves behind is the whole truth about it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from gatedrnn._app.task import Model, StoredRun, Task

TINY, HUGE = 1.1754944e-38, 3.4028234e38  # the normal numbers of JAX's float32


def rule(
    expected: str, accepts: Callable[[Any], bool] | None = None, **bounds: Any
) -> msgspec.Meta:
    """The rule of a setting in words, as a test, and as bounds that msgspec knows."""
    return msgspec.Meta(extra={"expected": expected, "accepts": accepts}, **bounds)


def between(low: float, high: float, kind: str = "an integer") -> msgspec.Meta:
    """The rule of a number from `low` to `high`."""
    return rule(f"{kind} from {low} to {high}", ge=low, le=high)


def one_of(*names: str) -> msgspec.Meta:
    """The rule of a string that is one of `names`."""
    return rule(f"one of {', '.join(names)}", lambda v: v in names)


def some_of(*names: str) -> msgspec.Meta:
    """The rule of an array, here a tuple, of some of `names`."""
    return rule(
        f"an array of one or more of {', '.join(names)}, each once",
        lambda v: 0 < len(v) == len(set(v)) and set(v) <= set(names),
    )


Count = Annotated[int, rule("an integer from 1 to 2**31 - 1", ge=1, lt=2**31)]
Devices = Annotated[
    int | Literal["all"],
    rule('"all" or an integer from 1 to 2**31 - 1', lambda v: v == "all" or 1 <= v < 2**31),
]
Layers = Annotated[int, between(1, 1000)]
Seed = Annotated[int, rule("an integer from 0 to 2**32 - 1", ge=0, lt=2**32)]
Positive = Annotated[
    float, rule(f"a positive number from {TINY:.1e} to {HUGE:.1e}", ge=TINY, le=HUGE)
]
Fraction = Annotated[float, rule("a number between 0 and 1", gt=0, lt=1)]
Rate = Annotated[float, rule("a number of at least 0 and below 1", ge=0, lt=1)]
# no surrogates: they stand for bytes of the command line that are not UTF-8
Text = Annotated[
    str,
    rule(
        "a string that is not empty and has no NUL, in UTF-8",
        pattern=r"\A(?s:(?=.*\S)[^\0\ud800-\udfff]*)\Z",
    ),
]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of settings."""


class Optimiser(Settings, frozen=True):
    """Adam after clipping by the global norm.

    The learning rate falls along half a cosine, from `learning_rate` at step 0 to
    `final_learning_rate` at the last step.
    """

    learning_rate: Positive
    final_learning_rate: Positive
    clip_norm: Positive


class Train(Settings, frozen=True):
    """`steps` updates, each from a batch of `batch` sequences or streams.

    The batch is divided over `devices`, which on a CPU are its cores: a number of them that
    divides it, or of all, as many as do.
    """

    batch: Count
    steps: Count
    validate_every: Count
    seed: Seed
    devices: Devices = "all"


class Run(Settings, frozen=True):
    """The place where the run is kept."""

    folder: Text


class Config(Settings, frozen=True):
    """The settings of every task, one field per table of the TOML file; each task adds its own.

    A task's subclass has a method `make`, which makes the data and the models that it describes.
    """

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"train.steps", "train.devices", "run.folder"}  # at --resume
    )

    task: Text
    optimiser: Optimiser
    train: Train
    run: Run

    def make(self) -> Task:
        """The task, ready to be trained."""
        raise NotImplementedError

    def models_of(self, run: StoredRun) -> Mapping[str, Model]:
        """The models of a run that has this configuration, by their names."""
        return self.make().models


def to_table(config: Config) -> dict[str, Any]:
    """The tables of a TOML file that is read back as an equal configuration."""
    return msgspec.json.decode(msgspec.json.encode(config))


def sizes(config: Config) -> dict[str, int]:
    """The integers that say how large the models and their batches are, by dotted key."""
    found: dict[str, int] = {"train.batch": config.train.batch}
    for table in set(config.__struct_fields__) - {"task", "data", "optimiser", "train", "run"}:
        settings = getattr(config, table)
        values = {name: getattr(settings, name) for name in settings.__struct_fields__}
        found |= {f"{table}.{name}": v for name, v in values.items() if type(v) is int}
    return found


def differences(old: Settings, new: Settings, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The settings in which two configurations differ: dotted key -> (old, new).

    Those of different tasks differ in the task alone, since they have not the same settings.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name in old.__struct_fields__ if type(old) is type(new) else ("task",):
        pair = getattr(old, name), getattr(new, name)
        if isinstance(pair[0], Settings):
            found |= differences(*pair, prefix=f"{prefix}{name}.")
        elif pair[0] != pair[1]:
            found[prefix + name] = pair
    return found
