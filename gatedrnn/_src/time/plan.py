"""The plan of a recurrence for the devices that it is compiled for.

Axes: `T` time, `*B` batch, `I` input features.

Every decision that is about speed and memory, and not about what is computed, is made here.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.export import is_symbolic_dim

from gatedrnn._src.base import Carry, Params, StepRecord
from gatedrnn._src.kernels.columns import used
from gatedrnn._src.loops import Kernel, Loop, Step, Steps, scan
from gatedrnn._src.pytree import first_leaf, zeros
from gatedrnn._src.target import Target
from gatedrnn._src.time.recurrence import Plan, Recurrence, steps_of, weights_of

# An LSTM has twice as many gates as values in its carry, a GRU three or four times. Where there are
# more, all that layers normalise or what attention has for every step of its memory, saving them
# would multiply the memory.
GATES_SHARE = 4


class Habits(NamedTuple):
    """The choices that follow from the target alone.

    Attributes:
      chunk_share: a chunk is this part of the sequence, within `chunk_bytes`.
      chunk_bytes: the least and the most bytes that a chunk makes.
      gates_bytes: gates are saved for the backward pass, beside the carries, where all that is
        saved is at most so many bytes, and they are at most `GATES_SHARE` times as many values.
      stacked: whether the steps read the kernels of all gates as one, forward and in reverse.
      unroll: the number of steps in one pass of a loop.
    """

    chunk_share: int
    chunk_bytes: tuple[int, int]
    gates_bytes: int
    stacked: tuple[bool, bool]
    unroll: int


# CPU. A chunk makes fresh memory beside the values that are saved for every step: a twentieth of
# the sequence keeps the first a small part of the second. Fewer steps than make the first size are
# not worth a pass over the weights; more than make the second leave the caches, and the page faults
# of larger temporaries cost more than the arithmetic on them. One product for each gate: small
# products need no threads, and their results are arrays of their own. Gates are saved, up to a
# bound, since to compute them again is a third more products. Training step, time over that with
# the carries alone, medians of 5 to 11 rounds on two cores, not always quiet (jax 0.10.2):
#
#                              long-small  small-batch  speech  large  pixels
#   gates saved, LSTM                0.85         0.89    0.81   0.89    1.01
#   GRU, reset after                 0.89         0.79    0.79      –    0.86
#   GRU, reset before                0.99         0.71    0.75      –    0.98
#   and one product in reverse
#     LSTM                           0.88         0.82    0.76   0.81    0.99
#     GRU, reset after               0.87         0.93    0.90      –    0.92
#     GRU, reset before              0.87         0.91    0.77      –    1.01
#   gates saved, one chunk, LSTM     1.69         0.86    0.87   0.86    1.19
#
# in 0.53 to 0.65 of flax's memory (carries alone: 0.25 to 0.35; one chunk: 0.9 and more). One
# product in reverse helps the LSTM alone, and not everywhere; one chunk compiles in three quarters
# of the time, and pays for its temporaries by the page.
#
# GPU and TPU. There an operation of the loop costs its launch, some microseconds, not its
# arithmetic. So a sequence is one chunk while that is small beside the memory of the device (16 GB
# and more), since the outer loop has the work of steps for every chunk; all gates are one product;
# and the steps of one pass share what the loop does for itself, counting and updates in memory.
#
# LSTM, training step, float32, T=100, B=32, I=40, H=256: operations for each step, compiled for an
# H100 and a TPU v5e; microseconds for each step, measured on an H200 (jax 0.11.2):
#
#                                        H100    v5e   on an H200
#   as on a CPU                          21.8   24.6         36.3
#   one chunk                            14.0   17.0
#   and the gates as one product         12.0   14.0         21.9
#   and 4 steps in a pass of the loop     6.8    9.5         14.9
#   and 10 steps                          5.7   10.0         13.9
#   flax, its optimised cell             40     22           50.4
HABITS: dict[Target, Habits] = {
    "cpu": Habits(20, (2**20, 2**24), 2**28, stacked=(False, False), unroll=1),
    "gpu": Habits(1, (2**20, 2**30), 0, stacked=(True, True), unroll=10),
    "tpu": Habits(1, (2**20, 2**30), 0, stacked=(True, True), unroll=4),
}


def planned(recurrence: Recurrence, params: Params, carry: Carry, steps: Steps) -> Recurrence:
    """Return `recurrence` with a plan for its target and for these sizes.

    Raises:
      ValueError: a kernel that `bptt` insists on and that cannot run these steps, or a chunk of
        steps of which the number is a symbol.
    """
    habits, bptt = HABITS[recurrence.target], recurrence.bptt
    kernel = _kernel(recurrence, params, carry, steps.xs)
    length = first_leaf(steps.xs).shape[0]
    if bptt.chunk is not None and is_symbolic_dim(length):  # which `lax.scan` does not divide
        raise ValueError(
            f"chunk: got {bptt.chunk}, expected None where the number of steps is a symbol,"
            f" {length}"
        )
    size, saves_gates = bptt.chunk or length, False  # where sizes are symbols
    if _sizes_are_known((params, carry, steps.xs)):
        made = _made_by_a_step(recurrence, params, carry, steps.xs)
        size = _automatic_size(habits, length, _bytes(made)) if bptt.chunk is None else bptt.chunk
        size = max(1, min(size, length))
        if recurrence.rule is not None:
            _, (new, _, gates) = made
            are_few = _values(gates) <= GATES_SHARE * _values(new)
            saves_gates = are_few and length * _bytes((new, gates)) <= habits.gates_bytes
    plan = Plan(
        chunk_size=size,
        save=bptt.save or ("gates" if saves_gates else "carries"),
        stacked=habits.stacked if kernel is None else (False, False),
        project_one=kernel is None,
        loop=partial(scan, unroll=_unroll(habits.unroll, size)) if kernel is None else kernel.loop,
    )
    return dataclasses.replace(recurrence, plan=plan)


def _unroll(most: int, size: int) -> int:
    """Return the number of steps in a pass of the loop, which divides a chunk if one near does."""
    if is_symbolic_dim(size):  # which `lax.scan` does not divide
        return 1
    return next((n for n in range(most, most // 2, -1) if size % n == 0), most)


def _sizes_are_known(tree: Any) -> bool:
    """Return False where a size is a symbol, as in a program that `jax.export` makes for any."""
    return not any(
        is_symbolic_dim(n) for leaf in jax.tree.leaves(tree) for n in jax.numpy.shape(leaf)
    )


def _made_by_a_step(recurrence: Recurrence, params: Params, carry: Carry, xs: Any) -> Any:
    """Return the shapes of one step: its input, and its carry, output and gates."""

    def one_step(params: Params, carry: Carry, x: Any) -> Any:
        weights = weights_of(recurrence, params, x).forward
        a, step = steps_of(recurrence, weights, x)
        return a, step(weights, carry, a)

    x = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), xs)
    return jax.eval_shape(one_step, params, carry, x)


def _bytes(shapes: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _values(shapes: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _automatic_size(habits: Habits, length: int, bytes_of_step: int) -> int:
    """Return a number of steps from the bytes that one step makes."""
    least, most = (size // max(bytes_of_step, 1) for size in habits.chunk_bytes)
    length = max(length, 1)
    size = min(max(length // habits.chunk_share, least, 1), max(most, 1), length)
    # a remainder costs a copy of all that is saved: prefer a size that leaves none
    return next((n for n in range(size, size // 2, -1) if length % n == 0), size)


def _kernel(recurrence: Recurrence, params: Params, carry: Carry, xs: Any) -> Kernel | None:
    """Return the kernel that runs the steps, or None: they go by `lax.scan`."""
    name, rule = recurrence.bptt.kernel, recurrence.rule
    if name == "scan" or rule is None:
        return None
    if name is None and not _sizes_are_known((params, carry, xs)):
        return None
    for kernel in rule.kernels:
        if kernel.target != recurrence.target or name not in (None, kernel.name):
            continue
        if name is None and not kernel.preferred(carry, recurrence.device_kind):
            continue
        refusal = _refusal(kernel, recurrence, params, carry, xs)
        if refusal is None:
            return kernel
        if name is not None:
            raise ValueError(
                f"kernel: got {name!r}, expected None or 'scan' for {recurrence.cell!r}: {refusal}"
            )
    return None


def _refusal(
    kernel: Kernel, recurrence: Recurrence, params: Params, carry: Carry, xs: Any
) -> str | None:
    """Return why `kernel` cannot run the steps, forward or in reverse, or None."""
    for steps in _sequential(recurrence, params, carry, xs):
        refusal = kernel.refusal(steps.read, carry) or _unknown(kernel.loop, steps)
        if refusal is not None:
            return refusal
    return None


class _Sequential(NamedTuple):
    """A sequential function of a rule as a step, and the shapes of its arguments, for `T = 1`."""

    step: Step
    weights: Any
    carry: Carry
    inputs: Steps

    @property
    def read(self) -> list[Any]:
        """The weights that the step reads."""
        leaves, structure = jax.tree.flatten(self.weights)
        x = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), self.inputs)
        others, structure_of_others = jax.tree.flatten((self.carry, x))

        def step(*every: Any) -> list[Any]:
            weights = jax.tree.unflatten(structure, every[: len(leaves)])
            carry, inputs = jax.tree.unflatten(structure_of_others, every[len(leaves) :])
            return jax.tree.leaves(self.step(weights, None, carry, inputs))

        are_read = used(step, [*leaves, *others])
        return [leaf for leaf, is_read in zip(leaves, are_read, strict=False) if is_read]


def _sequential(
    recurrence: Recurrence, params: Params, carry: Carry, xs: Any
) -> Iterator[_Sequential]:
    """Yield the steps of the forward pass and of the reverse pass."""
    rule, cell = recurrence.rule, recurrence.cell
    assert rule is not None
    cut = {"cell_path_only": True} if recurrence.bptt.cell_path_only else {}
    shapes_of = partial(jax.tree.map, lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype))
    params, carry = shapes_of((params, carry))
    x = jax.tree.map(lambda v: jax.ShapeDtypeStruct((1, *v.shape[1:]), v.dtype), xs)
    before = jax.tree.map(lambda v: jax.ShapeDtypeStruct((1, *v.shape), v.dtype), carry)
    weights = jax.eval_shape(partial(weights_of, recurrence), params, x)
    a = jax.eval_shape(partial(rule.project, cell), weights.params, x)
    after, gates = jax.eval_shape(partial(rule.recur, cell), weights.params, before, a)
    record: StepRecord = StepRecord(x, before, after, gates)
    local = jax.eval_shape(partial(rule.linearize, cell), weights.params, record)

    def forward(weights: Any, _: None, carry: Carry, inputs: Steps) -> tuple[Carry, Any]:
        after, gates = rule.recur(cell, weights, carry, inputs.xs)
        return after, (after, gates)

    def reverse(weights: Any, _: None, dcarry: Carry, inputs: Steps) -> tuple[Carry, Any]:
        return rule.backward(cell, weights, inputs.xs, dcarry, **cut)

    yield _Sequential(forward, weights.forward, carry, Steps(a))
    yield _Sequential(reverse, weights.reverse, jax.eval_shape(zeros, carry), Steps(local))


def _unknown(loop: Loop, steps: _Sequential) -> str | None:
    """Return, in words, an operation of the steps that the loop cannot run, or None."""
    try:
        jax.eval_shape(partial(loop, steps.step, reverse=False), steps.weights, None, *steps[2:])
    except NotImplementedError as error:
        return f"its steps have an operation that the kernel does not know, {error}"
    return None
