"""Two recurrences over the same input, one in each direction of time.

Axes: `T` time, `*B` any batch axes, `I` input features, `F` output features.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Carry, Cell, rule_of
from gatedrnn._src.layers.base import as_sequence, features_of, key_of
from gatedrnn._src.layers.recurrent import Recurrent, lift
from gatedrnn._src.masks import draws
from gatedrnn._src.time.unroll import steps_that_start

MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "concat": lambda a, b: jnp.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: 0.5 * (a + b),
    "mul": lambda a, b: a * b,
}


class Directions(NamedTuple):
    """One of each: the parameters, or the carries, of the two directions."""

    forward: Any
    backward: Any


@dataclasses.dataclass(frozen=True)
class Bidirectional:
    """One recurrence forward and one backward in time; see `bidirectional`."""

    forward: Recurrent
    backward: Recurrent
    merge: str = "concat"

    causal = False

    def __post_init__(self) -> None:
        for name, layer in (("forward", self.forward), ("backward", self.backward)):
            if not isinstance(layer, Recurrent):
                raise TypeError(f"{name}: got {layer!r}, expected a cell or gr.recurrent(cell)")
        checks.option("merge", self.merge, tuple(MERGES))

    def out_features(self, in_features: int | None) -> int:
        """Both outputs side by side, or the size of either."""
        in_features = features_of(self, in_features)
        sizes = [layer.out_features(in_features) for layer in (self.forward, self.backward)]
        if self.merge == "concat":
            return sum(sizes)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"merge: got {self.merge!r} for outputs of {sizes[0]} and {sizes[1]} features, "
                "expected 'concat', or directions of equal size"
            )
        return sizes[0]

    def init(
        self, key: Array, in_features: int | None, dtype: DTypeLike = jnp.float32
    ) -> Directions:
        """Parameters of both directions."""
        self.out_features(in_features)
        forward_key, backward_key = jax.random.split(key)
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
        """The initial carries of both directions, each at its own end."""
        params = Directions(None, None) if params is None else params
        return Directions(
            self.forward.carry(batch_shape, dtype, params.forward),
            self.backward.carry(batch_shape, dtype, params.backward),
        )

    def apply(
        self,
        params: Directions,
        xs: Array,
        carry: Directions | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Directions, Array]:
        """Both directions over `xs [T, *B, I]`, merged step by step: `ys [T, *B, F]`.

        The backward one starts at each row's own last valid step. Its final carry belongs to the
        row's first.
        """
        carries, (forward, backward) = self._both(
            Recurrent.run, params, xs, carry, lengths, mask, resets, key
        )
        if self._one_loop:
            backward = _flip(backward)
        return carries, MERGES[self.merge](forward, backward)

    def final(
        self,
        params: Directions,
        xs: Array,
        carry: Directions | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Directions, Array]:
        """The final carries and the outputs that belong to them, merged: `[*B, F]`."""
        carries, ends = self._both(
            Recurrent.run_to_end, params, xs, carry, lengths, mask, resets, key
        )
        return carries, MERGES[self.merge](*ends)

    @property
    def _one_loop(self) -> bool:
        """Whether both directions can run as one, vmapped over parameters and flipped inputs.

        Truncation cuts at array positions, which a flip would move.
        """
        return self.forward == self.backward and self.forward.bptt.truncate is None

    def _both(
        self,
        run: Callable,
        params: Directions,
        xs: Array,
        carry: Directions | None,
        lengths: Array | None,
        mask: Array | None,
        resets: Array | None,
        key: Array | None,
    ) -> tuple[Directions, Directions]:
        """`run` in both directions: the final carries and what else it returns.

        In one loop, the backward direction sees, and returns, a sequence that is flipped.
        """
        xs, mask = as_sequence(self, xs, lengths, mask, resets)
        params = _both_of("params", params)
        carry = Directions(None, None) if carry is None else _both_of("carry", carry)
        self.out_features(xs.shape[-1])
        layers = (self.forward, self.backward)
        keys = [key_of(key, i) if draws(layer.cell) else None for i, layer in enumerate(layers)]
        if not self._one_loop:
            flags = (mask, resets)
            forward = run(self.forward, params.forward, xs, carry.forward, *flags, keys[0], False)
            backward = run(
                self.backward, params.backward, xs, carry.backward, *flags, keys[1], True
            )
            return Directions(forward[0], backward[0]), Directions(forward[1], backward[1])
        carry = self._checked(params, carry, xs)
        if resets is not None:
            resets = jnp.asarray(resets)
            resets = jnp.stack([resets, jnp.flip(steps_that_start(resets, mask, reverse=True), 0)])
        pairs = jax.tree.map(
            lambda ahead, back: jnp.stack([ahead, back]),
            (params.forward, xs, carry.forward, mask, keys[0]),
            (params.backward, _flip(xs), carry.backward, _flip(mask), keys[1]),
        )
        both = jax.vmap(partial(run, self.forward, reverse=False))
        carries, ys = both(*pairs[:4], resets, pairs[4])
        return Directions(*_unstack(carries)), Directions(*_unstack(ys))

    def _checked(self, params: Directions, carry: Directions, xs: Array) -> Directions:
        """`carry` in the dtypes of the cell; raise where the two directions cannot be stacked."""
        cell = self.forward.cell
        for p in params:
            self.forward.check(p)
            validation.check_params(cell, p.cell, xs)
        if rule_of(cell) is not None:
            validation.check_dtypes(params, xs, "xs")
        if carry.forward is None:
            return carry
        named = zip((self.forward, self.backward), carry, Directions._fields, strict=True)
        return Directions(*(layer.as_carry(c, xs, f"carry.{name}") for layer, c, name in named))

    def step(
        self, params: Directions, carry: Carry, x: Array, *, key: Array | None = None
    ) -> NoReturn:
        """Raise: there is no first step of a recurrence that starts at the end."""
        raise TypeError(
            "step: a bidirectional layer cannot stream, its backward direction starts at the end "
            "of the sequence; use apply on the whole sequence"
        )


def bidirectional(
    cell: Cell | Recurrent, other: Cell | Recurrent | None = None, merge: str = "concat"
) -> Bidirectional:
    """A layer of two recurrences over the same input (Schuster & Paliwal 1997).

    Args:
      cell: a cell, or `gr.recurrent(cell)`, that runs forward in time.
      other: the one that runs backward; None: the same, with parameters of its own.
      merge: how outputs are joined at each step: `"concat"`, `"sum"`, `"mean"` or `"mul"`.

    Raises:
      TypeError: neither a cell nor a recurrent layer.
      ValueError: an unknown merge, or (at `init`) one that needs equal sizes.
    """
    forward = lift(cell)
    return Bidirectional(forward, forward if other is None else lift(other), merge)


def _both_of(name: str, pair: Any) -> Directions:
    """`pair` as one of each direction, checked."""
    if not isinstance(pair, tuple) or len(pair) != 2 or any(one is None for one in pair):
        raise ValueError(
            f"{name}: got {type(pair).__name__}, expected Directions(forward, backward)"
        )
    return Directions(*pair)


def _flip(tree: Any) -> Any:
    return jax.tree.map(lambda v: jnp.flip(v, 0), tree)


def _unstack(tree: Any) -> tuple[Any, Any]:
    return jax.tree.map(lambda v: v[0], tree), jax.tree.map(lambda v: v[1], tree)
