"""Configurations from TOML files and the command line, checked by msgspec."""

import difflib
import tomllib
from collections.abc import Callable, Sequence
from functools import reduce
from operator import attrgetter, getitem
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from gatedrnn._app import files
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError, reason

# raised by tomllib, also on integers of more than 4300 digits, and on deep nesting
NO_TOML = (ValueError, RecursionError)
MOST = 2**20  # bytes of a configuration


def read(
    path: str | Path, overrides: Sequence[str], class_of: Callable[[Any], type[Config]]
) -> Config:
    """The configuration in the TOML file `path`, with `overrides` (each `"a.b=value"`).

    `class_of` gives the class of the configuration for the value of `task`, which is None where
    the file has none.
    """
    try:
        text = files.read_text(Path(path), most=MOST)
    except UnicodeDecodeError as error:
        raise CommandError(f"the configuration {path} is not UTF-8: {reason(error)}") from error
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read the configuration {path}: {reason(error)}") from error
    try:
        table = tomllib.loads(text)
    except NO_TOML as error:
        raise CommandError(f"the configuration {path} is not TOML: {reason(error)}") from error
    changes = [_parse(override) for override in overrides]
    names = [_value(text, is_text=True) for key, text in changes if key == "task"]
    cls = class_of(names[-1] if names else table.get("task"))
    rules = _rules(inspect.type_info(cls))
    for key, text in changes:
        _put(table, key, _value(text, is_text=key in rules and rules[key].is_text))
    try:
        config = msgspec.convert(table, cls)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), table, rules) from error
    for key, rule in rules.items():
        value = attrgetter(key)(config) if rule.accepts else None
        if rule.accepts and value is not None and not rule.accepts(value):
            raise _refusal(f" - at `$.{key}`", table, rules)
    return config


def shown(value: Any) -> str:
    """A value that somebody wrote, short enough for a message."""
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "an array"
    if isinstance(value, int) and abs(value) > 2**64:
        return f"an integer of {value.bit_length()} bits"
    names = {str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
    text = repr(value)
    text = text if len(text) <= 80 else f"{text[:80]}…"
    return f"{text}, {names.get(type(value), f'a {type(value).__name__}')}"


def _parse(override: str) -> tuple[str, str]:
    """The dotted key of `"a.b=value"`, and the text of the value."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals or not all(key.split(".")):
        raise CommandError(f"--set: got {override!r}, expected key=value, such as train.steps=500")
    return key, text


def _value(text: str, *, is_text: bool) -> Any:
    """The TOML value that `text` spells; a setting that is text also takes it without quotes."""
    try:
        table = tomllib.loads(f"value = {text}")
    except NO_TOML:
        return text
    # more than one: `text` holds a line break, and is no value
    spelled = len(table) == 1 and (isinstance(table["value"], str) or not is_text)
    return table["value"] if spelled else text


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    """Write `value` at the dotted `key` of `table`."""
    *sections, name = key.split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise CommandError(f"--set {key}: {section} is no table of settings")
    table[name] = value


class _Rule(NamedTuple):
    """The rule of a setting or a table; where it is not put in words, those of msgspec count."""

    expected: str
    accepts: Callable[[Any], bool] | None = None
    is_text: bool = False


TABLE = _Rule("a table of settings")


def _rules(table: Any, prefix: str = "") -> dict[str, _Rule]:
    """The rules of all settings and tables within `table`, a type of msgspec, by dotted key."""
    rules: dict[str, _Rule] = {}
    for field in table.fields:
        key, kinds = prefix + field.name, getattr(field.type, "types", (field.type,))
        kind = next(kind for kind in kinds if not isinstance(kind, inspect.NoneType))
        if isinstance(kind, inspect.StructType):
            rules |= {key: TABLE, **_rules(kind, f"{key}.")}
        else:
            said = getattr(kind, "extra", None) or {}
            is_text = isinstance(getattr(kind, "type", kind), inspect.StrType)
            rules[key] = _Rule(said.get("expected", ""), said.get("accepts"), is_text)
    return rules


def _refusal(words: str, table: dict[str, Any], rules: dict[str, _Rule]) -> CommandError:
    """The error for `table`, of which msgspec says `words` that end in the place."""
    words, _, place = words.partition(" - at `$.")
    section = place.removesuffix("`").partition("[")[0]  # an array is shown whole
    problem, _, name = words.removesuffix("`").partition(" field `")
    prefix = f"{section}." if section else ""
    key = prefix + name if name else section
    if problem == "Object contains unknown":
        known = [k.removeprefix(prefix) for k in rules if k.rpartition(".")[0] == section]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {prefix}{near[0]}?)" if near else ""
        return CommandError(f"{key}: got an unknown key{hint}, expected one of {', '.join(known)}")
    rule = rules.get(key, TABLE)  # or else the whole
    wanted = words.removeprefix("Expected ").partition(", got ")[0]
    if rule is TABLE and wanted == words and not name:  # a class of settings has tests of its own
        return CommandError(f"{key}: {words}" if key else words)
    got = "nothing" if name else shown(reduce(getitem, key.split("."), table))
    expected = rule.expected or ("a value" if name else wanted)
    return CommandError(f"{key}: got {got}, expected {expected}")
