"""The interface of a cell, and of a backward pass that is derived for it by hand.

Axes: `*B` any batch axes, `...` any leading axes (time, batch), `T` time, `I` input features, `F`
output features. The cells implement this interface and the engine runs it; neither imports the
other.
"""

import dataclasses
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src.describe import documented
from gatedrnn._src.loops import Kernel

Params = Any  # a pytree of arrays
Carry = Any  # a pytree of arrays [*B, ...]
Route = Literal["hand", "autodiff"]  # which of the two backward passes runs

P = TypeVar("P")  # the parameters of a cell
C = TypeVar("C")  # the carry of a cell, or the state of a cell of trees
G = TypeVar("G")  # its gates
L = TypeVar("L")  # its local derivatives


# ------------------------------------------------------------------------------ rules


@documented
class StepRecord(NamedTuple, Generic[C, G, L]):
    """The record of many steps after the forward pass, from which a `gr.Rule` forms gradients.

    Every leaf has the leading axes `...`: time and batch, or for cells of trees the nodes.

    Attributes:
      xs: the inputs, `[..., I]`.
      before: the carry before each step; for cells of trees the states of `K` children,
        `[..., K, *]` in every leaf.
      after: the carry after each step; for cells of trees the state of the node.
      gates: the gates, the second value that `recur` returns.
      local: the local derivatives that `linearize` makes of the record; None until then.

    Example:
      >>> cell, x = gr.Elman(3), jnp.ones((4, 2), "float32")
      >>> params, before = cell.init(jax.random.key(0), 2), cell.carry((4,))
      >>> after, gates = cell.rule.recur(cell, params, before, cell.rule.project(cell, params, x))
      >>> record = gr.StepRecord(x, before, after, gates)
      >>> record = record._replace(local=cell.rule.linearize(cell, params, record))
      >>> dparams, dx = cell.rule.contract(cell, params, record, jnp.ones((4, 3), "float32"))
      >>> dparams.kernel.shape, dx.shape
      ((2, 3), (4, 2))
    """

    xs: Any
    before: C
    after: C
    gates: G
    local: L = None  # type: ignore[assignment]


class Project(Protocol):
    """The part of a step that does not depend on the carry."""

    def __call__(self, cell: Any, params: Params, xs: Any, /) -> Any:
        """Return the projected inputs of many steps at once, in one large product.

        Args:
          cell: the cell.
          params: its parameters, in the layout that `prepare` makes for the forward pass.
          xs: the inputs, `[..., I]`.

        Returns:
          The projection `a`, any pytree of arrays `[..., *]`.
        """
        ...


class Recur(Protocol):
    """The sequential part of a step."""

    def __call__(
        self, cell: Any, params: Params, carry: Carry, a: Any, /, *_: Any, **options: Any
    ) -> tuple[Carry, Any]:
        """Return the next carry and the gates.

        The engine calls `recur` step by step in the forward pass, and once more on the carries of
        many steps, stacked, to make their gates again.

        Args:
          cell: the cell.
          params: its parameters, in the layout that `prepare` makes for the forward pass, or, where
            gates are made again, as they are.
          carry: the carry before the step, `[..., *]` in every leaf.
          a: the projected inputs of the step.
          options: `cell_path_only` and `mask`, for rules that say that they take them.

        Returns:
          The carry after the step, of which the first leaf is the output `[..., F]`; and the gates,
          any pytree that the backward pass reads and that can be made again from the arguments.
        """
        ...


class Linearize(Protocol):
    """The local derivatives of steps."""

    def __call__(self, cell: Any, params: Params, record: StepRecord, /) -> Any:
        """Return the factors that the reverse step multiplies by, for many steps at once.

        Args:
          cell: the cell.
          params: its parameters as they are.
          record: the steps; `record.local` is None.

        Returns:
          The local derivatives, any pytree of arrays `[..., *]`: element-wise work and large
          products, no loop.
        """
        ...


class Backward(Protocol):
    """The sequential part of the reverse pass."""

    def __call__(
        self, cell: Any, params: Params, local: Any, dcarry: Carry, /, *_: Any, **options: Any
    ) -> tuple[Carry, Any]:
        """Return the cotangent of the carry before the step, and the cotangents to keep.

        Args:
          cell: the cell.
          params: its parameters, in the layout that `prepare` makes for the reverse pass.
          local: the local derivatives of the step.
          dcarry: `δcarry_t` in full, `[..., *]` in every leaf, in at least float32: the sum of all
            that reaches the carry from later steps and from the loss at `t`.
          options: `cell_path_only` and `mask`, for rules that say that they take them.

        Returns:
          `δcarry_{t-1}`, without the loss at `t-1`; and the cotangents kept for each step, any
          pytree of arrays `[..., *]`, from which `contract` forms the weight gradients.
        """
        ...


