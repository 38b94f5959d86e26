"""Which collectives a compiled program holds, and in which loop."""

import re
from collections import Counter

COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\("
)
CALLED = re.compile(r"(body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")

STEPS, CHUNKS, OUTSIDE = "loop over steps", "loop over chunks", "outside"


def collectives(text: str) -> dict[str, Counter[str]]:
    """Where -> how many of each kind, in the text of a compiled program.

    The loop over steps is a while without another inside it; the loop over chunks, one with. They
    are counted as they are written: one in a loop runs as often as the loop does.
    """
    lines, calls = _computations(text)
    found: dict[str, Counter[str]] = {where: Counter() for where in (STEPS, CHUNKS, OUTSIDE)}

    def loops(name: str) -> bool:
        """Whether there is a while in what a computation runs."""
        return any(kind == "body" or loops(called) for kind, called in calls.get(name, []))

    def walk(name: str, where: str) -> None:
        for line in lines.get(name, []):
            match = COLLECTIVE.search(line)
            if match:
                found[where][match.group(1)] += 1
        for kind, called in calls.get(name, []):
            inside = (CHUNKS if loops(called) else STEPS) if kind == "body" else where
            walk(called, inside)

    walk("ENTRY", OUTSIDE)
    return found


def _computations(text: str) -> tuple[dict[str, list[str]], dict[str, list[tuple[str, str]]]]:
    """The lines of each computation, and `(how, which)` it calls."""
    lines: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        opened = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if opened:
            name = "ENTRY" if opened.group(1) else opened.group(2)
            lines[name] = []
        elif line.startswith("  "):
            lines[name].append(line)
    calls: dict[str, list[tuple[str, str]]] = {}
    for name, body in lines.items():
        text = "\n".join(body)
        calls[name] = CALLED.findall(text)
        for branches in BRANCHES.findall(text):
            calls[name] += [("branch", b.strip().lstrip("%")) for b in branches.split(",")]
    return lines, calls
