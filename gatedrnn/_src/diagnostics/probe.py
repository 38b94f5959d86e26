"""A cell whose inputs carry, beside `x`, something that is added to every new carry.

The gradient with respect to it, at zero, is `δcarry_t` of every step, by the cell's own rule and
under every option of the engine.

Axes: `...` any leading axes (time, batch), `I` input features, `K` elements of a row of the carry.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src.base import Carry, Cell, Params, Rule, prepared, rule_of
from gatedrnn._src.diagnostics.vectors import flatten, row_size, unflatten


@dataclasses.dataclass(frozen=True, repr=False)
class Probed:
    """`carry' = step(carry, x) + e`, with `e [..., K]` behind `x` on the inputs' last axis."""

    cell: Cell

    def __repr__(self) -> str:
        """That of the cell, which errors are about."""
        return repr(self.cell)

    @property
    def rule(self) -> Rule | None:
        """The cell's own, where it has one, with `δe = δcarry'`."""
        rule = rule_of(self.cell)
        if rule is None:
            return None
        path = rule.has_cell_path
        return Rule(_project, _recur, _linearize, _backward, _contract, _prepare, path)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> Params:
        """The cell's own."""
        return self.cell.init(key, in_features - row_size(self.cell), dtype)

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Carry:
        """The cell's own."""
        return self.cell.carry(batch_shape, dtype)

    def step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """An output that is an array of the carry moves with it."""
        x, e = _apart(self, x)
        new, y = self.cell.step(params, carry, x)
        moved = _add(new, e)
        pairs = zip(jax.tree.leaves(new), jax.tree.leaves(moved), strict=True)
        return moved, next((after for before, after in pairs if before is y), y)


def _apart(probed: Probed, xs: Array) -> tuple[Array, Array]:
    features = xs.shape[-1] - row_size(probed.cell)
    return xs[..., :features], xs[..., features:]


def _add(carry: Carry, e: Array) -> Carry:
    flat = flatten(carry, e.ndim - 1)
    return unflatten(flat + e.astype(flat.dtype), carry)


def _own(probed: Probed) -> Rule:
    rule = rule_of(probed.cell)
    assert rule is not None
    return rule


def _prepare(probed: Probed, params: Params) -> tuple[Any, Any]:
    return prepared(_own(probed), probed.cell, params)


def _project(probed: Probed, params: Params, xs: Array) -> tuple[Any, Array]:
    xs, e = _apart(probed, xs)
    return _own(probed).project(probed.cell, params, xs), e


def _recur(
    probed: Probed, params: Params, carry: Carry, a: tuple[Any, Array], **options: Any
) -> tuple[Carry, Any]:
    a, e = a
    carry, gates = _own(probed).recur(probed.cell, params, carry, a, **options)
    return _add(carry, e), gates


def _linearize(probed: Probed, params: Params, before: Carry, after: Carry, gates: Any) -> Any:
    return _own(probed).linearize(probed.cell, params, before, after, gates)


def _backward(
    probed: Probed, params: Params, local: Any, dcarry: Carry, **options: Any
) -> tuple[Carry, Any]:
    before, delta = _own(probed).backward(probed.cell, params, local, dcarry, **options)
    return before, (delta, dcarry)


def _contract(
    probed: Probed,
    params: Params,
    xs: Array,
    before: Carry,
    after: Carry,
    gates: Any,
    local: Any,
    delta: tuple[Any, Carry],
) -> tuple[Params, Array]:
    xs, _ = _apart(probed, xs)
    delta, dcarry = delta
    known = (xs, before, after, gates, local, delta)
    dparams, dxs = _own(probed).contract(probed.cell, params, *known)
    de = flatten(dcarry, xs.ndim - 1)
    return dparams, jnp.concatenate([dxs.astype(de.dtype), de], axis=-1)
