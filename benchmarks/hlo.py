"""The text of a compiled program, read: its loops with their operations, and its collectives.

An *operation* is an instruction that a device has to start: on a GPU, a kernel launch; on a TPU, a
step of the sequencer. What only names memory (`FREE`) is none, nor is the end of what another one
has started (`-done`). It is a count, not a time.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

# they rename memory or name a device
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
FREE |= {"opt-barrier", "partition-id", "replica-id", "AllocateBuffer", "ConcatBitcast"}
COLLECTIVES = {"all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"}
COLLECTIVES |= {"collective-broadcast", "ragged-all-to-all"}
# run in place by the device's own program; what a fusion or a reduction calls is part of it
INLINE = re.compile(r"\b(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
CALLS = {"call", "async-start"}  # as many operations as what they call
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")

KERNELS = ("__gpu$xla.gpu.triton", "tpu_custom_call")  # that Pallas makes

STEPS, CHUNKS, OUTSIDE = "loop over steps", "loop over chunks", "outside"


class Instruction(NamedTuple):
    """A line of a program: `name = type opcode(operands), attributes`."""

    name: str
    opcode: str  # of a custom call, its target
    operands: tuple[str, ...]
    attributes: str
    root: bool
    literal: str  # what stands between the parentheses

    def called(self, attribute: str) -> str:
        """The computation that an attribute names, `""` if none."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else ""

    @property
    def inlined(self) -> list[str]:
        """The computations of a call, or of all branches of a conditional."""
        if self.opcode not in CALLS | {"conditional"}:
            return []
        listed = ",".join(BRANCHES.findall(self.attributes)).split(",")
        branches = [name.strip().lstrip("%") for name in listed if name.strip()]
        return branches + INLINE.findall(self.attributes)


class Loop(NamedTuple):
    """A while loop of a program."""

    body: str
    trips: int | None  # of one start; None where it depends on data
    runs: int | None  # passes over the body in all: the trips, times those of the loops around it
    operations: Counter[str]  # of one pass; a loop inside counts as one


Program = dict[str, list[Instruction]]  # a computation's instructions; the program's own is "ENTRY"


def parsed(text: str) -> Program:
    """The computations of a compiled program."""
    program: Program = {}
    name = ""
    for line in text.splitlines():
        opened = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if opened:
            name = "ENTRY" if opened.group(1) else opened.group(2)
            program[name] = []
        elif line.startswith("}"):
            name = ""
        elif name and (instruction := _instruction(line)):
            program[name].append(instruction)
    return program


def _instruction(line: str) -> Instruction | None:
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    # a tuple's type holds parentheses, those of tilings too, and spaces
    end = _closing(line, found.end()) if line[found.end()] == "(" else found.end()
    opcode = re.compile(r"\S* ([\w\-]+)\(").match(line, end)
    if not opcode:
        return None
    close = _closing(line, opcode.end() - 1)
    literal, attributes = line[opcode.end() : close - 1], line[close:]
    kind = opcode.group(1)
    if kind == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', attributes)
        kind = target.group(1) if target else kind
    operands = tuple(re.findall(r"%([\w.\-]+)", literal))
    return Instruction(found.group(2), kind, operands, attributes, bool(found.group(1)), literal)


