"""Processes on this machine that JAX connects over the loopback."""

import os
import socket
import subprocess
import sys

CONNECTED = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(*sys.argv[1:2], *map(int, sys.argv[2:4]))
from gatedrnn._app import cli
sys.exit(cli.main(sys.argv[4:]))
"""


def port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment() -> dict[str, str]:
    """That of a user, without the flags of the tests."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def start(*command: str) -> subprocess.Popen:
    """A process of this Python."""
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
