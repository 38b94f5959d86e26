"""torch's modules from and to ours: what the conformance table does not say."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import is_floating

import gatedrnn as gr
from interop.common import IN, B, H, P, T, assert_equal, random_params

torch = pytest.importorskip("torch")

CELLS = {
    "RNN": gr.Elman(H),
    "RNN-relu": gr.Elman(H, activation="relu", use_bias=False),
    "LSTM": gr.LSTM(H),
    "LSTM-nobias": gr.LSTM(H, use_bias=False),
    "GRU": gr.GRU(H, reset="after", update="keeps"),
    "GRU-nobias": gr.GRU(H, reset="after", update="keeps", use_bias=False),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells(name):
    """A bare cell is torch's cell: one step agrees, and the weights come back."""
    cell = CELLS[name]
    params = random_params(cell)
    module = gr.interop.to_torch(cell, params)
    assert type(module).__name__ == f"{name.split('-')[0]}Cell"
    back, recovered = gr.interop.from_torch(module)
    assert back == cell
    assert_equal(recovered, params)

    rng = np.random.default_rng(1)
    x = rng.normal(size=(B, IN))
    carry = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), cell.carry((B,)))
    states = gr.interop.to_torch_carry(cell, carry)
    with torch.no_grad():
        got = gr.interop.from_torch_carry(cell, module(torch.tensor(x), states))
    want, _ = cell.step(params, carry, jnp.asarray(x))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


OPTIONS = {
    "kind": st.sampled_from(["RNN", "LSTM", "GRU"]),
    "layers": st.integers(1, 3),
    "bias": st.booleans(),
    "bidirectional": st.booleans(),
    "dropout": st.sampled_from([0.0, 0.25]),
    "projection": st.sampled_from([0, P]),
    "relu": st.booleans(),
    "dtype": st.sampled_from(["float32", "float64", "bfloat16"]),
}


@settings(max_examples=25, deadline=None)
@given(**OPTIONS)
def test_any_module_comes_and_goes(
    kind, layers, bias, bidirectional, dropout, projection, relu, dtype
):
    """From torch and back: but for the split of two biases, the weights are the same bits."""
    options = {"proj_size": projection} if kind == "LSTM" else {}
    if kind == "RNN" and relu:
        options["nonlinearity"] = "relu"
    module = getattr(torch.nn, kind)(
        IN,
        H,
        num_layers=layers,
        bias=bias,
        bidirectional=bidirectional,
        dropout=dropout if layers > 1 else 0.0,
        dtype=getattr(torch, dtype),
        **options,
    )
    layer, params = gr.interop.from_torch(module)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}
    again = gr.interop.to_torch(layer, params)
    assert repr(again) == repr(module)
    state, other = module.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        if not name.startswith("bias"):
            assert torch.equal(tensor, other[name]), name
        elif name.startswith("bias_ih"):
            hidden = name.replace("ih", "hh")
            torch.testing.assert_close(
                tensor + state[hidden], other[name] + other[hidden], rtol=0, atol=2e-2
            )
    assert_equal(gr.interop.from_torch(again)[1], params)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_state_dicts(kind):
    """Plain arrays do, among others with a prefix, and no torch is asked for anything."""
    module = getattr(torch.nn, kind)(IN, H, num_layers=2, bidirectional=True)
    want = gr.interop.from_torch(module)
    state = {f"encoder.rnn.{k}": v.numpy() for k, v in module.state_dict().items()}
    state["head.weight"] = np.zeros((2, 2), np.float32)
    layer, params = gr.interop.from_torch(state, prefix="encoder.rnn.")
    assert layer == want[0]
    assert_equal(params, want[1])


