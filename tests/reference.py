"""The equations of every cell in NumPy, one gate per line, and the tables of what is supported.

Nothing here is shared with the library but the containers: kernels are taken apart gate by gate,
and each line is the published one. Arrays are row vectors: `x` is `[*B, I]`, `h` is `[*B, H]`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr

# What 'supported' means -------------------------------------------------------------------------

FEATURES, OUT_FEATURES, PROJECTION, IN_FEATURES = 4, 3, 3, 5
NAMES = ("tanh", "relu", "sigmoid", "identity")


def _join(*parts):
    return "-".join(part for part in parts if part)


def _biased(use_bias):
    return "" if use_bias else "nobias"


def _elman():
    for f, bias in itertools.product(NAMES, (True, False)):
        yield _join("elman", f, _biased(bias)), gr.Elman(FEATURES, activation=f, use_bias=bias)


def _jordan():
    for f, g, bias in itertools.product(NAMES, NAMES, (True, False)):
        cell = gr.Jordan(FEATURES, OUT_FEATURES, activation=f, output_activation=g, use_bias=bias)
        yield _join("jordan", f, g, _biased(bias)), cell


def _lstm():
    for peephole, projection, coupled, bias in itertools.product(
        (None, "diagonal", "full"), (None, PROJECTION), (False, True), (True, False)
    ):
        cell = gr.LSTM(
            FEATURES, peephole=peephole, projection=projection, coupled=coupled, use_bias=bias
        )
        options = (peephole, projection and "projected", coupled and "coupled", _biased(bias))
        yield _join("lstm", *options), cell
    yield "lstm-forget", gr.LSTM(FEATURES, forget_bias=2.5)


def _gru():
    for reset, update, bias in itertools.product(
        ("before", "after"), ("writes", "keeps"), (True, False)
    ):
        cell = gr.GRU(FEATURES, reset=reset, update=update, use_bias=bias)
        yield _join("gru", reset, update, _biased(bias)), cell


def _layer_norm():
    for bias in (True, False):
        yield _join("layer-norm-lstm", _biased(bias)), gr.LayerNormLSTM(FEATURES, use_bias=bias)
        yield _join("layer-norm-gru", _biased(bias)), gr.LayerNormGRU(FEATURES, use_bias=bias)


def _wrapped():
    """With their expectations, and with what no mask changes: see `test_regularisation`."""
    lstm = gr.LSTM(FEATURES, peephole="diagonal", projection=PROJECTION)
    yield "zoneout-lstm", gr.Zoneout(lstm, h=0.2, c=0.4)
    yield "zoneout-gru", gr.Zoneout(gr.GRU(FEATURES), h=0.3)
    dropped = gr.RecurrentDropout(gr.LayerNormLSTM(FEATURES), 0.4)
    yield "zoneout-dropout-layer-norm-lstm", gr.Zoneout(dropped, c=0.25)
    yield "dropout-elman", gr.RecurrentDropout(gr.Elman(FEATURES), 0.4)


ALL_CELLS = dict(itertools.chain(_elman(), _jordan(), _lstm(), _gru(), _layer_norm(), _wrapped()))
"""Every cell with every option, by name."""

_JORDAN_SAMPLE = (
    "jordan-tanh-identity",
    "jordan-relu-sigmoid-nobias",
    "jordan-sigmoid-tanh",
    "jordan-identity-relu-nobias",
)

CELLS = {
    name: cell
    for name, cell in ALL_CELLS.items()
    if not name.startswith("jordan") or name in _JORDAN_SAMPLE
}
"""The same, with four Jordan networks that show each activation in each role, with and without
bias, in the place of all 32."""


def random_params(cell, in_features=IN_FEATURES, seed=0, scale=0.5):
    """Parameters of `cell` in float64 with normal noise in every leaf, biases and peepholes too."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(
        lambda key: cell.init(key, in_features, dtype=jnp.float64), jax.random.key(0)
    )
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, scale, leaf.shape)), shapes)


def random_carry(cell, batch=(), seed=1, scale=0.5):
    """A carry of `cell` in float64 with normal noise in every leaf."""
    rng = np.random.default_rng(seed)
    zeros = jax.eval_shape(lambda: cell.carry(batch, dtype=jnp.float64))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, scale, leaf.shape)), zeros)


# The equations ----------------------------------------------------------------------------------


def sigmoid(a):
    return 1.0 / (1.0 + np.exp(-a))


ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0.0),
    "sigmoid": sigmoid,
    "identity": lambda a: a,
}


def elman(cell, p, carry, x):
    """`h_t = f(x_t U + h_{t-1} W + b)`."""
    h = ACTIVATIONS[cell.activation](x @ p.kernel + carry.h @ p.recurrent_kernel + _or_0(p.bias))
    return carry._replace(h=h), h


def jordan(cell, p, carry, x):
    """`h_t = f(x_t U + o_{t-1} W + b)`, `o_t = g(h_t V + c)`."""
    f, g = ACTIVATIONS[cell.activation], ACTIVATIONS[cell.output_activation]
    h = f(x @ p.kernel + carry.o @ p.recurrent_kernel + _or_0(p.bias))
    o = g(h @ p.output_kernel + _or_0(p.output_bias))
    return carry._replace(o=o), o


