"""What is static about a run, what each step reads, and how many steps make a chunk.

Axes: `T` time, `*B` batch, `I` input features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from gatedrnn._src.base import Carry, Cell, Params, Rule, prepared, rule_of
from gatedrnn._src.numerics import matrices_as
from gatedrnn._src.pytree import as_real_dtypes, first_leaf
from gatedrnn._src.time.bptt import BPTT

PHASES = ("project", "recur", "linearize", "backward", "contract")

# How many steps make a chunk. What a chunk makes is fresh memory beside what is saved for every
# step: a twentieth of the sequence keeps it a small part of that. Fewer steps than make the first
# size are not worth a pass over the weights; more than make the second leave the caches, and on a
# CPU the page faults of larger temporaries cost more than the arithmetic on them.
CHUNK_SHARE = 20
CHUNK_BYTES = (2**20, 2**24)


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
        return None if self.bptt.rule == "autodiff" else _named(rule_of(self.cell))


class Steps(NamedTuple):
    """What each step reads, stacked over time; None where there is nothing to read."""

    xs: Any  # [T, *B, I], or of a cell that draws: drawing.Keyed
    skips: Array | None = None  # [T, *B], True: the step is skipped and keeps the carry
    resets: Array | None = None  # [T, *B], True: the step starts from the reset carry
    cuts: Array | None = None  # [T], True: no gradient from this step to the one before


class Weights(NamedTuple):
    """The parameters as each phase wants them."""

    params: Params  # matrices in the dtype of xs
    ahead: Any  # for the steps, forward
    back: Any  # for the steps of the reverse recurrence


def weights_of(plan: Plan, params: Params, xs: Any) -> Weights:
    """The layouts of `params`, made once, before any loop."""
    rule = rule_of(plan.cell)
    if rule is None:
        return Weights(params, params, params)
    params = matrices_as(params, first_leaf(xs).dtype)
    return Weights(params, *prepared(rule, plan.cell, params))


def pieces(plan: Plan, weights: Weights, xs: Any) -> tuple[Any, Callable]:
    """What to scan over, and `advance(carry, a) -> (carry, y, gates)`."""
    cell, rule = plan.cell, _named(rule_of(plan.cell))
    if rule is None:

        def advance_unruled(carry: Carry, x: Array) -> tuple[Carry, Array, None]:
            new, y = cell.step(weights.params, carry, x)
            return as_real_dtypes(new, carry), y, None

        return xs, advance_unruled
    cut = {"cell_path_only": True} if plan.rule is None and plan.bptt.cell_path_only else {}

    def advance(carry: Carry, a: Any) -> tuple[Carry, Array, Any]:
        carry, gates = rule.recur(cell, weights.ahead, carry, a, **cut)
        return carry, first_leaf(carry), gates

    def advance_from_inputs(carry: Carry, x: Any) -> tuple[Carry, Array, Any]:
        return advance(carry, rule.project(cell, weights.ahead, x))

    # one feature is multiplied, not contracted, and the compiler fuses that into the step
    if first_leaf(xs).shape[-1] == 1:
        return xs, advance_from_inputs
    return rule.project(cell, weights.ahead, xs), advance


def sized(plan: Plan, params: Params, carry: Carry, steps: Steps) -> Plan:
    """`plan` with a number of steps for a chunk: as asked for, else from the bytes a step holds."""
    length = len(first_leaf(steps.xs))
    if plan.bptt.chunk is None:
        size = _automatic_size(plan, params, carry, steps.xs)
    else:
        size = max(1, min(plan.bptt.chunk, length))
    return dataclasses.replace(plan, chunk=size)


def _automatic_size(plan: Plan, params: Params, carry: Carry, xs: Any) -> int:
    def once(params: Params, carry: Carry, x: Any) -> Any:
        a, advance = pieces(plan, weights_of(plan, params, x), x)
        return a, advance(carry, a)

    x = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), xs)
    made = jax.eval_shape(once, params, carry, x)
    of_a_step = max(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made)), 1)
    least, most = (size // of_a_step for size in CHUNK_BYTES)
    length = max(len(first_leaf(xs)), 1)
    size = min(max(length // CHUNK_SHARE, least, 1), max(most, 1), length)
    # a remainder costs a copy of all that is saved: prefer a size that leaves none
    return next((n for n in range(size, size // 2, -1) if length % n == 0), size)


def _named(rule: Rule | None) -> Rule | None:
    """`rule` with its functions under their own names in what is compiled, for a profile."""
    if rule is None:
        return None
    named = {phase: jax.named_call(getattr(rule, phase), name=phase) for phase in PHASES}
    return rule._replace(**named)
