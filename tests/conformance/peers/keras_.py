"""keras' layers on JAX, in float64: with `jnp.tanh`, as keras' own rounds to float32 there."""

import functools
import os
import warnings

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr
from conformance.cases import IN
from conformance.peer import Peer, by_autodiff
from gatedrnn._interop.keras.build import keras_weights


def convert(layer, params):
    with (
        warnings.catch_warnings(),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        warnings.simplefilter("ignore")  # those of its imports
        return gr.interop.to_keras(layer, params)


@functools.lru_cache(maxsize=1)
def parts_of(layer):
    """The layers of its model, which return their states, too; their own weights are not used."""
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), IN, "float64"))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    model = convert(layer, zeros)
    parts = getattr(model, "layers", [model])
    for part in parts:
        for one in (part, *directions_of(part)):
            one.return_state, one.use_cudnn = True, False
            if hasattr(one, "cell") and one.cell.activation.__name__ == "tanh":
                one.cell.activation = jnp.tanh
    return parts


def directions_of(part):
    """The two directions of a bidirectional layer."""
    return (part.forward_layer, part.backward_layer) if hasattr(part, "forward_layer") else ()


def run(layer, params, xs, carry, lengths):
    weights = iter(keras_weights(layer, params))
    states = iter(gr.interop.to_keras_carry(layer, carry))
    mask = None if lengths is None else jnp.arange(len(xs))[None] < lengths[:, None]
    ys, finals = xs.swapaxes(0, 1), []
    for part in parts_of(layer):
        own = [next(weights) for _ in part.trainable_variables]
        others = [variable.value for variable in part.non_trainable_variables]
        ways = directions_of(part) or (part,)
        start = [next(states) for one in ways for _ in one.state_size]
        (ys, *final), _ = part.stateless_call(own, others, ys, initial_state=start, mask=mask)
        finals += final
    return gr.interop.from_keras_carry(layer, finals), ys.swapaxes(0, 1)


def evaluate(layer, *arguments):
    """By autodiff, of layers that are built before JAX traces anything."""
    parts_of(layer)
    return traced(layer, *arguments)


traced = by_autodiff(run)

PEER = Peer(
    name="keras",
    needs=("keras",),
    dtype="float64",
    convert=convert,
    recover=gr.interop.from_keras,
    evaluate=evaluate,
)
