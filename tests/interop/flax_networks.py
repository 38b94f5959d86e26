"""Networks of every kind, and our own results, for the tests of both flax adapters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from networks import Leaky, normal

import gatedrnn as gr

T, B, IN, H, V = 4, 3, 4, 3, 7  # time, batch, input features, features, tokens

LAYERS = {
    "cell": gr.LSTM(H, peephole="full", projection=2),
    "own-cell": Leaky(H, 2),
    "learned": gr.recurrent(gr.LSTM(H), gr.BPTT(truncate=3), initial="learned"),
    "stack": gr.stack(gr.bidirectional(gr.LSTM(H)), gr.dropout(0.4), gr.stack(gr.dense(2))),
    "repeat": gr.repeat(gr.residual(gr.stack(gr.Elman(IN), gr.dropout(0.3))), 2),
    "tokens": gr.stack(gr.embed(V, IN), gr.GRU(H)),
    "final": gr.final(gr.stack(gr.bidirectional(gr.GRU(H)), gr.dense(2))),
    "pool": gr.pool(gr.bidirectional(gr.Jordan(H, 2), gr.LayerNormGRU(2)), "max"),
    "zoneout": gr.stack(gr.Zoneout(gr.RecurrentDropout(gr.LSTM(H), 0.3), h=0.2, c=0.4)),
    "no-params": gr.dropout(0.5),
}
DRAWING = ["stack", "repeat", "zoneout", "no-params"]

CELLS = {
    "LSTM": gr.LSTM(H, peephole="diagonal", projection=2),
    "GRU": gr.GRU(H, reset="after"),
    "Leaky": Leaky(H, 2),  # without a rule; its output is not in its carry
}

LENGTHS = jnp.array([4, 2, 0])
AT_LEAST_ONE = jnp.array([4, 2, 1])
FLAGS = np.random.default_rng(5).random((2, B, T)) < [[[0.7]], [[0.3]]]
RESETS = jnp.asarray(FLAGS[1])
CHOICES = ({}, {"lengths": LENGTHS}, {"mask": jnp.asarray(FLAGS[0]), "resets": RESETS})
# every layer with one of these: the adapters know no more of a layer than its names
OPTIONS = {name: CHOICES[k % 3] for k, name in enumerate(LAYERS)}


def reads_tokens(layer):
    return getattr(layer, "reads_tokens", False)


def features_of(layer):
    """The `in_features` of `init`."""
    return None if reads_tokens(layer) else IN


def inputs_of(layer, seed=0):
    """A batch of sequences, batch first."""
    if reads_tokens(layer):
        return jnp.asarray(np.random.default_rng(seed).integers(0, V, (B, T)))
    return normal(B, T, IN, seed=seed)


def swapped(array):
    """Batch first of time first, and back; None stays."""
    return None if array is None else jnp.swapaxes(array, 0, 1)


@functools.partial(jax.jit, static_argnums=0)
def ours(layer, params, xs, carry=None, *, lengths=None, mask=None, resets=None, key=None):
    """`layer.apply` on sequences that are batch first, compiled once for equal layers."""
    carry, ys = layer.apply(
        params,
        swapped(xs),
        carry,
        lengths=lengths,
        mask=swapped(mask),
        resets=swapped(resets),
        key=key,
    )
    return carry, ys if getattr(layer, "drops_time", False) else swapped(ys)


def valid(ys, lengths):
    """Outputs `[B, T, F]` of flax where steps are valid, zeros elsewhere, as ours are."""
    keep = jnp.arange(T)[None] < lengths[:, None]
    return jnp.where(keep[..., None], ys, 0)
