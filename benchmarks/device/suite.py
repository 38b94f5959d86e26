"""The tests that wait for a GPU, by pytest in a process of its own."""

import os
import re
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.device import process
from benchmarks.environment import ROOT

# every file with a test marked `gpu`, and the seconds that it may take
FILES = {"tests/test_kernels.py": 75.0, "tests/interop/test_cudnn.py": 45.0}
SILENCE = 40.0  # seconds without a line, after which pytest hangs
WORKERS = min(8, (os.cpu_count() or 1) // 2)
OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
NAMED = re.compile(r"^(?:FAILED|ERROR) (\S+?::.*)$")
NO_TESTS = "ended with 5"  # pytest's exit code where no test is selected


def run(out: Path, until: float) -> Iterator[dict[str, Any]]:
    """A row for each file: how many passed, failed and were skipped, and why."""
    for file, seconds in FILES.items():
        if not (ROOT / file).exists():
            yield {"file": file, "failed": "there is no such file"}
            continue
        yield {"file": file} | _ran(file, out / "tests.log", min(until, time.time() + seconds))


def _ran(file: str, log: Path, until: float) -> dict[str, Any]:
    options = ["-m", "gpu", "-vv", "-rfE", "--tb=short", "-p", "no:cacheprovider"]
    # a later JAX warns of more than the one that the tests are written for
    options += ["-o", "addopts=", "-W", "default"]
    if find_spec("xdist") is not None:
        options += ["-n", str(WORKERS)]
    command = [sys.executable, "-m", "pytest", *options, file]
    counts: dict[str, int] = {}
    failures: list[str] = []
    ended, begin = None, time.time()
    with log.open("a") as written:
        try:
            for line in process.lines(command, log, until, silence=SILENCE):
                written.write(line)
                written.flush()
                named = NAMED.match(line)
                if named:  # of the summary at the end, which says why
                    failures.append(named.group(1).strip()[:300])
                elif (found := OUTCOME.search(line)) and "::" in line:
                    counts[found.group(1).lower()] = counts.get(found.group(1).lower(), 0) + 1
        except process.Died as died:
            ended = str(died)
    row: dict[str, Any] = {"counts": counts, "failures": failures, "seconds": time.time() - begin}
    if ended is not None and ended.startswith(NO_TESTS):
        return row | {"failed": "no test in it is marked gpu"}
    if ended is not None and not ended.startswith("ended with 1:"):  # 1: a test failed
        return row | {"failed": ended}
    return row
