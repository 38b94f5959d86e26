"""haiku's cores under `hk.dynamic_unroll`, in float64."""

import gatedrnn as gr
from conformance.peer import Peer, by_autodiff


def core_of(hk, layer):
    """The core of a network; made inside of `hk.transform`."""
    if hasattr(layer, "layers"):
        return hk.DeepRNN([core_of(hk, part) for part in layer.layers])
    kind = {gr.LSTM: hk.LSTM, gr.GRU: hk.GRU, gr.Elman: hk.VanillaRNN}[type(layer.cell)]
    return kind(layer.cell.features)


def run(layer, params, xs, carry, lengths):
    import haiku as hk

    def network(xs, states):
        return hk.dynamic_unroll(core_of(hk, layer), xs, states)

    apply = hk.without_apply_rng(hk.transform(network)).apply
    states = gr.interop.to_haiku_carry(layer, carry)
    ys, states = apply(gr.interop.to_haiku(layer, params), xs, states)
    return gr.interop.from_haiku_carry(layer, states), ys


def recover(params):
    modules = list(dict.fromkeys(path.split("/")[0] for path in params))
    if len(modules) > 1:
        return gr.interop.from_haiku(params, modules)
    cell, params = gr.interop.from_haiku(params)
    return gr.recurrent(cell), gr.RecurrentParams(params, None)


PEER = Peer(
    name="haiku",
    needs=("haiku",),
    dtype="float64",
    convert=gr.interop.to_haiku,
    recover=recover,
    evaluate=by_autodiff(run),
    ragged="`hk.dynamic_unroll` knows no lengths",
    lossy="`hk.LSTM` adds 1 to its forget gate, which the bias loses and gets back, rounded.",
)
