"""The interface of a cell of a recursive network.

Axes: `*B` any batch axes, `K` children of a node, `I` input features.
The cells implement this interface and the tree engine runs it; neither imports the other.
"""

from typing import Any, ClassVar, Protocol, runtime_checkable

from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src.base import C, P, Rule

State = Any  # a pytree of arrays [*B, ...], one state for each node


@runtime_checkable
class TreeCell(Protocol[P, C]):
    """One node of a recursive network: a hashable value, usually a frozen dataclass.

    `TreeCell[P, C]` has parameters of type `P` and states of type `C`. A child that is absent has a
    zero state, as have all children of a leaf. A cell with a place for each child has their number
    in an attribute or field `children`; without one, or where `children` is None, the cell takes
    any number.

    A cell may have a class attribute `rule` of type `gr.Rule`, its backward pass derived by hand;
    without one, JAX differentiates the cell. In the rule and in its `gr.StepRecord`, the states of
    the children, `[..., K, *]` in every leaf, stand for the carry before a step, and the state of
    the node for the carry after the step. `backward` returns the cotangents of the children, or of
    every place that there is. The rule must work for any `K` up to `children`: a leaf has `K = 0`,
    so that nothing is multiplied by zeros. `gr.check_tree_rule` checks a rule.

    Example:
      >>> import dataclasses
      >>> @dataclasses.dataclass(frozen=True)
      ... class Sum:  # the sum of all leaves below a node
      ...     features: int
      ...     def init(self, key, in_features, dtype=jnp.float32):
      ...         return jnp.ones((in_features, self.features), dtype)
      ...     def state(self, batch_shape, dtype=jnp.float32):
      ...         return jnp.zeros((*batch_shape, self.features), dtype)
      ...     def compose(self, kernel, children, x):
      ...         return children.sum(axis=-2) + x @ kernel
      >>> cell, forest = Sum(1), gr.forest([(((), ()), ())])  # 3 leaves
      >>> xs = forest.place([jnp.array([[1.0], [2], [0], [3], [0]], "float32")])
      >>> roots, states = gr.fold_tree(cell, cell.init(jax.random.key(0), 1), xs, forest)
      >>> isinstance(cell, gr.TreeCell), roots.tolist()
      (True, [[6.0]])
    """

    def __hash__(self) -> int:
        """Return the hash of the cell's value: compiled programs are looked up by it."""
        ...

    def init(self, key: Array, in_features: int, dtype: DTypeLike = ...) -> P:
        """Return new parameters, a pytree of arrays."""
        ...

    def state(self, batch_shape: tuple[int, ...], dtype: DTypeLike = ...) -> C:
        """Return the state of a child that is absent, zeros, for inputs of `dtype`."""
        ...

    def compose(self, params: P, children: C, x: Array) -> C:
        """Return the state `[*B, ...]` of a node, from children `[*B, K, ...]` and `x [*B, I]`."""
        ...


class RuledTreeCell(TreeCell[P, C], Protocol[P, C]):
    """A cell with a backward rule of its own."""

    rule: ClassVar[Rule]


def places(cell: TreeCell) -> int | None:
    """Return the number of children that `cell` has a place for; None: any number."""
    return getattr(cell, "children", None)
