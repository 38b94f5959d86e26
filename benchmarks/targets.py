"""What we hold ourselves to, and whether the figures do."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import accelerators
from benchmarks import markdown as md
from benchmarks.problem import GRID, TINY, cells
from benchmarks.tables import compiling, cores, masks, readout, registry
from benchmarks.tables.grid_markdown import against, against_least, flax, rivals
from benchmarks.tables.task import described
from benchmarks.tables.variants import figure

Row = dict[str, Any]

TORCH = {"long-small": 1.0, "pixels": 1.0, "large": 1.2, "speech": 1.5, "small-batch": 2.0}
FLAX_CELLS = TORCH_CELLS = 3  # neither has a GRU that resets before


@dataclasses.dataclass(frozen=True)
class Target:
    """Ratios of ours to something, and bounds on their geometric mean and on the largest."""

    name: str
    ratios: dict[str, float]  # of what -> ratio
    expected: int  # how many there are once all is measured
    mean: float | None = None
    worst: float | None = None

    @property
    def verdict(self) -> str:
        """Met, not met, or why neither can be said."""
        if not self.ratios:
            return "not measured"
        if self.worst is not None and max(self.ratios.values()) > self.worst:
            return "not met"
        if len(self.ratios) < self.expected:
            return "incomplete"
        if self.mean is not None and md.geometric_mean(self.ratios.values()) > self.mean:
            return "not met"
        return "met"


def targets(data: dict[str, Any]) -> list[Target]:
    """All targets, from the figures of a file."""
    tables = {name: held["rows"] for name, held in data["tables"].items()}
    points = GRID if not data["tiny"] else list(TINY)[:1]
    if "launches" in tables:
        return list(_launches(tables["launches"], len(points)))
    return [
        *_grid(tables.get("grid", []), len(points)),
        *_others(tables, len(points)),
    ]


def _grid(rows: list[Row], points: int) -> Iterable[Target]:
    train = [row for row in rows if row["of"]["kind"] == "train"]
    forward = [row for row in rows if row["of"]["kind"] == "forward"]
    against_rivals = lambda row: against_least(row, rivals(row))  # noqa: E731
    for cell in cells():
        mean, worst = (0.65, 1.00) if cell == "LSTM" else (0.70, 0.95)
        ratios = _ratios(_where(train, cell=cell), against_rivals)
        name = f"training step, {cell}: time over the fastest JAX rival's"
        yield Target(name, ratios, points, mean, worst)
    for cell in cells():
        ratios = _ratios(_where(forward, cell=cell), against_rivals)
        name = f"forward, {cell}: time over the fastest JAX rival's"
        yield Target(name, ratios, points, 0.90, 1.05)
    ratios = _ratios(train, lambda row: against_least(row, flax(row), "temporary_bytes"))
    name = "training step: temporary memory over the leanest flax's"
    yield Target(name, ratios, points * FLAX_CELLS, worst=0.65)
    for point, bound in TORCH.items():
        ratios = _ratios(_where(train, point=point), lambda row: against(row, registry.TORCH))
        name = f"training step, {point}: time over torch's"
        yield Target(name, ratios, TORCH_CELLS, worst=bound)
    ratios = _ratios(train, lambda row: against(row, registry.FLOOR))
    name = "training step: time over the floor's, the products alone"
    yield Target(name, ratios, points * len(cells()), mean=1.4)
    ratios = _ratios(train, lambda row: against_least(row, flax(row), "compile_seconds"))
    name = "training step: compilation over flax's, each compiled once"
    yield Target(name, ratios, points * FLAX_CELLS, mean=1.2)


OPERATIONS = {accelerators.H100.name: 9, accelerators.V5E.name: 10}
"""The most of a time step, in an LSTM's training step at *speech*."""


