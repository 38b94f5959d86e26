"""A cell over a whole sequence: the public edge of the engine.

Axes: `T` time, `*B` any batch axes (also none), `I` input features, `F` output features.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src import checks, validation
from gatedrnn._src.base import C, Carry, Cell, P, Params
from gatedrnn._src.masks import draw
from gatedrnn._src.time import engine
from gatedrnn._src.time.bptt import BPTT, check_bptt
from gatedrnn._src.time.recurrence import Recurrence, Steps


def unroll(
    cell: Cell[P, C],
    params: P,
    xs: Array,
    carry: C | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_carry: C | None = None,
    reverse: bool = False,
    bptt: BPTT = BPTT(),
    key: Array | None = None,
    first_step: int | Array = 0,
) -> tuple[C, Array]:
    """Run `cell` over the leading axis of `xs`, as `lax.scan` would, and differentiate it well.

    The gradient is the cell's hand-derived rule where it has one, which is reverse mode only:
    `jax.jvp` and `jax.jacfwd` straight through need `bptt=gr.BPTT(rule="autodiff")`.

    Args:
      cell: any cell; hashable.
      params: its parameters, in the dtype of `xs`, or float32 where `xs` is a 16-bit float.
      xs: `[T, *B, I]`, time first.
      carry: the initial carry, `[*B, ...]` in every leaf; None: the cell's own, zeros. Cast once to
        the dtypes that `xs` asks for.
      lengths: `[*B]`, integers: row `b` has `lengths[b]` steps, the rest is padding.
      mask: `[T, *B]`, booleans of any pattern, instead of `lengths`. A step that is False is
        skipped in either direction: it keeps the carry and yields zeros, and whatever it holds, NaN
        included, reaches no output, carry or gradient. (The step sees zeros in its place: one of
        your own without a rule must be differentiable there.)
      resets: `[T, *B]`, booleans: True at `t` puts a boundary between `t-1` and `t` (an episode or
        a document starts at `t`). Forward, `t` starts from `reset_carry`; in reverse, the valid
        step before it does. The reset of a masked step is ignored.
      reset_carry: what steps start from after a boundary, shaped as `carry`; None: the cell's own.
      reverse: run from the end; outputs stay in the order of the input.
      bptt: how the backward pass runs.
      key: for a cell that draws masks, `gr.Zoneout` or `gr.RecurrentDropout`; None: it draws none.
      first_step: how many steps have run since the initial carry, where `xs` goes on from a window
        before: the masks follow from the key and the step's number, in the order in which steps
        run (in reverse from the end), masked ones counted. Without a key it means nothing.

    Returns:
      The carry after the last valid step (the initial one where there is none), and the outputs
      `ys [T, *B, F]` in the dtype of `xs`.

    Raises:
      ValueError: a shape, structure or combination that does not fit.
      TypeError: a dtype that does not fit.
    """
    arguments = (lengths, mask, resets, reset_carry, reverse, bptt, key, first_step)
    final, ys, _ = _run(cell, params, xs, carry, *arguments, every_carry=False)
    return final, ys


def trajectory(
    cell: Cell[P, C],
    params: P,
    xs: Array,
    carry: C | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_carry: C | None = None,
    reverse: bool = False,
    bptt: BPTT = BPTT(),
    key: Array | None = None,
    first_step: int | Array = 0,
) -> tuple[C, Array]:
    """`unroll` that returns the carry of every step instead of the last.

    Args and errors are those of `unroll`.

    Returns:
      `(carries, ys)`: `carries` with leaves `[T, *B, ...]`, the carry after each step (before it, a
      boundary of `resets` may have replaced the one that came in; a masked step repeats the one
      that it keeps), and the outputs `[T, *B, F]`.
    """
    arguments = (lengths, mask, resets, reset_carry, reverse, bptt, key, first_step)
    _, ys, carries = _run(cell, params, xs, carry, *arguments, every_carry=True)
    return carries, ys


def _run(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
    reset_carry: Carry | None,
    reverse: bool,
    bptt: BPTT,
    key: Array | None,
    first_step: int | Array,
    every_carry: bool,
) -> tuple[Carry, Array, Any]:
    validation.check_cell(cell)
    check_bptt(cell, bptt)
    checks.flag("reverse", reverse)
    xs = as_sequence(cell, params, xs)
    length, batch_shape = len(xs), xs.shape[1:-1]
    carry = carry_or_initial("carry", cell, carry, xs)
    mask = validation.as_mask(lengths, mask, length, batch_shape)
    if reset_carry is not None and resets is None:
        raise ValueError("reset_carry: got one without resets, expected both or neither")
    if resets is not None:
        resets = validation.as_flags("resets", resets, length, batch_shape)
        resets = steps_that_start(resets, mask, reverse)
        reset_carry = carry_or_initial("reset_carry", cell, reset_carry, xs)
    if mask is not None or resets is not None:
        validation.check_batched("carry", carry, batch_shape)
    xs = validation.zero_masked(xs, mask)
    if key is not None:
        params, xs = draw(cell, key, params, xs, _numbers(first_step, length, reverse))
    steps = Steps(
        xs=xs,
        skips=None if mask is None else ~mask,
        resets=resets,
        cuts=None if bptt.truncate is None else _cuts(bptt.truncate, length, reverse),
    )
    recurrence = Recurrence(cell, bptt, reverse, every_carry)
    final, ys, carries = engine.run(recurrence, params, carry, steps, reset_carry)
    return final, validation.zero_masked(ys, mask), carries


def _numbers(first_step: int | Array, length: int, reverse: bool) -> Array:
    """The number of each step since the initial carry, `[T]`."""
    order = jnp.arange(length, dtype=jnp.int32)
    return jnp.asarray(first_step, jnp.int32) + (order[::-1] if reverse else order)


def as_sequence(cell: Cell, params: Params, xs: Array) -> Array:
    """`xs` as an array `[T, *B, I]`, checked with `params`."""
    xs = jnp.asarray(xs)
    if xs.ndim < 2:
        raise ValueError(f"xs: got shape {xs.shape}, expected [T, *B, I], at least two axes")
    validation.check_floating("xs", xs)
    validation.check_params(cell, params, xs)
    return xs


def carry_or_initial(name: str, cell: Cell, carry: Carry | None, xs: Array) -> Carry:
    """`carry` in the dtypes that `xs` asks for, or the cell's own where it is None."""
    batch_shape = xs.shape[1:-1]
    if carry is None:
        return cell.carry(batch_shape, xs.dtype)
    return validation.as_carry(cell, carry, batch_shape, xs, name)


