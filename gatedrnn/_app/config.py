"""Configurations: TOML, read into typed, frozen values.

A configuration states every setting (the one exception is `data.path`); there are no defaults in
the code, so the file that a run leaves behind is the whole truth about it.
"""

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    get_args,
    get_origin,
    get_type_hints,
)

from gatedrnn._app.errors import CommandError, reason
from gatedrnn._app.task import Model, Task

if TYPE_CHECKING:
    from gatedrnn._app.run_folder import RunFolder

# what tomllib raises: also on integers of more than 4300 digits, and on deep nesting
NO_TOML = (ValueError, RecursionError)


class Rule(NamedTuple):
    """What a setting may be: the words for it, and the test of a value of the right type."""

    expected: str
    accepts: Callable[[Any], bool]


# the largest integer and the normal numbers of JAX's int32 and float32
INTEGER, TINY, HUGE = 2**31 - 1, 1.1754944e-38, 3.4028234e38

Count = Annotated[int, Rule("an integer from 1 to 2**31 - 1", lambda v: 1 <= v <= INTEGER)]
Layers = Annotated[int, Rule("an integer from 1 to 1000", lambda v: 1 <= v <= 1000)]
Seed = Annotated[int, Rule("an integer from 0 to 2**32 - 1", lambda v: 0 <= v < 2**32)]
Positive = Annotated[
    float, Rule(f"a positive number from {TINY:.1e} to {HUGE:.1e}", lambda v: TINY <= v <= HUGE)
]
Fraction = Annotated[float, Rule("a number between 0 and 1", lambda v: 0 < v < 1)]
Rate = Annotated[float, Rule("a number of at least 0 and below 1", lambda v: 0 <= v < 1)]
Text = Annotated[
    str,
    Rule("a string that is not empty and has no NUL", lambda v: bool(v.strip()) and "\0" not in v),
]


def one_of(*names: str) -> Rule:
    """Of a string that is one of `names`."""
    return Rule(f"one of {', '.join(names)}", lambda v: v in names)


def some_of(*names: str) -> Rule:
    """Of an array, here a tuple, of some of `names`."""
    return Rule(
        f"an array of one or more of {', '.join(names)}, each once",
        lambda v: v and all(name in names for name in v) and len(set(v)) == len(v),
    )


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam after clipping by the global norm.

    The learning rate falls along half a cosine, from `learning_rate` at step 0 to
    `final_learning_rate` at the last step.
    """

    learning_rate: Positive
    final_learning_rate: Positive
    clip_norm: Positive


@dataclasses.dataclass(frozen=True)
class Train:
    """`steps` updates, each from a batch of `batch` sequences or streams."""

    batch: Count
    steps: Count
    validate_every: Count
    seed: Seed


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the run is kept."""

    folder: Text


@dataclasses.dataclass(frozen=True)
class Config:
    """What every configuration has, one field per table of the TOML file; each task adds its own.

    A task's subclass has a method `make`, which makes the data and the models that it describes.
    """

    may_change: ClassVar[frozenset[str]] = frozenset({"train.steps", "run.folder"})  # at --resume

    task: Text
    optimiser: Optimiser
    train: Train
    run: Run

    def make(self) -> Task:
        """The task, ready to be trained."""
        raise NotImplementedError

    def models_of(self, run: "RunFolder") -> Mapping[str, Model]:
        """The models of a run that has this configuration, by their names."""
        return self.make().models


