"""The grid's tables: times as ratios of ours to each candidate's, memory, compilation."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import markdown as md
from benchmarks.tables.registry import CUDNN, FLOOR, OURS, TORCH
from benchmarks.tables.variants import figure, names_in

Row = dict[str, Any]

NOT_JAX_RIVALS = (OURS, FLOOR, TORCH, CUDNN)  # what is left are JAX libraries, and `lax.scan`


def rivals(row: Row) -> list[str]:
    """The JAX candidates of a row besides ours."""
    return [name for name in row.get("candidates", {}) if name not in NOT_JAX_RIVALS]


def flax(row: Row) -> list[str]:
    """All that is flax in a row."""
    return [name for name in row.get("candidates", {}) if name.startswith("flax")]


def against(row: Row, name: str, what: str = "median") -> float | None:
    """Ours over a candidate's."""
    return md.over(figure(row, OURS, what), figure(row, name, what))


def against_least(row: Row, names: Iterable[str], what: str = "median") -> float | None:
    """Ours over the least of some."""
    least = least_of(row, names, what)
    return None if least is None else against(row, least, what)


def least_of(row: Row, names: Iterable[str], what: str) -> str | None:
    """Which of some needs the least."""
    found = [name for name in names if figure(row, name, what) is not None]
    return min(found, key=lambda name: figure(row, name, what), default=None)


def markdown(rows: Sequence[Row]) -> list[str]:
    lines = [
        "Time of ours over that of each candidate, medians of the same rounds: below 1 (bold) ours",
        "is faster. The floor is the matrix products alone.",
        "",
    ]
    groups = {(row["of"]["cell"], row["of"]["kind"]): None for row in rows}
    for cell, kind in groups:
        group = [row for row in rows if (row["of"]["cell"], row["of"]["kind"]) == (cell, kind)]
        lines += [f"### {cell}, {'training step' if kind == 'train' else kind}", ""]
        lines += _times(group)
    lines += ["### Temporary memory", "", "Ours over the leanest flax (XLA's own account).", ""]
    lines += by_point(rows, "temporary_bytes")
    lines += ["### Compilation", "", "Ours over the flax that compiles fastest.", ""]
    lines += by_point(rows, "compile_seconds")
    return lines


def _times(rows: Sequence[Row]) -> list[str]:
    others = [name for name in names_in(rows) if name != OURS]
    header = ["point", f"{OURS} [ms]", *others, "fastest JAX rival"]
    lines = []
    for row in rows:
        least = least_of(row, rivals(row), "median")
        best = md.NONE if least is None else f"{md.ratio(against(row, least))} ({least})"
        line = [row["of"]["point"], md.milliseconds(figure(row, OURS))]
        lines.append([*line, *(md.ratio(against(row, name)) for name in others), best])
    means = [md.geometric_mean(against(row, name) for row in rows) for name in others]
    best = md.geometric_mean(against_least(row, rivals(row)) for row in rows)
    lines.append(["geometric mean", "", *map(md.ratio, means), md.ratio(best)])
    return md.table(header, lines)


def by_point(rows: Sequence[Row], what: str) -> list[str]:
    """A row for each cell and kind, a column for each point: ours, and over flax's least."""
    points = list(dict.fromkeys(row["of"]["point"] for row in rows))
    write = md.megabytes if what == "temporary_bytes" else md.number
    unit = "MB" if what == "temporary_bytes" else "s"
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        of = row["of"]
        groups.setdefault((of["cell"], of["kind"]), {})[of["point"]] = row
    lines = []
    for (cell, kind), found in groups.items():
        ratios = {p: against_least(row, flax(row), what) for p, row in found.items()}
        cells = [
            f"{write(figure(found[p], OURS, what))}, {md.ratio(ratios[p])}"
            if p in found
            else md.NONE
            for p in points
        ]
        lines.append([f"{cell}, {kind}", *cells, md.ratio(md.geometric_mean(ratios.values()))])
    return md.table(["", *(f"{p} [{unit}, ratio]" for p in points), "geometric mean"], lines)
