"""The recurrence of a cell over time: static facts, weights, inputs of the steps, step function.

Axes: `T` time, `*B` batch, `I` input features, `F` output features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from gatedrnn._src.base import Carry, Cell, Params, Rule, prepared, rule_of
from gatedrnn._src.loops import Loop, scan
from gatedrnn._src.numerics import laid_out, matrices_as
from gatedrnn._src.placement import Rows
from gatedrnn._src.pytree import as_real_dtypes, first_leaf
from gatedrnn._src.target import Target
from gatedrnn._src.time.bptt import BPTT, Saved

PHASES = ("project", "recur", "linearize", "backward", "contract")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The decisions about speed and memory, none about what is computed.

    Attributes:
      chunk_size: the number of steps in a chunk.
      save: the values that the forward pass keeps for the backward pass.
      stacked: True where the steps read the kernels of all gates as one, forward and in reverse.
      project_one: True where a step itself projects an input of a single feature, which is
        multiplied, not contracted: the compiler fuses that into the step.
      loop: the loop over the steps of a chunk.
    """

    chunk_size: int = 0
    save: Saved = "carries"
    stacked: tuple[bool, bool] = (False, False)
    project_one: bool = True
    loop: Loop = scan


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """The static facts of a recurrence.

    Attributes:
      cell: the cell.
      bptt: the options of the backward pass.
      reverse: True to run from the end.
      every_carry: True to stack the carry of every step, not only the output.
      target: the kind of device that it is compiled for.
      device_kind: the device itself, `""` where that is not known.
      rows: how the rows are divided over the devices of a mesh, None where that is not known.
      plan: the plan, empty until `planned` makes it.
    """

    cell: Cell
    bptt: BPTT
    reverse: bool
    every_carry: bool
    target: Target = "cpu"
    device_kind: str = ""
    rows: Rows | None = None
    plan: Plan = Plan()

    @property
    def rule(self) -> Rule | None:
        """The rule by which the cell is differentiated; None: by autodiff."""
        return None if self.bptt.rule == "autodiff" else _with_named_phases(rule_of(self.cell))


class Weights(NamedTuple):
    """The parameters in the layout of each phase."""

    params: Params  # matrices in the dtype of xs
    forward: Any  # for the steps of the forward pass
    reverse: Any  # for the steps of the reverse pass


def weights_of(recurrence: Recurrence, params: Params, xs: Any) -> Weights:
    """Return the layouts of `params`, to be made once, before any loop."""
    cell, (forward_stacked, reverse_stacked) = recurrence.cell, recurrence.plan.stacked
    rule = rule_of(cell)
    if rule is None:
        return Weights(params, params, params)
    params = matrices_as(params, first_leaf(xs).dtype)
    forward, reverse = prepared(rule, cell, params)
    return Weights(params, laid_out(forward, forward_stacked), laid_out(reverse, reverse_stacked))


def steps_of(recurrence: Recurrence, weights: Any, xs: Any) -> tuple[Any, Callable]:
    """Return the inputs of a loop over `xs [T, *B, I]`, and its step.

    The step is `(weights, carry, input) -> (carry, y, gates)`.
    """
    cell, rule = recurrence.cell, _with_named_phases(rule_of(recurrence.cell))
    if rule is None:

        def step_without_rule(weights: Params, carry: Carry, x: Any) -> tuple[Carry, Any, None]:
            new, y = cell.step(weights, carry, x)
            return as_real_dtypes(new, carry), y, None

        return xs, step_without_rule
    by_autodiff = recurrence.rule is None
    cut = {"cell_path_only": True} if by_autodiff and recurrence.bptt.cell_path_only else {}

    def step(weights: Any, carry: Carry, a: Any) -> tuple[Carry, Array, Any]:
        carry, gates = rule.recur(cell, weights, carry, a, **cut)
        return carry, first_leaf(carry), gates

    def step_from_inputs(weights: Any, carry: Carry, x: Any) -> tuple[Carry, Array, Any]:
        return step(weights, carry, rule.project(cell, weights, x))

    if recurrence.plan.project_one and first_leaf(xs).shape[-1] == 1:
        return xs, step_from_inputs
    return rule.project(cell, weights, xs), step


def _with_named_phases(rule: Rule | None) -> Rule | None:
    """Return `rule` with its functions under their own names in the compiled program's profile."""
    if rule is None:
        return None
    named = {phase: jax.named_call(getattr(rule, phase), name=phase) for phase in PHASES}
    return rule._replace(**named)
