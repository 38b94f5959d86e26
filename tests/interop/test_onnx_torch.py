"""Models that torch exports, as our networks.

Axes: `T` time, `B` batch, `I` inputs, `H` features.
"""

import io
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

import gatedrnn as gr  # noqa: E402
from gatedrnn._interop.carries import carry_from_states, states_from_carry  # noqa: E402

T, B, I, H = 5, 2, 3, 4
KINDS = ("RNN", "GRU", "LSTM")
in_kinds = pytest.mark.parametrize("kind", KINDS)
# of axes that are left open the exporter writes what computes shapes, fixed ones it folds
in_open = pytest.mark.parametrize(
    ("kind", "open_axes"),
    [("RNN", True), ("GRU", False), ("LSTM", True), ("LSTM", False)],
    ids=["RNN", "GRU, fixed", "LSTM", "LSTM, fixed"],
)
in_two = pytest.mark.parametrize(
    ("kind", "open_axes"), [("GRU", True), ("LSTM", False)], ids=["GRU", "LSTM, fixed"]
)


class Module(torch.nn.Module):
    """A recurrent module, and what `then` makes of its output and final `h`."""

    def __init__(self, kind, then=None, **options):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = getattr(torch.nn, kind)(I, H, **options)
        self.fc = torch.nn.Linear(H * (1 + self.rnn.bidirectional), 2)
        directions = self.rnn.num_layers * (1 + self.rnn.bidirectional)
        self.h0 = torch.nn.Parameter(torch.randn(directions, 1, H))
        self.then = then

    def forward(self, x, *states):
        states = (states[0] if len(states) == 1 else states) if states else None
        if self.then == "learned":
            h = self.h0.expand(-1, x.shape[1], -1)
            states = (h, torch.zeros_like(h)) if isinstance(self.rnn, torch.nn.LSTM) else h
        y, end = self.rnn(x, states)
        ends = end if isinstance(end, tuple) else (end,)
        if self.then in (None, "learned"):
            return y, *ends
        return self.then(self, y, ends[0])


def exported(module, *inputs, open_axes=True, names=("x", "h", "c")):
    """The model, by the exporter that needs nothing else."""
    names = list(names[: len(inputs)])
    file = io.BytesIO()
    axes = {"x": {0: "first", 1: "second"}} if open_axes else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), inputs, file, dynamo=False, input_names=names, dynamic_axes=axes
        )
    return onnx.load_from_string(file.getvalue())


def close(got, want):
    np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-5)


def ours(tensor, turn=False):
    array = jnp.asarray(tensor.detach().numpy())
    return jnp.swapaxes(array, 0, 1) if turn else array


OPTIONS = {
    "two layers, both directions": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "two layers, no bias": {"num_layers": 2, "bias": False},
}


@in_open
@pytest.mark.parametrize("options", OPTIONS)
def test_modules_and_their_states(kind, options, open_axes):
    """The same network as `from_torch` makes of the module itself, but for how biases are added."""
    module = Module(kind, **OPTIONS[options])
    turn = "batch_first" in OPTIONS[options]
    x = torch.randn((B, T, I) if turn else (T, B, I))
    layer, params = gr.interop.from_onnx(exported(module, x, open_axes=open_axes))
    assert layer == gr.interop.from_torch(module.rnn)[0]
    carry, ys = layer.apply(params, ours(x, turn))
    want, *ends = module(x)
    close(jnp.swapaxes(ys, 0, 1) if turn else ys, want)
    for state, end in zip(states_from_carry(layer, carry), ends, strict=True):
        close(state, end)


def test_a_batch_of_one_step_may_be_fixed():
    """Axes of size 1 may stand for any size: the network is the same."""
    module = Module("LSTM", num_layers=2, bidirectional=True)
    layer, params = gr.interop.from_onnx(exported(module, torch.randn(1, 1, I), open_axes=False))
    x = torch.randn(T, B, I)
    close(layer.apply(params, ours(x))[1], module(x)[0])


@in_kinds
def test_states_that_are_inputs_are_the_carry(kind):
    """Slices of them are what each layer reads."""
    module = Module(kind, num_layers=2, bidirectional=True)
    states = [torch.randn(4, B, H) for _ in range(2 if kind == "LSTM" else 1)]
    x = torch.randn(T, B, I)
    layer, params = gr.interop.from_onnx(exported(module, x, *states, open_axes=False))
    carry = carry_from_states(layer, [ours(state) for state in states])
    close(layer.apply(params, ours(x), carry)[1], module(x, *states)[0])