class Contract(Protocol):
    """The sums over time and batch."""

    def __call__(
        self, cell: Any, params: Params, record: StepRecord, delta: Any, /, *_: Any, **options: Any
    ) -> tuple[Params, Any]:
        """Return the gradients of parameters and inputs, in large products.

        Args:
          cell: the cell.
          params: its parameters as they are.
          record: the steps, `record.local` included.
          delta: the cotangents that `backward` kept for each step, stacked.
          options: `mask`, for rules that say that they take it.

        Returns:
          `δparams`, summed over all leading axes and shaped as the parameters; and `δxs [..., I]`.
        """
        ...


class Prepare(Protocol):
    """The layouts of the weights for the loops."""

    def __call__(self, cell: Any, params: Params, /) -> tuple[Any, Any]:
        """Return the parameters as `project` and `recur` read them, and as `backward` does.

        Called once before any loop, so that no step has to slice or transpose a weight.
        """
        ...


@documented
class Rule(NamedTuple):
    """A backward pass derived by hand: pure functions of a cell, without any loop over time.

    The engine owns time, batch, masks, resets, truncation, clipping and memory; the functions hold
    the equations. Leading axes are `...`: a batch in the two sequential functions, time and batch
    in the others, so each function must work for any number of them. Kernels (leaves of `params`
    with two or more axes) arrive in the dtype of `xs`. The output of the cell must be the **first
    leaf of its carry**, a tuple or NamedTuple.

    After the forward pass the engine makes one `gr.StepRecord` for many steps: their inputs, the
    carries before and after each, and the gates (saved, or made again by `recur`). `linearize`
    reads the record and returns the local derivatives, which the engine puts in `record.local` and
    hands, step by step in reverse, to `backward`; `contract` reads the complete record and the
    cotangents that `backward` kept for each step.

    Attributes:
      project: `(cell, params, xs) -> a`; the part of a step that does not depend on the carry.
      recur: `(cell, params, carry, a) -> (carry, gates)`; the sequential part of a step.
      linearize: `(cell, params, record) -> local`; the local derivatives of many steps.
      backward: `(cell, params, local, dcarry) -> (dcarry, delta)`; the reverse step. `dcarry` is
        `δcarry_t` in full, the loss at `t` included; `delta` the cotangents that `contract` needs.
      contract: `(cell, params, record, delta) -> (dparams, dxs)`; the sums over time and every
        batch axis, as large products.
      prepare: `(cell, params) -> (forward, reverse)`; the weights laid out for the loops, once
        before any. In the forward pass `project` and `recur` get `forward` for `params`, in the
        reverse pass `backward` gets `reverse`; where gates are made again for many steps, and
        elsewhere, `params` are as they are. None: `params` for all.
      has_cell_path: True where `recur` and `backward` take `cell_path_only=True`, which cuts the
        gradient through the recurrent input for the state and keeps it for the weights.
      takes_mask: True where `recur`, `backward` and `contract` take `mask=`, which multiplies the
        recurrent input `[..., F]` where the products read it, and nowhere else.
      gate_names: the fields of `gates`, then a NamedTuple, that are gates: between 0, closed, and
        1, open; `"inner.i"` is a field of a field. `gr.diagnostics.gates` shows them.
      kernels: the kernels that can run the sequential functions, `recur` and `backward`; see
        `gr.Kernel`. Without any, and where none fits, `jax.lax.scan` runs them.

    Example:
      >>> cell, xs = gr.GRU(3), jnp.ones((5, 4, 2), "float32")
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> [a.shape for a in cell.rule.project(cell, params, xs)]  # of r, z and n
      [(5, 4, 3), (5, 4, 3), (5, 4, 3)]
      >>> cell.rule.gate_names, cell.rule.takes_mask
      (('r', 'z'), True)
    """

    project: Project
    recur: Recur
    linearize: Linearize
    backward: Backward
    contract: Contract
    prepare: Prepare | None = None
    has_cell_path: bool = False
    takes_mask: bool = False
    gate_names: tuple[str, ...] = ()
    kernels: tuple[Kernel, ...] = ()


