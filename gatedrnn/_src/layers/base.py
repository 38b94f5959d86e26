"""The layer: a public edge that checks once, and behind it methods for checked values.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from gatedrnn._src import checks, placement, pytree, validation
from gatedrnn._src.base import Carry, Params
from gatedrnn._src.describe import short_repr
from gatedrnn._src.integers import as_int32
from gatedrnn._src.layers.context import Context, flip, flip_context, last_valid
from gatedrnn._src.placement import ROWS, STEPS, WHOLE


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
        return self._run_checked(run_layer, names, self._checked(names, *arguments))

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
        return self._run_checked(run_layer_final, Names(), checked)

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
        params, x, *others = checked = self._checked_step(names, *arguments)
        rows = placement.rows_of(names.xs, x, 0, len(self._batch_shape(x, 0)), (params, others))
        roles, results = (WHOLE, ROWS, ROWS, ROWS, WHOLE), (placement.Like(2), ROWS)
        return placement.on_mesh(_step_from_carry, (self,), checked, roles, results, rows)

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

    def _run_checked(
        self, call: Callable, names: Names, checked: tuple[Params, Array, Carry | None, Context]
    ) -> tuple[Carry, Array]:
        """Return what `call(self, *checked)` returns, on the devices where the rows are."""
        params, xs, carry, context = checked
        batch_axes = len(self._batch_shape(xs, 1))
        rows = placement.rows_of(names.xs, xs, 1, batch_axes, (params, carry, context))
        if rows is None:
            return _from_carry(call, self, *checked)
        context = dataclasses.replace(context, rows=rows)
        flags = dataclasses.replace(context, mask=STEPS, lengths=ROWS, resets=STEPS, key=WHOLE)
        drops_time = self.drops_time or call is run_layer_final
        return placement.on_mesh(
            _from_carry,
            (call, self),
            (params, xs, carry, context),
            (WHOLE, STEPS, ROWS, flags),
            (placement.Like(2), ROWS if drops_time else STEPS),
            rows,
        )

    def _batch_shape(self, xs: Array, lead: int) -> tuple[int, ...]:
        """Return `*B` of inputs of this layer, which have `lead` axes in front."""
        return xs.shape[lead:] if self.reads_tokens else xs.shape[lead:-1]

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
    ) -> tuple[Params, Array, Carry | None, Context]:
        """All arguments, checked and cast: nothing inside does any of it again."""
        xs = validation.as_array(names.xs, xs)
        batch_shape = self.check_inputs(names.xs, xs, ("T",))
        mask = validation.as_mask(lengths, mask, xs.shape[0], batch_shape, names.lengths, names.xs)
        if resets is not None:
            resets = validation.as_flags("resets", resets, (xs.shape[0], *batch_shape))
        carry = self._checked_carry(names, params, xs, carry, batch_shape)
        if lengths is not None:
            lengths = as_int32(validation.as_array(names.lengths, lengths))
        key = None if key is None else validation.as_key(key)
        return params, xs, carry, Context(mask, lengths, resets, key)

    def _checked_step(
        self, names: Names, params: Params, carry: Carry, x: Any, resets: Any, key: Any
    ) -> tuple[Params, Array, Carry | None, Array | None, Array | None]:
        x = validation.as_array(names.xs, x)
        batch_shape = self.check_inputs(names.xs, x, ())
        carry = self._checked_carry(names, params, x, carry, batch_shape)
        if resets is not None:
            resets = validation.as_flags("resets", resets, batch_shape)
        return params, x, carry, resets, None if key is None else validation.as_key(key)

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
        else:
            validation.check_features(name, xs)
        return self._batch_shape(xs, len(lead))

    def _checked_carry(
        self,
        names: Names,
        params: Params,
        xs: Array,
        carry: Carry | None,
        batch_shape: tuple[int, ...],
    ) -> Carry | None:
        """`carry` as it is to be, None if it is to be the initial one; raise unless both fit."""
        validation.check_hashable("layer", self)
        validation.check_params(
            self, params, xs, names.xs, tokens=self.reads_tokens, params_name=names.params
        )
        in_features = None if self.reads_tokens else xs.shape[-1]
        _check_carries(self, in_features)
        dtype = np.dtype(self._dtype(params, xs))
        if carry is None:
            return None
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


def _from_carry(
    call: Callable, layer: Layer, params: Params, xs: Array, carry: Carry | None, context: Context
) -> tuple[Carry, Array]:
    """Run a layer from `carry` over masked `xs`; None: from its own initial carry."""
    xs = validation.zero_masked(xs, context.mask)
    if carry is None:
        carry = layer.carry(layer._batch_shape(xs, 1), layer._dtype(params, xs), params)
    return layer._returned(carry, *call(layer, params, xs, carry, context))


def _step_from_carry(
    layer: Layer,
    params: Params,
    x: Array,
    carry: Carry | None,
    resets: Array | None,
    key: Array | None,
) -> tuple[Carry, Array]:
    """Run one step from `carry`; from the layer's own where that is None, and in rows reset."""
    batch_shape, dtype = layer._batch_shape(x, 0), layer._dtype(params, x)
    if carry is None:
        carry = layer.carry(batch_shape, dtype, params)
    if resets is not None:
        carry = pytree.where(resets, layer.carry(batch_shape, dtype, params), carry)
    return layer._returned(carry, *layer.run_step(params, x, carry, key))


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