def lstm(cell, p, carry, x, seen=None):
    """Gates `i, f, g, o`; coupled: `i, g, o` and `f = 1 - i`; `r_t = m_t R` with a projection.

    A dict `seen` is told what the gates were.
    """
    r, c = carry.h, carry.c
    gates = "igo" if cell.coupled else "ifgo"
    W_x, W_r, b = (_per_gate(gates, w) for w in (p.kernel, p.recurrent_kernel, p.bias))
    P = _per_gate(gates[:-2], p.peephole)  # i and f, coupled: i

    i = sigmoid(x @ W_x["i"] + r @ W_r["i"] + _peep(c, P["i"]) + b["i"])
    if cell.coupled:
        f = 1.0 - i
    else:
        f = sigmoid(x @ W_x["f"] + r @ W_r["f"] + _peep(c, P["f"]) + b["f"])
    g = np.tanh(x @ W_x["g"] + r @ W_r["g"] + b["g"])
    c = f * c + i * g
    o = sigmoid(x @ W_x["o"] + r @ W_r["o"] + _peep(c, p.output_peephole) + b["o"])
    m = o * np.tanh(c)
    r = m if cell.projection is None else m @ p.projection_kernel
    if seen is not None:
        seen.update(i=i, f=f, o=o)
    return carry._replace(h=r, c=c), r


def gru(cell, p, carry, x, seen=None):
    """Gates `r, z, n`; the reset gate before or after the product, the update gate both ways."""
    h = carry.h
    W_x, W_h, b = (_per_gate("rzs", w) for w in (p.kernel, p.recurrent_kernel, p.bias))

    r = sigmoid(x @ W_x["r"] + h @ W_h["r"] + b["r"])
    z = sigmoid(x @ W_x["z"] + h @ W_h["z"] + b["z"])
    if cell.reset == "before":
        s = x @ W_x["s"] + (r * h) @ W_h["s"] + b["s"]
    else:
        s = x @ W_x["s"] + b["s"] + r * (h @ W_h["s"] + _or_0(p.recurrent_bias))
    n = np.tanh(s)
    if seen is not None:
        seen.update(r=r, z=z)
    h = (1.0 - z) * h + z * n if cell.update == "writes" else z * h + (1.0 - z) * n
    return carry._replace(h=h), h


def layer_norm_lstm(cell, p, carry, x):
    """Both products normalised over all gates at once, the memory on its way out."""
    a = _layer_norm_of(x @ p.kernel, p.scale) + _or_0(p.bias)
    a = a + _layer_norm_of(carry.h @ p.recurrent_kernel, p.recurrent_scale)
    i, f, g, o = np.split(a, 4, axis=-1)
    c = sigmoid(f) * carry.c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(_layer_norm_of(c, p.memory_scale) + _or_0(p.memory_bias))
    return carry._replace(h=h, c=c), h


def layer_norm_gru(cell, p, carry, x):
    """`r` and `z` normalised together, the candidate by itself, both products apart."""
    h, size = carry.h, 2 * cell.features
    W_rz, W_n = np.split(p.kernel, [size], axis=-1)
    U_rz, U_n = np.split(p.recurrent_kernel, [size], axis=-1)
    x_rz, x_n = np.split(p.scale, [size])
    h_rz, h_n = np.split(p.recurrent_scale, [size])
    b_rz, b_n = (0.0, 0.0) if p.bias is None else np.split(p.bias, [size])
    rz = sigmoid(_layer_norm_of(x @ W_rz, x_rz) + _layer_norm_of(h @ U_rz, h_rz) + b_rz)
    r, z = np.split(rz, 2, axis=-1)
    inside = _layer_norm_of(h @ U_n, h_n) + _or_0(p.recurrent_bias)
    n = np.tanh(_layer_norm_of(x @ W_n, x_n) + b_n + r * inside)
    h = (1.0 - z) * h + z * n
    return carry._replace(h=h), h


def zoneout(cell, p, carry, x):
    """Without a key: every unit keeps the share of its rate."""
    made, _ = step(cell.cell, p, carry, x)
    rates = (cell.h, cell.c)
    mixed = [d * old + (1.0 - d) * new for d, old, new in zip(rates, carry, made, strict=False)]
    return type(carry)(*mixed), mixed[0]


def recurrent_dropout(cell, p, carry, x):
    """Without a key: the cell itself."""
    return step(cell.cell, p, carry, x)


def _layer_norm_of(v, gain):
    return gain * (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)


def _per_gate(gates, stacked):
    """The stacked array of each gate, by the gate's letter; zeros for an absent one."""
    if stacked is None:
        return dict.fromkeys(gates, 0.0)
    return dict(zip(gates, np.split(stacked, len(gates), axis=-1), strict=True))


def _peep(c, P):
    """`c P` for a full peephole, `c ⊙ p` for a diagonal one, nothing (0) for none."""
    return c @ P if np.ndim(P) == 2 else c * _or_0(P)


def _or_0(value):
    return 0.0 if value is None else value


# Through time -----------------------------------------------------------------------------------

EQUATIONS = {
    gr.Elman: elman,
    gr.Jordan: jordan,
    gr.LSTM: lstm,
    gr.GRU: gru,
    gr.LayerNormLSTM: layer_norm_lstm,
    gr.LayerNormGRU: layer_norm_gru,
    gr.Zoneout: zoneout,
    gr.RecurrentDropout: recurrent_dropout,
}


def step(cell, params, carry, x):
    """One step of any cell: `(carry, y)`, in float64."""
    params, carry, x = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, carry, x))
    return EQUATIONS[type(cell)](cell, params, carry, x)


def unroll(cell, params, xs, carry=None):
    """A whole sequence `xs [T, *B, I]`, step after step: `(final carry, ys [T, *B, F])`."""
    if carry is None:
        carry = cell.carry(xs.shape[1:-1], dtype=jnp.float64)
    ys = []
    for x in xs:
        carry, y = step(cell, params, carry, x)
        ys.append(y)
    return carry, np.stack(ys)
