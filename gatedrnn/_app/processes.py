"""The processes that JAX has connected, of which one run may have several."""

import jax

from gatedrnn._app.errors import CommandError


def demand_one(command: str) -> None:
    """Raise if this process is one of several that JAX has connected, for `command` takes one.

    Several would each write to the folder of the run, and wait for each other as they do.
    """
    count = jax.process_count()
    if count > 1:
        raise CommandError(
            f"this is process {jax.process_index()} of {count} that JAX has connected; gatedrnn"
            f" {command} runs in one alone"
        )
