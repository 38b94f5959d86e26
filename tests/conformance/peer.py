"""What a peer is.

Axes: `T` time, `B` batch, `I` input features, `F` output features.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax


class Peer(NamedTuple):
    """A library that runs our network, converted.

    Attributes:
      name: in the table.
      needs: the modules that must be installed.
      dtype: the widest that it computes in.
      convert: `(layer, params) -> model`, by `gr.interop.to_X`; raises where there is none.
      recover: `model -> (layer, params)`, by `gr.interop.from_X`.
      evaluate: `(layer, params, xs [T, B, I], carry, lengths [B] or None, dys, dcarry) ->
        ((carry, ys [T, B, F]), (dparams, dxs, dcarry))`: what the library itself makes of the
        converted network, in our terms; None for the gradients where there are none.
      gradients: whether there are; a text says why not.
      ragged: whether there may be lengths; a text says why not.
      lossy: what a round trip may lose, and why.
    """

    name: str
    needs: tuple[str, ...]
    dtype: str
    convert: Callable[[Any, Any], Any]
    recover: Callable[[Any], tuple[Any, Any]]
    evaluate: Callable[..., tuple[Any, Any]]
    gradients: bool | str = True
    ragged: bool | str = True
    lossy: str = ""


def by_autodiff(run: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """`Peer.evaluate` of what JAX can differentiate, through the conversion itself.

    `run(layer, params, xs, carry, lengths) -> (carry, ys)`.
    """

    @partial(jax.jit, static_argnums=0)
    def evaluate(layer, params, xs, carry, lengths, dys, dcarry):
        def outputs(params, xs, carry):
            return run(layer, params, xs, carry, lengths)

        found, pull = jax.vjp(outputs, params, xs, carry)
        return found, pull((dcarry, dys))

    return evaluate