def steps_that_start(resets: Array, mask: Array | None, reverse: bool) -> Array:
    """Which steps start from the reset carry, `[T, *B]`.

    Forward, those with a reset. In reverse, the valid step that comes before one: the reset of the
    next valid step after `t`, found by a running minimum from the right over `2t + (no reset)`, of
    which the parity tells whether there is one.
    """
    if mask is not None:
        resets = resets & mask
    if not reverse:
        return resets
    length = len(resets)
    later = jnp.zeros_like(resets[:1])
    if mask is None:
        return jnp.concatenate([resets, later])[1:]
    step = lax.broadcasted_iota(jnp.int32, resets.shape, 0)
    coded = jnp.where(mask, 2 * step + (~resets).astype(step.dtype), 2 * length + 1)
    nearest = lax.cummin(coded, axis=0, reverse=True)
    return jnp.concatenate([nearest % 2 == 0, later])[1:]


def _cuts(truncate: int, length: int, reverse: bool) -> Array:
    """Which steps pass no gradient on to the step that ran before them, `[T]`.

    The cut lies between positions `jk-1` and `jk`: entering `jk` forward, `jk-1` in reverse.
    """
    boundary = jnp.arange(length) + (1 if reverse else 0)
    return (boundary % min(truncate, max(length, 1)) == 0) & (boundary > 0) & (boundary < length)