def read(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The tables of the TOML file `path`, with `overrides` (each `"a.b=value"`), unchecked."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CommandError(f"cannot read the configuration {path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"the configuration {path} is not UTF-8: {reason(error)}") from error
    except NO_TOML as error:
        raise CommandError(f"the configuration {path} is not TOML: {reason(error)}") from error
    for override in overrides:
        _apply(table, override)
    return table


def build(cls: type[Config], table: Mapping[str, Any]) -> Config:
    """The configuration of the class `cls` that `table` spells."""
    return _build(cls, table, prefix="")


def setting(table: Mapping[str, Any], key: str, hint: Any) -> Any:
    """The value of one `key` of `table`, which `hint` describes."""
    if key not in table:
        raise CommandError(f"{key}: got nothing, expected {_expected(hint)}")
    return _value(key, hint, table[key])


def to_table(config: Config) -> dict[str, Any]:
    """`config` as nested dictionaries that TOML can hold; it is read back equal."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    """Without None, and with lists for tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configurations differ: dotted key -> (old, new)."""
    flat_old, flat_new = _flat(old), _flat(new)
    if old.task != new.task:  # which has other settings
        return {"task": (old.task, new.task)}
    pairs = {key: (flat_old[key], flat_new[key]) for key in flat_old}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _flat(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            flat[name] = value
    return flat


def _apply(table: dict[str, Any], override: str) -> None:
    """Write one `"a.b=value"` into `table`."""
    dotted, equals, raw = override.partition("=")
    path = dotted.strip().split(".")
    if not equals or not all(path):
        raise CommandError(f"--set: got {override!r}, expected key=value, such as train.steps=500")
    section = table
    for name in path[:-1]:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise CommandError(f"--set {dotted.strip()}: {name} is no table of settings")
    section[path[-1]] = _Raw(raw.strip())


class _Raw(str):
    """The text of a value from the command line, whose type the setting decides."""


def _parse(raw: str, *, is_text: bool) -> Any:
    """The TOML value that `raw` spells; a setting that is text also takes it without quotes."""
    value: Any = str(raw)
    try:
        table = tomllib.loads(f"value = {raw}")
    except NO_TOML:
        table = {}
    if len(table) == 1:  # more of them: `raw` holds a line break, and is no value
        value = table["value"]
    return str(raw) if is_text and not isinstance(value, str) else value


def _build(cls: type, table: Mapping[str, Any], prefix: str) -> Any:
    """An instance of the dataclass `cls` from `table`; `prefix` is `"section."` or ""."""
    hints = get_type_hints(cls, include_extras=True)
    hints = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f" (did you mean {prefix}{near[0]}?)" if near else ""
            raise CommandError(
                f"{prefix}{key}: got an unknown key{hint}, expected one of {', '.join(hints)}"
            )
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        if field.name in table:
            values[field.name] = _value(key, hint, table[field.name])
        elif field.default is dataclasses.MISSING:
            raise CommandError(f"{key}: got nothing, expected {_expected(hint)}")
    return cls(**values)


def _value(key: str, hint: Any, value: Any) -> Any:
    if isinstance(hint, type):  # a section
        if isinstance(value, _Raw):
            value = _parse(value, is_text=False)
        if not isinstance(value, Mapping):
            raise CommandError(f"{key}: got {_shown(value)}, expected a table of settings")
        return _build(hint, value, prefix=f"{key}.")
    kind, rule = _rule(hint)
    if isinstance(value, _Raw):
        value = _parse(value, is_text=kind is str)
    if kind is float and type(value) is int and abs(value) <= HUGE:
        value = float(value)
    if kind is tuple and type(value) is list:
        value = tuple(value)
    # `type` rather than isinstance: True is an int to Python, and not to us
    if type(value) is not kind or not rule.accepts(value):
        raise CommandError(f"{key}: got {_shown(value)}, expected {rule.expected}")
    return value


def _expected(hint: Any) -> str:
    return "a table of settings" if isinstance(hint, type) else _rule(hint)[1].expected


def _rule(hint: Any) -> tuple[type, Rule]:
    """The type and the rule of `Annotated[type, rule]`, also where None is allowed besides."""
    if get_origin(hint) is not Annotated:
        (hint,) = (arg for arg in get_args(hint) if arg is not types.NoneType)
    kind, rule = get_args(hint)
    return kind, rule


def _shown(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
    names |= {dict: "a table", list: "an array", tuple: "an array"}
    kind = names.get(type(value), f"a {type(value).__name__}")
    if isinstance(value, int) and abs(value) > 2**64:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (dict, list, tuple)):
        return kind
    shown = repr(value)
    return f"{shown if len(shown) <= 80 else shown[:80] + '…'}, {kind}"
