"""The kernel for TPUs: what it computes, by Pallas's interpreter, against the scan; and its limits."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_params

import gatedrnn as gr
from gatedrnn._src.kernels import mosaic
from gatedrnn._src.loops import Kernel

I, T, B, H = 3, 9, 5, 4
CELLS = {
    "lstm": gr.LSTM(H),
    "lstm diagonal": gr.LSTM(H, peephole="diagonal"),
    "lstm full projected": gr.LSTM(H, peephole="full", projection=2),
    "lstm coupled": gr.LSTM(H, coupled=True, peephole="diagonal", projection=3),
    "lstm no bias": gr.LSTM(H, use_bias=False),
    **{
        f"gru {reset} {update}": gr.GRU(H, reset=reset, update=update)
        for reset in ("before", "after")
        for update in ("writes", "keeps")
    },
    **{f"elman {f}": gr.Elman(H, activation=f) for f in ("tanh", "relu", "sigmoid", "identity")},
}
OPTIONS = {
    "plain": {},
    "lengths": {"lengths": np.array([T, 0, 3, T, 7], np.int32)},
    "resets": {"resets": np.random.default_rng(5).random((T, B)) < 0.3},
    "reverse": {"reverse": True, "lengths": np.array([T, 0, 3, T, 7], np.int32)},
}
BPTT = {
    "plain": {},
    "truncate": {"truncate": 4},
    "clip": {"clip": 0.05},
    "gates": {"save": "gates"},
    "boundaries": {"save": "boundaries", "chunk": 4},
}


def with_kernel(cell, run=mosaic.run, refusal=mosaic.refusal):
    """The same cell, whose rule has the kernel, run by the interpreter, on a CPU."""
    kernel = Kernel("pallas", "cpu", refusal, partial(run, interpret=True))
    rule = cell.rule._replace(kernels=(kernel,))
    cls = type(type(cell).__name__, (type(cell),), {"rule": rule})
    return cls(**vars(cell))


def noise(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def outcome(cell, bptt, params, xs, **options):
    """Outputs, final carry, and the gradients of a function of both."""

    def function(params, carry, xs):
        final, ys = gr.unroll(cell, params, xs, carry, bptt=bptt, **options)
        leaves = [ys, *jax.tree.leaves(final)]
        weighted = [
            jnp.vdot(noise(*v.shape, seed=i), v.astype(jnp.float32)) for i, v in enumerate(leaves)
        ]
        return sum(weighted, jnp.float32(0)), leaves

    carry = cell.carry(xs.shape[1:-1], xs.dtype)
    carry = jax.tree.map(lambda v: noise(*v.shape, seed=9, dtype=v.dtype), carry)
    return jax.jit(jax.grad(function, argnums=(0, 1, 2), has_aux=True))(params, carry, xs)


def assert_close(got, expected, most=1e-5):
    """Leaf by leaf, within `most` of the largest element."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert abs(a - b).max() <= most * max(abs(b).max(), 1e-3)


def check(cell, dtype=jnp.float32, bptt={}, most=1e-5, batch=(B,), **options):
    params = random_params(cell, I, dtype=dtype)
    xs = noise(T, *batch, I, dtype=dtype)
    expected = outcome(cell, gr.BPTT(kernel="scan", **bptt), params, xs, **options)
    got = outcome(with_kernel(cell), gr.BPTT(kernel="pallas", **bptt), params, xs, **options)
    assert_close(got, expected, most)


@pytest.mark.long
@pytest.mark.parametrize("bptt", BPTT)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_the_kernel_equals_the_scan(cell, options, bptt):
    """Outputs, final carry and gradients."""
    check(CELLS[cell], bptt=BPTT[bptt], **OPTIONS[options])
