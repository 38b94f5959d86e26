"""flax nnx's modules, in float64."""

import gatedrnn as gr
from conformance.peer import Peer, by_autodiff


def run(layer, params, xs, carry, lengths):
    """Layer by layer: a Sequential hands neither carries nor lengths on."""
    from flax import nnx

    module = gr.interop.to_nnx(layer, params)
    states = gr.interop.to_nnx_carry(layer, carry)
    several = isinstance(module, nnx.Sequential)
    final = []
    for part, state in zip(module.layers, states, strict=True) if several else [(module, states)]:
        state, xs = part(xs, initial_carry=state, seq_lengths=lengths, return_carry=True)
        final.append(state)
    return gr.interop.from_nnx_carry(layer, tuple(final) if several else final[0]), xs


PEER = Peer(
    name="flax nnx",
    needs=("flax",),
    dtype="float64",
    convert=gr.interop.to_nnx,
    recover=gr.interop.from_nnx,
    evaluate=by_autodiff(run),
    lossy="a cell without a bias gets one of zeros.",
)
