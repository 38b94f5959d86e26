"""The kernel for TPUs, in Pallas's interpreter: its values against the scan's, and its limits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_params

import gatedrnn as gr
from gatedrnn._src.kernels import mosaic

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
LENGTHS = np.array([T, 0, 3, T, 7], np.int32)
RESETS = np.random.default_rng(5).random((T, B)) < 0.3
OPTIONS = {
    "plain": {},
    "lengths, resets": {"lengths": LENGTHS, "resets": RESETS},
    "lengths, reverse": {"lengths": LENGTHS, "reverse": True},
}
BPTT = {
    "plain": {},
    "truncate, clip": {"truncate": 4, "clip": 0.05},
    "gates": {"save": "gates"},
    "boundaries": {"save": "boundaries", "chunk": 4},
}
# of every cell an option or two, every option of a run, and every option of the backward pass
FEW = {
    "lstm full projected": ({"resets": RESETS, "lengths": LENGTHS}, BPTT["truncate, clip"]),
    "lstm coupled": ({"reverse": True}, BPTT["boundaries"]),
    "gru before keeps": ({"reverse": True, "lengths": LENGTHS}, BPTT["truncate, clip"]),
    "gru after writes": ({"lengths": LENGTHS}, BPTT["gates"]),
    "elman relu": ({"resets": RESETS}, BPTT["plain"]),
}


def with_kernel(cell, run=mosaic.run, refusal=mosaic.refusal):
    """The same cell, whose rule has the kernel, run by the interpreter, on a CPU."""
    kernel = mosaic.MOSAIC._replace(target="cpu", loop=partial(run, interpret=True))
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


def check(cell, dtype=jnp.float32, bptt=None, most=1e-5, batch=(B,), **options):
    params = random_params(cell, I, dtype=dtype)
    xs = noise(T, *batch, I, dtype=dtype)
    expected = outcome(cell, gr.BPTT(kernel="scan", **(bptt or {})), params, xs, **options)
    got = outcome(
        with_kernel(cell), gr.BPTT(kernel="pallas", **(bptt or {})), params, xs, **options
    )
    assert_close(got, expected, most)


@pytest.mark.parametrize("cell", FEW)
def test_the_kernel_equals_the_scan(cell):
    """Outputs, final carry and gradients, where a pass of the grid takes 8 of 9 steps."""
    options, bptt = FEW[cell]
    check(CELLS[cell], bptt=bptt, **options)


def test_a_block_has_some_of_many_rows():
    """The last block of rows is not full, and neither is the last pass over the steps."""
    carry = gr.GRU(H).carry((150,))
    assert mosaic.blocks_of([], carry).rows == 80
    check(gr.GRU(H), batch=(150,), lengths=np.arange(150, dtype=np.int32) % (T + 1))


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_number_of_batch_axes(batch):
    """None, and two."""
    check(gr.Elman(H), batch=batch, resets=np.ones((T, *batch), bool))


def test_bfloat16():
    """As close as sums in another order allow."""
    check(gr.LSTM(H), dtype=jnp.bfloat16, most=2e-2)


def test_vmap_and_second_derivatives():
    """Over parameters and data; of a loss of gradients."""
    cell, bptt = gr.GRU(H), gr.BPTT(kernel="pallas")
    params = jax.vmap(lambda seed: cell.init(jax.random.key(seed), I))(jnp.arange(2))
    xs = noise(2, T, B, I)

    def second(cell, bptt):
        def loss(params, xs):
            return (gr.unroll(cell, params, xs, bptt=bptt)[1] ** 2).sum()

        def of_gradient(params, xs):
            return sum((g**2).sum() for g in jax.tree.leaves(jax.grad(loss)(params, xs)))

        return jax.jit(jax.vmap(lambda *a: (jax.grad(loss)(*a), jax.grad(of_gradient)(*a))))

    assert_close(second(with_kernel(cell), bptt)(params, xs), second(cell, gr.BPTT())(params, xs))


def lowered(cell, bptt, dtype=jnp.float32, platform="tpu"):
    """The program of a training step, for a platform that need not be there."""
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), I, dtype=dtype))
    xs = jax.ShapeDtypeStruct((T, B, I), dtype)

    def loss(params, xs):
        return (gr.unroll(cell, params, xs, bptt=bptt)[1].astype(jnp.float32) ** 2).sum()

    traced = jax.jit(jax.grad(loss)).trace(shapes, xs)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_one_kernel_forward_and_one_backward_on_a_tpu_alone():
    """Also under flags that make integers and floats of 64 bits; elsewhere, the scan."""
    bptt = gr.BPTT(kernel="pallas", target="tpu")
    program = lowered(gr.LSTM(H), bptt)
    assert program.count("stablehlo.custom_call @tpu_custom_call") == 2
    assert "stablehlo.while" not in program
    elsewhere = lowered(gr.LSTM(H), bptt, platform="cpu")
    assert "tpu_custom_call" not in elsewhere
    assert "stablehlo.while" in elsewhere


@pytest.mark.parametrize(
    ("dtype", "asked", "computed"),
    [
        (jnp.float32, None, "default"),
        (jnp.float32, "highest", "highest"),
        (jnp.float32, "high", "highest"),
        (jnp.bfloat16, "highest", "default"),
    ],
)
def test_precision_is_what_is_asked_for_or_more(dtype, asked, computed):
    """Mosaic has no passes between one and all; products of bfloat16 are exact by one."""
    weights = [jnp.ones((2, 2), dtype), jnp.ones(2, jnp.float32)]
    with jax.default_matmul_precision(asked):
        assert mosaic._precision(weights) == computed


@pytest.mark.parametrize(
    ("cell", "dtype", "reason"),
    [
        (gr.LSTM(H), jnp.float64, "float32 and bfloat16, not in float64"),
        (gr.GRU(H), jnp.float16, "float32 and bfloat16, not in float16"),
        (gr.LSTM(2700), jnp.float32, "bytes in VMEM, of which there are 121634816"),
    ],
)
def test_what_the_kernel_cannot_run_is_refused(cell, dtype, reason):
    """By an error that names the kernel and says why."""
    with pytest.raises(ValueError, match=f"^kernel: got 'pallas', .*{reason}"):
        lowered(cell, gr.BPTT(kernel="pallas", target="tpu"), dtype)


def test_weights_that_just_fit_are_taken():
    """With fewer rows and steps in a block; see the figures in the module."""
    params = jax.ShapeDtypeStruct((2560, 2560), jnp.float32)
    few = mosaic.blocks_of([params] * 4, jax.eval_shape(lambda: gr.LSTM(2560).carry((128,))))
    many = mosaic.blocks_of([], jax.eval_shape(lambda: gr.LSTM(64).carry((128,))))
    assert few.bytes <= mosaic.MOST
    assert few.rows < many.rows
    assert few.steps < many.steps
