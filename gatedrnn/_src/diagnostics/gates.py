"""The gates of every step, and the share of steps at which their units saturate.

Axes: `T` time, `*B` any batch axes (also none), `I` input features, `H` features.
"""

import functools
import operator
from collections.abc import Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry, Cell, Params, RuledCell, rule_of
from gatedrnn._src.describe import documented, shown
from gatedrnn._src.diagnostics.step_inputs import StepInputs, step_inputs
from gatedrnn._src.numerics import matrices_as
from gatedrnn._src.time.unroll import Options


def gates(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_carry: Carry | None = None,
    reverse: bool = False,
) -> dict[str, Array]:
    """The gates of every step, between 0 (closed) and 1 (open), by the cell's own equations.

    An LSTM has `i, f, o` (coupled: `f = 1 − i`), a GRU has `r, z` (its field `update` says whether
    an open `z` writes or keeps). A cell of your own has the gates that its rule names, see
    `gr.Rule`.

    Args:
      cell: a cell with gates.
      params: parameters of the cell.
      xs: `[T, *B, I]`.
      carry: the initial carry; this and all further arguments are those of `gr.unroll`.
      lengths: `[*B]`.
      mask: `[T, *B]`.
      resets: `[T, *B]`.
      reset_carry: the carry after a reset.
      reverse: run from the end.

    Returns:
      `[T, *B, H]` for each name, zeros at masked steps.

    Raises:
      ValueError: a cell whose rule names no gates, and the cases of `gr.unroll`.
      TypeError: the cases of `gr.unroll`.

    Example:
      >>> cell = gr.LSTM(3)
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> gates = gr.diagnostics.gates(cell, params, jnp.ones((4, 5, 2)))
      >>> {name: gate.shape for name, gate in gates.items()}
      {'i': (4, 5, 3), 'f': (4, 5, 3), 'o': (4, 5, 3)}
    """
    validation.check_cell(cell)
    rule = rule_of(cell)
    if rule is None or not rule.gate_names:
        raise ValueError(
            f"cell: got {shown(cell)}, expected a cell with a rule that names its gates"
        )
    options = Options(lengths, mask, resets, reset_carry, reverse)
    inputs = step_inputs(cell, params, xs, carry, options)
    values = _gates(cast(RuledCell, cell), params, inputs)
    names = (name.rpartition(".")[-1] for name in rule.gate_names)
    return dict(zip(names, values, strict=True))


@functools.partial(jax.jit, static_argnames="cell")
def _gates(cell: RuledCell, params: Params, inputs: StepInputs) -> list[Array]:
    rule = cell.rule
    params = matrices_as(params, inputs.xs.dtype)
    _, gates = rule.recur(cell, params, inputs.before, rule.project(cell, params, inputs.xs))
    values = (operator.attrgetter(name)(gates) for name in rule.gate_names)
    return [validation.zero_masked(value, inputs.mask) for value in values]


@documented
class Saturation(NamedTuple):
    """The share of steps at which each unit of a gate is saturated, from 0 to 1.

    Attributes:
      low: the share of steps at which the unit is below the lower threshold, `[H]`.
      high: the share of steps at which the unit is above the upper threshold, `[H]`.
    """

    low: Array
    high: Array


def saturation(
    gates: Mapping[str, Array],
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    low: float = 0.1,
    high: float = 0.9,
) -> dict[str, Saturation]:
    """The share of steps at which each unit is nearly closed or nearly open (Karpathy et al. 2015).

    A unit of a forget gate that is always open integrates; a unit that is never open has no memory.

    Args:
      gates: `[T, *B, H]` for each name, as `gr.diagnostics.gates` returns them.
      lengths: `[*B]`, the number of steps of each row that count; None: all.
      mask: `[T, *B]`, True at the steps that count, instead of `lengths`.
      low: the lower threshold; a gate below it is nearly closed.
      high: the upper threshold; a gate above it is nearly open.

    Returns:
      For each name the shares over time and batch, NaN where no step counts. The share of the whole
      gate is the mean over its units.

    Raises:
      ValueError: thresholds that are not `0 <= low <= high <= 1`, and shapes that do not fit.
      TypeError: the cases of `gr.unroll` for lengths and masks.

    Example:
      >>> forget = jnp.array([[0.0, 0.4], [1.0, 0.5], [1.0, 0.6], [0.5, 0.5]])  # two units
      >>> shares = gr.diagnostics.saturation({"f": forget})["f"]
      >>> shares.low.tolist(), shares.high.tolist()
      ([0.25, 0.0], [0.5, 0.0])
    """
    checks.number("low", low)
    checks.number("high", high)
    checks.mapping("gates", gates, "arrays [T, *B, H]")
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"low and high: got {shown(low)} and {shown(high)}, expected 0 <= low <= high <= 1"
        )
    return {name: _shares(name, gate, lengths, mask, low, high) for name, gate in gates.items()}


def _shares(
    name: str, gate: Array, lengths: Array | None, mask: Array | None, low: float, high: float
) -> Saturation:
    gate = validation.as_array(f"gates[{name!r}]", gate, "an array [T, *B, H]")
    if gate.ndim < 2:
        raise ValueError(f"gates[{name!r}]: got shape {gate.shape}, expected [T, *B, H]")
    valid = validation.as_mask(lengths, mask, len(gate), gate.shape[1:-1])
    valid = jnp.ones(gate.shape[:-1], bool) if valid is None else valid
    axes = tuple(range(valid.ndim))
    total = jnp.sum(valid).astype(gate.dtype)

    def share(saturated: Array) -> Array:
        return jnp.sum(saturated & valid[..., None], axis=axes).astype(gate.dtype) / total

    return Saturation(share(gate < low), share(gate > high))
