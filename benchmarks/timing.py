"""Interleaved timing: every candidate in every round, in random order, in one process.

The machine may be shared and its speed may drift, so nothing is timed on its own: a figure is a
median over rounds, and what counts is the ratio of two medians of the same rounds.
"""

import random
import statistics
import time
from typing import NamedTuple

from benchmarks.program import Program

SLOW = 3.0  # a candidate this much slower than the fastest needs only the fewest rounds


class Timing(NamedTuple):
    """Seconds of one run, over rounds."""

    median: float
    lower: float  # the quartiles
    upper: float
    rounds: int


def interleaved(
    programs: list[Program], seconds: float = 10.0, fewest: int = 5, most: int = 60
) -> dict[str, Timing]:
    """The time of each program, from rounds that take `seconds` in all, or the `fewest` rounds."""
    order = random.Random(0)
    taken: dict[str, list[float]] = {program.name: [] for program in programs}
    for program in programs:  # warm-up
        program.run()
    begin = time.perf_counter()
    running = list(programs)
    for finished in range(most):
        if finished >= fewest:
            if time.perf_counter() - begin > seconds:
                break
            fastest = min(statistics.median(times) for times in taken.values())
            running = [p for p in running if statistics.median(taken[p.name]) < SLOW * fastest]
        order.shuffle(running)
        for program in running:
            start = time.perf_counter()
            program.run()
            taken[program.name].append(time.perf_counter() - start)
    return {name: _summary(times) for name, times in taken.items()}


def _summary(times: list[float]) -> Timing:
    if len(times) == 1:
        return Timing(times[0], times[0], times[0], 1)
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, lower, upper, len(times))
