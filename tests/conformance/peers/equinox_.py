"""equinox's cells, in float64, in the loop over time that its documentation has."""

import jax

import gatedrnn as gr
from conformance.peer import Peer, by_autodiff


def over_time(cell, xs, state):
    """`xs [T, B, I]` through one cell, which reads a row of a batch at a time."""

    def step(state, x):
        state = jax.vmap(cell)(x, state)
        return state, jax.tree.leaves(state)[0]  # h of (h, c)

    state, ys = jax.lax.scan(step, state, xs)
    return ys, state


def run(layer, params, xs, carry, lengths):
    cells = gr.interop.to_equinox(layer, params)
    states = gr.interop.to_equinox_carry(layer, carry)
    if not isinstance(cells, list):
        ys, final = over_time(cells, xs, states)
    else:
        ys, final = xs, []
        for cell, state in zip(cells, states, strict=True):
            ys, state = over_time(cell, ys, state)
            final.append(state)
    return gr.interop.from_equinox_carry(layer, final), ys


def recover(model):
    layer, params = gr.interop.from_equinox(model)
    if isinstance(model, list):
        return layer, params
    return gr.recurrent(layer), gr.RecurrentParams(params, None)


PEER = Peer(
    name="equinox",
    needs=("equinox",),
    dtype="float64",
    convert=gr.interop.to_equinox,
    recover=recover,
    evaluate=by_autodiff(run),
    ragged="equinox has cells only, lengths are a matter of the user's loop",
)
