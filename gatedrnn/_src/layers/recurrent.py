"""A cell lifted over time.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry, Cell, Params, rule_of
from gatedrnn._src.layers.base import as_sequence, features_of, last_valid
from gatedrnn._src.masks import draws, draws_each_step
from gatedrnn._src.time.bptt import BPTT, check_bptt
from gatedrnn._src.time.unroll import unroll


class RecurrentParams(NamedTuple):
    """Parameters of a recurrent layer: the cell's, and the initial carry if it is learned."""

    cell: Params
    initial: Carry | None  # without batch axes


class CountedCarry(NamedTuple):
    """The carry of a cell that draws anew at every step, `gr.Zoneout`, and their number so far."""

    step: Array  # int32, no axes
    cell: Carry


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """A cell unrolled over time; see `recurrent`."""

    cell: Cell
    bptt: BPTT = BPTT()
    initial: str = "zeros"

    def __post_init__(self) -> None:
        validation.check_cell(self.cell)
        check_bptt(self.cell, self.bptt)
        checks.option("initial", self.initial, ("zeros", "learned"))

    def out_features(self, in_features: int | None) -> int:
        """The size of the cell's output."""
        return validation.output_features(self.cell, features_of(self, in_features))

    def init(
        self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32
    ) -> RecurrentParams:
        """The cell's parameters; a learned initial carry starts as the cell's own."""
        in_features = features_of(self, in_features)
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
        """The cell's initial carry, or the learned one, which is in `params`.

        A `CountedCarry` of it where the cell draws anew at every step.
        """
        initial = self._initial(batch_shape, dtype, params)
        if draws_each_step(self.cell):
            return CountedCarry(jnp.zeros((), jnp.int32), initial)
        return initial

    def _initial(
        self, batch_shape: tuple[int, ...], dtype: DTypeLike, params: RecurrentParams | None
    ) -> Carry:
        zeros = self.cell.carry(batch_shape, dtype)
        if self.initial == "zeros":
            return zeros
        if params is None:
            raise ValueError(
                "params: got None, expected the layer's parameters: its initial carry is learned"
            )
        self.check(params)
        return jax.tree.map(
            lambda leaf, zero: jnp.broadcast_to(leaf.astype(zero.dtype), zero.shape),
            params.initial,
            zeros,
        )

    def apply(
        self,
        params: RecurrentParams,
        xs: Array,
        carry: Carry | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Array]:
        """`unroll` of the cell: `xs [T, *B, I]` -> the final carry and `ys [T, *B, F]`.

        After a reset too, a step starts from the layer's initial carry.
        """
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        return self.run(params, xs, carry, mask, resets, key, reverse=False)

    def run(
        self,
        params: RecurrentParams,
        xs: Array,
        carry: Carry | None,
        mask: Array | None,
        resets: Array | None,
        key: Array | None,
        reverse: bool,
    ) -> tuple[Carry, Array]:
        """`apply` in either direction."""
        self.check(params)
        initial = self._initial(xs.shape[1:-1], xs.dtype, params)
        steps, carry = self.uncounted(carry)
        carry, ys = unroll(
            self.cell,
            params.cell,
            xs,
            initial if carry is None else carry,
            mask=mask,
            resets=resets,
            reset_carry=None if resets is None else initial,
            reverse=reverse,
            bptt=self.bptt,
            key=key if draws(self.cell) else None,
            first_step=0 if steps is None else steps,
        )
        return self._counted(steps, len(xs), carry), ys

    def as_carry(self, carry: Carry, xs: Array, name: str) -> Carry:
        """`carry` checked and cast to the dtypes that `xs` asks for."""
        steps, carry = self.uncounted(carry, name)
        carry = validation.as_carry(self.cell, carry, xs.shape[1:-1], xs, name)
        return self._counted(steps, 0, carry)

    def uncounted(self, carry: Carry | None, name: str = "carry") -> tuple[Array | None, Carry]:
        """The number of steps so far, None where they are not counted, and the cell's carry."""
        if not draws_each_step(self.cell):
            return None, carry
        if carry is None:
            return jnp.zeros((), jnp.int32), None
        if not isinstance(carry, CountedCarry):
            raise ValueError(f"{name}: got {carry!r}, expected CountedCarry(step, cell)")
        return jnp.asarray(carry.step), carry.cell

    def _counted(self, steps: Array | None, more: int, carry: Carry) -> Carry:
        return carry if steps is None else CountedCarry(steps + more, carry)

    def check(self, params: RecurrentParams) -> None:
        """Raise unless `params` are a layer's of this kind; the cell's are checked where used."""
        if not isinstance(params, RecurrentParams):
            raise ValueError(
                f"params: got {type(params).__name__}, expected RecurrentParams(cell, initial)"
            )
        if self.initial == "learned":
            expected = jax.eval_shape(lambda: self.cell.carry((), jnp.float32))
            validation.check_shapes("params.initial", params.initial, expected, self)
        elif params.initial is not None:
            raise ValueError(
                f"params.initial: got a learned carry, expected None: {self} starts from zeros"
            )

    def step(
        self, params: RecurrentParams, carry: Carry, x: Array, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """One step of the cell: `x [*B, I]` -> the new carry and `[*B, F]`."""
        self.check(params)
        if not draws(self.cell):
            return self.cell.step(params.cell, carry, x)
        steps, carry = self.uncounted(carry)
        first_step = 0 if steps is None else steps
        carry, y = self.cell.step(params.cell, carry, x, key=key, first_step=first_step)
        return self._counted(steps, 1, carry), y

    def final(
        self,
        params: RecurrentParams,
        xs: Array,
        carry: Carry | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Array]:
        """The final carry and the output that belongs to it, `[*B, F]`; zeros for an empty row."""
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        return self.run_to_end(params, xs, carry, mask, resets, key, reverse=False)

    def run_to_end(
        self,
        params: RecurrentParams,
        xs: Array,
        carry: Carry | None,
        mask: Array | None,
        resets: Array | None,
        key: Array | None,
        reverse: bool,
    ) -> tuple[Carry, Array]:
        """`final` in either direction."""
        carry, ys = self.run(params, xs, carry, mask, resets, key, reverse)
        # a cut in the padding would part the final carry from the step that it belongs to
        parted = mask is not None and self.bptt.truncate is not None
        if parted or rule_of(self.cell) is None:
            return carry, last_valid(ys, mask, first=reverse)
        # the output is the first leaf of the carry: no sequence of outputs is needed at all
        y = jax.tree.leaves(self.uncounted(carry)[1])[0]
        if len(xs) == 0:
            return carry, jnp.zeros_like(y)
        return carry, y if mask is None else validation.zero_masked(y, jnp.any(mask, axis=0))


def recurrent(cell: Cell, bptt: BPTT = BPTT(), initial: str = "zeros") -> Recurrent:
    """A layer that runs `cell` over time.

    Args:
      cell: any cell. One that draws masks, `gr.Zoneout` or `gr.RecurrentDropout`, draws them from
        the key of `apply` and `step`, and none without.
      bptt: how its backward pass runs.
      initial: `"zeros"`, the cell's own initial carry, or `"learned"`: the initial carry, also
        after resets, is a parameter.

    Raises:
      TypeError: `cell` is not a cell.
      ValueError: an unknown option.
    """
    return Recurrent(cell, bptt, initial)


def lift(layer: Any) -> Any:
    """A layer as it is; a bare cell as a recurrent layer."""
    return layer if hasattr(layer, "apply") else Recurrent(layer)
