"""Sequence to sequence: an encoder and a decoder joined through their carries.

Axes: `S` source steps, `T` target steps, `*B` any batch axes, `V` outputs of the decoder.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry, Params, is_shared
from gatedrnn._src.cells.alignment import AttentionCarry, attend, attention_weights, has_attention
from gatedrnn._src.layers.base import Layer, check_layer, fold
from gatedrnn._src.layers.pointwise import DenseParams, dense
from gatedrnn._src.layers.recurrent import as_layer
from gatedrnn._src.numerics import affine

Bridge = Literal["learned", "direct"]


class Seq2SeqParams(NamedTuple):
    """Parameters of an encoder, a decoder and what is between."""

    encoder: Params
    decoder: Params
    bridge: DenseParams | None  # [E, D], of a learned one


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
    """Two networks, the second of which starts where the first has ended; see `seq2seq`.

    Attributes:
      encoder: any layer.
      decoder: any causal layer.
      bridge: `"learned"`, `"direct"` or None.
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
        """New parameters, for sources and targets of so many features each; None for tokens."""
        encoder_key, decoder_key, bridge_key = jax.random.split(key, 3)
        encoder = self.encoder.init(encoder_key, in_features, dtype)
        decoder = self.decoder.init(decoder_key, target_features, dtype)
        if self.bridge != "learned":
            return Seq2SeqParams(encoder, decoder, None)
        ends = _state_features("encoder", self.encoder, encoder, dtype)
        starts = _state_features("decoder", self.decoder, decoder, dtype)
        joined = dense(starts).init(bridge_key, ends, dtype)
        return Seq2SeqParams(encoder, decoder, joined)

    def encode(
        self,
        params: Seq2SeqParams,
        sources: Array,
        *,
        lengths: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Seq2SeqParams]:
        """Read `sources [S, *B, I]` (tokens `[S, *B]`), row `b` of `lengths[b]` steps.

        Returns the decoder's initial carry, and parameters in which every `gr.Attention` of the
        decoder looks back at the encoder's outputs: what `decode` and `step` read.
        """
        self._check(params)
        encoded, memory = self.encoder.apply(
            params.encoder, sources, lengths=lengths, key=fold(key, 0)
        )
        batch_shape = memory.shape[1:-1]
        carry = self.decoder.carry(batch_shape, memory.dtype, params.decoder)
        if self.bridge == "direct":
            carry = _direct(encoded, carry)
        elif self.bridge == "learned":
            assert params.bridge is not None
            carry = _learned(params.bridge, encoded, carry, len(batch_shape))
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
        """The decoder over `targets [T, *B]` (or features `[T, *B, I]`) after `encode`.

        Returns its final carry and its outputs `[T, *B, V]`, zeros after each row's `lengths`.
        """
        return self.decoder.apply(params.decoder, targets, carry, lengths=lengths, key=fold(key, 1))

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
        """Teacher forcing: `encode`, then `decode` of what the decoder should have said before.

        `targets[t]` is read at step `t`, so it is the target of step `t − 1`, a start token first.
        """
        carry, params = self.encode(params, sources, lengths=source_lengths, key=key)
        return self.decode(params, carry, targets, lengths=target_lengths, key=key)

    def step(
        self, params: Seq2SeqParams, carry: Carry, x: Array, *, key: Array | None = None
    ) -> tuple[Carry, Array]:
        """One step of the decoder: `jax.tree_util.Partial(model.step, params)` is what decodes."""
        return self.decoder.step(params.decoder, carry, x, key=fold(key, 1))

    def attention(
        self,
        params: Seq2SeqParams,
        sources: Array,
        targets: Array,
        *,
        source_lengths: Array | None = None,
        target_lengths: Array | None = None,
    ) -> Array:
        """The weights `[T, *B, S]` of the decoder's only `gr.Attention`, for a picture.

        Rows sum to 1, after `target_lengths` to 0. Runs step by step and keeps the weights alone.
        """
        carry, params = self.encode(params, sources, lengths=source_lengths)
        targets = jnp.asarray(targets)
        batch_shape = self.decoder.check_inputs("targets", targets, ("T",))
        mask = validation.as_mask(target_lengths, None, len(targets), batch_shape)
        targets = validation.zero_masked(targets, mask)

        def one(carry: Carry, x: Array) -> tuple[Carry, Array]:
            return self.step(params, carry, x)[0], attention_weights(params.decoder, carry)

        return validation.zero_masked(lax.scan(one, carry, targets)[1], mask)

    def _check(self, params: Any) -> None:
        if not isinstance(params, Seq2SeqParams):
            raise ValueError(
                f"params: got {type(params).__name__}, expected Seq2SeqParams(encoder, decoder, "
                "bridge)"
            )
        if (params.bridge is not None) != (self.bridge == "learned"):
            kind = type(params.bridge).__name__
            raise ValueError(f"params.bridge: got {kind} for the bridge {self.bridge!r}")


