"""What a cell is, and what a hand-derived backward rule is made of.

Axes: `*B` any batch axes, `T` time, `I` input features, `F` output features.
The cells implement this interface and the engine runs it; neither imports the other.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
from jax import Array
from jax.typing import DTypeLike

Params = Any  # a pytree of arrays
Carry = Any  # a pytree of arrays [*B, ...]
Route = Literal["hand", "autodiff"]  # which of the two backward passes runs


class Rule(NamedTuple):
    """A backward pass derived by hand: pure functions of a cell, without any loop over time.

    The engine owns time, batch, masks, resets, truncation, clipping and memory; the functions hold
    the equations. Leading axes are `...`: a batch in the two sequential ones, time and batch in the
    others, so each must work for any number of them. Kernels (leaves of `params` with two or more
    axes) arrive in the dtype of `xs`. The output of the cell must be the **first leaf of its
    carry**, a tuple or NamedTuple.

    Attributes:
      project: `(cell, params, xs [..., I]) -> a`; all that does not depend on the carry.
      recur: `(cell, params, carry, a) -> (carry, gates)`; the step. `gates` is any pytree that
        the backward pass wants and that can be recomputed. The engine calls it step by step
        forward, and once more on stacked carries to recompute the gates of many steps at once.
      linearize: `(cell, params, before, after, gates) -> local`; what the reverse step
        needs, from the carry before and after each step. Element-wise work and large products.
      backward: `(cell, params, local, dcarry) -> (dcarry, delta)`; the reverse step. `dcarry` is
        `δcarry_t` in full, what reaches it from the loss at `t` included; `delta` is any pytree.
      contract: `(cell, params, xs, before, after, gates, local, delta) -> (dparams, dxs)`; the
        sums over time and every batch axis, as large products.
      prepare: `(cell, params) -> (ahead, back)`: the weights laid out for the loops, once before
        any, so that no step has to slice or transpose them. In the forward pass `project` and
        `recur` get `ahead` for `params`, in the reverse one `backward` gets `back`; gates that are
        recomputed for many steps at once, and all else, are made from `params` as they are. None:
        those for all.
      has_cell_path: whether `recur` and `backward` take `cell_path_only=True`, which cuts the
        gradient through the recurrent input for the state and keeps it for the weights.
      takes_mask: whether `recur`, `backward` and `contract` take `mask=`, which multiplies the
        recurrent input `[..., F]` where the products read it, and nowhere else.
      gate_names: the fields of `gates`, then a NamedTuple, that are gates: between 0, closed, and
        1, open; `"inner.i"` is a field of a field. What `gr.diagnostics.gates` shows.
    """

    project: Callable[..., Any]
    recur: Callable[..., tuple[Carry, Any]]
    linearize: Callable[..., Any]
    backward: Callable[..., tuple[Carry, Any]]
    contract: Callable[..., tuple[Params, Array]]
    prepare: Callable[..., tuple[Any, Any]] | None = None
    has_cell_path: bool = False
    takes_mask: bool = False
    gate_names: tuple[str, ...] = ()


@runtime_checkable
class Cell(Protocol):
    """One step of a recurrent network: a hashable value, usually a frozen dataclass.

    A cell may carry a class attribute `rule` of type `Rule`, its backward pass derived by hand;
    without one it is differentiated by JAX.
    """

    def __hash__(self) -> int:
        """Cells compare by value: compiled programs are looked up by them."""
        ...

    def init(self, key: Array, in_features: int, dtype: DTypeLike = ...) -> Params:
        """New parameters, a pytree of arrays."""
        ...

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = ...) -> Carry:
        """The initial carry, usually zeros, for inputs of `dtype`."""
        ...

    def step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """One time step: `x [*B, I]` -> the new carry and the output `[*B, F]`."""
        ...


class Bound:
    """A value bound to parameters for the length of a run: `init` leaves None in its place."""


def unbound(params: Params) -> Params:
    """Return `params` as `init` makes them: None in place of every bound value."""

    def is_bound(node: Any) -> bool:
        return isinstance(node, Bound)

    if not any(map(is_bound, jax.tree.leaves(params, is_leaf=is_bound))):
        return params
    return jax.tree.map(lambda node: None if is_bound(node) else node, params, is_leaf=is_bound)


def nested(field: str, rule: Rule) -> tuple[str, ...]:
    """The names of the gates of `rule`, in a `field` of the gates of a cell around its cell."""
    return tuple(f"{field}.{name}" for name in rule.gate_names)


def rule_of(cell: Any) -> Rule | None:
    """The backward rule of `cell`, of sequences or of trees, if it has one."""
    return getattr(cell, "rule", None)


def prepared(rule: Rule, cell: Any, params: Params) -> tuple[Any, Any]:
    """What the steps of `rule` read instead of `params`, forward and backward."""
    return (params, params) if rule.prepare is None else rule.prepare(cell, params)


class RuledCell(Cell, Protocol):
    """A cell with a backward rule of its own."""

    @property
    def rule(self) -> Rule:
        """Usually a class attribute."""
        ...
