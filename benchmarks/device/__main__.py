"""The command: stage by stage within its time, each result written as it comes."""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.device import flag, process, rivals, suite, tables
from benchmarks.device.cases import CELLS, DTYPES, ORDER, PUBLISHED, Case, at, cases
from benchmarks.device.journal import Journal
from benchmarks.measure import first_line

Row = dict[str, Any]

# Seconds that each stage may take, and that are kept for it while those before it run. The grid
# takes what the others leave.
SHARES = {"tests": 120.0, "grid": 0.0, "flag": 90.0, "profile": 40.0}
SIGNS = {"begin", "end", "alive"}  # rows that are signs of life
GRACE = 10.0  # seconds in which a process may finish what it is at
MOST_DEATHS = 2  # of a process that runs kernels of ours, after which it is asked for none


@dataclasses.dataclass(frozen=True)
class Run:
    """What the command was asked for."""

    out: Path
    tiny: bool
    cells: tuple[str, ...]
    dtypes: tuple[str, ...]
    points: tuple[str, ...] | None  # None: all

    def cases(self) -> list[Case]:
        """The cases of the grid that were asked for."""
        return [
            case
            for case in cases(self.tiny)
            if case.cell in self.cells
            and case.dtype in self.dtypes
            and (self.points is None or case.point in self.points)
        ]

    @property
    def log(self) -> Path:
        """Where processes write their errors."""
        return self.out / "device.log"


def tests(run: Run, until: float) -> Iterator[Row]:
    yield from suite.run(run.out, until)


def grid(run: Run, until: float) -> Iterator[Row]:
    """Every case; where a process dies, the rest goes to another, and that case without kernels."""
    left = [(case, True) for case in run.cases()]
    deaths, without = 0, set[str]()
    while left:
        if time.time() > until or deaths > MOST_DEATHS + 2:
            yield {"skipped": [case.described() for case, _ in left]}
            return
        names = [
            [n for n in _names(wanted and deaths < MOST_DEATHS) if n not in without]
            for _, wanted in left
        ]
        request = _request("grid", run, [case for case, _ in left], names, until)
        at_work = None  # the case that the process is at
        try:
            for row in process.rows(request, run.log, until + GRACE):
                at_work = row.get("begin", at_work)
                if not row.keys() & SIGNS:
                    yield row
            return
        except process.Died as died:
            if at_work is None:  # not by a case: by torch, if it does not go with JAX
                yield {"died": str(died)}
                without, deaths = {rivals.TORCH, rivals.HALF}, deaths + 1
                continue
            case, wanted = left[at_work]
            yield dataclasses.asdict(case) | {"died": str(died)}
            deaths += 1
            left = ([(case, False)] if wanted else []) + left[at_work + 1 :]


def _names(kernels: bool) -> list[str]:
    return [name for name in rivals.CANDIDATES if kernels or name != rivals.PALLAS]


def _request(
    stage: str, run: Run, asked: list[Case], candidates: list[Any], until: float
) -> dict[str, Any]:
    return {
        "stage": stage,
        "cases": [dataclasses.asdict(case) for case in asked],
        "candidates": candidates,
        "until": until,
        "tiny": run.tiny,
        "out": str(run.out),
    }


def flags(run: Run, until: float) -> Iterator[Row]:
    """The scan of ours and of flax, with and without the flag, each in a process of its own."""
    asked = [at("LSTM", point, "float32", run.tiny) for point in flag.POINTS]
    names = [rivals.SCAN, rivals.OPTIMISED]
    for variant, added in flag.VARIANTS.items():
        if time.time() > until:
            yield {"variant": variant, "skipped": [variant]}
            continue
        request = _request("flag", run, asked, [names] * len(asked), until)
        try:
            for row in process.rows(request, run.log, until, flag.environment(added)):
                if not row.keys() & {*SIGNS, "environment"}:
                    yield row | {"variant": variant}
        except process.Died as died:
            yield {"variant": variant, "died": str(died)}


def profile(run: Run, until: float) -> Iterator[Row]:
    """The kernels of one training step, of ours and of flax."""
    points = (("speech", "float32"), ("speech", "bfloat16"), ("long-small", "bfloat16"))
    asked = [at("LSTM", point, dtype, run.tiny) for point, dtype in points]
    request = _request("profile", run, asked, [rivals.SCAN, rivals.PALLAS, rivals.OPTIMISED], until)
    try:
        yield from process.rows(request, run.log, until)
    except process.Died as died:
        yield {"died": str(died)}


STAGES: dict[str, Callable[[Run, float], Iterator[Row]]] = {
    "tests": tests,
    "grid": grid,
    "flag": flags,
    "profile": profile,
}


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, or 1 if a stage failed."""
    arguments = _parser().parse_args(argv)
    journal = Journal(arguments.out)
    if arguments.report:
        journal.render()
        return 0
    run = Run(
        arguments.out.resolve(),
        arguments.tiny,
        tuple(arguments.cells),
        tuple(arguments.dtypes),
        None if arguments.points is None else tuple(arguments.points),
    )
    stages = [stage for stage in STAGES if stage in arguments.stages]
    begin = time.time()
    failed = 0
    for count, stage in enumerate(stages, 1):
        until = begin + 60 * arguments.minutes - sum(SHARES[later] for later in stages[count:])
        if SHARES[stage]:
            until = min(until, time.time() + SHARES[stage])
        for row in _isolated(stage, run, until):
            failed += "error" in row and "candidate" not in row
            row = {"stage": stage, "at": round(time.time() - begin, 1)} | row
            journal.put(row)
            _written(journal, row)
    journal.render()
    _say(f"{journal.tables} ({time.time() - begin:.0f} s)")
    return int(failed > 0)


def _written(journal: Journal, row: Row) -> None:
    """Show a row; a fault of the tables, which can be made again, costs no measurement."""
    try:
        _say(f"[{row['at']:4.0f} s] {tables.line(row)}")
        journal.render()
    except Exception as error:
        _say(f"the tables FAILED: {first_line(error)}")


def _isolated(stage: str, run: Run, until: float) -> Iterator[Row]:
    """The rows of a stage; its failure is a row too, for the others are still to come."""
    if time.time() > until:
        yield {"skipped": [stage]}
        return
    try:
        yield from STAGES[stage](run, until)
    except Exception as error:
        yield {"error": first_line(error)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages; default 8")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: to see that it runs")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--points", nargs="+", choices=(*ORDER, *PUBLISHED), help="of the grid")
    parser.add_argument("--report", action="store_true", help="make the tables again, no more")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
