"""The gradient of a loss on its way back through time.

Axes: `T` time, `*B` any batch axes (also none), `I` input features, `F` output features.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry, Cell, Params
from gatedrnn._src.describe import shown
from gatedrnn._src.diagnostics.probe import Probed
from gatedrnn._src.diagnostics.vectors import as_scalar, row_size, unflatten
from gatedrnn._src.numerics import accumulator
from gatedrnn._src.placement import ROWS, STEPS, Rows, placed, rows_of
from gatedrnn._src.time.bptt import BPTT
from gatedrnn._src.time.unroll import checked_inputs, trajectory, unroll

Reach = Literal["inputs", "carry"]


def carry_gradients(
    cell: Cell,
    params: Params,
    xs: Array,
    loss: Callable[[Carry, Array], Array],
    carry: Carry | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_carry: Carry | None = None,
    reverse: bool = False,
    bptt: BPTT = BPTT(),
) -> Carry:
    """The gradient `δcarry_t` of a loss with respect to the carry that each step hands on.

    In full, as the backward pass computes the gradient from step to step: the part from later
    steps, cut and clipped as `bptt` says, and the part of the loss at `t`; by the cell's own rule
    where there is one. The leaves are separate variables: the part that reaches an LSTM's `c_t`
    through the `h_t` of the same step is in `δh_t`, not in `δc_t`. Where the output is an array of
    the carry (the first leaf, for a cell with a rule), the gradient of this array includes the loss
    on `ys`. It does not where a cell of your own computes its output from the carry, or returns
    both from a `jit` of its own.

    Args:
      cell: any cell.
      params: parameters of the cell.
      xs: `[T, *B, I]`.
      loss: `(carries, ys) -> scalar`, a function of the values that `gr.trajectory` returns.
      carry: the initial carry; this and all further arguments are those of `gr.unroll`.
      lengths: `[*B]`.
      mask: `[T, *B]`.
      resets: `[T, *B]`.
      reset_carry: the carry after a reset.
      reverse: run from the end.
      bptt: how the backward pass runs.

    Returns:
      A carry with leaves `[T, *B, ...]` in the dtype of `xs`: zeros at masked steps, None for a
      leaf that is not of a floating-point dtype.

    Raises:
      ValueError: a loss that is not a scalar, and the cases of `gr.unroll`.
      TypeError: the cases of `gr.unroll`.

    Example:
      >>> cell = gr.Elman(1, activation="identity", use_bias=False)
      >>> params = gr.ElmanParams(jnp.ones((1, 1)), jnp.full((1, 1), 0.5), None)  # h' = h / 2 + x
      >>> loss = lambda carries, ys: ys[-1, 0]
      >>> gradients = gr.diagnostics.carry_gradients(cell, params, jnp.ones((4, 1)), loss)
      >>> gradients.h[:, 0].tolist()
      [0.125, 0.25, 0.5, 1.0]
    """
    validation.check_cell(cell)
    checks.function("loss", loss, ("carries", "ys"), "scalar")
    xs = checked_inputs(cell, params, xs)
    probed = Probed(cell)

    def total(e: Array) -> Array:
        carries, ys = trajectory(
            probed,
            params,
            jnp.concatenate([xs, e], axis=-1),
            carry,
            lengths=lengths,
            mask=mask,
            resets=resets,
            reset_carry=reset_carry,
            reverse=reverse,
            bptt=bptt,
        )
        return as_scalar(loss(carries, ys))

    d = jax.grad(total)(_no_probe(cell, xs))
    like = jax.eval_shape(lambda: cell.carry(xs.shape[:-1], xs.dtype))
    filled = unflatten(d, like)
    return jax.tree.map(lambda v: v.astype(xs.dtype) if isinstance(v, Array) else None, filled)


def gradient_norms(
    cell: Cell,
    params: Params,
    xs: Array,
    loss: Callable[[Carry, Array], Array],
    carry: Carry | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_carry: Carry | None = None,
    reverse: bool = False,
    bptt: BPTT = BPTT(),
) -> Carry:
    """The Euclidean norm of `δcarry_t` over time, for each leaf of the carry.

    Args and errors are those of `carry_gradients`. Where the norm falls or grows by orders of
    magnitude towards the start, the gradient vanishes or explodes (Bengio et al. 1994).

    Returns:
      A carry with leaves `[T, *B]` in at least float32: a norm for each step and row.

    Example:
      >>> cell, lengths = gr.LSTM(3), jnp.array([4, 2])
      >>> params, xs = cell.init(jax.random.key(0), in_features=2), jnp.ones((4, 2, 2))
      >>> loss = lambda carries, ys: jnp.sum(ys**2)
      >>> norms = gr.diagnostics.gradient_norms(cell, params, xs, loss, lengths=lengths)
      >>> norms.c.shape, norms.c[2:, 1].tolist()  # no gradient in the padding
      ((4, 2), [0.0, 0.0])
    """
    gradients = carry_gradients(
        cell,
        params,
        xs,
        loss,
        carry,
        lengths=lengths,
        mask=mask,
        resets=resets,
        reset_carry=reset_carry,
        reverse=reverse,
        bptt=bptt,
    )
    leading = jnp.ndim(xs) - 1
    return jax.tree.map(lambda v: jnp.sqrt(_sum_of_squares(v, leading)), gradients)


def gradient_reach(
    cells: Mapping[str, tuple[Cell, Params]],
    xs: Array,
    *,
    of: Reach = "inputs",
    bptt: BPTT = BPTT(),
) -> dict[str, Array]:
    """The norm of the last output's gradient over the distance back, for several cells.

    The Frobenius norm of `∂y_T/∂x_t` or `∂y_T/∂carry_t`, over the distance `T − t`: exact, by one
    backward pass for each of the `F` outputs.

    Args:
      cells: by name, a cell and its parameters.
      xs: `[T, *B, I]`, the inputs of all cells.
      of: `"inputs"`, or `"carry"`: the whole carry that step `t` hands on.
      bptt: how the backward pass runs.

    Returns:
      For each name `[T, *B]` in at least float32; the index is the distance in steps, from 0.

    Raises:
      ValueError: another `of`, no steps, and the cases of `gr.unroll`.
      TypeError: the cases of `gr.unroll`.

    Example:
      >>> cells = {"GRU": gr.GRU(3), "Elman": gr.Elman(3)}
      >>> named = {name: (cell, cell.init(jax.random.key(0), 2)) for name, cell in cells.items()}
      >>> reach = gr.diagnostics.gradient_reach(named, jnp.ones((4, 5, 2)))
      >>> {name: norms.shape for name, norms in reach.items()}
      {'GRU': (4, 5), 'Elman': (4, 5)}
    """
    checks.option("of", of, Reach)
    checks.mapping("cells", cells, "pairs (cell, params)")
    reach = {}
    for name, pair in cells.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"cells[{name!r}]: got {shown(pair)}, expected a pair (cell, params)")
        cell, params = pair
        validation.check_cell(cell)
        checked = checked_inputs(cell, params, xs)
        if len(checked) == 0:
            raise ValueError(f"xs: got shape {checked.shape}, expected at least one step")
        reach[name] = _reach(cell, params, checked, of, bptt)
    return reach


def _reach(cell: Cell, params: Params, xs: Array, of: Reach, bptt: BPTT) -> Array:
    def last(point: Array) -> Array:
        if of == "inputs":
            return unroll(cell, params, point, bptt=bptt)[1][-1]
        joined = jnp.concatenate([xs, point], axis=-1)
        return unroll(Probed(cell), params, joined, bptt=bptt)[1][-1]

    rows = _rows(xs)
    y, back = jax.vjp(last, xs if of == "inputs" else _no_probe(cell, xs))

    def squared_norm(output: Array) -> Array:
        # rows of the batch do not meet: one pass back gives the output's gradient in every row
        (d,) = back(placed(ROWS, jnp.broadcast_to(output, y.shape), rows, xs))
        return _sum_of_squares(d, xs.ndim - 1)

    squared_norms = lax.map(squared_norm, jnp.eye(y.shape[-1], dtype=y.dtype))
    return jnp.sqrt(jnp.sum(squared_norms, axis=0))[::-1]


def _no_probe(cell: Cell, xs: Array) -> Array:
    nothing = jnp.zeros((*xs.shape[:-1], row_size(cell)), xs.dtype)
    return placed(STEPS, nothing, _rows(xs), xs)


def _rows(xs: Array) -> Rows | None:
    return rows_of("xs", xs, 1, xs.ndim - 2, ())


def _sum_of_squares(v: Array, leading: int) -> Array:
    """Return the sum of squares over all axes but the first `leading`."""
    v = v.astype(accumulator(v.dtype))
    return jnp.sum(v * v, axis=tuple(range(leading, v.ndim)))
