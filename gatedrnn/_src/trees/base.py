"""What a cell of a recursive network is.

Axes: `*B` any batch axes, `K` children of a node, `I` input features.
The cells implement this interface and the tree engine runs it; neither imports the other.
"""

from typing import Any, ClassVar, Protocol, runtime_checkable

from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src.base import Params, Rule

State = Any  # a pytree of arrays [*B, ...], one state for each node


@runtime_checkable
class TreeCell(Protocol):
    """One node of a recursive network: a hashable value, usually a frozen dataclass.

    A child that is absent has a zero state, as have all children of a leaf. A cell with a place for
    each child says how many in an attribute or field `children`; without one, or where that is
    None, it takes any number.

    A cell may carry a class attribute `rule` of type `gr.Rule`, its backward pass derived by hand;
    without one it is differentiated by JAX. What the rule calls the carry before a step are here
    the states of the children, `[..., K, *]` in every leaf, and the carry after it is the state of
    the node. `backward` returns the cotangents of the children, or of every place that there is.
    The rule must work for any `K` up to `children`: a leaf has `K = 0`, so that nothing is
    multiplied by zeros. `gr.check_tree_rule` checks it.
    """

    def __hash__(self) -> int:
        """Cells compare by value: compiled programs are looked up by them."""
        ...

    def init(self, key: Array, in_features: int, dtype: DTypeLike = ...) -> Params:
        """New parameters, a pytree of arrays."""
        ...

    def state(self, batch_shape: tuple[int, ...], dtype: DTypeLike = ...) -> State:
        """The state of a child that is absent, zeros, for inputs of `dtype`."""
        ...

    def compose(self, params: Params, children: State, x: Array) -> State:
        """One node: states of children `[*B, K, ...]` and `x [*B, I]` -> its state `[*B, ...]`."""
        ...


class RuledTreeCell(TreeCell, Protocol):
    """A cell with a backward rule of its own."""

    rule: ClassVar[Rule]


def places(cell: TreeCell) -> int | None:
    """How many children `cell` has a place for; None: any number."""
    return getattr(cell, "children", None)
