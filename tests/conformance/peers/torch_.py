"""torch's modules, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from networks import has_gru_that_writes

import gatedrnn as gr
from conformance.peer import Peer
from gatedrnn._interop.layouts import with_update


def evaluate(layer, params, xs, carry, lengths, dys, dcarry):
    """The recurrent bias of torch has the gradient of the input's, but for `n` of a GRU."""
    import torch

    model = gr.interop.to_torch(layer, params)
    xs = torch.tensor(np.asarray(xs), requires_grad=True)
    states = [state.requires_grad_() for state in states_of(layer, carry)]
    ys, finals = outputs(model, xs, states, lengths)
    torch.autograd.backward(
        [ys, *finals], [torch.tensor(np.asarray(dys)), *states_of(layer, dcarry)]
    )
    found = carry_of(layer, finals), jnp.asarray(ys.detach().numpy())
    arrays = {name: tensor.grad.numpy() for name, tensor in model.named_parameters()}
    for name, array in arrays.items():
        if name.startswith("bias_hh"):
            array[: len(array) // 3 * 2 if isinstance(model, torch.nn.GRU) else None] = 0
    dparams = gr.interop.from_torch(arrays)[1]
    if has_gru_that_writes(layer):  # it came back as one that keeps, of the opposite sign
        dparams = jax.tree.map(turned, dparams, is_leaf=is_gru)
    dxs = jnp.asarray(xs.grad.numpy())
    return found, (dparams, dxs, carry_of(layer, [state.grad for state in states]))


def outputs(model, xs, states, lengths):
    """Outputs, padded to the length of `xs`, and final states."""
    import torch

    states = tuple(states) if len(states) > 1 else states[0]
    if lengths is None:
        ys, finals = model(xs, states)
    else:
        lengths = torch.tensor(np.asarray(lengths), dtype=torch.int64)
        pack, pad = (
            getattr(torch.nn.utils.rnn, name)
            for name in ("pack_padded_sequence", "pad_packed_sequence")
        )
        ys, finals = model(pack(xs, lengths, enforce_sorted=False), states)
        ys = pad(ys, total_length=len(xs))[0]
    return ys, finals if isinstance(finals, tuple) else (finals,)


def states_of(layer, carry):
    states = gr.interop.to_torch_carry(layer, carry)
    return states if isinstance(states, tuple) else (states,)


def carry_of(layer, states):
    return gr.interop.from_torch_carry(layer, tuple(states))


def is_gru(node):
    return isinstance(node, gr.GRUParams)


def turned(node):
    """The gradients of a GRU that writes, from those of the one that keeps."""
    return with_update(node, "keeps", "writes") if is_gru(node) else node


PEER = Peer(
    name="torch",
    needs=("torch",),
    dtype="float64",
    convert=gr.interop.to_torch,
    recover=gr.interop.from_torch,
    evaluate=evaluate,
)
