"""A row of the registry: a cell, its options and equations, and the cells that follow."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, get_type_hints

from gatedrnn._src import checks

Cell = Any  # of sequences or of trees
Options = Mapping[str, Any]

SIZE = 4  # of every field that is a size and has no default


@dataclasses.dataclass(frozen=True)
class Row:
    """A cell that is supported, and all that tests, commands and documents ask about it.

    Its options follow from the annotations of its fields: every value of a `Literal` and of a flag
    (`X | None`: None too), and `SIZE` for a size without a default.

    Attributes:
      cell: the class.
      step: its equations in NumPy: `(cell, params, carry, x) -> Step`, for any batch axes; of a
        cell of trees `(cell, params, children, x) -> state`, for one node.
      shapes: `(cell, I) -> {path of a parameter: its shape}`.
      formulas: the equations, as the README has them.
      values: the values of fields that no annotation lists (numbers, sizes with a default).
      initial: fields that `init` alone reads, and another value than the default for each.
      crossed: the options that act on each other: a sample has every combination of them, and the
        values of all other options one at a time.
      examples: more cells for the sample; all there are where the class is not `enumerated`.
      typical: a few cells that show all the equations, for what takes long; the first cell if None.
      forms: by name, the options of every form that is timed; the class with its defaults if None.
      enumerated: whether the options follow from the annotations.
      remarks: by field, what the README adds.
    """

    cell: type
    step: Callable[..., Any]
    shapes: Callable[[Any, int], dict[str, tuple[int, ...]]]
    formulas: str
    values: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    initial: Options = dataclasses.field(default_factory=dict)
    crossed: tuple[str, ...] = ()
    examples: tuple[Cell, ...] = ()
    typical: tuple[Cell, ...] | None = None
    forms: Mapping[str, Options] | None = None
    enumerated: bool = True
    remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.cell.__name__

    @property
    def of_trees(self) -> bool:
        """True of a cell that composes nodes of trees, not steps of a sequence."""
        return hasattr(self.cell, "compose")

    def options(self) -> dict[str, tuple[Any, ...]]:
        """Return the values of every field, the default first."""
        hints = get_type_hints(self.cell)
        return {
            field.name: self._values(field, hints[field.name])
            for field in dataclasses.fields(self.cell)
        }

    def _values(self, field: dataclasses.Field, annotation: Any) -> tuple[Any, ...]:
        required = field.default is dataclasses.MISSING
        if field.name in self.values:
            found = self.values[field.name]
        elif field.name in self.initial:
            found = (field.default,)
        elif annotation is int and required:
            found = (SIZE,)
        elif annotation is bool:
            found = (True, False)
        else:
            try:
                found = checks.choices(annotation)
            except TypeError:
                raise TypeError(
                    f"values: got none of {self.name}.{field.name}, expected some: "
                    f"its annotation, {annotation}, lists none"
                ) from None
        return found if required else (field.default, *(v for v in found if v != field.default))

    def every(self) -> tuple[Cell, ...]:
        """Return a cell for every combination of options, and all that are listed besides."""
        if not self.enumerated:
            return self.examples
        options = self.options()
        combined = _combined(options)
        alone = ({**_first(options), name: value} for name, value in self.initial.items())
        return _distinct([*self._made([*combined, *alone]), *self.examples])

    def sample(self) -> tuple[Cell, ...]:
        """Return a cell for every value of every option, and for what acts on each other."""
        if not self.enumerated:
            return self.examples
        options = self.options()
        unknown = set(self.crossed) - set(options)
        if unknown:
            raise ValueError(f"crossed: got {sorted(unknown)}, expected some of {list(options)}")
        first = _first(options)
        crossed = _combined({k: v if k in self.crossed else v[:1] for k, v in options.items()})
        alone = ({**first, name: value} for name, found in options.items() for value in found)
        return _distinct([*self._made([*crossed, *alone]), *self.examples])

    def few(self) -> tuple[Cell, ...]:
        """Return the typical cells."""
        return self.every()[:1] if self.typical is None else self.typical

    def timed(self) -> dict[str, Callable[[int], Cell]]:
        """Return, by name, what makes each form of the cell with all its sizes alike."""
        if not self.enumerated:
            return {}
        forms = {self.name: {}} if self.forms is None else self.forms
        hints = get_type_hints(self.cell)
        sizes = [
            field.name
            for field in dataclasses.fields(self.cell)
            if field.default is dataclasses.MISSING and hints[field.name] is int
        ]
        return {name: partial(self._of_size, sizes, form) for name, form in forms.items()}

    def _of_size(self, sizes: list[str], form: Options, size: int) -> Cell:
        return self.cell(**dict.fromkeys(sizes, size), **form)

    def _made(self, choices: Iterable[Options]) -> Iterator[Cell]:
        return (self.cell(**options) for options in choices)


def _first(options: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    return {name: values[0] for name, values in options.items()}


def _combined(options: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of values, that of the defaults first."""
    for values in itertools.product(*options.values()):
        yield dict(zip(options, values, strict=True))


def _distinct(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    return tuple(dict.fromkeys(cells))


def name_of(cell: Cell) -> str:
    """Return the class of `cell` with the options that are not its defaults, without its sizes."""
    said = []
    for field in dataclasses.fields(cell):
        value = getattr(cell, field.name)
        is_size = field.default is dataclasses.MISSING and isinstance(value, int)
        if value != field.default and not is_size:
            shown = f"({name_of(value)})" if dataclasses.is_dataclass(value) else value
            said.append(f"{field.name}={shown}")
    return " ".join([type(cell).__name__, *said])
