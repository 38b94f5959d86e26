"""A cell lifted over time.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry, Cell, Params, is_shared, rule_of
from gatedrnn._src.describe import documented, short_repr, shown
from gatedrnn._src.episodes import episode_starts, step_numbers
from gatedrnn._src.layers.base import Layer
from gatedrnn._src.layers.checks import features_of
from gatedrnn._src.layers.context import Context, last_valid
from gatedrnn._src.masks import draws, draws_each_step
from gatedrnn._src.numerics import accumulator
from gatedrnn._src.pytree import first_leaf
from gatedrnn._src.time.bptt import BPTT, check_bptt
from gatedrnn._src.time.unroll import Unrolled, run

Initial = Literal["zeros", "learned"]


@documented
class RecurrentParams(NamedTuple):
    """Parameters of a recurrent layer.

    Attributes:
      cell: those of the cell.
      initial: the initial carry where it is learned, without batch axes; else None.
    """

    cell: Params
    initial: Carry | None


@documented
class CountedCarry(NamedTuple):
    """The carry of a cell that draws anew at every step, `gr.Zoneout`.

    Attributes:
      step: int32 `[*B]`, how many steps each row has had since its initial carry or last reset.
      cell: the carry of the cell, `[*B, ...]`.
    """

    step: Array
    cell: Carry


@dataclasses.dataclass(frozen=True, repr=False)
class Recurrent(Layer):
    """A layer that runs a cell over time; made by `gr.recurrent`.

    Attributes:
      cell: any cell.
      bptt: how its backward pass runs.
      initial: `"zeros"` or `"learned"`.
      reverse: whether it runs from the end.

    Example:
      >>> layer = gr.recurrent(gr.LSTM(4), initial="learned")
      >>> params = layer.init(jax.random.key(0), 3)
      >>> carry, ys = layer.apply(params, jnp.ones((5, 2, 3)), lengths=jnp.array([5, 3]))
      >>> carry.c.shape, ys.shape
      ((2, 4), (5, 2, 4))
    """

    cell: Cell
    bptt: BPTT = BPTT()
    initial: Initial = "zeros"
    reverse: bool = False

    masks_outputs = True
    knows_reverse = True

    def __post_init__(self) -> None:
        validation.check_cell(self.cell)
        check_bptt(self.cell, self.bptt)
        checks.option("initial", self.initial, Initial)
        checks.flag("reverse", self.reverse)
        carry = jax.eval_shape(lambda: self.cell.carry(()))
        if self.initial == "learned" and any(
            map(is_shared, jax.tree.leaves(carry, is_leaf=is_shared))
        ):
            raise ValueError(
                f"initial: got 'learned' for {self.cell!r}, expected 'zeros': its carry has a "
                "gr.Shared, which is no parameter"
            )

    @property
    def causal(self) -> bool:
        """True unless the layer runs from the end."""
        return not self.reverse

    @property
    def why_not(self) -> str:
        """The reason why the layer cannot stream."""
        return "it starts at the end of the sequence"

    @property
    def flips(self) -> bool:
        """False where gradients are cut at positions of the array, which a flip would move."""
        return self.bptt.truncate is None

    @property
    def label(self) -> str:
        """The name of the cell."""
        return type(self.cell).__name__

    def out_features(self, in_features: int | None) -> int:
        """Return the size of the cell's output."""
        return validation.output_features(self.cell, features_of(self, in_features))

    def init(
        self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32
    ) -> RecurrentParams:
        """Make the cell's parameters; a learned initial carry starts as the cell's own."""
        in_features = features_of(self, in_features)
        key = validation.as_init_key(key, in_features, dtype)
        learned = None
        if self.initial == "learned":  # in one dtype, as all parameters
            learned = jax.tree.map(lambda leaf: leaf.astype(dtype), self.cell.carry((), dtype))
        return RecurrentParams(self.cell.init(key, in_features, dtype), learned)

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
        params: RecurrentParams | None = None,
    ) -> Carry:
        """Make the cell's initial carry, or copies of the learned one, which is in `params`.

        A `CountedCarry` of it where the cell draws anew at every step.

        Raises:
          ValueError: no parameters, or others, where the initial carry is learned.
        """
        initial = self._initial(batch_shape, dtype, params)
        if draws_each_step(self.cell):
            return CountedCarry(validation.counts(batch_shape), initial)
        return initial

    def _initial(
        self, batch_shape: tuple[int, ...], dtype: DTypeLike, params: RecurrentParams | None
    ) -> Carry:
        checks.of_state(batch_shape, dtype)
        zeros = self.cell.carry(batch_shape, dtype)
        if self.initial == "zeros":
            return zeros
        if params is None:
            raise ValueError(
                "params: got None, expected the layer's parameters: its initial carry is learned"
            )
        self.check(params)

        def copies(leaf: Array, zero: Array) -> Array:
            # a copy also without batch axes: a carry that is donated must not take the parameter
            # first in at least float32, in which its gradient, a sum over rows, is then one
            leaf = leaf.astype(accumulator(zero.dtype))
            return jnp.copy(jnp.broadcast_to(leaf, zero.shape).astype(zero.dtype))

        return jax.tree.map(copies, params.initial, zeros)

    def check(self, params: RecurrentParams) -> None:
        """Raise unless `params` are a layer's of this kind; the cell's are checked where used."""
        if not isinstance(params, RecurrentParams):
            raise ValueError(
                f"params: got {shown(params)}, expected RecurrentParams(cell, initial)"
            )
        if self.initial == "learned":
            expected = jax.eval_shape(lambda: self.cell.carry((), jnp.float32))
            initial = validation.as_arrays("params.initial", params.initial)
            validation.check_shapes("params.initial", initial, expected, self)
            for leaf in jax.tree.leaves(initial):
                validation.check_floating("params.initial", leaf)
        elif params.initial is not None:
            raise ValueError(
                f"params.initial: got a learned carry, expected None: {self} starts from zeros"
            )

    def run(
        self, params: RecurrentParams, xs: Array, carry: Carry, context: Context
    ) -> tuple[Carry, Array]:
        """Unroll the cell; after a reset too, a step starts from the layer's initial carry."""
        steps, inner = carry if draws_each_step(self.cell) else (None, carry)
        mask, resets, key = context.mask, context.resets, context.key
        reverse, batch_shape = self.reverse != context.reverse, xs.shape[1:-1]
        key = key if draws(self.cell) else None
        unrolled = Unrolled(
            self.cell,
            params.cell,
            xs,
            inner,
            mask,
            resets,
            None if resets is None else self._initial(batch_shape, xs.dtype, params),
            reverse,
            self.bptt,
            key,
            jnp.zeros(batch_shape, jnp.int32) if key is not None and steps is None else steps,
            context.rows,
        )
        final, ys, _ = run(unrolled)
        if steps is None:
            return final, ys
        starts = None if resets is None else episode_starts(resets, mask, reverse)
        numbers = step_numbers(steps, xs.shape[0], mask, starts, reverse=reverse)
        return CountedCarry(numbers.after, final), ys

    def run_step(
        self, params: RecurrentParams, x: Array, carry: Carry, key: Array | None
    ) -> tuple[Carry, Array]:
        """Run one step of the cell."""
        if not draws(self.cell):
            return self.cell.step(params.cell, carry, x)
        if not draws_each_step(self.cell):
            return self.cell.step(params.cell, carry, x, key=key)
        steps, inner = carry
        inner, y = self.cell.step(params.cell, inner, x, key=key, first_step=steps)
        return CountedCarry(steps + 1, inner), y

    def run_final(
        self, params: RecurrentParams, xs: Array, carry: Carry, context: Context
    ) -> tuple[Carry, Array]:
        """Return the final carry and the output that belongs to it, in either direction."""
        carry, ys = self.run(params, xs, carry, context)
        mask = context.mask
        # a cut in the padding would part the final carry from the step that it belongs to
        parted = mask is not None and self.bptt.truncate is not None
        if parted or rule_of(self.cell) is None:
            return carry, last_valid(ys, mask, first=self.reverse != context.reverse)
        # the output is the first leaf of the carry: no sequence of outputs is needed at all
        y = first_leaf(carry.cell if draws_each_step(self.cell) else carry)
        if xs.shape[0] == 0:
            return carry, jnp.zeros_like(y)
        return carry, y if mask is None else validation.zero_masked(y, jnp.any(mask, axis=0))

    def __repr__(self) -> str:
        """The call that makes the layer."""
        return short_repr(self, "recurrent")


