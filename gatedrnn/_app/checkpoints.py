"""Pytrees of arrays on disk, by orbax: a folder for each."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gatedrnn._app import processes
from gatedrnn._app.errors import CommandError, reason


def save(folder: Path, tree: Any) -> None:
    """Write `tree` as the checkpoint `folder`, which is complete and on disk afterwards.

    Of several processes all call this, and each writes its part.
    """
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]

    if jax.process_count() == 1:
        # NumPy arrays, so that a run of one kind of device can be read on another
        tree = jax.tree.map(np.asarray, tree)
    try:
        with _calm(), ocp.StandardCheckpointer() as checkpointer:  # its end waits for the writing
            checkpointer.save(folder, tree, force=True)
    except Exception as error:  # orbax and its storage layer raise of every kind
        for part in (folder, *folder.parent.glob(f"{folder.name}.*")):
            if processes.is_first():
                shutil.rmtree(part, ignore_errors=True)
        raise CommandError(
            f"cannot write the checkpoint {folder}: {reason(error)}", exit_code=1
        ) from error


def restore(folder: Path, like: Any) -> Any:
    """The checkpoint `folder`: the structure, shapes and dtypes of `like`, as JAX arrays.

    This process reads all of it, whichever devices and processes wrote it, and waits for no other.
    """
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]

    like = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), like)
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process {here}"
    )
    try:
        with _calm(), ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
            tree = checkpointer.restore(folder, like)
    except Exception as error:  # as above
        raise CommandError(
            f"cannot read the checkpoint {folder}: {reason(error)}", exit_code=1
        ) from error
    # orbax compares the structure, and not the shapes
    for got, expected in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if got.shape != expected.shape:
            raise CommandError(
                f"cannot use the checkpoint {folder}: it has an array of shape"
                f" {got.shape} where its configuration makes one of {expected.shape}"
            )
    return jax.tree.map(jax.numpy.asarray, tree)


@contextmanager
def _calm() -> Iterator[None]:
    """Hold back the reports, with traceback, that follow a failure which is raised besides.

    When one array cannot be read or written, orbax closes its event loop while the threads of the
    storage layer still have to report the others to it; each finds it closed. They may come at any
    time after the failure, hence only success puts the hook back.
    """
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            report(unraisable)

    sys.unraisablehook = report_others
    yield
    sys.unraisablehook = report