def _closing(line: str, start: int) -> int:
    """The position behind the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(line)):
        depth += (line[place] == "(") - (line[place] == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"line: got {line.strip()[:80]!r}, expected its parentheses to close")


# Loops -------------------------------------------------------------------------------------------


def loops(text: str) -> list[Loop]:
    """Every while loop of a program, those inside others too, in order."""
    program = parsed(text)

    def walk(name: str, runs: int | None) -> Iterator[Loop]:
        for instruction in program.get(name, []):
            if instruction.opcode == "while":
                body = instruction.called("body")
                trips = _trips(program, name, instruction)
                inside = None if trips is None or runs is None else trips * runs
                yield Loop(body, trips, inside, operations(program, body))
                yield from walk(body, inside)
            for called in instruction.inlined:
                yield from walk(called, runs)

    return list(walk("ENTRY", 1))


def operations(program: Program, name: str) -> Counter[str]:
    """How often each kind of operation stands in a computation, all branches included."""
    found: Counter[str] = Counter()
    for instruction in program.get(name, []):
        for called in instruction.inlined:
            found += operations(program, called)
        kind = instruction.opcode
        if kind not in FREE | CALLS and not kind.endswith("-done"):
            found[kind] += 1
    return found


def per_step(text: str, steps: int) -> float:
    """The operations of all loops, each as often as it runs, over the steps of a sequence.

    A kernel that runs all steps counts as one operation.

    Raises:
      ValueError: a loop runs as often as the data say.
    """
    outside = operations(parsed(text), "ENTRY")
    total = sum(outside[kernel] for kernel in KERNELS)
    for loop in loops(text):
        if loop.runs is None:
            raise ValueError(f"{loop.body}: got a loop whose trips depend on data")
        total += loop.runs * loop.operations.total()
    return total / steps


def _trips(program: Program, around: str, loop: Instruction) -> int | None:
    """The trips of a loop: as XLA notes them, or from its counter `i`: `while i < n: i += k`."""
    noted = re.search(r'known_trip_count[^}]*"n":"(\d+)"', loop.attributes)
    if noted:
        return int(noted.group(1))
    condition, body = (_named(program, loop.called(which)) for which in ("condition", "body"))
    before = _named(program, around)
    starts = before[loop.operands[0]].operands if loop.operands[0] in before else ()

    def number(instructions: dict[str, Instruction], name: str) -> int | None:
        """The value of a constant, also of one that is handed to the loop."""
        origin = _origin(instructions, name)
        if isinstance(origin, int):  # a part of what the loop is given
            origin = _origin(before, starts[origin]) if origin < len(starts) else None
        if not isinstance(origin, Instruction) or origin.opcode != "constant":
            return None
        return int(origin.literal) if re.fullmatch(r"-?\d+", origin.literal) else None

    test, made = _root(condition), _root(body)
    if test is None or made is None or test.opcode != "compare":
        return None
    if "direction=LT" not in test.attributes:
        return None
    counter, limit = _origin(condition, test.operands[0]), number(condition, test.operands[1])
    if not isinstance(counter, int) or counter >= len(starts):
        return None
    start = number(before, starts[counter])
    added = _origin(body, made.operands[counter])
    if not isinstance(added, Instruction) or added.opcode != "add":
        return None
    sources = [(_origin(body, operand), number(body, operand)) for operand in added.operands]
    steps = [value for origin, value in sources if origin != counter and value]
    if limit is None or start is None or len(steps) != 1 or steps[0] < 0:
        return None
    return max(0, math.ceil((limit - start) / steps[0]))


def _named(program: Program, name: str) -> dict[str, Instruction]:
    return {instruction.name: instruction for instruction in program.get(name, [])}


def _root(instructions: dict[str, Instruction]) -> Instruction | None:
    return next((each for each in instructions.values() if each.root), None)


def _origin(instructions: dict[str, Instruction], name: str) -> Instruction | int | None:
    """Where a value comes from, copies aside: an instruction, or the index of a loop's argument."""
    found = instructions.get(name)
    while found is not None and found.opcode in ("copy", "bitcast"):
        found = instructions.get(found.operands[0])
    if found is not None and found.opcode == "get-tuple-element":
        given = instructions.get(found.operands[0])
        if given is not None and given.opcode == "parameter":
            return int(re.search(r"index=(\d+)", found.attributes).group(1))
    return found


# Collectives -------------------------------------------------------------------------------------


def collectives(text: str) -> dict[str, Counter[str]]:
    """Where -> how many of each kind, in the text of a compiled program.

    The loop over steps is a while without another inside it; the loop over chunks, one with. The
    condition of a loop is in the loop. They are counted as they are written: one in a loop runs as
    often as the loop does.
    """
    program = parsed(text)
    found: dict[str, Counter[str]] = {where: Counter() for where in (STEPS, CHUNKS, OUTSIDE)}

    def bodies(name: str) -> list[str]:
        """The loops in what a computation runs."""
        inlined = [called for each in program.get(name, []) for called in each.inlined]
        own = [each.called("body") for each in program.get(name, []) if each.opcode == "while"]
        return own + [body for called in inlined for body in bodies(called)]

    def walk(name: str, where: str) -> None:
        for instruction in program.get(name, []):
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                found[where][kind] += 1
            for called in instruction.inlined:
                walk(called, where)
            if instruction.opcode == "while":
                body = instruction.called("body")
                inside = CHUNKS if bodies(body) else STEPS
                walk(body, inside)
                walk(instruction.called("condition"), inside)

    walk("ENTRY", OUTSIDE)
    return found


# What does not belong on an accelerator ----------------------------------------------------------


def host_transfers(text: str) -> list[str]:
    """Every operation that hands data to the host or asks a function of Python."""
    kinds = {"infeed", "outfeed", "send", "recv"}
    return [
        f"{each.name}: {each.opcode}"
        for instructions in parsed(text).values()
        for each in instructions
        if each.opcode in kinds or "callback" in each.opcode
    ]


WIDE = re.compile(r"\b(?:f64|c128)\[[\d,]*\]|\btensor<[\dx?]*(?:f64|complex<f64>)>")


def wide_floats(text: str) -> list[str]:
    """Every type of 64-bit floats, in a program as XLA is given it (StableHLO) or has made it.

    For a TPU, XLA itself puts other types in their place.
    """
    return sorted(set(WIDE.findall(text)))
