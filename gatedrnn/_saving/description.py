"""Values as JSON and back: plain ones, and dataclasses and named tuples of them by their fields.

    null, true, 1, 1.5, "text"           itself
    {"$float": "nan"}                    nan, inf or -inf
    [1, 2]                               a tuple
    {"$list": [1, 2]}                    a list
    {"$dict": [["key", 1]]}              a dictionary
    {"gatedrnn.GRU": {"features": 4}}    a value of a class, by its fields
    {"$array": ...}, {"$key": ...}       an array: its name in the file, dtype and shape

A name is looked up in a table of classes and nowhere else.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from gatedrnn._saving.classes import is_record
from gatedrnn._src.describe import shown

JSON: TypeAlias = Any
Write = Callable[[str, Any], JSON]  # (where, value) -> JSON of a value without parts
Read = Callable[[str, JSON], Any]  # (where, JSON) -> that value

MISSING = dataclasses.MISSING

# the way out for a value that a file does not hold, by what tells its kind
ADVICE: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda value: isinstance(value, np.generic), "; its item() is a plain one"),
    (lambda value: isinstance(value, np.dtype), "; a dtype can go by its name"),
    (lambda value: hasattr(value, "shape"), "; arrays belong to the parameters"),
    (callable, "; a function can go by a name that the layer looks up"),
)


def described(value: Any, where: str, names: Mapping[type, str], write: Write) -> JSON:
    """Return `value` as JSON, with classes by `names`, and values without parts by `write`.

    Errors call the value by `where`.

    Raises:
      ValueError: a class without a name.
      TypeError: a key of a dictionary that is neither text nor an integer.
    """

    def inside(value: Any, where: str) -> JSON:
        kind = type(value)
        if value is None:
            return None
        if kind in (tuple, list):
            items = [inside(item, f"{where}[{k}]") for k, item in enumerate(value)]
            return items if kind is tuple else {"$list": items}
        if kind is dict:
            return {
                "$dict": [[_key(where, k), inside(v, f"{where}[{k!r}]")] for k, v in value.items()]
            }
        if kind in names:
            fields = fields_of(kind)
            return {names[kind]: {k: inside(getattr(value, k), f"{where}.{k}") for k in fields}}
        if is_record(kind):
            raise ValueError(
                f"{where}: got {shown(value)}, a class of your own, expected one that is given: "
                f"classes=[{kind.__name__}]"
            )
        return write(where, value)

    return inside(value, where)


def plain(where: str, value: Any) -> JSON:
    """Return a number, a text or a flag as JSON; raise for any other value."""
    if type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    advice = next((words for kind, words in ADVICE if kind(value)), "")
    raise TypeError(
        f"{where}: got {shown(value)}, expected numbers, texts, None, tuples of them and layers"
        f"{advice}"
    )


def read_plain(where: str, json: JSON) -> Any:
    """Return the number, text or flag that JSON describes; raise for any other JSON."""
    if isinstance(json, bool | int | float | str):
        return json
    if json in [{"$float": text} for text in ("nan", "inf", "-inf")]:
        return float(json["$float"])
    raise ValueError(
        f"{where}: got {shown(json)}, expected numbers, texts, None, tuples and layers"
    )


def _key(where: str, key: Any) -> JSON:
    if type(key) not in (str, int):
        raise TypeError(f"{where}: got the key {shown(key)}, expected texts and integers")
    return key


def made(json: JSON, where: str, classes: Mapping[str, type], read: Read) -> Any:
    """Return the value that JSON describes, of `classes` by name; `read` makes what has no parts.

    Raises:
      ValueError: JSON that describes none; it names the place, `where` and what is inside.
    """

    def inside(json: JSON, where: str) -> Any:
        if json is None:
            return None
        if isinstance(json, list):
            return tuple(items(json, where))
        if not isinstance(json, dict):
            return read(where, json)
        if len(json) != 1:
            raise ValueError(f"{where}: got the keys {shown(list(json))}, expected a single one")
        ((tag, content),) = json.items()
        if tag in classes:
            return _built(where, tag, classes[tag], content, inside)
        if tag == "$list" and isinstance(content, list):
            return list(items(content, where))
        if tag == "$dict" and _is_pairs(content):
            return {key: inside(value, f"{where}[{key!r}]") for key, value in content}
        if tag.startswith("$"):
            return read(where, json)
        ours, advice = tag.startswith("gatedrnn."), f"classes=[{tag}]"
        expected = "a class of this version of gatedrnn" if ours else f"one that is given: {advice}"
        raise ValueError(f"{where}: got the class {tag}, expected {expected}")

    def items(found: list[JSON], where: str) -> Iterator[Any]:
        return (inside(item, f"{where}[{k}]") for k, item in enumerate(found))

    return inside(json, where)


def all_ours(json: JSON) -> bool:
    """Return True unless a described value has a class that is not of this package in it."""
    if isinstance(json, list):
        return all(map(all_ours, json))
    if not isinstance(json, dict):
        return True
    ((tag, content),) = json.items()
    if tag.startswith("$"):
        return all_ours(content)
    return tag.startswith("gatedrnn.") and all(map(all_ours, content.values()))


def _is_pairs(content: JSON) -> bool:
    """Return True for a list of keys, texts or integers, each with a value."""
    return isinstance(content, list) and all(
        isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int)
        for pair in content
    )


def _built(
    where: str, name: str, kind: Any, content: JSON, inside: Callable[[JSON, str], Any]
) -> Any:
    """A value of the class `kind` from its fields."""
    fields = fields_of(kind)
    if not isinstance(content, dict):
        raise ValueError(f"{where}: got {shown(content)}, expected the fields of {name}")
    unknown = sorted(set(content) - set(fields))
    missing = [field for field, default in fields.items() if default and field not in content]
    if unknown or missing:
        said = f"fields {name} has not" if unknown else f"no {', '.join(missing)} of {name}"
        got = f"{', '.join(unknown)}, " if unknown else ""
        raise ValueError(f"{where}: got {got}{said}, expected {', '.join(fields)}")
    values = {field: inside(value, f"{where}.{field}") for field, value in content.items()}
    try:
        return kind(**values)
    except Exception as error:  # whatever a class raises for values that it does not take
        raise ValueError(f"{where}: {name}: {error}") from error


def fields_of(kind: Any) -> dict[str, bool]:
    """Return the fields that make a value of `kind`, and of each whether it has to be given."""
    if dataclasses.is_dataclass(kind):
        return {
            field.name: field.default is MISSING and field.default_factory is MISSING
            for field in dataclasses.fields(kind)
            if field.init
        }
    return {field: field not in kind._field_defaults for field in kind._fields}
