"""Our layers and cells as modules of flax.linen.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.flax import modules
from gatedrnn._interop.flax.nested import from_tree, shapes_of, to_tree
from gatedrnn._src import checks
from gatedrnn._src.base import Carry, Params

__all__ = ["Cell", "Layer"]


class Layer(nn.Module):
    """A module that holds any layer of ours and runs it by our engine, hand-derived rules and all.

    Sequences are batch-major, `[*B, T, I]`, as those of flax's `nn.RNN`, unless `time_major`. There
    are always two results, the final carry and the outputs, in the order of our `apply` and of
    flax's cells; `nn.RNN` returns the second alone unless it is told otherwise.

    Parameters are made by the layer's own `init` and live in `params` as nested dictionaries:
    `gatedrnn.flax.to_tree(params)` is the branch of this module, `gatedrnn.flax.from_tree(layer,
    branch, in_features)` the way back.

    Attributes:
      layer: a layer; a bare cell is lifted to `gr.recurrent(cell)`.
      param_dtype: of new parameters. Computations are in the dtype of the inputs, as everywhere in
        this library: 16-bit inputs go with parameters of their own dtype or in float32.
      time_major: whether sequences are `[T, *B, I]`.
      deterministic: whether nothing is dropped; here or in the call, as in flax's `nn.Dropout`. A
        layer that draws nothing needs neither.
      rng_collection: the stream that the key comes from, where something is dropped.

    Raises:
      TypeError: neither a layer nor a cell.

    Example:
      >>> import flax.linen as nn
      >>> from gatedrnn.flax.linen import Layer
      >>> class Tagger(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, tokens, lengths, deterministic):  # [B, T], [B]
      ...         net = gr.stack(gr.embed(9, 3), gr.bidirectional(gr.LSTM(4)), gr.dropout(0.1))
      ...         _, ys = Layer(net)(tokens, lengths=lengths, deterministic=deterministic)
      ...         return nn.Dense(5)(ys)
      >>> inputs = jnp.ones((2, 6), int), jnp.array([6, 4]), True
      >>> variables = Tagger().init(jax.random.key(0), *inputs)
      >>> Tagger().apply(variables, *inputs).shape
      (2, 6, 5)
    """

    layer: Any
    param_dtype: Any = jnp.float32
    time_major: bool = False
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def __post_init__(self) -> None:
        self.layer = modules.checked_layer(self.layer)
        checks.floating("param_dtype", self.param_dtype)
        checks.flag("time_major", self.time_major)
        super().__post_init__()

    @nn.compact
    def params(self, in_features: int | None) -> Params:
        """Our parameters, made here at `init`: for what takes them, such as `gr.attend`.

        Args:
          in_features: how many features the layer reads, None for tokens.
        """
        return _params(self, self.layer, in_features)

    def __call__(
        self,
        xs: Array,
        carry: Carry | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        deterministic: bool | None = None,
    ) -> tuple[Carry, Array]:
        """The whole sequence: `xs [*B, T, I]` -> the final carry and `ys [*B, T, F]`.

        Args:
          xs: `[*B, T, I]`, tokens `[*B, T]`; time first where `time_major`.
          carry: the initial carry, `[*B, ...]`; None: the layer's own, learned or zeros.
          lengths: `[*B]`, integers: row `b` has `lengths[b]` steps, the rest is padding, at which
            outputs are zero. What flax calls `seq_lengths`.
          mask: `[*B, T]`, booleans of any pattern, instead of `lengths`.
          resets: `[*B, T]`, booleans: an episode or document starts at `t`.
          deterministic: whether nothing is dropped; with False, the key is the next one of the
            stream `rng_collection`. Windows with the same stream and the carry handed on drop what
            the whole sequence does.

        Returns:
          The final carry, and the outputs; `[*B, F]` of `gr.final` and `gr.pool`.

        Raises:
          ValueError: a layer that may drop something, and no `deterministic`.
        """
        params = self.params(modules.features_of_step(self.layer, xs))
        return modules.apply(
            self.layer,
            params,
            xs,
            carry,
            time_major=self.time_major,
            lengths=lengths,
            mask=mask,
            resets=resets,
            key=self._key(deterministic),
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
        params = self.params(modules.features_of_step(self.layer, x))
        if carry is None:
            carry = modules.initial_carry(self.layer, params, x, self.param_dtype)
        return self.layer.step(params, carry, x, key=key)

    def initial_carry(self, x: Array) -> Carry:
        """The carry before the first step.

        Args:
          x: a step `[*B, I]` (tokens `[*B]`), of which the shape and the dtype count.
        """
        params = self.params(modules.features_of_step(self.layer, x))
        return modules.initial_carry(self.layer, params, x, self.param_dtype)

    def _key(self, deterministic: bool | None) -> Array | None:
        if not modules.may_draw(self.layer):
            return None
        if nn.merge_param("deterministic", self.deterministic, deterministic):
            return None
        return self.make_rng(self.rng_collection)


class Cell(nn.RNNCellBase):
    """A cell of ours for flax's own `nn.RNN` and `nn.Bidirectional`.

    A step is ours, parameters live in `params` as `gatedrnn.flax.to_tree` has them, and the carry
    is ours too (`gr.LSTMCarry(h, c)`, where flax's cells have `(c, h)`). The loop is flax's, and
    JAX differentiates it; `nn.RNN` does not zero padded outputs, and for a row of length 0 it
    returns the carry after the padding. `Layer` has neither of these.

    Attributes:
      cell: any cell that draws no masks.
      param_dtype: of new parameters, and of the initial carry.

    Raises:
      TypeError: not a cell; or one that draws masks, `gr.Zoneout` or `gr.RecurrentDropout`, which
        need one key for a whole sequence: `Layer(cell)` passes it.

    Example:
      >>> import flax.linen as nn
      >>> from gatedrnn.flax.linen import Cell
      >>> ys, variables = nn.RNN(Cell(gr.LSTM(4))).init_with_output(
      ...     jax.random.key(0), jnp.ones((2, 5, 3))
      ... )
      >>> ys.shape
      (2, 5, 4)
    """

    cell: Any
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        modules.as_cell(self.cell)
        checks.floating("param_dtype", self.param_dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        """One time step: `inputs [*B, I]` -> the new carry and the output `[*B, F]`.

        Args:
          carry: the carry before, of ours.
          inputs: `[*B, I]`.
        """
        params = _params(self, self.cell, modules.features_of_step(self.cell, inputs))
        return modules.step_of_loop(self.cell, params, carry, inputs)

    @nn.nowrap
    def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> Carry:
        """The cell's own initial carry, zeros.

        Args:
          rng: flax passes one; nothing is drawn from it.
          input_shape: `(*B, I)`.
        """
        return self.cell.carry(tuple(input_shape[:-1]), self.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """1."""
        return 1


def _params(module: nn.Module, layer: Any, in_features: int | None) -> Params:
    """The parameters of `layer` in the scope of `module`, in whose compact method this is."""
    shapes = to_tree(shapes_of(layer, in_features))
    made: dict[str, Any] = {}

    def init(key: Array, name: str) -> Any:
        if module.has_variable("params", name):  # flax asks again, to compare the shapes
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[name])
        if not made:  # all from the key of the first
            made.update(to_tree(layer.init(key, in_features, module.param_dtype)))
        return made[name]

    tree = {name: module.param(name, init, name) for name in shapes}
    return from_tree(layer, tree, in_features)
