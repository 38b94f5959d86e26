"""The vector of cuDNN, unpacked and run by JAX's own reference implementation, in float64."""

import jax.numpy as jnp

import gatedrnn as gr
from conformance.cases import IN
from conformance.peer import Peer, by_autodiff


def sizes_of(layer):
    """What goes with the vector of a network."""
    parts = getattr(layer, "layers", (layer,))
    bidirectional = hasattr(parts[0], "forward")
    one = parts[0].forward if bidirectional else parts[0]
    return {
        "input_size": IN,
        "hidden_size": one.cell.features,
        "num_layers": len(parts),
        "bidirectional": bidirectional,
    }


def convert(layer, params):
    return gr.interop.to_cudnn(layer, params), sizes_of(layer)


def recover(model):
    weights, sizes = model
    return gr.interop.from_cudnn(weights, **sizes)


def run(layer, params, xs, carry, lengths):
    from jax.experimental import rnn

    weights, sizes = convert(layer, params)
    arrays = rnn.unpack_lstm_weights(weights, *sizes.values())
    states = gr.interop.to_cudnn_carry(layer, carry)
    if lengths is None:
        lengths = jnp.full(xs.shape[1], len(xs), jnp.int32)
    *sizes, bidirectional = sizes.values()
    ys, *states = rnn.lstm_ref(
        jnp.swapaxes(xs, 0, 1), *states, *arrays, lengths, *sizes, 0.0, bidirectional
    )
    return gr.interop.from_cudnn_carry(layer, states), jnp.swapaxes(ys, 0, 1)


PEER = Peer(
    name="cuDNN (`jax.experimental.rnn.lstm_ref`, its reference implementation, on a CPU)",
    needs=("jax.experimental.rnn",),
    dtype="float64",
    convert=convert,
    recover=recover,
    evaluate=by_autodiff(run),
)
