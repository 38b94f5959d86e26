"""Sequence to sequence: an encoder and a decoder joined through their carries.

Axes: `S` source steps, `T` target steps, `*B` any batch axes, `I` input features, `V` outputs of
the decoder, `E` numbers in the encoder's final state of a row, `D` in the decoder's initial one.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from gatedrnn._src import checks, placement, validation
from gatedrnn._src.base import Carry, Cell, Params, is_shared
from gatedrnn._src.cells.alignment import AttentionCarry, attend, attention_weights, has_attention
from gatedrnn._src.describe import documented, shown
from gatedrnn._src.layers.base import Layer, Names
from gatedrnn._src.layers.checks import check_layer
from gatedrnn._src.layers.context import fold
from gatedrnn._src.layers.pointwise import DenseParams, dense
from gatedrnn._src.layers.recurrent import as_layer
from gatedrnn._src.numerics import affine
from gatedrnn._src.placement import ROWS, STEPS, WHOLE

Bridge = Literal["learned", "direct"]


@documented
class Seq2SeqParams(NamedTuple):
    """Parameters of an encoder, a decoder and the bridge between them.

    Attributes:
      encoder: parameters of the encoder, as its own `init` makes them.
      decoder: parameters of the decoder, as its own `init` makes them.
      bridge: kernel `[E, D]` and bias `[D]` of a learned bridge; None without one.
    """

    encoder: Params
    decoder: Params
    bridge: DenseParams | None


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
    """An encoder and a decoder joined through their carries, as `gr.seq2seq` makes them.

    Attributes:
      encoder: any layer.
      decoder: any causal layer.
      bridge: `"learned"`, `"direct"` or None.

    Example:
      >>> reader = gr.stack(gr.embed(7, 3), gr.bidirectional(gr.GRU(2)))
      >>> looking = gr.Attention(gr.GRU(3), memory_features=4, features=2)
      >>> model = gr.seq2seq(reader, gr.stack(gr.embed(5, 3), looking, gr.dense(5)))
      >>> params, sources = model.init(jax.random.key(0)), jnp.ones((4, 2), int)
      >>> carry, bound = model.encode(params, sources)  # then decode, one token after another
      >>> step = jax.tree_util.Partial(model.step, bound)
      >>> decoded = gr.greedy(step, carry, jnp.zeros(2, int), max_length=3)
      >>> model.attention(params, sources, decoded.tokens).shape  # [T, B, S]
      (3, 2, 4)
    """

    encoder: Layer
    decoder: Layer
    bridge: Bridge | None = "learned"

    def __post_init__(self) -> None:
        check_layer("encoder", self.encoder)
        check_layer("decoder", self.decoder)
        if not self.decoder.causal:
            raise ValueError(f"decoder: got {self.decoder!r}, expected a causal layer")
        checks.option("bridge", self.bridge, Bridge | None)

    def init(
        self,
        key: Array,
        in_features: int | None = None,
        target_features: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> Seq2SeqParams:
        """Make new parameters for sources of `in_features` and targets of `target_features`.

        None stands for tokens.
        """
        encoder_key, decoder_key, bridge_key = jax.random.split(validation.as_key(key), 3)
        if self.decoder.reads_tokens and target_features is not None:
            raise ValueError(
                f"target_features: got {shown(target_features)}, expected None: {self.decoder!r} "
                "reads tokens"
            )
        encoder = self.encoder.init(encoder_key, in_features, dtype)
        decoder = self.decoder.init(decoder_key, target_features, dtype)
        if self.bridge != "learned":
            return Seq2SeqParams(encoder, decoder, None)
        ends = _state_features("encoder", self.encoder, encoder, dtype)
        starts = _state_features("decoder", self.decoder, decoder, dtype)
        return Seq2SeqParams(encoder, decoder, dense(starts).init(bridge_key, ends, dtype))

    def encode(
        self,
        params: Seq2SeqParams,
        sources: Array,
        *,
        lengths: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Seq2SeqParams]:
        """Run the encoder over `sources [S, *B, I]` (tokens `[S, *B]`) of `lengths [*B]`.

        Lengths out of range, here and in the other methods, are as in `gr.unroll`.

        Returns the decoder's initial carry, and the parameters that `decode` and `step` read: those
        in which every `gr.Attention` of the decoder looks back at the encoder's outputs.
        """
        return self._encode(params, sources, lengths, key, "lengths")

    def _encode(
        self, params: Any, sources: Any, lengths: Any, key: Any, name: str
    ) -> tuple[Carry, Seq2SeqParams]:
        """Do what `encode` does; errors call its lengths by `name`."""
        self._check(params)
        names = Names("params.encoder", "sources", name)
        encoded, memory = self.encoder.apply_named(
            names, params.encoder, sources, None, lengths, None, None, _fold(key, 0)
        )
        batch_shape = memory.shape[1:-1]
        rows = placement.rows_of("sources", memory, 1, len(batch_shape), params)
        carry = self.decoder.carry(batch_shape, memory.dtype, params.decoder)
        carry = placement.placed(ROWS, carry, rows, memory)
        if self.bridge == "direct":
            carry = _direct_bridge(encoded, carry)
        elif self.bridge == "learned":
            assert params.bridge is not None
            carry = placement.on_mesh(
                _learned_bridge,
                (len(batch_shape),),
                (params.bridge, encoded, carry),
                (WHOLE, ROWS, ROWS),
                ROWS,
                rows,
            )
        if has_attention(params.decoder):
            params = params._replace(decoder=attend(params.decoder, memory, lengths=lengths))
        return carry, params

    def decode(
        self,
        params: Seq2SeqParams,
        carry: Carry,
        targets: Array,
        *,
        lengths: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Array]:
        """Run the decoder over `targets [T, *B]` (or features `[T, *B, I]`) after `encode`.

        Returns the decoder's final carry and outputs `[T, *B, V]`, zeros after each row's length.
        """
        return self._decode(params, carry, targets, lengths, key, "lengths")

    def _decode(
        self, params: Any, carry: Carry, targets: Any, lengths: Any, key: Any, name: str
    ) -> tuple[Carry, Array]:
        """Do what `decode` does; errors call its lengths by `name`."""
        self._check(params)
        _check_encoded(carry)
        names = Names("params.decoder", "targets", name)
        return self.decoder.apply_named(
            names, params.decoder, targets, carry, lengths, None, None, _fold(key, 1)
        )

    def apply(
        self,
        params: Seq2SeqParams,
        sources: Array,
        targets: Array,
        *,
        source_lengths: Array | None = None,
        target_lengths: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Array]:
        """Run `encode`, then `decode` with teacher forcing.

        The decoder reads `targets[t]` at step `t`: the right output of step `t − 1`, or a start
        token at the first step. Returns the decoder's final carry and outputs `[T, *B, V]`.
        """
        self._check_rows(sources, targets)
        carry, params = self._encode(params, sources, source_lengths, key, "source_lengths")
        return self._decode(params, carry, targets, target_lengths, key, "target_lengths")

    def step(
        self, params: Seq2SeqParams, carry: Carry, x: Array, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """Run one step of the decoder, with the parameters that `encode` returns.

        `jax.tree_util.Partial(model.step, params)` is the step for `gr.greedy` and its like.
        """
        self._check(params)
        _check_encoded(carry)
        names = Names("params.decoder", "x")
        return self.decoder.step_named(names, params.decoder, carry, x, None, _fold(key, 1))

    def attention(
        self,
        params: Seq2SeqParams,
        sources: Array,
        targets: Array,
        *,
        source_lengths: Array | None = None,
        target_lengths: Array | None = None,
    ) -> Array:
        """Return the weights `[T, *B, S]` of the decoder's only `gr.Attention`, for a picture.

        The weights of a target step sum to 1, and to 0 after a row's target length. The decoder
        runs step by step and keeps the weights alone.
        """
        self._check_rows(sources, targets)
        carry, params = self._encode(params, sources, source_lengths, None, "source_lengths")
        targets = validation.as_array("targets", targets)
        batch_shape = self.decoder.check_inputs("targets", targets, ("T",))
        mask = validation.as_mask(
            target_lengths, None, targets.shape[0], batch_shape, "target_lengths", "targets"
        )
        rows = placement.rows_of("targets", targets, 1, len(batch_shape), mask)
        mask = placement.placed(STEPS, mask, rows, (targets, mask))
        targets = validation.zero_masked(targets, mask)

        def step(carry: Carry, x: Array) -> tuple[Carry, Array]:
            return self.step(params, carry, x)[0], attention_weights(params.decoder, carry)

        return validation.zero_masked(lax.scan(step, carry, targets)[1], mask)

    def _check_rows(self, sources: Any, targets: Any) -> None:
        """Raise unless sources and targets have the same batch axes."""
        shapes = [
            layer.check_inputs(name, validation.as_array(name, values), ("T",))
            for name, layer, values in (
                ("sources", self.encoder, sources),
                ("targets", self.decoder, targets),
            )
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"sources and targets: got batch axes {shapes[0]} and {shapes[1]}, expected the "
                "same"
            )

    def _check(self, params: Any) -> None:
        if not isinstance(params, Seq2SeqParams):
            raise ValueError(
                f"params: got {shown(params)}, expected Seq2SeqParams(encoder, decoder, bridge)"
            )
        if (params.bridge is not None) != (self.bridge == "learned"):
            kind = type(params.bridge).__name__
            raise ValueError(f"params.bridge: got {kind} for the bridge {self.bridge!r}")


def seq2seq(
    encoder: Layer | Cell, decoder: Layer | Cell, bridge: Bridge | None = "learned"
) -> Seq2Seq:
    """Join an encoder and a decoder through their carries (Sutskever, Vinyals & Le 2014).

    A `gr.Attention` anywhere in the decoder looks back at all outputs of the encoder (Bahdanau, Cho
    & Bengio 2015); its `memory_features` are the features that the encoder makes.

    Args:
      encoder: any layer or cell, also a bidirectional one.
      decoder: any causal layer or cell, usually `gr.stack(gr.embed(...), cell, gr.dense(V))`.
      bridge: how the encoder's final carry becomes the decoder's initial carry. `"learned"`: every
        leaf is a part of `tanh(e W + b)`, where `e` is the encoder's whole final carry, its leaves
        side by side (`h` and `c` of all layers, in both directions). `"direct"`: the leaves as they
        are, in order, where the shapes fit. None: the decoder starts from its own initial carry and
        knows the source by attention only.

    Returns:
      A `gr.Seq2Seq`, with `init`, `apply` for training, and `encode` and `step` for decoding.

    Raises:
      TypeError: neither a layer nor a cell.
      ValueError: a decoder that is not causal, an unknown bridge, (at `init`) a learned bridge
        from or to a network without a state, or (at `encode`) shapes that a direct bridge cannot
        join.

    Example:
      >>> reader, writer = gr.stack(gr.embed(7, 3), gr.LSTM(3)), gr.stack(gr.embed(5, 3), gr.GRU(3))
      >>> model = gr.seq2seq(reader, gr.stack(writer, gr.dense(5)))
      >>> params = model.init(jax.random.key(0))
      >>> params.bridge.kernel.shape  # h and c of the LSTM to h of the GRU
      (6, 3)
      >>> sources, targets = jnp.ones((4, 2), int), jnp.ones((3, 2), int)
      >>> _, logits = model.apply(params, sources, targets, source_lengths=jnp.array([4, 2]))
      >>> logits.shape
      (3, 2, 5)
    """
    return Seq2Seq(as_layer(encoder), as_layer(decoder), bridge)


def _fold(key: Any, index: int) -> Array | None:
    """Return the key of the encoder or of the decoder; raise for what is no key."""
    return fold(None if key is None else validation.as_key(key), index)


def _check_encoded(carry: Any) -> None:
    """Raise for None, with which a decoder by itself would start from its own carry."""
    if carry is None:
        raise ValueError("carry: got None, expected the carry that `encode` returns")


# ------------------------------------------------------------------------------- the bridge


def _is_state(leaf: Any) -> bool:
    """Return True for real numbers of each row; False for a counter, a key or a shared leaf."""
    return not is_shared(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_node(node: Any) -> bool:
    return is_shared(node) or isinstance(node, AttentionCarry)


def _state_leaves(carry: Carry) -> list[Array]:
    """Return the leaves `[*B, ...]` of a network's state, in order, without an attention's output.

    No step reads that output.
    """

    def inside(node: Any) -> list[Array]:
        if isinstance(node, AttentionCarry):
            return _state_leaves(node.cell)
        return [node] if _is_state(node) else []

    return [leaf for node in jax.tree.leaves(carry, is_leaf=_is_node) for leaf in inside(node)]


def _with_state(carry: Carry, state: list[Array]) -> Carry:
    """Return `carry` with its state leaves replaced by `state`, in the dtypes of `carry`."""
    leaves = iter(state)

    def replaced(node: Any) -> Any:
        if isinstance(node, AttentionCarry):
            return node._replace(cell=jax.tree.map(replaced, node.cell, is_leaf=_is_node))
        return next(leaves).astype(node.dtype) if _is_state(node) else node

    return jax.tree.map(replaced, carry, is_leaf=_is_node)


def _learned_bridge(batch_axes: int, params: DenseParams, encoded: Carry, start: Carry) -> Carry:
    """Return `start` with the state `tanh(e W + b)`, `e [*B, E]` being the state in `encoded`."""
    dtype = validation.as_array("params.bridge.kernel", params.kernel).dtype
    vectors = [
        leaf.reshape(*leaf.shape[:batch_axes], _size(leaf, batch_axes)).astype(dtype)
        for leaf in _state_leaves(encoded)
    ]
    joined, leaves = jnp.concatenate(vectors, axis=-1), _state_leaves(start)
    layer = dense(sum(_size(leaf, batch_axes) for leaf in leaves))
    validation.check_params(
        layer, params, joined, "the encoder's final state", params_name="params.bridge"
    )
    state = jnp.tanh(affine(joined, params.kernel, params.bias))
    ends = np.cumsum([_size(leaf, batch_axes) for leaf in leaves])[:-1]
    parts = zip(jnp.split(state, ends, axis=-1), leaves, strict=True)
    return _with_state(start, [part.reshape(leaf.shape) for part, leaf in parts])


def _size(leaf: Array, batch_axes: int) -> int:
    return math.prod(leaf.shape[batch_axes:])


def _direct_bridge(encoded: Carry, start: Carry) -> Carry:
    """Return `start` with the state of `encoded`, leaf by leaf; raise where the shapes differ."""
    given = _state_leaves(encoded)
    shapes, expected = ([leaf.shape for leaf in leaves] for leaves in (given, _state_leaves(start)))
    if shapes != expected:
        raise ValueError(
            f"bridge: got 'direct' for an encoder that ends in leaves of shapes {shapes}, expected "
            f"{expected}, as the decoder starts from, or 'learned'"
        )
    return _with_state(start, given)


def _state_features(name: str, layer: Layer, params: Params, dtype: DTypeLike) -> int:
    """Return how many numbers the state of `layer` has for a row; raise where there are none."""
    carry = jax.eval_shape(lambda p: layer.carry((), dtype, p), params)
    size = sum(_size(leaf, 0) for leaf in _state_leaves(carry))
    if size == 0:
        raise ValueError(
            f"{name}: got {layer!r}, which has no state, expected a recurrent one, or bridge=None"
        )
    return size
