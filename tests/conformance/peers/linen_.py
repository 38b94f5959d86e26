"""flax linen's modules, in float64."""

import gatedrnn as gr
from conformance.peer import Peer, by_autodiff


def run(layer, params, xs, carry, lengths):
    """Layer by layer: a Sequential hands neither carries nor lengths on."""
    import flax.linen as nn

    module, variables = gr.interop.to_linen(layer, params)
    states = gr.interop.to_linen_carry(layer, carry)
    bound = module.bind(variables)
    several = isinstance(module, nn.Sequential)
    final = []
    for part, state in zip(bound.layers, states, strict=True) if several else [(bound, states)]:
        state, xs = part(xs, initial_carry=state, seq_lengths=lengths, return_carry=True)
        final.append(state)
    return gr.interop.from_linen_carry(layer, tuple(final) if several else final[0]), xs


PEER = Peer(
    name="flax linen",
    needs=("flax",),
    dtype="float64",
    convert=gr.interop.to_linen,
    recover=lambda model: gr.interop.from_linen(*model),
    evaluate=by_autodiff(run),
    lossy="a cell without a bias gets one of zeros.",
)
