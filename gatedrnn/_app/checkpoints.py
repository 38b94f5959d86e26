"""Pytrees of arrays on disk, by orbax: `<folder>/<step>/`, of which the greatest step counts.

A new checkpoint is complete under another name before it takes its own, and only then do older ones
go: whatever interrupts, one complete checkpoint is there.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gatedrnn._app.errors import CommandError, reason


def save(folder: Path, step: int, tree: Any) -> None:
    """Write `tree` as the checkpoint of `step` in `folder`, and remove all others."""
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]

    new, final = folder / f"{step}.new", folder / str(step)
    # NumPy arrays, so that a run of one kind of device can be read on another
    tree = jax.tree.map(np.asarray, tree)
    try:
        with _calm(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(new, tree, force=True)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(new, final)
        for other in folder.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)
    except Exception as error:  # orbax and its storage layer raise of every kind
        for part in folder.glob(f"{step}.new*"):
            shutil.rmtree(part, ignore_errors=True)
        raise CommandError(
            f"cannot write the checkpoint {final}: {reason(error)}", exit_code=1
        ) from error


def latest_step(folder: Path) -> int | None:
    """The step of the checkpoint in `folder`, or None."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read {folder}: {reason(error)}") from error
    return max((int(name) for name in names if name.isdecimal()), default=None)


def restore(folder: Path, like: Any) -> Any:
    """The checkpoint in `folder`: the structure, shapes and dtypes of `like`, as JAX arrays."""
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]

    step = latest_step(folder)
    if step is None:
        raise CommandError(f"{folder.parent} has no saved {folder.name} parameters")
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), like)
    try:
        with _calm(), ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(folder / str(step), like)
    except Exception as error:  # as above
        if latest_step(folder) != step:  # a run under way has just saved a newer one
            return restore(folder, like)
        raise CommandError(
            f"cannot read the checkpoint {folder / str(step)}: {reason(error)}", exit_code=1
        ) from error
    # orbax compares the structure, and not the shapes
    for got, expected in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if got.shape != expected.shape:
            raise CommandError(
                f"cannot use the checkpoint {folder / str(step)}: it has an array of shape"
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
