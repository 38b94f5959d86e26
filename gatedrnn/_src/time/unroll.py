"""A cell over a whole sequence: the public edge of the engine.

Axes: `T` time, `*B` any batch axes (also none), `I` input features, `F` output features.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gatedrnn._src import checks, validation
from gatedrnn._src.base import C, Carry, Cell, P, Params
from gatedrnn._src.episodes import episode_starts, step_numbers
from gatedrnn._src.masks import as_key, check_draws, draw, first_steps
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
      first_step: `[*B]` or one integer, how many valid steps each row has had since its initial
        carry or its last reset, where `xs` goes on from a window before: the masks follow from the
        key, the row and the step's number, counted in the order in which steps run. Without a key
        it means nothing.

    Returns:
      The carry after the last valid step (the initial one where there is none), and the outputs
      `ys [T, *B, F]` in the dtype of `xs`.

    Raises:
      ValueError: a shape, structure or combination that does not fit.
      TypeError: a dtype that does not fit.
    """
    options = Options(lengths, mask, resets, reset_carry, reverse, bptt, key, first_step)
    final, ys, _ = run(checked(cell, params, xs, carry, options))
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
    options = Options(lengths, mask, resets, reset_carry, reverse, bptt, key, first_step)
    _, ys, carries = run(checked(cell, params, xs, carry, options), every_carry=True)
    return carries, ys


class Options(NamedTuple):
    """The keyword arguments of `unroll`, as they were given."""

    lengths: Array | None = None
    mask: Array | None = None
    resets: Array | None = None
    reset_carry: Carry | None = None
    reverse: bool = False
    bptt: BPTT = BPTT()
    key: Array | None = None
    first_step: int | Array = 0


class Unrolled(NamedTuple):
    """A cell over a sequence, checked, cast and masked: what `run` runs."""

    cell: Cell
    params: Params
    xs: Array  # [T, *B, I], zeros where masked
    carry: Carry  # [*B, ...]
    mask: Array | None = None  # [T, *B]
    resets: Array | None = None  # [T, *B], as given
    reset_carry: Carry | None = None  # [*B, ...], where there are resets
    reverse: bool = False
    bptt: BPTT = BPTT()
    key: Array | None = None
    first_step: Array | None = None  # int32 [*B], where there is a key


def checked(
    cell: Cell, params: Params, xs: Array, carry: Carry | None, options: Options
) -> Unrolled:
    """Check, cast and mask all arguments of `unroll`; nothing behind it checks again."""
    validation.check_cell(cell)
    check_bptt(cell, options.bptt)
    checks.flag("reverse", options.reverse)
    xs = checked_inputs(cell, params, xs)
    length, batch_shape = len(xs), xs.shape[1:-1]
    carry = _carry_or_initial("carry", cell, carry, xs)
    mask = validation.as_mask(options.lengths, options.mask, length, batch_shape)
    resets, reset_carry = options.resets, options.reset_carry
    if reset_carry is not None and resets is None:
        raise ValueError("reset_carry: got one without resets, expected both or neither")
    if resets is not None:
        resets = validation.as_flags("resets", resets, length, batch_shape)
        reset_carry = _carry_or_initial("reset_carry", cell, reset_carry, xs)
    key = options.key
    if key is not None:
        check_draws(cell)
        key = as_key(key)
    return Unrolled(
        cell,
        params,
        validation.zero_masked(xs, mask),
        carry,
        mask,
        resets,
        reset_carry,
        options.reverse,
        options.bptt,
        key,
        first_steps(options.first_step, batch_shape),
    )


def checked_inputs(cell: Cell, params: Params, xs: Array) -> Array:
    """Return `xs` as an array `[T, *B, I]`; raise unless it and `params` fit."""
    xs = jnp.asarray(xs)
    if xs.ndim < 2:
        raise ValueError(f"xs: got shape {xs.shape}, expected [T, *B, I], at least two axes")
    validation.check_floating("xs", xs)
    validation.check_params(cell, params, xs)
    return xs


def run(of: Unrolled, *, every_carry: bool = False) -> tuple[Carry, Array, Any]:
    """Run a cell: the final carry, `ys [T, *B, F]`, and the carry of every step if asked for."""
    length, params, xs, starts, cuts = len(of.xs), of.params, of.xs, None, None
    if of.resets is not None:
        starts = episode_starts(of.resets, of.mask, of.reverse)
    if of.key is not None:
        assert of.first_step is not None
        numbers = step_numbers(of.first_step, length, of.mask, starts, reverse=of.reverse)
        params, xs = draw(of.cell, of.key, params, xs, numbers.of_steps, xs.shape[1:-1])
    if of.bptt.truncate is not None:
        cuts = _cuts(of.bptt.truncate, length, of.reverse)
    steps = Steps(xs, None if of.mask is None else ~of.mask, starts, cuts)
    recurrence = Recurrence(of.cell, of.bptt, of.reverse, every_carry)
    final, ys, carries = engine.run(recurrence, params, of.carry, steps, of.reset_carry)
    return final, validation.zero_masked(ys, of.mask), carries


def _carry_or_initial(name: str, cell: Cell, carry: Carry | None, xs: Array) -> Carry:
    """`carry` in the dtypes that `xs` asks for, or the cell's own where it is None."""
    batch_shape = xs.shape[1:-1]
    if carry is None:
        return cell.carry(batch_shape, xs.dtype)
    return validation.as_carry(cell, carry, batch_shape, xs, name)


def _cuts(truncate: int, length: int, reverse: bool) -> Array:
    """Which steps pass no gradient on to the step that ran before them, `[T]`.

    The cut lies between positions `jk-1` and `jk`: entering `jk` forward, `jk-1` in reverse.
    """
    boundary = jnp.arange(length) + (1 if reverse else 0)
    return (boundary % min(truncate, max(length, 1)) == 0) & (boundary > 0) & (boundary < length)