# ------------------------------------------------------------------------------ cells


@runtime_checkable
class Cell(Protocol[P, C]):
    """One step of a recurrent network: a hashable value, usually a frozen dataclass.

    `Cell[P, C]` has parameters of type `P` and a carry of type `C`. A cell may have a class
    attribute `rule` of type `gr.Rule`, its backward pass derived by hand; without one, JAX
    differentiates the cell.

    Example:
      >>> import dataclasses
      >>> @dataclasses.dataclass(frozen=True)
      ... class Average:  # h' = 0.9 h + x U
      ...     features: int
      ...     def init(self, key, in_features, dtype=jnp.float32):
      ...         return jax.random.normal(key, (in_features, self.features), dtype)
      ...     def carry(self, batch_shape, dtype=jnp.float32):
      ...         return jnp.zeros((*batch_shape, self.features), dtype)
      ...     def step(self, kernel, h, x):
      ...         h = 0.9 * h + x @ kernel
      ...         return h, h
      >>> cell, xs = Average(3), jnp.ones((5, 4, 2), "float32")
      >>> carry, ys = gr.unroll(cell, cell.init(jax.random.key(0), 2), xs)
      >>> isinstance(cell, gr.Cell), ys.shape
      (True, (5, 4, 3))
    """

    def __hash__(self) -> int:
        """Return the hash of the cell's value: compiled programs are looked up by it."""
        ...

    def init(self, key: Array, in_features: int, dtype: DTypeLike = ...) -> P:
        """Return new parameters, a pytree of arrays."""
        ...

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = ...) -> C:
        """Return the initial carry, usually zeros, for inputs of `dtype`."""
        ...

    def step(self, params: P, carry: C, x: Array) -> tuple[C, Array]:
        """Return the new carry and the output `[*B, F]` of one time step, from `x [*B, I]`."""
        ...


class RuledCell(Cell[P, C], Protocol[P, C]):
    """A cell with a backward rule of its own."""

    @property
    def rule(self) -> Rule:
        """The rule, usually a class attribute."""
        ...


def rule_of(cell: Any) -> Rule | None:
    """Return the backward rule of `cell`, over sequences or trees, or None without one."""
    return getattr(cell, "rule", None)


def prepared(rule: Rule, cell: Any, params: Params) -> tuple[Any, Any]:
    """Return `params` in the layouts that the steps of `rule` read, forward and in reverse."""
    return (params, params) if rule.prepare is None else rule.prepare(cell, params)


def nested_gate_names(field: str, rule: Rule) -> tuple[str, ...]:
    """Return the names of the gates of `rule`, each below `field`: as an outer cell has them."""
    return tuple(f"{field}.{name}" for name in rule.gate_names)


# --------------------------------------------------------- shared by rows, bound to parameters


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shared:
    """A value in a carry that all rows share, such as a random key or a count of all steps.

    Every other leaf of a carry is `[*B, ...]`, batch axes first. A choice of rows leaves a shared
    value alone: every step replaces it, a masked step too, and resets do not. A cell with a rule
    has none.

    Attributes:
      value: any pytree of arrays.

    Example:
      >>> carry = (jnp.zeros((2, 3)), gr.Shared(jax.random.key(0)))
      >>> gr.take_rows(carry, 0)[0].shape
      (3,)
    """

    value: Any


def is_shared(node: Any) -> bool:
    """Return True for a `Shared`; the `is_leaf` of functions that choose rows."""
    return isinstance(node, Shared)


class Bound:
    """A value bound to parameters for the length of a run: `init` leaves None in its place.

    Every array in it is `[*B, ...]`, or has the last axes of `*B` only, and rows share it.
    """

    @property
    def batch_axes(self) -> int:
        """The number of axes of `*B` that its arrays have in front."""
        raise NotImplementedError

    def check(self, name: str) -> None:
        """Raise, with `name` for the value, unless it holds what it should."""


def is_bound(node: Any) -> bool:
    """Return True for a value that is bound to parameters."""
    return isinstance(node, Bound)


def unbound(params: Params) -> Params:
    """Return `params` as `init` makes them: None in place of every bound value."""
    if not any(map(is_bound, jax.tree.leaves(params, is_leaf=is_bound))):
        return params
    return jax.tree.map(lambda node: None if is_bound(node) else node, params, is_leaf=is_bound)
