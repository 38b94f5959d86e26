"""A cell whose inputs hold, beside `x`, a perturbation that is added to every new carry.

The gradient with respect to the perturbation, at zero, is `δcarry_t` of every step, by the cell's
own rule and under every option of the engine.

Axes: `...` any leading axes (time, batch), `I` input features, `K` elements of a row of the carry.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src.base import Carry, Cell, Params, Rule, StepRecord, prepared, rule_of
from gatedrnn._src.diagnostics.vectors import flatten, row_size, unflatten


@dataclasses.dataclass(frozen=True, repr=False)
class Probed:
    """The cell `carry' = step(carry, x) + e`, with `e [..., K]` behind `x` on the last axis."""

    cell: Cell

    def __repr__(self) -> str:
        """Return the text of the cell, for errors."""
        return repr(self.cell)

    @property
    def rule(self) -> Rule | None:
        """The rule of the cell, with `δe = δcarry'`; None without one."""
        rule = rule_of(self.cell)
        if rule is None:
            return None
        path = rule.has_cell_path
        return Rule(_project, _recur, _linearize, _backward, _contract, _prepare, path)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Return parameters of the cell."""
        return self.cell.init(key, in_features - row_size(self.cell), dtype)

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Carry:
        """Return the initial carry of the cell."""
        return self.cell.carry(batch_shape, dtype)

    def step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """Return the perturbed carry, and the output: perturbed too, if it is part of the carry."""
        x, e = _split(self, x)
        new, y = self.cell.step(params, carry, x)
        moved = _perturbed(new, e)
        pairs = zip(jax.tree.leaves(new), jax.tree.leaves(moved), strict=True)
        return moved, next((after for before, after in pairs if before is y), y)


def _split(probed: Probed, xs: Array) -> tuple[Array, Array]:
    """Return the inputs of the cell, `[..., I]`, and the perturbation `e [..., K]`."""
    features = xs.shape[-1] - row_size(probed.cell)
    return xs[..., :features], xs[..., features:]


def _perturbed(carry: Carry, e: Array) -> Carry:
    """Return `carry + e`."""
    vectors = flatten(carry, e.ndim - 1)
    return unflatten(vectors + e.astype(vectors.dtype), carry)


def _inner_rule(probed: Probed) -> Rule:
    rule = rule_of(probed.cell)
    assert rule is not None
    return rule


def _prepare(probed: Probed, params: Params) -> tuple[Any, Any]:
    return prepared(_inner_rule(probed), probed.cell, params)


def _project(probed: Probed, params: Params, xs: Array) -> tuple[Any, Array]:
    xs, e = _split(probed, xs)
    return _inner_rule(probed).project(probed.cell, params, xs), e


def _recur(
    probed: Probed, params: Params, carry: Carry, a: tuple[Any, Array], **options: Any
) -> tuple[Carry, Any]:
    a, e = a
    carry, gates = _inner_rule(probed).recur(probed.cell, params, carry, a, **options)
    return _perturbed(carry, e), gates


def _linearize(probed: Probed, params: Params, record: StepRecord) -> Any:
    return _inner_rule(probed).linearize(probed.cell, params, _inner_record(probed, record))


def _inner_record(probed: Probed, record: StepRecord) -> StepRecord:
    """Return `record` with the inputs of the cell alone."""
    return record._replace(xs=_split(probed, record.xs)[0])


def _backward(
    probed: Probed, params: Params, local: Any, dcarry: Carry, **options: Any
) -> tuple[Carry, Any]:
    before, delta = _inner_rule(probed).backward(probed.cell, params, local, dcarry, **options)
    return before, (delta, dcarry)


def _contract(
    probed: Probed, params: Params, record: StepRecord, delta: tuple[Any, Carry]
) -> tuple[Params, Array]:
    delta, dcarry = delta
    record = _inner_record(probed, record)
    dparams, dxs = _inner_rule(probed).contract(probed.cell, params, record, delta)
    de = flatten(dcarry, record.xs.ndim - 1)
    return dparams, jnp.concatenate([dxs.astype(de.dtype), de], axis=-1)
