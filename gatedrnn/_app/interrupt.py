"""Ctrl-C and SIGTERM at a point where nothing is half done."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C and SIGTERM back; the function that is yielded is True after one came.

    The first is answered with one line; after it, each raises KeyboardInterrupt at once.
    """
    came = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True
        with suppress(OSError):  # past the buffer of sys.stderr, which may be just being written
            os.write(2, b"\nstopping after this step; press again to stop at once\n")

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, note) for number in signals]
    try:
        yield lambda: came
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
