"""A cell over a whole sequence: the public functions of the engine, and their checks.

Axes: `T` time, `*B` any batch axes (also none), `I` input features, `F` output features.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._src import checks, placement, validation
from gatedrnn._src.base import C, Carry, Cell, P, Params
from gatedrnn._src.episodes import episode_starts, step_numbers
from gatedrnn._src.loops import Steps
from gatedrnn._src.masks import checked_draw, draw
from gatedrnn._src.placement import ROWS, STEPS, WHOLE
from gatedrnn._src.target import device_kind
from gatedrnn._src.time import engine
from gatedrnn._src.time.bptt import BPTT, check_bptt, target_of
from gatedrnn._src.time.recurrence import Recurrence


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
    """Run `cell` over the leading axis of `xs`, with the cell's own rule as the backward pass.

    A hand-derived rule is for reverse mode: `jax.jvp` and `jax.jacfwd` straight through need
    `bptt=gr.BPTT(rule="autodiff")`. JAX differentiates the loop of a cell without a rule.

    Args:
      cell: any cell; hashable.
      params: parameters of the cell, in the dtype of `xs`, or float32 where `xs` is a 16-bit float.
      xs: `[T, *B, I]`, time first.
      carry: the initial carry, `[*B, ...]` in every leaf; None: the cell's own, zeros. Cast once to
        the dtypes that `xs` asks for.
      lengths: `[*B]`, integers from 0 to `T`: row `b` has `lengths[b]` steps, the rest is padding.
        Others raise where their values are known. Under `jit` they count as 0 or `T`, whichever is
        nearer, and raise under `checkify.checkify` (user checks) and with `jax_debug_nans`.
      mask: `[T, *B]`, booleans of any pattern, instead of `lengths`. A step that is False is
        skipped in either direction: the step keeps the carry and yields zeros, and its inputs, NaN
        included, reach no output, carry or gradient. (A cell of your own without a rule gets zeros
        in place of these inputs, and must be differentiable there.)
      resets: `[T, *B]`, booleans: True at `t` puts a boundary between `t-1` and `t` (an episode or
        a document starts at `t`). Forward, step `t` starts from `reset_carry`; in reverse, the
        valid step before `t` does. The reset of a masked step is ignored.
      reset_carry: the carry after a boundary, shaped as `carry`; None: the cell's own.
      reverse: run from the end; outputs stay in the order of the input.
      bptt: the options of the backward pass.
      key: for a cell that draws masks, `gr.Zoneout` or `gr.RecurrentDropout`; None: no masks.
      first_step: `[*B]` or one integer: the number of valid steps that each row has had since its
        initial carry or its last reset, where `xs` continues an earlier window. Masks follow from
        the key, the row and the number of the step, in the order in which steps run. Without a key
        `first_step` has no effect.

    Returns:
      The carry after the last valid step (the initial one where there is none), and the outputs
      `ys [T, *B, F]` in the dtype of `xs`.

    Raises:
      ValueError: a shape, structure or combination that does not fit.
      TypeError: a dtype that does not fit.

    Example:
      >>> cell = gr.LSTM(3)
      >>> params, xs = cell.init(jax.random.key(0), in_features=2), jnp.ones((4, 2, 2))
      >>> carry, ys = gr.unroll(cell, params, xs, lengths=jnp.array([4, 1]))
      >>> ys.shape, bool(jnp.all(ys[1:, 1] == 0))  # zeros in the padding of the second row
      ((4, 2, 3), True)
      >>> carry, more = gr.unroll(cell, params, xs, carry)  # go on where the rows ended
      >>> carry.c.shape
      (2, 3)
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
    """Run `cell` as `gr.unroll` does, and return the carry of every step instead of the last.

    Args and errors are those of `unroll`.

    Returns:
      `(carries, ys)`: the carry after each step, with leaves `[T, *B, ...]`, and the outputs
      `[T, *B, F]`. A masked step repeats the carry that it keeps.

    Example:
      >>> cell = gr.Elman(1, activation="identity", use_bias=False)
      >>> params = gr.ElmanParams(jnp.ones((1, 1)), jnp.ones((1, 1)), None)  # h' = h + x
      >>> resets = jnp.array([False, False, True, False])
      >>> carries, ys = gr.trajectory(cell, params, jnp.ones((4, 1)), resets=resets)
      >>> carries.h[:, 0].tolist()
      [1.0, 2.0, 1.0, 2.0]
    """
    options = Options(lengths, mask, resets, reset_carry, reverse, bptt, key, first_step)
    _, ys, carries = run(checked(cell, params, xs, carry, options), every_carry=True)
    return carries, ys


class Options(NamedTuple):
    """The keyword arguments of `unroll`, before any check."""

    lengths: Array | None = None
    mask: Array | None = None
    resets: Array | None = None
    reset_carry: Carry | None = None
    reverse: bool = False
    bptt: BPTT = BPTT()
    key: Array | None = None
    first_step: int | Array = 0


class Unrolled(NamedTuple):
    """A cell over a sequence: the arguments of `run`, checked, cast and masked."""

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
    rows: placement.Rows | None = None  # of a layer; else `run` finds out


