"""The one exception that the program turns into a line for its user."""

import re
import sys


class CommandError(Exception):
    """An error that the user can act on: `main` prints its message in one line, no traceback.

    `exit_code` is 2 where the request cannot be carried out as it stands (a configuration, a
    file, an option), found before anything is written, and 1 where it failed on the way. One that
    is `everywhere` is raised in all processes of a run.
    """

    def __init__(self, message: str, *, exit_code: int = 2, everywhere: bool = False):
        super().__init__(" ".join(message.split()))
        self.exit_code, self.everywhere = exit_code, everywhere


def reason(error: BaseException) -> str:
    """The words of the system for an error, or else of the exception, as one short line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split()) or type(error).__name__
    # a chain of causes has the first of them last; then come tensorstore's own settings
    words = re.sub(r" \[\w+(\[\d+\])?='.*", "", words)
    return words if len(words) <= 200 else "…" + words[-200:]


def notice(words: str) -> None:
    """Say something in one line that the user should know, beside what the command does."""
    print(f"gatedrnn: {' '.join(words.split())}", file=sys.stderr, flush=True)
