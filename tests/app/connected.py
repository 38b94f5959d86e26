"""Processes on this machine, each with two devices, that JAX connects over the loopback."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

CONNECTED = """
import sys
import jax
jax.distributed.initialize(*sys.argv[1:2], *map(int, sys.argv[2:4]))
from gatedrnn._app import cli
sys.exit(cli.main(sys.argv[4:]))
"""
# one that fails alone, in its third step
FAILING = """
import sys
from gatedrnn._app import cli, learning
real = learning.train_step
def step(state, *args, **kwargs):
    if int(state.step) == 2:
        raise ValueError("of its own")
    return real(state, *args, **kwargs)
step.lower = real.lower
learning.train_step = step
sys.exit(cli.main(sys.argv[1:]))
"""
# one for which the folder of the run is not there, as on another file system
ELSEWHERE = """
import sys
from gatedrnn._app import cli, followed
followed.RECORD = "none.json"
sys.exit(cli.main(sys.argv[1:]))
"""
PROGRAM = ("-m", "gatedrnn")
LIMIT = 120  # seconds, after which a process that should have ended hangs


def port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def is_listened_to(number: int) -> bool:
    """True once a process listens on a port."""
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", number)) == 0


def start(*command: str, devices: int = 2) -> subprocess.Popen:
    """A process of this Python, with some devices, and programs that are compiled quickly."""
    flags = {"JAX_NUM_CPU_DEVICES": str(devices), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | flags,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_both(
    *arguments: str,
    programs: Sequence[Sequence[str]] = (PROGRAM, PROGRAM),
    others: Sequence[str] = (),
    devices: Sequence[int] = (2, 2),
) -> list[subprocess.Popen]:
    """One run of two processes, of which the second has `others` as arguments besides."""
    place = ("--distributed", "--coordinator", f"127.0.0.1:{port()}", "--processes", "2")
    return [
        start(*program, *arguments, *place, "--process", str(number), *more, devices=count)
        for number, (program, more, count) in enumerate(
            zip(programs, ((), others), devices, strict=True)
        )
    ]


def ended(processes: Sequence[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """The exit code of each process, and what it wrote; all end in time."""
    outcomes, until = [], time.monotonic() + LIMIT
    try:
        for process in processes:
            out, err = process.communicate(timeout=max(until - time.monotonic(), 1))
            outcomes.append((process.returncode, out, err))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                process.communicate()
    return outcomes


def wait_for(found: Callable[[], bool], processes: Sequence[subprocess.Popen]) -> None:
    """Wait until `found()`, while all processes run."""
    until = time.monotonic() + LIMIT
    while not found():
        if time.monotonic() > until or any(process.poll() is not None for process in processes):
            raise AssertionError(ended(processes))
        time.sleep(0.01)
