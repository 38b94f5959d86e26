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
      run: `(layer, params, xs [T, B, I], carry, lengths [B] or None) -> (carry, ys [T, B, F])`: the
        library's own outputs from the converted network, states in our terms.
      gradients: `(layer, params, xs, carry, lengths, dys, dcarry) -> (dparams, dxs, dcarry)`: the
        library's own, in our terms; a text says why there are none.
      ragged: whether `run` takes lengths; a text says why not.
      lossy: whether a round trip may lose bits, and why.
    """

    name: str
    needs: tuple[str, ...]
    dtype: str
    convert: Callable[[Any, Any], Any]
    recover: Callable[[Any], tuple[Any, Any]]
    run: Callable[..., tuple[Any, Any]]
    gradients: Callable[..., tuple[Any, Any, Any]] | str
    ragged: bool | str = True
    lossy: str = ""


def by_autodiff(run: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any, Any]]:
    """The gradients of a `run` that JAX can differentiate, through the conversion itself."""

    @partial(jax.jit, static_argnums=0)
    def gradients(layer, params, xs, carry, lengths, dys, dcarry):
        def outputs(params, xs, carry):
            return run(layer, params, xs, carry, lengths)

        _, pull = jax.vjp(outputs, params, xs, carry)
        return pull((dcarry, dys))

    return gradients
