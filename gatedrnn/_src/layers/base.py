"""The layer: a public edge that checks once, and behind it methods for checked values.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import abc
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from gatedrnn._src import checks, pytree, validation
from gatedrnn._src.base import Carry, Params
from gatedrnn._src.describe import short_repr
from gatedrnn._src.episodes import episode_starts
from gatedrnn._src.integers import as_int32


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["mask", "lengths", "resets", "key"],
    meta_fields=["reverse"],
)
@dataclasses.dataclass(frozen=True)
class Context:
    """All that accompanies a sequence through the layers of a network, checked.

    Attributes:
      mask: `[T, *B]`, False where a step is padding; None: all steps are valid.
      lengths: int32 `[*B]`, where the mask follows from lengths, else None; not clipped.
      resets: `[T, *B]`, True where an episode starts; None: nowhere.
      key: for random masks, one key; None: there are none.
      reverse: whether time runs from the end; static.

    Example:
      >>> gr.Context(mask=jnp.ones((5, 2), bool)).mask.shape
      (5, 2)
    """

    mask: Array | None = None
    lengths: Array | None = None
    resets: Array | None = None
    key: Array | None = None
    reverse: bool = False

    def of_layer(self, index: int | Array) -> "Context":
        """Return the same with the key of one layer among several."""
        return dataclasses.replace(self, key=fold(self.key, index))


class Names(NamedTuple):
    """The names by which errors call the arguments of a layer."""

    params: str = "params"
    xs: str = "xs"
    lengths: str = "lengths"


class Layer(abc.ABC):
    """A pure function of a whole sequence: a hashable value, parameters and carry outside.

    `apply`, `final` and `step` check what they are given, once for a whole network; the methods
    `run`, `run_final` and `run_step` behind them are given what is checked.

    A layer of your own is a frozen dataclass that extends this class with `out_features`, `init`
    and `run`, and with `carry` where it has a state. Its inputs hold zeros where they are masked;
    its outputs are masked for it. Every leaf of its carry is `[*B, ...]`. The rest follows from
    these: `step` runs one step as a sequence, a layer that runs backward in time is given its
    inputs flipped. What is special about it, it says by an attribute such as `causal = False`.

    Example:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Scale(gr.Layer):
      ...     def out_features(self, in_features):
      ...         return in_features
      ...
      ...     def init(self, key, in_features, dtype=jnp.float32):
      ...         return jnp.ones(in_features, dtype)
      ...
      ...     def run(self, params, xs, carry, context):
      ...         return carry, xs * jnp.broadcast_to(params, xs.shape)
      >>> net = gr.stack(gr.GRU(4), Scale())
      >>> net.apply(net.init(jax.random.key(0), 3), jnp.ones((5, 2, 3)))[1].shape
      (5, 2, 4)
    """

    # --------------------------------------------------------------------------- to be called

    def apply(
        self,
        params: Params,
        xs: ArrayLike,
        carry: Carry | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Array]:
        """Run the layer over a whole sequence.

        Args:
          params: the layer's parameters, from `init`, in the dtype of `xs` (or in float32 where
            `xs` is a 16-bit float).
          xs: `[T, *B, I]`, time first; of a layer that reads tokens, integers `[T, *B]`.
          carry: where to start, as `carry` or a window before returns it; None: the layer's own
            initial carry.
          lengths: `[*B]`, integers from 0 to `T`: row `b` has `lengths[b]` steps, the rest is
            padding. Others raise where their values are known. Under `jit` they count as 0 or `T`,
            whichever is nearer, and raise under `checkify.checkify` (user checks) and with
            `jax_debug_nans`.
          mask: `[T, *B]`, booleans of any pattern, instead of `lengths`. A step that is False is
            skipped: it keeps the carry and yields zeros, and whatever it holds, NaN included,
            reaches no output, carry or gradient.
          resets: `[T, *B]`, booleans: True where an episode or a document starts. The step starts
            from the layer's initial carry; that of a masked step is ignored.
          key: for random masks (dropout, zoneout); None: there are none.

        Returns:
          `(carry, ys)`: the carry after each row's last valid step, and the outputs `[T, *B, F]`
          (`[*B, F]` of a layer that drops time).

        Raises:
          TypeError: an argument of another dtype.
          ValueError: an argument of another shape or structure; `lengths` and `mask` together.
        """
        return self.apply_named(Names(), params, xs, carry, lengths, mask, resets, key)

    def apply_named(self, names: Names, *arguments: Any) -> tuple[Carry, Array]:
        """Do what `apply` does, all of whose arguments are given; errors call them by `names`."""
        checked = self._checked(names, *arguments)
        return self._returned(checked[2], *run_layer(self, *checked))

    def final(
        self,
        params: Params,
        xs: ArrayLike,
        carry: Carry | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Array]:
        """Run the layer over a sequence and return the output that belongs to its final carry.

        Args and errors are those of `apply`; a layer that mixes both directions of time raises.

        Returns:
          `(carry, y)`: the carry as `apply` has it, and the output `[*B, F]` of each row's last
          valid step, zeros where there is none.
        """
        checked = self._checked(Names(), params, xs, carry, lengths, mask, resets, key)
        return self._returned(checked[2], *run_layer_final(self, *checked))

    def step(
        self,
        params: Params,
        carry: Carry,
        x: ArrayLike,
        *,
        resets: ArrayLike | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Array]:
        """Run one time step, as `apply` does it within a sequence.

        Args:
          params: the layer's parameters.
          carry: the carry before the step; None: the layer's own initial carry.
          x: `[*B, I]`; of a layer that reads tokens, integers `[*B]`.
          resets: `[*B]`, booleans: True in rows that start from the layer's initial carry.
          key: for random masks, that of `apply`; None: there are none.

        Returns:
          `(carry, y)`: the carry after the step, and the output `[*B, F]`.

        Raises:
          TypeError: a layer that cannot stream, an argument of another dtype.
          ValueError: an argument of another shape or structure.
        """
        return self.step_named(Names(xs="x"), params, carry, x, resets, key)

    def step_named(self, names: Names, *arguments: Any) -> tuple[Carry, Array]:
        """Do what `step` does, all of whose arguments are given; errors call them by `names`."""
        if not self.streams:
            raise TypeError(f"step: {self!r} cannot stream, {self.why_not}; use apply")
        checked = self._checked_step(names, *arguments)
        return self._returned(checked[2], *self.run_step(*checked))

    # ------------------------------------------------------------------------- to be implemented

    @abc.abstractmethod
    def out_features(self, in_features: int | None) -> int | None:
        """Return `F`, for inputs of `in_features`; None stands for tokens."""

    @abc.abstractmethod
    def init(self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32) -> Params:
        """Make new parameters for inputs of `in_features`; None stands for tokens."""

    @abc.abstractmethod
    def run(self, params: Params, xs: Array, carry: Carry, context: Context) -> tuple[Carry, Array]:
        """Run the layer over a sequence whose arguments are checked and masked."""

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
        params: Params | None = None,
    ) -> Carry:
        """Make the initial carry, `[*B, ...]` in every leaf.

        Args:
          batch_shape: `*B`.
          dtype: that of the inputs.
          params: the layer's parameters, where a part of its initial carry is learned.

        Raises:
          ValueError: no parameters, or others, where the initial carry is learned.
        """
        checks.of_state(batch_shape, dtype)
        return ()

    def run_final(
        self, params: Params, xs: Array, carry: Carry, context: Context
    ) -> tuple[Carry, Array]:
        """Do what `final` does, of arguments that are checked and masked."""
        if not self.causal:
            raise ValueError(
                f"final: got {self!r}, expected a causal layer, a bidirectional one, or a stack or "
                "repeat of those: its outputs mix both directions, and none belongs to its final "
                "carry"
            )
        carry, ys = run_layer(self, params, xs, carry, context)
        return carry, last_valid(ys, context.mask, first=context.reverse)

    def run_step(
        self, params: Params, x: Array, carry: Carry, key: Array | None
    ) -> tuple[Carry, Array]:
        """Do what `step` does, of arguments that are checked."""
        carry, ys = self.run(params, x[None], carry, Context(key=key))
        return carry, ys[0]

    def run_last(
        self, params: Params, y: Array, carry: Carry, length: int, context: Context
    ) -> tuple[Carry, Array]:
        """Run a stepwise layer at each row's last valid step alone, `y [*B, I]`, of `length`."""
        return self.run_step(params, y, carry, context.key)

    def parts(self, in_features: int | None) -> list[tuple[str, "Layer", int | None]]:
        """The layers inside, each with a name and the features that it reads; for a summary."""
        return []

    def params_dtype(self, params: Params) -> DTypeLike:
        """The dtype in which a layer that reads tokens computes."""
        return validation.dtype_of_params(params)

    def __repr__(self) -> str:
        """The call that makes the layer, with what differs from the defaults."""
        if not dataclasses.is_dataclass(self):
            return object.__repr__(self)
        return short_repr(self, type(self).__name__.lower())

    # ------------------------------------------------------------------- a layer says of itself

    @property
    def reads_tokens(self) -> bool:
        """True of a layer that reads integers `[T, *B]` instead of features `[T, *B, I]`."""
        return False

    @property
    def drops_time(self) -> bool:
        """True of a layer that makes one output `[*B, F]` of the whole sequence."""
        return False

    @property
    def causal(self) -> bool:
        """True where an output depends on its own step and those before only."""
        return True

    @property
    def stepwise(self) -> bool:
        """True where every step is treated alike and by itself, apart from random masks."""
        return False

    @property
    def masks_outputs(self) -> bool:
        """True where `run` itself returns zeros at masked steps, if its inputs are zeros there."""
        return False

    @property
    def knows_reverse(self) -> bool:
        """True where `run` itself reads `context.reverse`."""
        return False

    @property
    def flips(self) -> bool:
        """True where running backward in time is running forward over flipped inputs."""
        return True

    @property
    def streams(self) -> bool:
        """True where there is a `step`."""
        return self.causal

    @property
    def why_not(self) -> str:
        """The reason why a layer that does not stream cannot."""
        return "its outputs depend on later steps"

    @property
    def label(self) -> str:
        """The name of the layer in a profile."""
        return type(self).__name__

    # ----------------------------------------------------------------------------- the edge

    def _returned(self, given: Carry, carry: Carry, ys: Array) -> tuple[Carry, Array]:
        """The results of a layer; raise where the layer could not go on from its own carry."""
        validation.check_shapes("the carry that `run` returns", carry, given, self)
        return carry, ys

    def _checked(
        self,
        names: Names,
        params: Params,
        xs: Any,
        carry: Carry | None,
        lengths: Any,
        mask: Any,
        resets: Any,
        key: Any,
    ) -> tuple[Params, Array, Carry, Context]:
        """All arguments, checked, cast and masked: nothing inside does any of it again."""
        xs = validation.as_array(names.xs, xs)
        batch_shape = self.check_inputs(names.xs, xs, ("T",))
        mask = validation.as_mask(lengths, mask, xs.shape[0], batch_shape, names.lengths, names.xs)
        if resets is not None:
            resets = validation.as_flags("resets", resets, (xs.shape[0], *batch_shape))
        carry = self._checked_carry(names, params, xs, carry, batch_shape)
        if lengths is not None:
            lengths = as_int32(validation.as_array(names.lengths, lengths))
        key = None if key is None else validation.as_key(key)
        return params, validation.zero_masked(xs, mask), carry, Context(mask, lengths, resets, key)

    def _checked_step(
        self, names: Names, params: Params, carry: Carry, x: Any, resets: Any, key: Any
    ) -> tuple[Params, Array, Carry, Array | None]:
        x = validation.as_array(names.xs, x)
        batch_shape = self.check_inputs(names.xs, x, ())
        carry = self._checked_carry(names, params, x, carry, batch_shape)
        if resets is not None:
            resets = validation.as_flags("resets", resets, batch_shape)
            initial = self.carry(batch_shape, self._dtype(params, x), params)
            carry = pytree.where(resets, initial, carry)
        return params, x, carry, None if key is None else validation.as_key(key)

    def check_inputs(self, name: str, xs: Array, lead: tuple[str, ...]) -> tuple[int, ...]:
        """Raise unless `xs` are inputs of this layer; the batch shape."""
        axes = (*lead, "*B") if self.reads_tokens else (*lead, "*B", "I")
        if xs.ndim < len(axes) - 1:
            least = " at least two axes" if len(axes) == 3 else ""
            raise ValueError(
                f"{name}: got shape {xs.shape}, expected [{', '.join(axes)}]{least and ','}{least}"
            )
        if self.reads_tokens:
            if not jnp.issubdtype(xs.dtype, jnp.integer):
                raise TypeError(
                    f"{name}: got dtype {xs.dtype.name}, expected tokens, which are integers"
                )
            return xs.shape[len(lead) :]
        validation.check_features(name, xs)
        return xs.shape[len(lead) : -1]

    def _checked_carry(
        self,
        names: Names,
        params: Params,
        xs: Array,
        carry: Carry | None,
        batch_shape: tuple[int, ...],
    ) -> Carry:
        """`carry`, or the initial one where it is None; raise unless it and `params` fit."""
        validation.check_hashable("layer", self)
        validation.check_params(
            self, params, xs, names.xs, tokens=self.reads_tokens, params_name=names.params
        )
        in_features = None if self.reads_tokens else xs.shape[-1]
        _check_carries(self, in_features)
        dtype = np.dtype(self._dtype(params, xs))
        if carry is None:
            return self.carry(batch_shape, dtype, params)
        expected = _carry_template(self, in_features, batch_shape, dtype)
        rows = f"the batch axes {batch_shape} of {names.xs}"
        return validation.as_expected("carry", carry, expected, self, rows)

    def _dtype(self, params: Params, xs: Array) -> DTypeLike:
        return self.params_dtype(params) if self.reads_tokens else xs.dtype


