"""One case: everything is compiled side by side, compared with the reference, timed interleaved."""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from benchmarks import agreement
from benchmarks.device.cases import Case
from benchmarks.device.rivals import KERNELS, REFERENCE, Programs, builders
from benchmarks.measure import first_line
from benchmarks.program import Program
from benchmarks.timing import interleaved

THREADS = os.cpu_count() or 1
COMPILING = 75.0  # seconds for all programs of a case
SECONDS, TINY_SECONDS = 0.5, 0.02  # of timed rounds for a row
FEWEST, MOST = 7, 60
# what a rival may be off: flax adds up gradients in bfloat16 over all steps, by 0.1 in a thousand
ROUNDING = 0.3

Build = Callable[[], Program]
Row = dict[str, Any]


@dataclasses.dataclass
class Built:
    """The programs of one kind that compiled, and why the others did not."""

    programs: list[Program]
    failed: dict[str, str]


def measure(
    case: Case, kinds: Iterable[str], candidates: Iterable[str], until: float, tiny: bool
) -> Iterator[Row]:
    """A row for each kind and candidate as soon as there is one; `until` is a time of the clock."""
    made, failed = _made(case, candidates)
    built = _compiled(made, failed, tuple(kinds), until)
    for kind, (programs, failures) in ((k, (b.programs, b.failed)) for k, b in built.items()):
        of = dataclasses.asdict(case) | {"kind": kind}
        for row in _timed(programs, failures, agreement.tolerance(case.dtype), tiny):
            yield of | row


def _made(case: Case, candidates: Iterable[str]) -> tuple[dict[str, Programs], dict[str, str]]:
    """By candidate, what is to be compiled; and why there is none."""
    made, failed = {}, {}
    known = builders(case)
    for name in candidates:
        if name not in known:
            continue
        try:
            programs = known[name]()
        except Exception as error:
            failed[name] = first_line(error)
        else:
            if programs is not None:
                made[name] = programs
    return made, failed


def _compiled(
    made: dict[str, Programs], failed: dict[str, str], kinds: tuple[str, ...], until: float
) -> dict[str, Built]:
    """All programs, compiled side by side: XLA lets go of Python while it compiles."""
    pool = ThreadPoolExecutor(THREADS)
    futures = {
        (kind, name): pool.submit(programs[kind])
        for name, programs in made.items()
        for kind in kinds
    }
    wait(futures.values(), timeout=max(min(until - time.time(), COMPILING), 0))
    pool.shutdown(wait=False, cancel_futures=True)
    built = {kind: Built([], dict(failed)) for kind in kinds}
    for (kind, name), future in futures.items():
        why = _why_not(future)
        if why is None:
            built[kind].programs.append(future.result())
        else:
            built[kind].failed[name] = why
    return built


def _why_not(future: Future[Program]) -> str | None:
    if future.cancelled() or not future.done():
        return "not compiled within the time"
    error = future.exception()
    return None if error is None else first_line(error)


def _timed(
    programs: list[Program], failed: dict[str, str], tolerance: float, tiny: bool
) -> Iterator[Row]:
    for name, why in failed.items():
        yield {"candidate": name, "failed": why}
    reference = next((program for program in programs if program.name == REFERENCE), None)
    if reference is not None:  # its answer is asked for once
        answer = functools.cache(reference.answer)
        reference = dataclasses.replace(reference, answer=answer)
    running, errors = [], {}
    for program in programs:
        if program.name == REFERENCE:
            continue
        try:
            program.run()
            if reference is not None:
                errors |= agreement.check([reference, program], math.inf)
        except Exception as error:
            yield {"candidate": program.name, "failed": first_line(error)}
        else:
            running.append(program)
            yield {"alive": program.name}
    seconds = TINY_SECONDS if tiny else SECONDS
    times = interleaved(running, seconds, FEWEST, MOST) if running else {}
    for program in running:
        timing = times[program.name]
        yield {
            "candidate": program.name,
            "median_ms": timing.median * 1e3,
            "lower_ms": timing.lower * 1e3,
            "upper_ms": timing.upper * 1e3,
            "rounds": timing.rounds,
            "compile_seconds": program.compile_seconds,
            "temporary_bytes": program.temporary_bytes,
            "error": errors.get(program.name),
            "tolerance": tolerance if program.name in KERNELS else max(tolerance, ROUNDING),
        }
