"""One program under XLA's profiler and the system's accounts: what its time is made of."""

import collections
import gzip
import json
import re
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.program import Program
from gatedrnn._src.time.recurrence import PHASES

RECOMPUTE, MOVING = "recompute", "moving"
PARTS = (*PHASES[:2], RECOMPUTE, *PHASES[2:], MOVING)
# a loop's own event holds those of its body
CONTAINERS = ("while", "call", "conditional")


def profile(program: Program, runs: int) -> dict[str, Any]:
    """Means over `runs`, in seconds of a run.

    Returns:
      `median` (the mean, of runs without the profiler), `user` and `system` seconds of the process,
      `faults` (minor page faults), `phases` (part -> seconds, under the profiler, summed over
      threads) and `products` (the seconds of those that are matrix products).
    """

    def run() -> None:
        for _ in range(runs):
            program.run()

    run()
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        events = _events(Path(folder))
    phases, products = _parts(events, _names(program.hlo() if program.hlo else ""))
    return {
        "median": wall / runs,
        "user": (after.ru_utime - before.ru_utime) / runs,
        "system": (after.ru_stime - before.ru_stime) / runs,
        "faults": (after.ru_minflt - before.ru_minflt) / runs,
        "phases": {part: seconds / runs for part, seconds in phases.items()},
        "products": products / runs,
    }


def _events(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("**/*.trace.json.gz")
    with gzip.open(path) as file:
        return json.load(file)["traceEvents"]


def _names(text: str) -> dict[str, str]:
    """Operation -> where it comes from: `"jit(loss)/transpose(jvp(jit(run)))/while/.../mul"`."""
    found = re.findall(r'^\s*(?:ROOT )?%?(\S+) = .*?op_name="([^"]*)"', text, flags=re.MULTILINE)
    return dict(found)


def _parts(events: list[dict], names: dict[str, str]) -> tuple[dict[str, float], float]:
    """The seconds of each part, and those of products."""
    seconds: dict[str, float] = collections.defaultdict(float)
    products = 0.0
    for event in events:
        operation = (event.get("args") or {}).get("hlo_op")
        if event.get("ph") != "X" or not operation or operation.startswith(CONTAINERS):
            continue
        taken, name = event["dur"] * 1e-6, names.get(operation, "")
        seconds[part_of(name)] += taken
        products += taken * name.endswith("dot_general")
    return dict(seconds), products


def part_of(name: str) -> str:
    """The phase of an operation, by its place; what has none moves data or belongs to the loss."""
    scopes = name.split("/")
    phase = next((scope for scope in scopes if scope in PHASES), MOVING)
    backward = any(scope.startswith("transpose(") for scope in scopes)
    return RECOMPUTE if backward and phase in PHASES[:2] else phase
