"""torch's modules, in float64."""

import jax
import numpy as np

import gatedrnn as gr
from conformance.peer import Peer


def _run(model, layer, xs, carry, lengths):
    """Tensors: states and outputs, padded to the length of `xs`."""
    import torch

    if lengths is None:
        return model(xs, carry)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        xs, torch.tensor(np.asarray(lengths), dtype=torch.int64), enforce_sorted=False
    )
    ys, carry = model(packed, carry)
    return torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=len(xs))[0], carry


def run(layer, params, xs, carry, lengths):
    import torch

    model = gr.interop.to_torch(layer, params)
    states = gr.interop.to_torch_carry(layer, carry)
    with torch.no_grad():
        ys, states = _run(model, layer, torch.tensor(np.asarray(xs)), states, lengths)
    return gr.interop.from_torch_carry(layer, states), ys.numpy()


def gradients(layer, params, xs, carry, lengths, dys, dcarry):
    """The recurrent bias of torch has the gradient of the input's, but for `n` of a GRU."""
    import torch

    model = gr.interop.to_torch(layer, params)
    states = gr.interop.to_torch_carry(layer, carry)
    several = isinstance(states, tuple)
    leaves = [s.requires_grad_() for s in (states if several else (states,))]
    xs = torch.tensor(np.asarray(xs), requires_grad=True)
    ys, final = _run(model, layer, xs, tuple(leaves) if several else leaves[0], lengths)
    finals = final if several else (final,)
    dfinal = gr.interop.to_torch_carry(layer, dcarry)
    dfinals = dfinal if several else (dfinal,)
    torch.autograd.backward([ys, *finals], [torch.tensor(np.asarray(dys)), *dfinals])
    state = {name: p.grad.numpy() for name, p in model.named_parameters()}
    for name in state:
        if name.startswith("bias_hh"):
            features = len(state[name]) // 3 * 2 if isinstance(model, torch.nn.GRU) else None
            state[name][:features] = 0
    dparams = gr.interop.from_torch(state)[1]
    dstates = tuple(leaf.grad for leaf in leaves)
    dcarry = gr.interop.from_torch_carry(layer, dstates if several else dstates[0])
    if "writes" in repr(layer):  # it came back as one that keeps, of the opposite sign
        dparams = _turned(dparams)
    return dparams, jax.numpy.asarray(xs.grad.numpy()), dcarry


def _turned(params):
    """The gradients of a GRU's update gate, of the other sign."""
    from gatedrnn._interop.forms import gru_params

    is_gru = lambda node: hasattr(node, "recurrent_bias")  # noqa: E731
    return jax.tree.map(
        lambda p: gru_params(p, "writes", "keeps") if is_gru(p) else p, params, is_leaf=is_gru
    )


PEER = Peer(
    name="torch",
    needs=("torch",),
    dtype="float64",
    convert=gr.interop.to_torch,
    recover=gr.interop.from_torch,
    run=run,
    gradients=gradients,
)