def seq2seq(encoder: Any, decoder: Any, bridge: Bridge | None = "learned") -> Seq2Seq:
    """An encoder and a decoder joined through their carries (Sutskever, Vinyals & Le 2014).

    With a `gr.Attention` anywhere in the decoder, that looks back at all outputs of the encoder
    (Bahdanau, Cho & Bengio 2015); its `memory_features` are those that the encoder makes.

    Args:
      encoder: any layer or cell, also a bidirectional one.
      decoder: any causal layer or cell, usually `gr.stack(gr.embed(...), cell, gr.dense(V))`.
      bridge: how the encoder's final carry becomes the decoder's initial one. `"learned"`: every
        leaf is `tanh(e W + b)`, where `e` is all of the encoder's final carry side by side (`h` and
        `c` of all layers, of both directions). `"direct"`: as it is, leaf by leaf, where shapes
        fit. None: the decoder starts from its own initial carry, and knows the source by attention
        only.

    Raises:
      TypeError: neither a layer nor a cell.
      ValueError: a decoder that is not causal, an unknown bridge, (at `init`) a learned bridge
        from or to a network without a state, or (at `encode`) shapes that a direct one cannot join.
    """
    return Seq2Seq(as_layer(encoder), as_layer(decoder), bridge)


# ------------------------------------------------------------------------------- the bridge


def _is_state(leaf: Any) -> bool:
    """Return True for real numbers of each row, not for counters, keys and what rows share."""
    return not is_shared(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_node(node: Any) -> bool:
    return is_shared(node) or isinstance(node, AttentionCarry)


def _state_of(carry: Carry) -> list[Array]:
    """The leaves `[*B, ...]` of a network's state, in order; not the outputs that no step reads."""

    def of_node(node: Any) -> list[Array]:
        if isinstance(node, AttentionCarry):
            return _state_of(node.cell)
        return [node] if _is_state(node) else []

    return [leaf for node in jax.tree.leaves(carry, is_leaf=_is_node) for leaf in of_node(node)]


def _with_state(carry: Carry, state: list[Array]) -> Carry:
    """Return `carry` with the leaves that `_state_of` gives replaced, in its dtypes."""
    left = iter(state)

    def put(node: Any) -> Any:
        if isinstance(node, AttentionCarry):
            return node._replace(cell=jax.tree.map(put, node.cell, is_leaf=_is_node))
        return next(left).astype(node.dtype) if _is_state(node) else node

    return jax.tree.map(put, carry, is_leaf=_is_node)


def _learned(params: DenseParams, encoded: Carry, start: Carry, batch_axes: int) -> Carry:
    """Return `start` with the state `tanh(e W + b)`, `e [*B, E]` all of the state in `encoded`."""
    rows = [
        leaf.reshape(*leaf.shape[:batch_axes], _size(leaf, batch_axes)).astype(params.kernel.dtype)
        for leaf in _state_of(encoded)
    ]
    made = jnp.tanh(affine(jnp.concatenate(rows, axis=-1), params.kernel, params.bias))
    wanted = _state_of(start)
    ends = np.cumsum([_size(leaf, batch_axes) for leaf in wanted])[:-1]
    parts = zip(jnp.split(made, ends, axis=-1), wanted, strict=True)
    return _with_state(start, [part.reshape(leaf.shape) for part, leaf in parts])


def _size(leaf: Array, batch_axes: int) -> int:
    return math.prod(leaf.shape[batch_axes:])


def _direct(encoded: Carry, start: Carry) -> Carry:
    """Return `start` with the state of `encoded`, leaf by leaf in order; raise if they differ."""
    given, wanted = _state_of(encoded), _state_of(start)
    shapes, expected = ([leaf.shape for leaf in leaves] for leaves in (given, wanted))
    if shapes != expected:
        raise ValueError(
            f"bridge: got 'direct' for an encoder that ends in leaves of shapes {shapes}, expected "
            f"{expected}, as the decoder starts from, or 'learned'"
        )
    return _with_state(start, given)


def _state_features(name: str, layer: Layer, params: Params, dtype: DTypeLike) -> int:
    """The numbers that the carry of `layer` holds for a row; raise where there are none."""
    carry = jax.eval_shape(lambda p: layer.carry((), dtype, p), params)
    size = sum(_size(leaf, 0) for leaf in _state_of(carry))
    if size == 0:
        raise ValueError(
            f"{name}: got {layer!r}, which has no state, expected a recurrent one, or bridge=None"
        )
    return size