@validation.remembered
def _carry_template(
    layer: Layer, in_features: int | None, batch_shape: tuple[int, ...], dtype: np.dtype
) -> Carry:
    """The shapes and dtypes of the initial carry of `layer`."""
    params = validation.params_template(layer, in_features)
    return jax.eval_shape(lambda p: layer.carry(batch_shape, dtype, p), params)


@validation.remembered
def _check_carries(layer: Layer, in_features: int | None) -> None:
    """Raise unless every leaf of the carry of `layer` has the batch axes in front."""

    def make(batch_shape: tuple[int, ...]) -> Carry:
        return _carry_template(layer, in_features, batch_shape, np.dtype(np.float32))

    validation.check_carries("layer", layer, make)


# --------------------------------------------------------------------- a layer inside another


def run_layer(
    layer: Layer, params: Params, xs: Array, carry: Carry, context: Context
) -> tuple[Carry, Array]:
    """Run a layer inside another, in either direction of time: outputs are zeros where masked."""
    flipped = context.reverse and not layer.knows_reverse
    if flipped:
        xs, inside = flip(xs), flip_context(context)
    else:
        inside = context
    carry, ys = layer.run(params, xs, carry, inside)
    if layer.drops_time:
        return carry, ys
    if not layer.masks_outputs:
        ys = validation.zero_masked(ys, inside.mask)
    return carry, flip(ys) if flipped else ys


