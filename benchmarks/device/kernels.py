"""The kernels that a device ran for one training step, from the trace of JAX's profiler."""

import collections
import gzip
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.device.cases import Case
from benchmarks.device.rivals import builders
from benchmarks.measure import first_line

STREAM = "Stream"  # the threads of a trace that hold what a GPU ran; others repeat it by name
MOST_KERNELS = 25
MOST_BYTES = 12_000_000  # of a trace that is kept


def profile(cases: list[Case], candidates: list[str], out: Path) -> Iterator[dict[str, Any]]:
    """A row for each candidate, at the first of the cases that it applies to."""
    for candidate in candidates:
        for case in cases:
            of = {"candidate": candidate, "point": case.point, "dtype": case.dtype}
            try:
                yield of | _profiled(case, candidate, out)
            except Exception as error:
                yield of | {"failed": first_line(error)}
            else:
                break


def _profiled(case: Case, candidate: str, out: Path) -> dict[str, Any]:
    programs = builders(case)[candidate]()
    if programs is None:
        raise ValueError(f"{candidate} has no {case.cell}")
    program = programs["train"]()
    program.run()
    begin = time.perf_counter()
    program.run()
    wall = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            program.run()
        (path,) = Path(folder).glob("**/*.trace.json.gz")
        if path.stat().st_size <= MOST_BYTES:
            kept = "".join(c if c.isalnum() else "-" for c in f"{candidate}-{case.point}")
            shutil.copy(path, out / f"{kept}.trace.json.gz")
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
    return {"wall_ms": wall * 1e3} | summary(events)


def summary(events: list[dict[str, Any]]) -> dict[str, Any]:
    """By kernel, how often and how long; in all, how long the device was busy."""
    ran = list(_of_the_device(events)) or [e for e in events if "hlo_op" in e.get("args", {})]
    times: dict[str, list[float]] = collections.defaultdict(list)
    for event in ran:
        times[event["name"]].append(event["dur"])
    kernels = [
        {"name": name, "count": len(each), "mean_us": statistics.fmean(each), "ms": sum(each) / 1e3}
        for name, each in times.items()
    ]
    kernels.sort(key=lambda kernel: -kernel["ms"])
    ends = [event["ts"] + event["dur"] for event in ran]
    return {
        "launches": len(ran),
        "busy_ms": sum(event["dur"] for event in ran) / 1e3,
        "span_ms": (max(ends) - min(event["ts"] for event in ran)) / 1e3 if ran else 0.0,
        "kernels": kernels[:MOST_KERNELS],
    }


def _of_the_device(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events in a stream of a device."""
    processes, threads = {}, {}
    for event in events:
        if event.get("name") == "process_name":
            processes[event["pid"]] = event["args"]["name"]
        elif event.get("name") == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
    for event in events:
        if event.get("ph") != "X":
            continue
        process = processes.get(event["pid"], "")
        thread = threads.get((event["pid"], event.get("tid")), "")
        if process.startswith("/device:") and thread.startswith(STREAM):
            yield event
