"""Our layers and cells as modules of flax.nnx.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._interop.flax import modules
from gatedrnn._src import checks
from gatedrnn._src.base import Carry, Params
from gatedrnn._src.describe import shown
from gatedrnn.flax import _variables as variables

__all__ = ["Cell", "Layer"]


class Layer(nnx.Module):
    """A module that holds any layer of ours and runs it by our engine, hand-derived rules and all.

    Sequences are batch-major, `[*B, T, I]`, as those of flax's `nnx.RNN`, unless `time_major`.
    There are always two results, the final carry and the outputs, in the order of our `apply` and
    of flax's cells; `nnx.RNN` returns the second alone unless it is told otherwise.

    Parameters are `nnx.Param`s in `weights`, named as `gatedrnn.flax.to_tree` has them
    (`module.weights["0"]["forward"]["cell"]["kernel"]`); `params()` gives them in our own terms and
    `load` takes them. `train()` and `eval()` switch dropout, as they do of `nnx.Dropout`.

    Args:
      layer: a layer; a bare cell is lifted to `gr.recurrent(cell)`.
      in_features: how many features it reads, None for tokens.
      param_dtype: of new parameters. Computations are in the dtype of the inputs, as everywhere in
        this library: 16-bit inputs go with parameters of their own dtype or in float32.
      time_major: whether sequences are `[T, *B, I]`.
      deterministic: whether nothing is dropped, where a call does not say.
      rng_collection: the stream that keys come from, where something is dropped.
      rngs: the streams: `params` for the parameters, made by the layer's own `init`, and that of
        `rng_collection`, if the layer may drop something.

    Raises:
      TypeError: neither a layer nor a cell.
      ValueError: a number of features that the layer cannot read.

    Example:
      >>> from flax import nnx
      >>> from gatedrnn.flax.nnx import Layer
      >>> net = gr.stack(gr.bidirectional(gr.LSTM(4)), gr.dropout(0.1))
      >>> module = Layer(net, 3, rngs=nnx.Rngs(0))
      >>> carry, ys = module(jnp.ones((2, 5, 3)), lengths=jnp.array([5, 2]))
      >>> ys.shape
      (2, 5, 8)
    """

    def __init__(
        self,
        layer: Any,
        in_features: int | None,
        *,
        param_dtype: DTypeLike = jnp.float32,
        time_major: bool = False,
        deterministic: bool = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
    ) -> None:
        checks.flag("time_major", time_major)
        self.layer = modules.checked_layer(layer)
        self.in_features = in_features
        self.param_dtype = param_dtype
        self.time_major = time_major
        self.deterministic = deterministic
        self.rng_collection = rng_collection
        self.weights = variables.made(self.layer, in_features, param_dtype, rngs)
        draws = modules.may_draw(self.layer)
        self.rngs = rngs[rng_collection].fork() if draws else nnx.data(None)

    def params(self) -> Params:
        """Our parameters: for what takes them, such as `gr.attend`."""
        return variables.params(self.weights, self.layer, self.in_features)

    def load(self, params: Params) -> None:
        """Put other values in the place of its own, in their dtypes.

        Args:
          params: of the layer in our own terms, from `gr.interop` for example.

        Raises:
          ValueError: parameters of another layer.
        """
        variables.load(self.weights, self.layer, params, self.in_features)

    def __call__(
        self,
        xs: Array,
        carry: Carry | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | Array | None = None,
    ) -> tuple[Carry, Array]:
        """The whole sequence: `xs [*B, T, I]` -> the final carry and `ys [*B, T, F]`.

        Args:
          xs: `[*B, T, I]`, tokens `[*B, T]`; time first where `time_major`.
          carry: the initial carry, `[*B, ...]`; None: the layer's own, learned or zeros.
          lengths: `[*B]`, integers: row `b` has `lengths[b]` steps, the rest is padding, at which
            outputs are zero. What flax calls `seq_lengths`.
          mask: `[*B, T]`, booleans of any pattern, instead of `lengths`.
          resets: `[*B, T]`, booleans: an episode or document starts at `t`.
          deterministic: whether nothing is dropped; None: as the module is set.
          rngs: streams, a stream or a key, in the place of the module's own stream, of which every
            call takes the next key. Windows with the same key and the carry handed on drop what the
            whole sequence does.

        Returns:
          The final carry, and the outputs; `[*B, F]` of `gr.final` and `gr.pool`.

        Raises:
          TypeError: `rngs` of another kind.
        """
        return modules.apply(
            self.layer,
            self.params(),
            xs,
            carry,
            time_major=self.time_major,
            lengths=lengths,
            mask=mask,
            resets=resets,
            key=self._key(deterministic, rngs),
        )

    def step(
        self, carry: Carry | None, x: Array, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """One time step of the same function: `x [*B, I]` -> the new carry and `[*B, F]`.

        Args:
          carry: the carry before; None: the initial one.
          x: `[*B, I]`, tokens `[*B]`.
          key: for dropout, the same at every step of a sequence; None: nothing is dropped.

        Raises:
          TypeError: a layer that cannot stream, such as a bidirectional one.
        """
        params = self.params()
        if carry is None:
            carry = modules.initial_carry(self.layer, params, x, self.param_dtype)
        return self.layer.step(params, carry, x, key=key)

    def initial_carry(self, x: Array) -> Carry:
        """The carry before the first step.

        Args:
          x: a step `[*B, I]` (tokens `[*B]`), of which the shape and the dtype count.
        """
        return modules.initial_carry(self.layer, self.params(), x, self.param_dtype)

    def _key(
        self, deterministic: bool | None, rngs: nnx.Rngs | nnx.RngStream | Array | None
    ) -> Array | None:
        if not modules.may_draw(self.layer):
            return None
        if self.deterministic if deterministic is None else deterministic:
            return None
        source: Any = self.rngs if rngs is None else rngs
        if isinstance(source, nnx.Rngs):
            source = source[self.rng_collection]
        if isinstance(source, nnx.RngStream):
            return source()
        if not isinstance(source, jax.Array):
            raise TypeError(
                f"rngs: got {shown(source)}, expected nnx.Rngs, an nnx.RngStream or a key"
            )
        return source


class Cell(nnx.RNNCellBase):
    """A cell of ours for flax's own `nnx.RNN` and `nnx.Bidirectional`.

    A step is ours, parameters are `nnx.Param`s in `weights`, named as `gatedrnn.flax.to_tree` has
    them, and the carry is ours too (`gr.LSTMCarry(h, c)`, where flax's cells have `(c, h)`). The
    loop is flax's, and JAX differentiates it; `nnx.RNN` does not zero padded outputs, and for a row
    of length 0 it returns the carry after the padding. `Layer` has neither of these.

    Args:
      cell: any cell that draws no masks.
      in_features: how many features it reads.
      param_dtype: of new parameters, and of the initial carry.
      rngs: the streams: `params` for the parameters, made by the cell's own `init`.

    Raises:
      TypeError: not a cell; or one that draws masks, `gr.Zoneout` or `gr.RecurrentDropout`, which
        need one key for a whole sequence: `Layer(cell, ...)` passes it.

    Example:
      >>> from flax import nnx
      >>> from gatedrnn.flax.nnx import Cell
      >>> rnn = nnx.RNN(Cell(gr.LSTM(4), 3, rngs=nnx.Rngs(0)))
      >>> rnn(jnp.ones((2, 5, 3))).shape
      (2, 5, 4)
    """

    def __init__(
        self,
        cell: Any,
        in_features: int,
        *,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.cell = modules.as_cell(cell)
        self.in_features = in_features
        self.param_dtype = param_dtype
        self.weights = variables.made(cell, in_features, param_dtype, rngs)

    def params(self) -> Params:
        """Our parameters."""
        return variables.params(self.weights, self.cell, self.in_features)

    def load(self, params: Params) -> None:
        """Put other values in the place of its own, in their dtypes.

        Args:
          params: of the cell in our own terms, from `gr.interop` for example.

        Raises:
          ValueError: parameters of another cell.
        """
        variables.load(self.weights, self.cell, params, self.in_features)

    def __call__(self, carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        """One time step: `inputs [*B, I]` -> the new carry and the output `[*B, F]`.

        Args:
          carry: the carry before, of ours.
          inputs: `[*B, I]`.
        """
        return modules.step_of_loop(self.cell, self.params(), carry, inputs)

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
    ) -> Carry:
        """The cell's own initial carry, zeros.

        Args:
          input_shape: `(*B, I)`.
          rngs: flax passes some; nothing is drawn from them.
          carry_init: None; an initial carry of another kind goes into `nnx.RNN` by
            `initial_carry=`.

        Raises:
          ValueError: a `carry_init`.
        """
        if carry_init is not None:
            raise ValueError(
                f"carry_init: got {shown(carry_init)}, expected None: {self.cell!r} starts from "
                "its own carry; pass another one as initial_carry"
            )
        return self.cell.carry(tuple(input_shape[:-1]), self.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """1."""
        return 1
