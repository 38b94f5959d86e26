"""Recurrent dropout: one mask for all steps on what the recurrent products read.

Axes: `...` any leading axes, `T` time, `*B` batch, `I` input features, `F` output features.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.base import Bound, Carry, Params, Rule, RuledCell, StepRecord, prepared, rule_of
from gatedrnn._src.cells.common import ruled_step
from gatedrnn._src.describe import short_repr
from gatedrnn._src.masks import check_inner, kept
from gatedrnn._src.pytree import first_leaf, zeros

# The products of a step read m ⊙ h_{t-1} in the place of h_{t-1} (Gal & Ghahramani 2016), with m
# drawn once for each sequence, all steps and gates alike, and h the first leaf of the carry: h of
# an LSTM, a GRU (also where r gates it, not where z mixes it) and an Elman network, o of a Jordan
# network. The cells' own rules take the mask (see `gr.Rule`); here it is bound to the parameters.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowMasks(Bound):
    """The mask of each row, in the place of a parameter."""

    mask: Array  # [*B, F], 0 or 1 / (1 − rate)

    @property
    def batch_axes(self) -> int:
        """Return those of the inputs."""
        return self.mask.ndim - 1


class MaskedParams(NamedTuple):
    """The parameters of the inner cell and the masks."""

    params: Params
    masks: RowMasks


def _with_mask(params: Params) -> tuple[Params, Array | None]:
    """Return the parameters of the inner cell and the masks of the rows, None without dropout."""
    if isinstance(params, MaskedParams):
        return params.params, params.masks.mask
    return params, None


def project(cell: "RecurrentDropout", params: Params, xs: Array) -> Any:
    """Return the projection of the inner cell."""
    return cell.cell.rule.project(cell.cell, _with_mask(params)[0], xs)


def prepare(cell: "RecurrentDropout", params: Params) -> tuple[Params, Params]:
    """Return the layouts of the inner cell, each with the mask."""
    inner, _ = _with_mask(params)
    forward, reverse = prepared(cell.cell.rule, cell.cell, inner)
    if isinstance(params, MaskedParams):
        return MaskedParams(forward, params.masks), MaskedParams(reverse, params.masks)
    return forward, reverse


def recur(
    cell: "RecurrentDropout", params: Params, carry: Carry, a: Any, **options: Any
) -> tuple[Carry, Any]:
    """Return the next carry and the gates of the inner cell, of which products read `m ⊙ h`."""
    params, mask = _with_mask(params)
    return cell.cell.rule.recur(cell.cell, params, carry, a, mask=mask, **options)


def linearize(cell: "RecurrentDropout", params: Params, record: StepRecord) -> Any:
    """Return the local derivatives of the inner cell."""
    return cell.cell.rule.linearize(cell.cell, _with_mask(params)[0], record)


def backward(
    cell: "RecurrentDropout", params: Params, local: Any, dcarry: Carry, **options: Any
) -> tuple[Carry, Any]:
    """Return the cotangents of the inner cell's reverse step, with the mask."""
    params, mask = _with_mask(params)
    return cell.cell.rule.backward(cell.cell, params, local, dcarry, mask=mask, **options)


def contract(
    cell: "RecurrentDropout", params: Params, record: StepRecord, delta: Any
) -> tuple[Params, Array]:
    """Return the sums of the inner cell's rule; the mask is a constant."""
    inner, mask = _with_mask(params)
    dparams, dxs = cell.cell.rule.contract(cell.cell, inner, record, delta, mask=mask)
    return dparams if mask is None else MaskedParams(dparams, RowMasks(zeros(mask))), dxs


@dataclasses.dataclass(frozen=True, repr=False)
class RecurrentDropout:
    """A cell with dropout on its recurrent connections (Gal & Ghahramani 2016).

    With a key, the recurrent products read `m ⊙ h / (1−rate)` in the place of `h`, with one mask
    `m` of zeros (with probability `rate`) and ones for each row: the same at every step, in every
    gate and after resets. What a GRU's update gate mixes stays whole. Without a key it is the
    cell itself. Parameters and carries are the cell's own. The mask for the inputs in the same
    paper is `gr.dropout(rate, shared_in_time=True)` in front.

    Attributes:
      cell: the cell, with a rule that takes a mask, as those of this library do.
      rate: the probability of a zero, in `[0, 1)`.

    Raises:
      TypeError: a cell whose rule takes no mask; `gr.Zoneout` goes outside, around this one.
      ValueError: a rate out of range.

    Example:
      >>> cell = gr.RecurrentDropout(gr.GRU(3), 0.25)
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> xs = jnp.ones((5, 4, 2), "float32")
      >>> carry, ys = gr.unroll(cell, params, xs, key=jax.random.key(1))  # in training
      >>> cell, carry.h.shape, ys.shape
      (RecurrentDropout(GRU(3), 0.25), (4, 3), (5, 4, 3))
    """

    cell: RuledCell
    rate: float

    __repr__ = short_repr

    def __post_init__(self) -> None:
        rule = rule_of(self.cell)
        check_inner(
            self.cell,
            fits=rule is not None and rule.takes_mask,
            expected="a cell with a rule that takes a mask, like gr.LSTM(256)",
        )
        checks.rate("rate", self.rate)
        object.__setattr__(self, "rate", float(self.rate))  # NumPy's would promote

    @property
    def rule(self) -> Rule:
        """The rule of the inner cell, with the mask."""
        return Rule(
            project,
            recur,
            linearize,
            backward,
            contract,
            prepare,
            has_cell_path=self.cell.rule.has_cell_path,
            gate_names=self.cell.rule.gate_names,
        )

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> Params:
        """The cell's parameters."""
        return self.cell.init(key, in_features, dtype)

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Carry:
        """The cell's initial carry."""
        return self.cell.carry(batch_shape, dtype)

    def step(
        self,
        params: Params,
        carry: Carry,
        x: Array,
        *,
        key: Array | None = None,
        first_step: int | Array = 0,
    ) -> tuple[Carry, Array]:
        """One time step: `x [*B, I]` -> the new carry and the output; every step has one mask."""
        return ruled_step(self, params, carry, x, key=key, first_step=first_step)

    def draw(self, keys: Array, params: Params, xs: Array, steps: Array) -> tuple[Params, Array]:
        """Bind a mask for each row, drawn from its key of `keys [*B]`, to the parameters."""
        output = first_leaf(jax.eval_shape(lambda: self.cell.carry((), xs.dtype)))
        keep = kept(keys, self.rate, output.shape)
        return MaskedParams(params, RowMasks(keep.astype(xs.dtype) / (1 - self.rate))), xs