def _launches(rows: list[Row], points: int) -> Iterable[Target]:
    train = [row for row in rows if row["of"]["kind"] == "train"]
    against_flax = lambda row: against_least(row, flax(row), "operations")  # noqa: E731
    for target, most in OPERATIONS.items():
        here = _where(train, target=target)
        speech = _where(here, cell="LSTM", point="speech")
        ratios = _ratios(speech, lambda row, m=most: figure(row, registry.OURS, "operations") / m)
        name = f"{target}: operations of a step, LSTM at speech, over {most}"
        yield Target(name, ratios, 1, worst=1.0)
        ratios = _ratios(_where(here, cell="GRU after"), against_flax)
        name = f"{target}: operations of a step, GRU after, over the least of flax"
        yield Target(name, ratios, points, worst=0.7)
        ratios = _ratios(here, against_flax)
        name = f"{target}: operations of a step, any cell, over the least of flax"
        yield Target(name, ratios, points * FLAX_CELLS, worst=1.0)


def _others(tables: dict[str, list[Row]], points: int) -> Iterable[Target]:
    ratios = _ratios(tables.get("cores", []), lambda row: cores.ratios(row).over_torch)
    name = "training step, LSTM, all cores: time over torch's"
    yield Target(name, ratios, points, mean=1.0)
    rows = tables.get("compile", [])
    lengths = [row for row in rows if row["of"] != compiling.DEPTH]
    ratios = _ratios(lengths, _over(registry.OURS, registry.LEAN, "compile_seconds"))
    name = "training step, LSTM of any length: compilation over flax's, medians"
    yield Target(name, ratios, max(len(lengths), 1), worst=1.2)
    depths = [row for row in rows if row["of"] == compiling.DEPTH]
    ratios = _ratios(depths, _over(compiling.REPEAT, compiling.ONE, "compile_seconds"))
    yield Target("gr.repeat of 8: compilation over one layer's", ratios, 1, worst=2.0)
    long = [row for row in tables.get("length", []) if "process" in row["of"]]
    ratios = _ratios(long, _gigabytes)
    yield Target("one long sequence: temporaries and outputs over 1 GB", ratios, 1, worst=1.0)
    rows = tables.get("readout", [])
    for what, field, bound in (("time", "median", 1.0), ("memory", "temporary_bytes", 0.2)):
        ratios = _ratios(rows, _over(readout.OURS, readout.THEIRS, field))
        name = f"gr.softmax_cross_entropy: {what} over dense and optax's"
        yield Target(name, ratios, max(len(rows), 1), worst=bound)
    rows = tables.get("masks", [])
    expected = points * 2 * len(masks.LAYERS)
    for variant in (masks.FULL, masks.RAGGED):
        ratios = _ratios(rows, _over(variant, masks.NONE))
        yield Target(f"lengths, {variant}: time over none given", ratios, expected, worst=1.15)


def _gigabytes(row: Row) -> float | None:
    sizes = [figure(row, "boundaries", f"{what}_bytes") for what in ("temporary", "output")]
    return None if None in sizes else sum(sizes) / 1e9


def _where(rows: list[Row], **of: str) -> list[Row]:
    return [row for row in rows if of.items() <= row["of"].items()]


def _over(name: str, other: str, what: str = "median") -> Callable[[Row], float | None]:
    return lambda row: md.over(figure(row, name, what), figure(row, other, what))


def _ratios(rows: list[Row], of: Callable[[Row], float | None]) -> dict[str, float]:
    ratios = {described(row["of"]): of(row) for row in rows}
    return {name: value for name, value in ratios.items() if value is not None}


def markdown(data: dict[str, Any]) -> list[str]:
    """The table of targets."""
    lines = []
    for target in targets(data):
        largest = max(target.ratios, key=target.ratios.__getitem__, default=None)
        worst = md.NONE if largest is None else f"{md.plain(target.ratios[largest])} ({largest})"
        mean = md.plain(md.geometric_mean(target.ratios.values()))
        lines.append(
            [
                target.name,
                mean + ("" if target.mean is None else f" (at most {md.plain(target.mean)})"),
                worst + ("" if target.worst is None else f", at most {md.plain(target.worst)}"),
                f"{len(target.ratios)} of {target.expected}",
                target.verdict,
            ]
        )
    return md.table(["ours over another's", "geometric mean", "worst", "rows", ""], lines)