def test_a_repeat_is_as_many_layers():
    layer = gr.repeat(gr.LSTM(IN), 3)
    params = random_params(layer)
    module = gr.interop.to_torch(layer, params)
    assert module.num_layers == 3
    xs = np.random.default_rng(0).normal(size=(T, B, IN))
    carry, ys = layer.apply(params, jnp.asarray(xs))
    with torch.no_grad():
        got, states = module(torch.tensor(xs))
    np.testing.assert_allclose(got.numpy(), ys, rtol=0, atol=1e-12)
    for a, b in zip(gr.interop.from_torch_carry(layer, states), carry, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert_equal(gr.interop.from_torch_carry(layer, gr.interop.to_torch_carry(layer, carry)), carry)


def test_batch_first():
    """The same weights, another order of the axes."""
    layer = gr.recurrent(gr.LSTM(H))
    params = random_params(layer)
    module = gr.interop.to_torch(layer, params, batch_first=True)
    xs = np.random.default_rng(0).normal(size=(T, B, IN))
    with torch.no_grad():
        got = module(torch.tensor(xs).transpose(0, 1))[0]
    want = layer.apply(params, jnp.asarray(xs))[1]
    np.testing.assert_allclose(got.transpose(0, 1).numpy(), want, rtol=0, atol=1e-12)


def test_carries_through_dropout_and_both_directions():
    """Layers without a state have no part in torch's."""
    layer = gr.stack(gr.bidirectional(gr.LSTM(H)), gr.dropout(0.5), gr.bidirectional(gr.LSTM(H)))
    carry = jax.tree.map(
        lambda leaf: leaf + 1 if is_floating(leaf) else leaf, layer.carry((B,), jnp.float64)
    )
    h, c = gr.interop.to_torch_carry(layer, carry)
    assert h.shape == c.shape == (4, B, H)
    assert_equal(gr.interop.from_torch_carry(layer, (h, c)), carry)


REFUSED = {
    "reset": (gr.recurrent(gr.GRU(H)), "resets after the recurrent product, not before it"),
    "peephole": (gr.recurrent(gr.LSTM(H, peephole="full")), "no full peepholes"),
    "coupled": (gr.recurrent(gr.LSTM(H, coupled=True)), "never coupled"),
    "sigmoid": (gr.recurrent(gr.Elman(H, activation="sigmoid")), "tanh or relu, not sigmoid"),
    "jordan": (gr.recurrent(gr.Jordan(H, 2)), "no Jordan cell"),
    "learned": (gr.recurrent(gr.LSTM(H), initial="learned"), "never learned"),
    "merge": (gr.bidirectional(gr.LSTM(H), merge="sum"), "no sum"),
    "dense": (gr.stack(gr.LSTM(H), gr.dense(2)), "no place for dense"),
    "unlike": (gr.stack(gr.LSTM(H), gr.LSTM(H + 1)), "all of the same kind"),
    "dropout last": (gr.stack(gr.LSTM(H), gr.dropout(0.1)), "between every two layers"),
    "dropout once": (
        gr.stack(gr.LSTM(H), gr.dropout(0.1), gr.LSTM(H), gr.LSTM(H)),
        "between every two layers",
    ),
    "dropout shared": (
        gr.stack(gr.LSTM(H), gr.dropout(0.1, shared_in_time=True), gr.LSTM(H)),
        "between every two layers",
    ),
    "projected cell": (gr.LSTM(H, projection=P), "no recurrent projection"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_lacks_is_refused(name):
    layer, why = REFUSED[name]
    with pytest.raises(ValueError, match=f"cannot become a torch module: .*{why}"):
        gr.interop.to_torch(layer, random_params(layer))


def state_of(**changes):
    state = {k: v.numpy() for k, v in torch.nn.LSTM(IN, H, num_layers=2).state_dict().items()}
    return {k: v for k, v in (state | changes).items() if v is not None}


ERRORS = {
    "missing": (state_of(bias_hh_l1=None), ValueError, "'bias_hh_l1' is missing"),
    "shape": (
        state_of(weight_ih_l1=np.zeros((4 * H, 1), np.float32)),
        ValueError,
        rf"'weight_ih_l1': got shape \({4 * H}, 1\), expected \({4 * H}, {H}\)",
    ),
    "rows": (
        state_of(weight_hh_l0=np.zeros((2 * H, H), np.float32)),
        ValueError,
        "'weight_hh_l0': got shape",
    ),
    "more": (state_of(weight_v=np.zeros(1, np.float32)), ValueError, "weight_v: not part"),
    "integers": (
        state_of(bias_hh_l1=np.zeros(4 * H, np.int32)),
        TypeError,
        "'bias_hh_l1': got dtype int32, expected a floating-point one",
    ),
    "no arrays": (
        state_of(bias_hh_l1=3.0),
        TypeError,
        "'bias_hh_l1': got float, expected an array",
    ),
    "not a module": (torch.nn.Linear(2, 2), TypeError, "source: got Linear, expected nn.RNN"),
    "nothing": ({}, ValueError, "'weight_hh_l0' is missing, got nothing"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_what_does_not_fit(name):
    source, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        gr.interop.from_torch(source)


def test_other_errors():
    with pytest.raises(ValueError, match="nonlinearity: got 'relu', expected None"):
        gr.interop.from_torch(torch.nn.RNN(IN, H), nonlinearity="relu")
    with pytest.raises(ValueError, match="nonlinearity: got 'elu', expected one of"):
        gr.interop.from_torch({}, nonlinearity="elu")
    layer = gr.recurrent(gr.LSTM(H))
    with pytest.raises(ValueError, match="batch_first: got 1"):
        gr.interop.to_torch(layer, random_params(layer), batch_first=1)
    with pytest.raises(ValueError, match="params: got"):
        gr.interop.to_torch(layer, random_params(gr.recurrent(gr.GRU(H))))
    h = np.zeros((1, B, H), np.float32)
    with pytest.raises(ValueError, match="states: got 1, expected h, c"):
        gr.interop.from_torch_carry(layer, h)
    with pytest.raises(ValueError, match=r"states\[0\]: got shape \(2, 2, 4\), expected 1 layers"):
        gr.interop.from_torch_carry(layer, (np.zeros((2, B, H)), np.zeros((2, B, H))))
    with pytest.raises(ValueError, match=r"states, c: got shape \(2, 3\), expected \(2, 4\)"):
        gr.interop.from_torch_carry(layer, (h, np.zeros((1, B, H - 1), np.float32)))


def test_options_of_a_state_dict_are_those_of_an_rnn():
    """None is accepted and ignored."""
    state = torch.nn.LSTM(IN, H).state_dict()
    for name in ("relu", "tanh"):
        with pytest.raises(ValueError, match=f"nonlinearity: got {name!r}, expected None"):
            gr.interop.from_torch(state, nonlinearity=name)
    state = torch.nn.RNNCell(IN, H).state_dict()
    assert gr.interop.from_torch(state, nonlinearity="relu")[0] == gr.Elman(H, "relu")
    with pytest.raises(ValueError, match=r"prefix: got 'rnn.', expected that of some of weight_ih"):
        gr.interop.from_torch(state, prefix="rnn.")
    with pytest.raises(ValueError, match=r"'weight_hh': got shape \(\), expected 2 axes"):
        gr.interop.from_torch(state | {"weight_hh": np.zeros(())})


class Model(torch.nn.Module):
    """Attributes and modules that people have around a layer."""

    def __init__(self):
        super().__init__()
        self.hidden_size = H
        self.rnn = torch.nn.RNN(IN, H, nonlinearity="relu")


class Backward(torch.nn.LSTM):
    def forward(self, xs):
        return super().forward(xs.flip(0))


def test_modules_are_those_of_torch_themselves():
    """Others may compute something else, whose options are not to be seen."""
    for module in (Model(), Backward(IN, H)):
        with pytest.raises(TypeError, match=f"source: got {type(module).__name__}, expected nn"):
            gr.interop.from_torch(module)
    with pytest.raises(ValueError, match=r"prefix: got 'rnn.', expected ''"):
        gr.interop.from_torch(Model().rnn, prefix="rnn.")
    with pytest.raises(ValueError, match=r"source: got dropout=1.0, expected a rate below 1"):
        gr.interop.from_torch(torch.nn.GRU(IN, H, 2, dropout=1.0))


def test_layers_of_the_same_kind_may_start_or_sign_otherwise():
    """A forget bias is in the parameters, and so is which share of a GRU is written."""
    pairs = (
        (gr.LSTM(H), gr.LSTM(H, forget_bias=0.0)),
        (gr.GRU(H, reset="after"), gr.GRU(H, reset="after", update="keeps")),
    )
    xs = np.random.default_rng(0).normal(size=(T, B, IN))
    for pair in pairs:
        layer = gr.stack(*pair)
        params = random_params(layer)
        want = layer.apply(params, jnp.asarray(xs))[1]
        with torch.no_grad():
            got = gr.interop.to_torch(layer, params)(torch.tensor(xs))[0]
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-12)


def test_no_precision_is_lost_unsaid():
    """Weights in float64 are refused, not rounded, if JAX runs without float64."""
    state = {k: v.numpy() for k, v in torch.nn.LSTM(IN, H).double().state_dict().items()}
    with (
        jax.enable_x64(False),
        pytest.raises(TypeError, match="got dtype float64, expected float32"),
    ):
        gr.interop.from_torch(state)


def test_without_torch(monkeypatch):
    """The error names the package and the extra."""
    monkeypatch.setitem(sys.modules, "torch", None)
    layer = gr.recurrent(gr.LSTM(H))
    with pytest.raises(ModuleNotFoundError, match=r"torch is not installed.*gatedrnn\[torch\]"):
        gr.interop.to_torch(layer, random_params(layer))