def recurrent(
    cell: Cell, bptt: BPTT = BPTT(), initial: Initial = "zeros", reverse: bool = False
) -> Recurrent:
    """Make a layer that runs `cell` over time.

    Args:
      cell: any cell. One that draws masks, `gr.Zoneout` or `gr.RecurrentDropout`, draws them from
        the key of `apply` and `step`, and none without.
      bptt: how its backward pass runs.
      initial: `"zeros"`, the cell's own initial carry, or `"learned"`: the initial carry, also
        after resets, is a parameter.
      reverse: run from each row's last valid step to its first; outputs stay in the order of the
        input. Such a layer has no `step`.

    Raises:
      TypeError: `cell` is not a cell.
      ValueError: an unknown option.

    Example:
      >>> gr.recurrent(gr.GRU(8), reverse=True)
      recurrent(GRU(8), reverse=True)
    """
    return Recurrent(cell, bptt, initial, reverse)


def as_layer(layer: Any) -> Layer:
    """Return a layer as it is, and a bare cell as a recurrent layer."""
    is_cell = hasattr(layer, "step") and not hasattr(layer, "apply")
    if isinstance(layer, type) or not is_cell:
        return layer  # what is no layer either, `check_layer` refuses
    return Recurrent(layer)


def brief(layer: Layer) -> str:
    """Return the representation of a layer within another: a cell alone where that is enough."""
    if isinstance(layer, Recurrent) and layer == Recurrent(layer.cell):
        return repr(layer.cell)
    return repr(layer)