def checked(
    cell: Cell, params: Params, xs: Array, carry: Carry | None, options: Options
) -> Unrolled:
    """Check, cast and mask all arguments of `unroll`; nothing behind it checks again."""
    validation.check_cell(cell)
    check_bptt(cell, options.bptt)
    checks.flag("reverse", options.reverse)
    xs = checked_inputs(cell, params, xs)
    length, batch_shape = xs.shape[0], xs.shape[1:-1]
    carry = _carry_or_initial("carry", cell, carry, xs)
    mask = validation.as_mask(options.lengths, options.mask, length, batch_shape)
    resets, reset_carry = options.resets, options.reset_carry
    if reset_carry is not None and resets is None:
        raise ValueError("reset_carry: got one without resets, expected both or neither")
    if resets is not None:
        resets = validation.as_flags("resets", resets, (length, *batch_shape))
        reset_carry = _carry_or_initial("reset_carry", cell, reset_carry, xs)
    key, first_step = checked_draw(cell, options.key, options.first_step, batch_shape)
    return Unrolled(
        cell,
        params,
        _masked(xs, mask),
        carry,
        mask,
        resets,
        reset_carry,
        options.reverse,
        options.bptt,
        key,
        first_step,
    )


def _masked(xs: Array, mask: Array | None) -> Array:
    """Return `xs` with zeros where masked, on the devices where `xs` is."""
    if mask is None:
        return xs
    rows = placement.rows_of("xs", xs, 1, xs.ndim - 2, mask)
    arguments, result = (xs, mask), placement.Like(0)
    return placement.on_mesh(validation.zero_masked, (), arguments, (STEPS, STEPS), result, rows)


def checked_inputs(cell: Cell, params: Params, xs: Array) -> Array:
    """Return `xs` as an array `[T, *B, I]`; raise unless it and `params` fit."""
    xs = validation.as_array("xs", xs, "an array [T, *B, I]")
    if xs.ndim < 2:
        raise ValueError(f"xs: got shape {xs.shape}, expected [T, *B, I], at least two axes")
    validation.check_features("xs", xs)
    validation.check_params(cell, params, xs)
    return xs


# the arrays of an `Unrolled`, by the axes that they have in front
_ROLES: dict[str, Any] = {
    "params": WHOLE,
    "xs": STEPS,
    "carry": ROWS,
    "mask": STEPS,
    "resets": STEPS,
    "reset_carry": ROWS,
    "key": WHOLE,
    "first_step": ROWS,
}


def run(unrolled: Unrolled, *, every_carry: bool = False) -> tuple[Carry, Array, Any]:
    """Run a cell over a sequence whose arguments are checked.

    Returns the final carry, `ys [T, *B, F]`, and with `every_carry` the carry of every step.
    """
    arrays = tuple(getattr(unrolled, name) for name in _ROLES)
    xs = unrolled.xs
    rows = placement.rows_of("xs", xs, 1, xs.ndim - 2, arrays)
    if rows is None:
        return _run(unrolled, every_carry)
    nothing: dict[str, Any] = dict.fromkeys(_ROLES)
    statics = unrolled._replace(rows=rows)._replace(**nothing)
    roles, results = tuple(_ROLES.values()), (placement.Like(2), STEPS, STEPS)
    return placement.on_mesh(_run, (statics, every_carry), arrays, roles, results, rows)


def _run(unrolled: Unrolled, every_carry: bool, *arrays: Any) -> tuple[Carry, Array, Any]:
    """Do what `run` does; of an `unrolled` without its arrays they follow."""
    if arrays:
        unrolled = unrolled._replace(**dict(zip(_ROLES, arrays, strict=True)))
    cell, mask, reverse, bptt = unrolled.cell, unrolled.mask, unrolled.reverse, unrolled.bptt
    params, xs, starts, cuts = unrolled.params, unrolled.xs, None, None
    if unrolled.resets is not None:
        starts = episode_starts(unrolled.resets, mask, reverse)
    if unrolled.key is not None:
        assert unrolled.first_step is not None
        numbers = step_numbers(unrolled.first_step, xs.shape[0], mask, starts, reverse=reverse)
        params, xs = draw(cell, unrolled.key, params, xs, numbers.of_steps, xs.shape[1:-1])
    if bptt.truncate is not None:
        cuts = _cuts(bptt.truncate, unrolled.xs.shape[0], reverse)
    steps = Steps(xs, None if mask is None else ~mask, starts, cuts)
    target = target_of(bptt)
    kind, rows = device_kind(target), unrolled.rows
    recurrence = Recurrence(cell, bptt, reverse, every_carry, target, kind, rows)
    final, ys, carries = engine.run(recurrence, params, unrolled.carry, steps, unrolled.reset_carry)
    return final, validation.zero_masked(ys, mask), carries


def _carry_or_initial(name: str, cell: Cell, carry: Carry | None, xs: Array) -> Carry:
    """Return `carry` in the dtypes that `xs` asks for, or the cell's own carry in place of None."""
    batch_shape = xs.shape[1:-1]
    if carry is None:
        return cell.carry(batch_shape, xs.dtype)
    return validation.as_carry(cell, carry, batch_shape, xs, name)


@partial(jax.jit, static_argnames=("truncate", "length", "reverse"), inline=True)
def _cuts(truncate: int, length: int, reverse: bool) -> Array:
    """Return the steps that pass no gradient on to the step that ran before, `[T]`.

    A cut lies between positions `jk-1` and `jk`: before step `jk` forward, `jk-1` in reverse.
    """
    boundary = jnp.arange(length) + (1 if reverse else 0)
    every = min(truncate, jnp.iinfo(boundary.dtype).max)
    return (boundary % every == 0) & (boundary > 0) & (boundary < length)
