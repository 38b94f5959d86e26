"""The processes of one run, which JAX connects: each computes rows of its own.

Process 0 alone prints, and writes to the folder of the run but for checkpoints, of which each
process writes its part. A process that waits for another which never comes would wait for long. So
nothing that a process finds out alone, such as a signal or a file that is missing, decides what it
does before all know of it. One that has to end alone ends at once, and takes the others along: they
find their connections to it broken, or JAX misses its heartbeat and ends them in its own words.
"""

import atexit
import contextlib
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gatedrnn._app.errors import CommandError, notice, reason

T = TypeVar("T")
HEARTBEAT = 30  # seconds that a process may be silent: then it is taken for dead
PATIENCE = 10  # seconds that the others may come later without a word
BLOCK = 1024  # bytes: an exchange of so many is compiled once


class Place(NamedTuple):
    """The place of this process among all, None where JAX is to find it out."""

    coordinator: str | None = None  # host and port of process 0
    total: int | None = None
    process: int | None = None


def connect(place: Place) -> None:
    """Connect this process with the others of its run, before JAX computes anything."""
    _demand_place(place)
    # on a CPU: two programs under way at once would take each other's messages, and wait forever
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        with _waiting():
            jax.distributed.initialize(*place, heartbeat_timeout_seconds=HEARTBEAT)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise CommandError(
            f"--distributed: cannot connect: {reason(error)}; where no SLURM, Open MPI or GKE"
            " tells, give --coordinator HOST:PORT --processes N --process I"
        ) from error
    # JAX has a handler of its own by now, which would keep the process alive
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    _separate_output()


@contextmanager
def _waiting() -> Iterator[None]:
    """Say so where the others do not come; Ctrl-C ends the process at once, for JAX runs no Python.

    After some minutes JAX ends it in its own words.
    """
    words = "waiting for the other processes, which need the same --coordinator and --processes"
    timer = threading.Timer(PATIENCE, notice, [words])
    timer.daemon = True
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, handler)


def _demand_place(place: Place) -> None:
    """Raise unless what is given can be the place of a process."""
    coordinator, total, process = place
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise CommandError(f"--coordinator: got {coordinator!r}, expected HOST:PORT")
    if total is not None and total < 1:
        raise CommandError(f"--processes: got {total}, expected at least 1")
    if process is not None and not 0 <= process < (total or process + 1):
        below = "" if total is None else f" and below --processes, {total}"
        raise CommandError(f"--process: got {process}, expected at least 0{below}")


def _separate_output() -> None:
    """Have process 0 alone print; what libraries print into the output goes where errors go."""
    sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):  # there may be no such output
        kept = os.dup(1) if is_first() else os.open(os.devnull, os.O_WRONLY)
        os.dup2(2, 1)
        lines = 1 if os.isatty(kept) else -1
        sys.stdout = open(kept, "w", lines, encoding=sys.stdout.encoding, errors="replace")  # noqa: SIM115


def is_first() -> bool:
    """True in process 0, also where it is the only one."""
    return jax.process_index() == 0


def demand_one(command: str) -> None:
    """Raise if this process is one of several that JAX has connected, for `command` takes one.

    Several would each write to the folder of the run, and wait for each other as they do.
    """
    count = jax.process_count()
    if count > 1:
        advice = "; --distributed makes one run of them" if command == "train" else ""
        raise CommandError(
            f"this is process {jax.process_index()} of {count} that JAX has connected; gatedrnn"
            f" {command} runs in one alone{advice}"
        )


@contextmanager
def together() -> Iterator[None]:
    """End this process at once where it fails alone, and without a word where process 0 has it.

    An orderly end would wait for the others, which wait for this one.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        code = error.exit_code if isinstance(error, CommandError) else 1
        if not isinstance(error, CommandError) or not error.everywhere:
            atexit.register(_leave, code)  # before what JAX has registered
        elif not is_first():
            raise SystemExit(code) from None
        if is_lost(error):
            raise lost(error) from error
        raise


def is_lost(error: BaseException) -> bool:
    """True of the error of a process that waits for another in vain."""
    several, of_jax = jax.process_count() > 1, isinstance(error, jax.errors.JaxRuntimeError)
    return several and of_jax and "RESOURCE_EXHAUSTED" not in str(error)


def lost(error: BaseException) -> CommandError:
    """Return such an error in words."""
    return CommandError(
        f"process {jax.process_index()}: another process has ended or cannot be reached:"
        f" {reason(error)}",
        exit_code=1,
    )


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def each(make: Callable[[], T]) -> T:
    """Return what `make()` returns in this process; the error of one process is that of all."""
    if jax.process_count() == 1:
        return make()
    problem = None
    try:
        made = make()
    except CommandError as error:
        problem = str(error), error.exit_code
    for words, code in filter(None, _gathered(problem)):
        raise CommandError(words, exit_code=code, everywhere=True)
    return made


def of_first(make: Callable[[], T]) -> T:
    """Return, in all processes, what `make()` returns in process 0: JSON; errors as in `each`."""
    if jax.process_count() == 1:
        return make()
    return _gathered(each(lambda: make() if is_first() else None))[0]


def in_any(flag: bool) -> bool:
    """True in all processes if `flag` is in any."""
    return flag if jax.process_count() == 1 else any(_gathered(flag))


def soon_in_any(flag: Callable[[], bool], mesh: Mesh | None) -> Callable[[], bool]:
    """Return a function that is True in all processes at the same call, once `flag()` is in any.

    Each call begins to ask the others, and returns the answer to the call before, which has come
    meanwhile: nobody waits. All processes call it equally often.
    """
    if jax.process_count() == 1 or mesh is None:
        return flag
    place = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    answer: jax.Array | None = None

    def asked() -> bool:
        nonlocal answer
        here = np.array([flag()])
        flags = jax.make_array_from_callback((mesh.size,), place, lambda _: here)
        before, answer = answer, _any(flags)
        return before is not None and bool(before)

    return asked


@jax.jit
def _any(flags: jax.Array) -> jax.Array:
    return flags.any()


def demand_equal() -> None:
    """Raise unless all processes have equally many devices, without which JAX exchanges nothing."""
    counts = Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        raise CommandError(
            f"--distributed: the processes have {', '.join(str(counts[i]) for i in sorted(counts))}"
            " devices, expected equally many; on a CPU JAX_NUM_CPU_DEVICES sets the number",
            everywhere=True,
        )


def demand_same(what: str, value: Any) -> None:
    """Raise unless `value`, JSON, is the same in all processes."""
    if jax.process_count() > 1:
        first, *others = _gathered(value)
        for number, other in enumerate(others, 1):
            if other != first:
                raise CommandError(
                    f"--distributed: {what} of process {number} are not those of process 0",
                    everywhere=True,
                )


def as_in_first(tree: Any) -> Any:
    """Return arrays as they are in process 0: computed elsewhere, they may be rounded otherwise."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def _gathered(value: Any) -> list[Any]:
    """Return the JSON of every process, in the order of their numbers."""
    text = json.dumps(value).encode()
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    line = np.zeros(-(-int(sizes.max()) // BLOCK) * BLOCK, np.uint8)
    line[: len(text)] = np.frombuffer(text, np.uint8)
    lines = multihost_utils.process_allgather(line)
    return [json.loads(row[:size].tobytes()) for row, size in zip(lines, sizes, strict=True)]
