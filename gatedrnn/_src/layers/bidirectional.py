"""Two layers over the same input, one in each direction of time.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry, Cell
from gatedrnn._src.describe import documented, shown
from gatedrnn._src.layers.base import Layer, run_layer, run_layer_final
from gatedrnn._src.layers.checks import check_layer
from gatedrnn._src.layers.context import Context, flip, flip_context
from gatedrnn._src.layers.recurrent import as_layer, brief

Merge = Literal["concat", "sum", "mean", "mul"]

MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "concat": lambda a, b: jnp.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: 0.5 * (a + b),
    "mul": lambda a, b: a * b,
}


@documented
class Directions(NamedTuple):
    """One of each direction: parameters, carries or outputs.

    Attributes:
      forward: that of the layer that runs forward in time.
      backward: that of the layer that runs from the end.
    """

    forward: Any
    backward: Any


@dataclasses.dataclass(frozen=True, repr=False)
class Bidirectional(Layer):
    """Two layers over the same input, one forward and one backward; made by `gr.bidirectional`.

    The backward layer starts at each row's last valid step, and its final carry belongs to the
    row's first. Parameters and carries are `Directions`.

    Attributes:
      forward: a causal layer.
      backward: another, which runs from the end.
      merge: how outputs are joined at each step.

    Example:
      >>> layer = gr.bidirectional(gr.LSTM(4))
      >>> params = layer.init(jax.random.key(0), 3)
      >>> layer.apply(params, jnp.ones((5, 2, 3)))[1].shape
      (5, 2, 8)
    """

    forward: Layer
    backward: Layer
    merge: Merge = "concat"

    causal = False
    masks_outputs = True

    def __post_init__(self) -> None:
        for name, layer in (("forward", self.forward), ("backward", self.backward)):
            check_layer(name, layer)
            if not layer.causal:
                raise ValueError(f"{name}: got {layer!r}, expected a causal layer or a cell")
        checks.option("merge", self.merge, Merge)

    @property
    def reads_tokens(self) -> bool:
        """True where the layers read tokens."""
        return self.forward.reads_tokens

    @property
    def why_not(self) -> str:
        """The reason why the layer cannot stream."""
        return "its backward direction starts at the end of the sequence"

    def parts(self, in_features: int | None) -> list[tuple[str, Layer, int | None]]:
        """Both directions."""
        pairs = zip(Directions._fields, (self.forward, self.backward), strict=True)
        return [(name, layer, in_features) for name, layer in pairs]

    def out_features(self, in_features: int | None) -> int | None:
        """Return the size of both outputs side by side, or of either."""
        sizes = [layer.out_features(in_features) for layer in (self.forward, self.backward)]
        if None in sizes:
            raise ValueError(f"in_features: got {in_features} for {self!r}, which makes tokens")
        if self.merge == "concat":
            return sum(size or 0 for size in sizes)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"merge: got {self.merge!r} for outputs of {sizes[0]} and {sizes[1]} features, "
                "expected 'concat', or directions of equal size"
            )
        return sizes[0]

    def init(
        self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32
    ) -> Directions:
        """Make parameters of both directions."""
        self.out_features(in_features)
        forward_key, backward_key = jax.random.split(validation.as_key(key))
        return Directions(
            self.forward.init(forward_key, in_features, dtype),
            self.backward.init(backward_key, in_features, dtype),
        )

    def carry(
        self,
        batch_shape: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
        params: Directions | None = None,
    ) -> Directions:
        """Make the initial carries of both directions, each at its own end."""
        params = Directions(None, None) if params is None else params
        if not isinstance(params, Directions):
            raise ValueError(f"params: got {shown(params)}, expected Directions(forward, backward)")
        return Directions(
            self.forward.carry(batch_shape, dtype, params.forward),
            self.backward.carry(batch_shape, dtype, params.backward),
        )

    def run(
        self, params: Directions, xs: Array, carry: Carry, context: Context
    ) -> tuple[Directions, Array]:
        """Run both directions and merge them step by step."""
        carries, outputs = self._both(run_layer, params, xs, carry, context)
        if self._one_loop:
            outputs = Directions(outputs.forward, flip(outputs.backward))
        return carries, MERGES[self.merge](*outputs)

    def run_final(
        self, params: Directions, xs: Array, carry: Carry, context: Context
    ) -> tuple[Directions, Array]:
        """Run both directions and merge the outputs that belong to their final carries."""
        carries, outputs = self._both(run_layer_final, params, xs, carry, context)
        return carries, MERGES[self.merge](*outputs)

    @property
    def _one_loop(self) -> bool:
        """True where both directions run as one, vmapped over parameters and flipped inputs."""
        return self.forward == self.backward and self.forward.flips

    def _both(
        self, run: Callable, params: Directions, xs: Array, carry: Carry, context: Context
    ) -> tuple[Directions, Directions]:
        """The final carries of both directions, and what else `run` returns.

        In one loop, the backward direction sees, and returns, a sequence that is flipped.
        """
        ahead = context.of_layer(0)
        back = dataclasses.replace(context.of_layer(1), reverse=True)
        if not self._one_loop:
            forward = run(self.forward, params.forward, xs, carry.forward, ahead)
            backward = run(self.backward, params.backward, xs, carry.backward, back)
            return Directions(forward[0], backward[0]), Directions(forward[1], backward[1])
        ahead = dataclasses.replace(ahead, lengths=None)
        pairs = jax.tree.map(
            lambda a, b: jnp.stack([a, b]),
            (params.forward, xs, carry.forward, ahead),
            (params.backward, flip(xs), carry.backward, flip_context(back)),
        )
        carries, ys = jax.vmap(partial(run, self.forward))(*pairs)
        return Directions(*_unstack(carries)), Directions(*_unstack(ys))

    def __repr__(self) -> str:
        """The call that makes the layer."""
        other = "" if self.backward == self.forward else f", {brief(self.backward)}"
        merge = "" if self.merge == "concat" else f", merge={self.merge!r}"
        return f"bidirectional({brief(self.forward)}{other}{merge})"


def bidirectional(
    cell: Cell | Layer, other: Cell | Layer | None = None, merge: Merge = "concat"
) -> Bidirectional:
    """Make a layer of two over the same input, one in each direction (Schuster & Paliwal 1997).

    Args:
      cell: a cell or any causal layer, which runs forward in time.
      other: the one that runs backward; None: the same, with parameters of its own.
      merge: how outputs are joined at each step: `"concat"`, `"sum"`, `"mean"` or `"mul"`.

    Raises:
      TypeError: neither a cell nor a layer.
      ValueError: a layer that is not causal, an unknown merge, or (at `init`) one that needs equal
        sizes.

    Example:
      >>> gr.bidirectional(gr.GRU(8), merge="sum")
      bidirectional(GRU(8), merge='sum')
    """
    forward, backward = as_layer(cell), as_layer(cell if other is None else other)
    check_layer("cell", forward)
    check_layer("other", backward)
    return Bidirectional(forward, backward, merge)


@partial(jax.jit, inline=True)
def _unstack(tree: Any) -> tuple[Any, Any]:
    return jax.tree.map(lambda v: v[0], tree), jax.tree.map(lambda v: v[1], tree)
