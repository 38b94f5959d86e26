"""From things to build to the figures of a row."""

import gc
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from benchmarks.program import Program
from benchmarks.settings import Settings
from benchmarks.timing import interleaved

Build = Callable[[], Program | None]  # None: the candidate has no such thing
# raises ValueError unless all programs compute the same; by how much they differ from the first
Check = Callable[[list[Program]], dict[str, float]]

DISAGREES = "computes something else"
SHARE_OF_MEMORY = 0.8  # a program that needs more than this of what is free is not run


def measure(
    builds: Iterable[tuple[str, Build]],
    settings: Settings,
    check: Check | None = None,
    fewest: int = 5,
) -> dict[str, Any]:
    """Build all, compare what they compute, time them interleaved.

    Returns:
      `candidates`: name -> seconds of a run (median, quartiles, rounds), of compilation, and the
      temporary memory [bytes]; `failed`: name -> why there are none; `errors`: name -> how far off
      the first one's answer it is.
    """
    programs, failed = [], {}
    for label, build in builds:
        if not settings.tiny:
            forget()
        try:
            program = build()
            if program is None:
                continue
            _check_that_it_fits(program)
            program.run()
        except Exception as error:
            failed[label] = reason(error)
        else:
            programs.append(program)
    errors: dict[str, float] = {}
    if check is not None:
        programs = _agreeing(programs, check, errors, failed)
    times = interleaved(programs, settings.seconds, fewest=fewest) if programs else {}
    figures = {
        program.name: times[program.name]._asdict()
        | {
            "compile_seconds": program.compile_seconds,
            "temporary_bytes": program.temporary_bytes,
        }
        for program in programs
    }
    return {"candidates": figures, "failed": failed, "errors": errors}


def _agreeing(
    programs: list[Program], check: Check, errors: dict[str, float], failed: dict[str, str]
) -> list[Program]:
    """The programs that compute what the first does; the others are entered as failed."""
    for program in programs[1:]:
        try:
            errors |= check([programs[0], program])
        except ValueError as error:
            failed[program.name] = f"{DISAGREES}: {error}"
    return [program for program in programs if program.name not in failed]


def measure_compiling(builds: dict[str, Build], rounds: int = 3) -> dict[str, Any]:
    """Seconds to trace, lower and compile: the median of `rounds`, interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in builds}
    memory, failed = {}, {}
    for _ in range(rounds):
        for name, build in builds.items():
            if name in failed:
                continue
            forget()
            try:
                program = build()
            except Exception as error:
                failed[name] = reason(error)
            else:
                taken[name].append(program.compile_seconds)
                memory[name] = program.temporary_bytes
    figures = {
        name: {
            "compile_seconds": statistics.median(times),
            "fastest": min(times),
            "slowest": max(times),
            "rounds": len(times),
            "temporary_bytes": memory[name],
        }
        for name, times in taken.items()
        if name not in failed
    }
    return {"candidates": figures, "failed": failed}


def forget() -> None:
    """Clear all caches, or the second to compile would find what the first has traced."""
    jax.clear_caches()
    gc.collect()


def warm_up() -> None:
    """Compile something first: a process's first compilation pays for all that starts up."""

    def loss(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (jax.numpy.tanh(c @ x), None), x, None, 3)[0].sum()

    jax.block_until_ready(jax.jit(jax.grad(loss))(jax.numpy.eye(4)))


def first_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text.strip()}"[:300]


def reason(error: Exception) -> str:
    """Why a candidate has no figures."""
    if isinstance(error, TooLarge):
        return str(error)
    return first_line(error)


class TooLarge(Exception):
    """A program that needs more memory than there is."""


def _check_that_it_fits(program: Program) -> None:
    free, needed = _free_bytes(), program.temporary_bytes
    if free is not None and needed is not None and needed > SHARE_OF_MEMORY * free:
        raise TooLarge(f"needs {needed / 1e9:.1f} GB for temporaries, {free / 1e9:.1f} GB are free")


def _free_bytes() -> int | None:
    device = jax.devices()[0]
    if device.platform != "cpu":
        statistics_ = device.memory_stats() or {}
        limit = statistics_.get("bytes_limit")
        return None if limit is None else limit - statistics_.get("bytes_in_use", 0)
    try:
        found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None
