"""Zoneout: units that keep their value at random.

Axes: `...` any leading axes, `T` time, `*B` batch, `I` input features, `F` features of a leaf.
"""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.base import (
    Carry,
    Params,
    Rule,
    RuledCell,
    StepRecord,
    nested_gate_names,
    prepared,
)
from gatedrnn._src.cells.common import ruled_step
from gatedrnn._src.describe import short_repr
from gatedrnn._src.masks import (
    Keyed,
    check_inner,
    draws,
    draws_each_step,
    over_all_axes,
    step_keys,
)

# The equation (Krueger et al. 2017), for each leaf v of the carry (h and c of an LSTM), where v̂_t
# is what the cell itself makes of the carry before; an LSTM's ĥ_t comes of its own ĉ_t, not c_t:
#
#   v_t = d_t ⊙ v_{t-1} + (1 − d_t) ⊙ v̂_t
#
# with a Bernoulli d_t of the leaf's own rate, drawn anew for every step, row and unit; without a
# key d_t is that rate, its expectation.

Keep = tuple[Array | None, ...]  # the drawn d of each leaf, booleans [..., F]; None: its rate


class ZoneoutGates(NamedTuple):
    """The gates of a step."""

    inner: Any  # those of the inner cell
    made: Carry  # v̂_t
    keep: Keep


def project(cell: "Zoneout", params: Params, xs: Array | Keyed) -> tuple[Any, Keep]:
    """Return the projection of the inner cell, and `d` of each leaf."""
    inner = cell.cell
    if not isinstance(xs, Keyed):
        return inner.rule.project(inner, params, xs), (None,) * len(cell.rates)
    xs, keys = xs
    assert keys is not None
    leaves = jax.tree.leaves(jax.eval_shape(lambda: inner.carry((), xs.dtype)))
    sizes = [leaf.shape[-1] if r else 0 for r, leaf in zip(cell.rates, leaves, strict=True)]

    def drawn(key: Array) -> Keep:
        chance = jax.random.uniform(key, (sum(sizes),), jnp.float32)
        parts = jnp.split(chance, list(itertools.accumulate(sizes))[:-1])
        return tuple(p < r if r else None for r, p in zip(cell.rates, parts, strict=True))

    return inner.rule.project(inner, params, xs), over_all_axes(drawn, keys)


def recur(
    cell: "Zoneout", params: Params, carry: Carry, a: tuple[Any, Keep], **options: Any
) -> tuple[Carry, ZoneoutGates]:
    """Return the next carry, in which the units that `d` chooses keep their value, and gates."""
    inner, (a, keep) = cell.cell, a
    made, gates = inner.rule.recur(inner, params, carry, a, **options)
    return _mixed(cell, keep, carry, made), ZoneoutGates(gates, made, keep)


def _mixed(cell: "Zoneout", keep: Keep, old: Carry, new: Carry) -> Carry:
    """Return `d ⊙ old + (1 − d) ⊙ new`, leaf by leaf."""

    def mix(rate: float, d: Array | None, old: Array, new: Array) -> Array:
        if d is not None:
            return jnp.where(d, old, new)
        return rate * old + (1 - rate) * new if rate else new

    leaves, structure = jax.tree.flatten(old)
    mixed = map(mix, cell.rates, keep, leaves, jax.tree.leaves(new))
    return jax.tree.unflatten(structure, list(mixed))


# The rule. The share 1 − d of what reaches v_t goes on into the cell's own rule, the share d past
# it, to v_{t-1}; d is a constant:
#
#   δv̂_t = (1 − d_t) ⊙ δv_t        δv_{t-1} = d_t ⊙ δv_t + (what the cell's rule makes of δv̂_t)


class ZoneoutLocal(NamedTuple):
    """The local derivatives of a step."""

    inner: Any  # those of the inner cell
    keep: Keep


def prepare(cell: "Zoneout", params: Params) -> tuple[Any, Any]:
    """Return the layouts of the inner cell."""
    return prepared(cell.cell.rule, cell.cell, params)


def _inner_record(record: StepRecord[Carry, ZoneoutGates, Any]) -> StepRecord:
    """Return the record of the inner cell's own steps, from `v_{t-1}` to `v̂_t`."""
    xs = record.xs.xs if isinstance(record.xs, Keyed) else record.xs
    local = None if record.local is None else record.local.inner
    return StepRecord(xs, record.before, record.gates.made, record.gates.inner, local)


def linearize(
    cell: "Zoneout", params: Params, record: StepRecord[Carry, ZoneoutGates, None]
) -> ZoneoutLocal:
    """Return the local derivatives of the inner cell's own steps, and `d`."""
    local = cell.cell.rule.linearize(cell.cell, params, _inner_record(record))
    return ZoneoutLocal(local, record.gates.keep)


