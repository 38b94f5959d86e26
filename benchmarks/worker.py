"""A measurement in a process of its own: JSON goes in as an argument and comes out last."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.environment import ROOT


def in_subprocess(module: str, request: Any, environment: dict[str, str] | None = None) -> Any:
    """What `module`, run with `request`, answers.

    Raises:
      RuntimeError: it fails; with the last line of what it said.
    """
    # on a GPU this process has set most of the memory aside: the other takes what it needs
    added = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **(environment or {})}
    command = [sys.executable, "-m", module, json.dumps(request)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **added},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing said"]
        raise RuntimeError(f"{module} ended with {done.returncode}: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def on_cpu_devices(module: str, request: Any, count: int) -> Any:
    """The same in a process whose CPU shows `count` devices, also where there is a GPU."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return in_subprocess(module, request, {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags})


def answer(main: Callable[[Any], Any]) -> None:
    """The other end."""
    print(json.dumps(main(json.loads(sys.argv[1]))))
