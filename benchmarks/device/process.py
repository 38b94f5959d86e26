"""Other processes that are read line by line, and that never outlive their time."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.environment import ROOT

# beside torch in one process and tests in others, JAX takes what it needs, up to a fifth; JAX
# refuses both names of the fraction at once
FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"
MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
if not any(name in os.environ for name in FRACTION):
    MEMORY[FRACTION[0]] = "0.2"
SILENCE = 90.0  # seconds without a line, after which a process hangs


class Died(Exception):
    """A process that ended before its work, or was ended."""


def rows(
    request: Mapping[str, Any], log: Path, until: float, environment: Mapping[str, str] = {}
) -> Iterator[dict[str, Any]]:
    """The rows that a worker hands over, as they come.

    Raises:
      Died: it fails, says nothing for too long, or goes on after `until`.
    """
    command = [sys.executable, "-m", "benchmarks.device.worker", json.dumps(request)]
    for line in lines(command, log, until, environment):
        if line.startswith("{"):
            yield json.loads(line)


def lines(
    command: list[str],
    log: Path,
    until: float,
    environment: Mapping[str, str] = {},
    silence: float = SILENCE,
) -> Iterator[str]:
    """The lines that a command prints; its errors go to `log`."""
    with log.open("a") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **MEMORY, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    printed: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, printed), daemon=True)
    reader.start()
    try:
        while True:
            left = until - time.time()
            try:
                line = printed.get(timeout=max(min(left, silence), 0))
            except queue.Empty:
                why = "out of time" if left < silence else f"no sign of life for {silence:g} s"
                raise Died(why) from None
            if line is None:  # its output is closed, as at its end
                process.wait(timeout=silence)
                break
            yield line
    finally:
        _end(process)
        reader.join()
    if process.returncode:
        raise Died(f"ended with {process.returncode}: {_last_line(log)}")


def _read(process: subprocess.Popen[str], printed: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout as stdout:
        for line in stdout:
            printed.put(line)
    printed.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and those that it started."""
    if process.returncode is None:  # not waited for, so that its number is still its own
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(log: Path) -> str:
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return said[-1].strip()[:300] if said else "nothing said"