@in_open
def test_a_learned_state_is_learned(kind, open_axes):
    module = Module(kind, "learned", bidirectional=True)
    x = torch.randn(T, B, I)
    layer, params = gr.interop.from_onnx(exported(module, x, open_axes=open_axes))
    assert layer.forward.initial == layer.backward.initial == "learned"
    close(params.backward.initial.h, module.h0[1, 0])
    close(layer.apply(params, ours(x))[1], module(x)[0])


def last(module, y, h):
    return module.fc(y[-1])


def last_state(module, y, h):
    return module.fc(h[-1])


def both_states(module, y, h):
    return module.fc(torch.cat([h[-2], h[-1]], -1))


def view_of_states(module, y, h):
    return module.fc(h.view(2, 2, -1, H)[-1].permute(1, 0, 2).reshape(-1, 2 * H))


def ends_of_outputs(module, y, h):
    return torch.cat([y[-1, :, :H], y[0, :, H:]], -1)


def every_step(module, y, h):
    return module.fc(y)


def summed(module, y, h):
    return y.view(*y.shape[:2], 2, H).sum(2)


def multiplied(module, y, h):
    ahead, back = y.chunk(2, -1)
    return ahead * back


BOTH, DEEP = {"bidirectional": True}, {"bidirectional": True, "num_layers": 2}
THEN = {
    "the last step": (last, {}, gr.final),
    "the last state": (last_state, {"num_layers": 2}, gr.final),
    "the last states of both": (both_states, DEEP, gr.final),
    "the states by layer and direction": (view_of_states, DEEP, gr.final),
    "the ends of both": (ends_of_outputs, BOTH, gr.final),
    "a read-out of every step": (every_step, BOTH, lambda layer: layer),
    "the sum": (summed, BOTH, lambda layer: layer),
    "the product": (multiplied, BOTH, lambda layer: layer),
}


@in_two
@pytest.mark.parametrize("what", THEN)
def test_what_is_made_of_outputs(kind, what, open_axes):
    then, options, wrapped = THEN[what]
    module = Module(kind, then, **options)
    x = torch.randn(T, B, I)
    layer, params = gr.interop.from_onnx(exported(module, x, open_axes=open_axes))
    assert layer == wrapped(getattr(layer, "layer", layer))
    close(layer.apply(params, ours(x))[1], module(x))


class Packed(Module):
    """Sequences with lengths."""

    def forward(self, x, lengths):
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        y, end = self.rnn(packed)
        return torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0], end


@pytest.mark.filterwarnings("ignore")
def test_packed_sequences_read_lengths():
    module, x, lengths = Packed("GRU", **BOTH), torch.randn(3, T, I), torch.tensor([T, 3, 1])
    module.rnn.batch_first = True
    layer, params = gr.interop.from_onnx(exported(module, x, lengths, names=("x", "lengths")))
    carry, ys = layer.apply(params, ours(x, True), lengths=jnp.asarray(lengths.numpy()))
    want, end = module(x, lengths)
    close(jnp.swapaxes(ys, 0, 1), want)
    close(jnp.stack([carry.forward.h, carry.backward.h]), end)


class Tagger(torch.nn.Module):
    """Tokens, dropout, two layers, a read-out."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, I)
        self.rnn = torch.nn.LSTM(I, H, 2, batch_first=True, bidirectional=True, dropout=0.3)
        self.dropout = torch.nn.Dropout(0.5)
        self.fc = torch.nn.Linear(2 * H, 6)

    def forward(self, x):
        return self.fc(self.dropout(self.rnn(self.embed(x))[0]))


@pytest.mark.parametrize("open_axes", [True, False], ids=["open", "fixed"])
def test_a_tagger(open_axes):
    """Dropout is not in a model that is exported for inference."""
    module, x = Tagger().eval(), torch.randint(7, (B, T))
    layer, params = gr.interop.from_onnx(exported(module, x, open_axes=open_axes))
    both = gr.bidirectional(gr.LSTM(H))
    assert layer == gr.stack(gr.embed(7, I), both, both, gr.dense(6))
    close(jnp.swapaxes(layer.apply(params, ours(x, True))[1], 0, 1), module(x))


class Cell(torch.nn.Module):
    """One step."""

    def __init__(self):
        super().__init__()
        self.cell = torch.nn.LSTMCell(I, H)

    def forward(self, x, h, c):
        return self.cell(x, (h, c))


def test_a_cell_is_no_node():
    """It is exported as products and activations."""
    model = exported(Cell(), torch.randn(B, I), *torch.randn(2, B, H), open_axes=False)
    with pytest.raises(ValueError, match=r"node '.*': cannot become a part of our network"):
        gr.interop.from_onnx(model)
