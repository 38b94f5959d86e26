"""What is static about a run, what each step reads, and how many steps make a chunk.

Axes: `T` time, `*B` batch, `I` input features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from gatedrnn._src.bptt import BPTT
from gatedrnn._src.numerics import matrices_as
from gatedrnn._src.rule import Carry, Cell, Params, Rule, rule_of
from gatedrnn._src.trees import as_real_dtypes, first_leaf

# A chunk has as many steps as keep its temporaries near this size: on a CPU larger ones are fresh
# memory, whose page faults cost more than the arithmetic on it.
CHUNK_BYTES = 2**22
CHUNK_STEPS = (16, 128)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is static about a run."""

    cell: Cell
    bptt: BPTT
    reverse: bool
    every_carry: bool  # stack the carry of every step, not only the output
    chunk: int = 0  # steps of a chunk, once the engine has chosen it: see `sized`

    @property
    def rule(self) -> Rule | None:
        """The cell's own backward rule, unless autodiff is asked for."""
        return None if self.bptt.rule == "autodiff" else rule_of(self.cell)


class Steps(NamedTuple):
    """What each step reads, stacked over time; None where there is nothing to read."""

    xs: Array  # [T, *B, I]
    skips: Array | None = None  # [T, *B], True: the step is skipped and keeps the carry
    resets: Array | None = None  # [T, *B], True: the step starts from the reset carry
    cuts: Array | None = None  # [T], True: no gradient from this step to the one before


def pieces(plan: Plan, params: Params, xs: Array) -> tuple[Any, Callable]:
    """What to scan over, and `advance(carry, a) -> (carry, y, gates)`."""
    cell, rule = plan.cell, rule_of(plan.cell)
    if rule is None:

        def advance_unruled(carry: Carry, x: Array) -> tuple[Carry, Array, None]:
            new, y = cell.step(params, carry, x)
            return as_real_dtypes(new, carry), y, None

        return xs, advance_unruled
    params = matrices_as(params, xs.dtype)
    cut = {"cell_path_only": True} if plan.rule is None and plan.bptt.cell_path_only else {}

    def advance(carry: Carry, a: Any) -> tuple[Carry, Array, Any]:
        carry, gates = rule.recur(cell, params, carry, a, **cut)
        return carry, first_leaf(carry), gates

    return rule.project(cell, params, xs), advance


def sized(plan: Plan, params: Params, carry: Carry, steps: Steps) -> Plan:
    """`plan` with a number of steps for a chunk: as asked for, else from the bytes a step holds."""
    length = len(steps.xs)
    if plan.bptt.chunk is None:
        size = _automatic_size(plan, params, carry, steps.xs)
    else:
        size = max(1, min(plan.bptt.chunk, length))
    return dataclasses.replace(plan, chunk=size)


def _automatic_size(plan: Plan, params: Params, carry: Carry, xs: Array) -> int:
    def once(params: Params, carry: Carry, x: Array) -> Any:
        a, advance = pieces(plan, params, x)
        return a, advance(carry, a)

    made = jax.eval_shape(once, params, carry, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype))
    # forward and backward together hold about three times what one forward step makes
    held = 3 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made))
    least, most = CHUNK_STEPS
    size = min(max(CHUNK_BYTES // max(held, 1), least), most)
    if len(xs) <= size:
        return max(len(xs), 1)
    # a remainder costs a copy of all that is saved: prefer a size that leaves none
    return next((n for n in range(size, size // 2, -1) if len(xs) % n == 0), size)