def backward(
    cell: "Zoneout", params: Params, local: ZoneoutLocal, dcarry: Carry, **options: Any
) -> tuple[Carry, Any]:
    """Return `δv_{t-1}` from `δv_t`, and the cotangents that the inner cell's rule keeps."""
    inner, none = cell.cell, jax.tree.map(jnp.zeros_like, dcarry)
    past, dmade = _mixed(cell, local.keep, dcarry, none), _mixed(cell, local.keep, none, dcarry)
    dbefore, delta = inner.rule.backward(inner, params, local.inner, dmade, **options)
    return jax.tree.map(jnp.add, dbefore, past), delta


def contract(
    cell: "Zoneout",
    params: Params,
    record: StepRecord[Carry, ZoneoutGates, ZoneoutLocal],
    delta: Any,
) -> tuple[Params, Any]:
    """Return the sums of the inner cell's rule."""
    dparams, dxs = cell.cell.rule.contract(cell.cell, params, _inner_record(record), delta)
    return dparams, Keyed(dxs, None) if isinstance(record.xs, Keyed) else dxs


@dataclasses.dataclass(frozen=True, repr=False)
class Zoneout:
    """A cell whose units keep their value at random (Krueger et al. 2017).

    `h' = d ⊙ h + (1−d) ⊙ ĥ` and `c' = e ⊙ c + (1−e) ⊙ ĉ`, with `ĥ, ĉ` what the cell makes of `h, c`
    (and `ĥ` made from `ĉ`, not from `c'`). With a key, `d` and `e` are 1 with the probability of
    their rates, drawn anew for every step, row and unit; without one they are the rates, their
    expectations. Parameters and carries are the cell's own.

    The masks follow from the key, the row and the number of the row's step since its initial carry
    or its last reset, in the order in which steps run; masked steps do not count.

    Attributes:
      cell: the cell, which has a rule; `gr.RecurrentDropout` of one too.
      h: the rate of the first leaf of its carry, the output, in `[0, 1)`.
      c: the rate of the second, the memory of an LSTM, in `[0, 1)`.

    Raises:
      TypeError: a cell without a rule, one that is zoned already, or one around another cell's
        carry, such as `gr.Attention`.
      ValueError: a rate out of range, or a `c` for a cell without a memory.

    Example:
      >>> cell = gr.Zoneout(gr.LSTM(3), h=0.05, c=0.5)
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> xs = jnp.ones((5, 4, 2), "float32")
      >>> carry, ys = gr.unroll(cell, params, xs, key=jax.random.key(1))  # in training
      >>> cell, carry.c.shape, ys.shape
      (Zoneout(LSTM(3), h=0.05, c=0.5), (4, 3), (5, 4, 3))
    """

    cell: RuledCell
    h: float = 0.0
    c: float = 0.0

    draws_each_step = True
    __repr__ = short_repr

    def __post_init__(self) -> None:
        fits = not draws_each_step(self.cell)
        check_inner(self.cell, fits=fits, expected="a cell with a rule, itself not gr.Zoneout")
        if not all(hasattr(leaf, "shape") for leaf in jax.eval_shape(lambda: self.cell.carry(()))):
            raise TypeError(
                f"cell: got {self.cell!r}, expected one whose carry holds arrays alone: h and c "
                "are the first two"
            )
        for name in ("h", "c"):
            checks.rate(name, getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))  # NumPy's would promote
        if self.c and self._leaves() < 2:
            raise ValueError(f"c: got {self.c}, expected 0.0: {self.cell!r} has no memory beside h")

    def _leaves(self) -> int:
        return len(jax.tree.leaves(jax.eval_shape(lambda: self.cell.carry(()))))

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates of all leaves of the carry."""
        leaves = self._leaves()
        return (self.h, self.c, *(0.0,) * leaves)[:leaves]

    @property
    def rule(self) -> Rule:
        """The rule of the inner cell, with the share `d` of the cotangents led past it."""
        return Rule(
            project,
            recur,
            linearize,
            backward,
            contract,
            prepare,
            has_cell_path=self.cell.rule.has_cell_path,
            gate_names=nested_gate_names("inner", self.cell.rule),
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
        """One time step: `x [*B, I]` -> the new carry and the output.

        With a key, `first_step` is the number of steps since each row's initial carry, `[*B]` or
        one for all.
        """
        return ruled_step(self, params, carry, x, key=key, first_step=first_step)

    def draw(self, keys: Array, params: Params, xs: Array, steps: Array) -> tuple[Params, Keyed]:
        """Bind a key for each row and step, from `keys [*B]` and `steps [T, *B]`, to the inputs."""
        own, of_cell = jnp.moveaxis(over_all_axes(jax.random.split, keys), -1, 0)
        if draws(self.cell):
            params, _ = self.cell.draw(of_cell, params, xs, steps)
        return params, Keyed(xs, step_keys(own, steps))
