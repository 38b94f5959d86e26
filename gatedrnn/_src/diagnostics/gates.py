"""Which gates are open, when, and how many saturate.

Axes: `T` time, `*B` any batch axes (also none), `I` input features, `H` features.
"""

import functools
import operator
from collections.abc import Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell, Params, RuledCell, rule_of
from gatedrnn._src.diagnostics.starts import Replay, replay
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

    `i, f, o` of an LSTM (coupled: `f = 1 − i`), `r, z` of a GRU (whether an open `z` writes or
    keeps, `update` says); of a cell of your own those that its rule names, see `gr.Rule`.

    Args:
      cell: a cell with gates.
      params: its parameters.
      xs: `[T, *B, I]`.
      carry: the initial carry; it and all that follow are those of `gr.unroll`.
      lengths: `[*B]`.
      mask: `[T, *B]`.
      resets: `[T, *B]`.
      reset_carry: the carry after a reset.
      reverse: run from the end.

    Returns:
      `[T, *B, H]` for each name, zeros at masked steps.

    Raises:
      ValueError: a cell whose rule names no gates, and what `gr.unroll` raises.
      TypeError: what `gr.unroll` raises.
    """
    validation.check_cell(cell)
    rule = rule_of(cell)
    if rule is None or not rule.gate_names:
        raise ValueError(f"cell: got {cell!r}, expected a cell with a rule that names its gates")
    options = Options(lengths, mask, resets, reset_carry, reverse)
    run = replay(cell, params, xs, carry, options)
    found = _gates(cast(RuledCell, cell), params, run)
    names = (name.rpartition(".")[-1] for name in rule.gate_names)
    return dict(zip(names, found, strict=True))


@functools.partial(jax.jit, static_argnames="cell")
def _gates(cell: RuledCell, params: Params, run: Replay) -> list[Array]:
    rule = cell.rule
    params = matrices_as(params, run.xs.dtype)
    _, every = rule.recur(cell, params, run.before, rule.project(cell, params, run.xs))
    found = (operator.attrgetter(name)(every) for name in rule.gate_names)
    return [validation.zero_masked(gate, run.mask) for gate in found]


class Saturation(NamedTuple):
    """The share of steps at which each unit of a gate is saturated, from 0 to 1.

    Attributes:
      low: below the lower threshold, `[H]`.
      high: above the upper one, `[H]`.
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
    """How often each unit of each gate is nearly closed or nearly open (Karpathy et al. 2015).

    A unit of a forget gate that is always open integrates; one that is never open has no memory.

    Args:
      gates: `[T, *B, H]` for each name, as `gates` returns them.
      lengths: `[*B]`, or
      mask: `[T, *B]`: the steps that count; neither: all.
      low: a gate below it is saturated low.
      high: a gate above it is saturated high.

    Returns:
      For each name the shares over time and batch; their means over the units are the shares of
      the whole gate. NaN where no step counts.

    Raises:
      ValueError: thresholds that are not `0 <= low <= high <= 1`, and shapes that do not fit.
      TypeError: what `gr.unroll` raises of lengths and masks.
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"low and high: got {low!r} and {high!r}, expected 0 <= low <= high <= 1")
    return {name: _shares(name, gate, lengths, mask, low, high) for name, gate in gates.items()}


def _shares(
    name: str, gate: Array, lengths: Array | None, mask: Array | None, low: float, high: float
) -> Saturation:
    gate = jnp.asarray(gate)
    if gate.ndim < 2:
        raise ValueError(f"gates[{name!r}]: got shape {gate.shape}, expected [T, *B, H]")
    counts = validation.as_mask(lengths, mask, len(gate), gate.shape[1:-1])
    counts = jnp.ones(gate.shape[:-1], bool) if counts is None else counts
    axes = tuple(range(counts.ndim))
    total = jnp.sum(counts).astype(gate.dtype)

    def share(saturated: Array) -> Array:
        return jnp.sum(saturated & counts[..., None], axis=axes).astype(gate.dtype) / total

    return Saturation(share(gate < low), share(gate > high))