def run_layer_final(
    layer: Layer, params: Params, xs: Array, carry: Carry, context: Context
) -> tuple[Carry, Array]:
    """Run a layer inside another for its final carry and the output that belongs to it."""
    if context.reverse and not layer.knows_reverse:
        xs, context = flip(xs), flip_context(context)
    return layer.run_final(params, xs, carry, context)


def flip(tree: Any) -> Any:
    """Reverse the leading axis, time, of every leaf."""
    return jax.tree.map(lambda v: jnp.flip(v, 0), tree)


def flip_context(context: Context) -> Context:
    """Return what accompanies the same sequence where it is read from its end."""
    resets = context.resets
    if resets is not None:
        resets = flip(episode_starts(resets, context.mask, reverse=True))
    return Context(flip(context.mask), None, resets, context.key)


def fold(key: Array | None, index: int | Array) -> Array | None:
    """Return the key of one layer among several."""
    return None if key is None else jax.random.fold_in(key, index)


@functools.partial(jax.jit, static_argnames="first", inline=True)
def last_valid(ys: Array, mask: Array | None, *, first: bool = False) -> Array:
    """Take the output of each row's last (or first) valid step, zeros where there is none.

    `ys [T, *B, F]`, `mask [T, *B]` -> `[*B, F]`. A sum over one selected step, not a gather, so
    that a batch axis may be sharded.
    """
    length = ys.shape[0]
    if length == 0:
        return jnp.zeros(ys.shape[1:], ys.dtype)
    if mask is None:
        return ys[0 if first else -1]
    step = lax.broadcasted_iota(jnp.int32, mask.shape, 0)
    if first:
        wanted = jnp.min(jnp.where(mask, step, length), axis=0)
    else:
        wanted = jnp.max(jnp.where(mask, step, -1), axis=0)
    chosen = (step == wanted[None])[..., None]
    return jnp.sum(jnp.where(chosen, ys, jnp.zeros((), ys.dtype)), axis=0, dtype=ys.dtype)
