"""The command: measure tables, write them down, draw them."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks import report
from benchmarks.environment import ROOT, device_name, environment
from benchmarks.measure import DISAGREES, first_line, warm_up
from benchmarks.problem import GRID, REFUSED, TINY, cells
from benchmarks.settings import Settings
from benchmarks.store import Store
from benchmarks.tables import HERE, TABLES, registry
from benchmarks.tables.task import Task

TINY_SECONDS = 0.02
EPILOG = """\
Figures go to DIR/DEVICE.json (with --tiny to DIR/DEVICE-tiny.json) after every row, those of
'launches', which compiles for devices that are not there, to DIR/launches.json, and from there
to a .md and a .png beside it. A row that is measured again replaces the earlier one, with all its
candidates; all other rows stay.

  python -m benchmarks report FILE.json     makes the .md and the .png again
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, or 1 if a row failed or a candidate computes something else."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["report"]:
        return _report(argv[1:])
    parser = _parser()
    arguments = parser.parse_args(argv)
    tables = list(dict.fromkeys(arguments.tables)) or HERE
    _check_options(parser, arguments, tables)
    if arguments.tiny:  # what counts then is that it runs; compiling takes most of that
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    settings = Settings(
        seconds=arguments.seconds or (TINY_SECONDS if arguments.tiny else Settings.seconds),
        tiny=arguments.tiny,
        cells=_tuple(arguments.cells),
        points=_tuple(arguments.points),
        candidates=_tuple(arguments.candidates),
    )
    if set(tables) - set(HERE):  # compilers for other devices are not asked for devices
        jax.config.update("jax_platforms", "cpu")
    failed: int | None = 0
    for file, held in _files(tables).items():
        path = arguments.out / f"{file}{'-tiny' if settings.tiny else ''}.json"
        whole = not (settings.cells or settings.points or settings.candidates)
        try:
            device = getattr(TABLES[held[0]], "DEVICE", file)
            failed += _measure(held, settings, Store(path, device, settings.tiny), whole)
        except KeyboardInterrupt:
            _say("interrupted; all finished rows are kept")
            failed = None
        if path.exists():
            for written in (path, *report.render(path)):
                _say(str(written))
        if failed is None:
            return 130
    return int(failed > 0)


def _files(tables: list[str]) -> dict[str, list[str]]:
    """The tables of each file: of the device at hand, or of their own."""
    files: dict[str, list[str]] = {}
    for name in tables:
        file = device_name() if name in HERE else TABLES[name].FILE
        files.setdefault(file, []).append(name)
    return files


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure gatedrnn against other libraries and itself.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    asked = [name for name in TABLES if name not in HERE]
    tables = f"{', '.join(HERE)}, all by default; {', '.join(asked)}, if asked for"
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=tables)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: to see that it runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", metavar="DIR")
    parser.add_argument(
        "--seconds", type=_positive, help=f"of timed rounds for a row; default {Settings.seconds:g}"
    )
    parser.add_argument("--candidates", nargs="+", metavar="NAME", choices=registry.NAMES)
    not_timed = ", ".join(f"{name} ({why})" for name, why in REFUSED.items())
    parser.add_argument(
        "--cells",
        nargs="+",
        metavar="CELL",
        choices=list(cells()),
        help=f"of {', '.join(cells())}; not timed: {not_timed}",
    )
    parser.add_argument("--points", nargs="+", metavar="POINT", choices=list(GRID))
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _tuple(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(dict.fromkeys(names))


def _check_options(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, tables: list[str]
) -> None:
    """Refuse what would be accepted and ignored."""
    unknown = [name for name in tables if name not in TABLES]
    if unknown:
        parser.error(f"TABLE: got {', '.join(unknown)}, expected some of {', '.join(TABLES)}")
    for name in set(tables) - set(HERE):
        if TABLES[name].missing():
            parser.error(f"{name}: {TABLES[name].missing()}")
    for option in ("cells", "points", "candidates"):
        without = [name for name in tables if option not in TABLES[name].OPTIONS]
        if getattr(arguments, option) is not None and without:
            parser.error(
                f"--{option} does not apply to {', '.join(without)}; name the tables it is for"
            )
    if arguments.seconds and not any("seconds" in TABLES[name].OPTIONS for name in tables):
        parser.error(f"--seconds does not apply to {', '.join(tables)}")
    if arguments.tiny and not set(arguments.points or ()) <= set(TINY):
        parser.error(f"--points: with --tiny there are {', '.join(TINY)}")


def _measure(tables: list[str], settings: Settings, kept: Store, whole: bool) -> int:
    """Measure all rows of the tables; how many failed."""
    where, failed = environment(), 0
    warm_up()
    for name in tables:
        tasks = list(TABLES[name].tasks(settings))
        for count, task in enumerate(tasks, 1):
            _say(f"[{name} {count}/{len(tasks)}] {task} ...")
            begin = time.perf_counter()
            row = _row(task)
            wrong = any(why.startswith(DISAGREES) for why in row.get("failed", {}).values())
            failed += wrong or "error" in row
            row["seconds"] = time.perf_counter() - begin
            kept.put(name, row, where)
            _say(f"    {_summary(row)}")
        if whole:
            kept.keep(name, [task.of for task in tasks])
        report.render(kept.path)
    return failed


def _row(task: Task) -> dict[str, Any]:
    try:
        return {"of": task.of, **task.measure()}
    except Exception as error:  # the other rows are still to come
        return {"of": task.of, "error": first_line(error)}


def _summary(row: dict[str, Any]) -> str:
    """What came of a row, in one line."""
    if "error" in row:
        return f"FAILED: {row['error']}"
    figures = row["candidates"].items()
    parts = [
        f"{name} {f['median'] * 1e3:.4g} ms"
        if "median" in f
        else f"{name} {f['operations']:.4g} operations"
        if "operations" in f
        else f"{name} {f['compile_seconds']:.3g} s"
        for name, f in figures
    ]
    parts += [f"{name} FAILED ({why})" for name, why in row["failed"].items()]
    return f"{'; '.join(parts)} ({row['seconds']:.0f} s in all)"


def _report(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks report")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    for path in parser.parse_args(argv).files:
        try:
            written = report.render(path)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        for each in written:
            _say(str(each))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
