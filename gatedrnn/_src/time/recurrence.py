"""The recurrence of a cell over time: static facts, inputs of the steps, weights, step function.

Axes: `T` time, `*B` batch, `I` input features, `F` output features.
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


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """The static facts of a recurrence.

    Attributes:
      cell: the cell.
      bptt: the options of the backward pass.
      reverse: True to run from the end.
      every_carry: True to stack the carry of every step, not only the output.
      chunk_size: the steps of a chunk, 0 until `with_chunk_size` sets it.
    """

    cell: Cell
    bptt: BPTT
    reverse: bool
    every_carry: bool
    chunk_size: int = 0

    @property
    def rule(self) -> Rule | None:
        """The rule by which the cell is differentiated; None: by autodiff."""
        return None if self.bptt.rule == "autodiff" else _with_named_phases(rule_of(self.cell))


class Steps(NamedTuple):
    """The inputs of the steps, stacked over time; None where a step reads nothing."""

    xs: Any  # [T, *B, I], or of a cell that draws masks: masks.Keyed
    skips: Array | None = None  # [T, *B], True: the step is skipped and keeps the carry
    resets: Array | None = None  # [T, *B], True: the step starts from the reset carry
    cuts: Array | None = None  # [T], True: no gradient from this step to the one before


class Weights(NamedTuple):
    """The parameters in the layout of each phase."""

    params: Params  # matrices in the dtype of xs
    forward: Any  # for the steps of the forward pass
    reverse: Any  # for the steps of the reverse pass


def weights_of(recurrence: Recurrence, params: Params, xs: Any) -> Weights:
    """Return the layouts of `params`, to be made once, before any loop."""
    rule = rule_of(recurrence.cell)
    if rule is None:
        return Weights(params, params, params)
    params = matrices_as(params, first_leaf(xs).dtype)
    return Weights(params, *prepared(rule, recurrence.cell, params))


def step_function(recurrence: Recurrence, weights: Weights, xs: Any) -> tuple[Any, Callable]:
    """Return the inputs of a scan over `xs`, and its step `(carry, input) -> (carry, y, gates)`."""
    cell, rule = recurrence.cell, _with_named_phases(rule_of(recurrence.cell))
    if rule is None:

        def step_without_rule(carry: Carry, x: Array) -> tuple[Carry, Array, None]:
            new, y = cell.step(weights.params, carry, x)
            return as_real_dtypes(new, carry), y, None

        return xs, step_without_rule
    by_autodiff = recurrence.rule is None
    cut = {"cell_path_only": True} if by_autodiff and recurrence.bptt.cell_path_only else {}

    def step(carry: Carry, a: Any) -> tuple[Carry, Array, Any]:
        carry, gates = rule.recur(cell, weights.forward, carry, a, **cut)
        return carry, first_leaf(carry), gates

    def step_from_inputs(carry: Carry, x: Any) -> tuple[Carry, Array, Any]:
        return step(carry, rule.project(cell, weights.forward, x))

    # one feature is multiplied, not contracted, and the compiler fuses that into the step
    if first_leaf(xs).shape[-1] == 1:
        return xs, step_from_inputs
    return rule.project(cell, weights.forward, xs), step


def _with_named_phases(rule: Rule | None) -> Rule | None:
    """Return `rule` with its functions under their own names in the compiled program's profile."""
    if rule is None:
        return None
    named = {phase: jax.named_call(getattr(rule, phase), name=phase) for phase in PHASES}
    return rule._replace(**named)
