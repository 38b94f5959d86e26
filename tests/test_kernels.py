"""The kernels of cells against the scan, on the CPU in Pallas's interpreter, and on a GPU.

Cells come from the registry: one whose rule names a kernel is tested, whatever it is.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from interpreted import NAME, interpreted, kernels_of
from networks import normal, outcome, random_params, some_of_all
from reference import FEW, SAMPLE

import gatedrnn as gr
from gatedrnn._registry.cells import over_time
from gatedrnn._src.kernels import triton
from gatedrnn._src.kernels.pallas import KERNELS

I = 3
KERNEL, SCAN = gr.BPTT(kernel=NAME), gr.BPTT(kernel="scan")
ELMAN = gr.Elman(5)


def toy_with(**functions):
    """The toy cell with kernels, and other functions in its rule."""
    rule = toy.Toy.rule._replace(kernels=KERNELS, **functions)
    return type("Toy", (toy.Toy,), {"rule": rule})(5)


TOY = toy_with()


def with_kernels(cells):
    """A case for each kernel of each cell."""
    return [
        pytest.param(cell, kernel, id=f"{name}, {kernel.target}")
        for name, cell in cells.items()
        for kernel in kernels_of(cell)
    ]


def worst(got, want):
    """The largest difference, for each leaf relative to its largest entry; infinite if not finite.

    What the scan makes must be finite, and not all zeros.
    """
    assert jax.tree.structure(got) == jax.tree.structure(want)
    found = [0.0]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.isfinite(b).all()
        off = np.abs(a - b).max(initial=0) / (np.abs(b).max(initial=0) or 1.0)
        found.append(off if np.isfinite(off) else np.inf)
    return max(found)


def problem(cell, length=6, batch=(11,), in_features=I, dtype=jnp.float32):
    """Parameters, inputs, an initial carry and a reset carry, all random."""
    params = random_params(cell, in_features, dtype=jnp.float32)
    like = jax.eval_shape(lambda: cell.carry(batch, dtype))
    carries = (
        jax.tree.map(lambda v, s=seed: normal(*v.shape, seed=s, dtype=v.dtype), like)
        for seed in (1, 2)
    )
    return params, normal(length, *batch, in_features, seed=3, dtype=dtype), *carries


def flags(length, rows):
    """Lengths, from nothing to all steps, and resets."""
    resets = np.random.default_rng(4).random((length, rows)) < 0.3
    return {"lengths": np.arange(rows) % (length + 1), "resets": resets}


def as_float32(tree):
    return jax.tree.map(lambda v: v.astype(jnp.float32), tree)


def run(cell, bptt, options, params, xs, carry, reset_carry=None, *, unroll=gr.unroll, wide=False):
    """The carry or carries, and the outputs, of which `outcome` makes a loss in float32."""
    if reset_carry is not None:
        options = options | {"reset_carry": reset_carry}
    reached = unroll(cell, params, xs, carry, bptt=bptt, **options)
    return reached if wide else as_float32(reached)


def both(cell, kernel, arguments, options=None, *, unroll=gr.unroll, **bptt):
    """Values and gradients by the kernel, and by the scan."""
    of = functools.partial(run, interpreted(cell, kernel), unroll=unroll)
    bptts = (gr.BPTT(kernel=name, **bptt) for name in (NAME, "scan"))
    return [outcome(functools.partial(of, each, options or {}), *arguments) for each in bptts]


def assert_same(got, want, tolerance=1e-5):
    assert any(np.any(leaf) for leaf in jax.tree.leaves(want)), "compared with zeros"
    assert worst(got, want) <= tolerance


# ----------------------------------------------------------------------- values and gradients


def nan_in_padding(xs, lengths):
    steps = np.arange(len(xs))[:, None]
    return jnp.where((steps < lengths)[..., None], xs, jnp.nan)


def everything_on(cell, kernel):
    """Ragged rows, more than a block, with NaN in the padding; resets; in reverse; two chunks."""
    params, xs, *carries = problem(cell)
    options = flags(6, 11) | {"reverse": True}
    xs = nan_in_padding(xs, options["lengths"])
    return both(cell, kernel, (params, xs, *carries), options, truncate=4, clip=0.5, chunk=3)


FIRST = {row.name: row.few()[0] for row in over_time()}


@pytest.mark.parametrize(("cell", "kernel"), with_kernels(FIRST | {"Toy": TOY}))
def test_everything_on(cell, kernel):
    """Values, final carry, gradients for parameters, inputs, initial carry and reset carry."""
    assert_same(*everything_on(cell, kernel))


@pytest.mark.long
@pytest.mark.parametrize(("cell", "kernel"), with_kernels(SAMPLE))
def test_everything_on_in_every_cell(cell, kernel):
    assert_same(*everything_on(cell, kernel))


@pytest.mark.long
@pytest.mark.parametrize(("cell", "kernel"), with_kernels(FEW))
def test_nothing_on(cell, kernel):
    """Forward, every step of every row; the carry of every step is read."""
    *arguments, _ = problem(cell, 5, (2, 3))
    cut = {"cell_path_only": True} if cell.rule.has_cell_path else {}
    found = both(cell, kernel, arguments, unroll=gr.trajectory, save="gates", **cut)
    assert_same(*found)


@pytest.mark.long
@pytest.mark.parametrize(
    ("save", "reverse"), [("carries", True), ("gates", False), ("boundaries", True)]
)
@pytest.mark.parametrize(("cell", "kernel"), with_kernels(FIRST))
def test_every_way_to_save(cell, kernel, reverse, save):
    """With a chunk that leaves a remainder."""
    arguments = problem(cell, 5, (3,))
    options = flags(5, 3) | {"reverse": reverse}
    assert_same(*both(cell, kernel, arguments, options, save=save, chunk=3))


SHAPES = {
    "one step": (1, (3,), I, {}),
    "one row": (4, (), I, {"save": "gates"}),
    "two batch axes": (4, (3, 5), I, {"save": "boundaries", "chunk": 2}),
    "whole blocks, no padding": (4, (16,), I, {}),
    "one input feature": (4, (2,), 1, {}),
}


@pytest.mark.parametrize(("length", "batch", "in_features", "bptt"), SHAPES.values(), ids=SHAPES)
def test_shapes(length, batch, in_features, bptt):
    """With every way to save."""
    cell = gr.Elman(16) if batch == (16,) else ELMAN
    *arguments, _ = problem(cell, length, batch, in_features)
    assert_same(*both(cell, triton.TRITON, arguments, **bptt))


@pytest.mark.parametrize(("length", "batch"), [(0, (3,)), (3, (0,))], ids=["no step", "no row"])
def test_nothing_to_run(length, batch):
    *arguments, _ = problem(ELMAN, length, batch)
    got, want = both(ELMAN, triton.TRITON, arguments)
    assert worst(got, want) == 0


def test_without_x64():
    """What JAX runs with by default."""
    with jax.enable_x64(False):
        *arguments, _ = problem(ELMAN, 3, (2,))
        assert_same(*both(ELMAN, triton.TRITON, arguments))


def errors_in_bfloat16(cell, kernel):
    """How far the kernel is from float32, and how far the scan is, in values and gradients."""
    *narrow, _ = problem(cell, 8, (11,), dtype=jnp.bfloat16)
    *_, exact = both(cell, kernel, as_float32(narrow))
    return [worst(each, exact) for each in as_float32(both(cell, kernel, narrow))]


def test_bfloat16():
    """As close as the scan is to float32."""
    got, want = errors_in_bfloat16(ELMAN, triton.TRITON)
    assert 0 < got <= 1.1 * want < 0.1


@pytest.mark.long
@pytest.mark.parametrize(("cell", "kernel"), with_kernels(FEW))
def test_bfloat16_in_every_cell(cell, kernel):
    got, want = errors_in_bfloat16(cell, kernel)
    assert 0 < got <= 1.1 * want < 0.2


# --------------------------------------------------------------------------- transformations


def loss(cell, bptt, params, xs):
    return some_of_all(gr.unroll(cell, params, xs, bptt=bptt))


def of_elman(function):
    """`function` of a loss by the kernel and by the scan, at one small problem."""
    params, xs, *_ = problem(ELMAN, 3, (2,))
    losses = (functools.partial(loss, interpreted(ELMAN), bptt) for bptt in (KERNEL, SCAN))
    return [jax.jit(function(each))(params, xs) for each in losses]


def test_second_derivatives():
    """Forward over reverse, and reverse over reverse, for parameters and inputs at once.

    Of `jax.jacrev`, which puts `vmap` between the derivatives, as `jax.hessian` does.
    """

    def both_ways(loss):
        gradient = jax.jacrev(loss, argnums=(0, 1))

        def found(params, xs):
            along = jax.tree.map(jnp.cos, (params, xs))
            _, by_jvp = jax.jvp(gradient, (params, xs), along)
            by_grad = jax.grad(lambda *at: some_of_all(gradient(*at)), argnums=(0, 1))(params, xs)
            return by_jvp, by_grad

        return found

    assert_same(*of_elman(both_ways))


@pytest.mark.long
@pytest.mark.parametrize(("cell", "kernel"), with_kernels(FIRST))
def test_hessian(cell, kernel):
    """In every cell, of the whole of the parameters."""
    params, xs, *_ = problem(cell, 3, (2,))
    found = (
        jax.jit(jax.hessian(functools.partial(loss, interpreted(cell, kernel), bptt)))(params, xs)
        for bptt in (KERNEL, SCAN)
    )
    assert_same(*found)


def test_vmap_is_a_loop():
    """Over parameters and data, of values and gradients."""
    params, xs, *_ = problem(ELMAN, 3, (2,))
    params, xs = jax.tree.map(lambda v: jnp.stack([v, -v, v / 2]), (params, xs))
    one = jax.jit(jax.value_and_grad(functools.partial(loss, interpreted(ELMAN), KERNEL), (0, 1)))
    got = jax.jit(jax.vmap(one))(params, xs)
    each = [one(*jax.tree.map(lambda v, n=n: v[n], (params, xs))) for n in range(3)]
    assert_same(got, jax.tree.map(lambda *v: jnp.stack(v), *each))


def test_equal_calls_compile_once():
    """Other values, and an equal cell, trace nothing anew."""
    params, xs, *_ = problem(ELMAN, 3, (2,))
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def jitted(cell, params, xs):
        traced.append(cell)
        return jax.grad(functools.partial(loss, cell, KERNEL))(params, xs)

    for scale in (1, 2):
        jitted(interpreted(gr.Elman(5)), params, xs * jnp.float32(scale))
    assert len(traced) == 1


def test_layers():
    """Stacked, in both directions and repeated, with lengths."""

    def network(bptt):
        layer = gr.recurrent(interpreted(ELMAN), bptt=bptt)
        both_ways = gr.bidirectional(layer, gr.recurrent(interpreted(ELMAN), bptt=bptt))
        return gr.stack(both_ways, gr.dense(5), gr.repeat(layer, 2))

    params = random_params(network(SCAN), I, dtype=jnp.float32)
    xs = normal(4, 3, I, dtype=jnp.float32)
    options = {"lengths": np.array([4, 0, 2])}
    applies = (functools.partial(network(bptt).apply, **options) for bptt in (KERNEL, SCAN))
    assert_same(*(outcome(apply, params, xs) for apply in applies))


# ----------------------------------------------------------------------------- other devices

ON_A_GPU = gr.BPTT(kernel="pallas", target="gpu")


def on_a_gpu(cell, xs):
    """The training step of a cell as it is lowered for CUDA, where no such device need be."""
    params = jax.eval_shape(lambda: random_params(cell, xs.shape[-1], dtype=jnp.float32))
    step = jax.jit(jax.grad(functools.partial(loss, cell, ON_A_GPU), argnums=(0, 1)))
    return step.trace(params, xs).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_kernel_is_in_the_program_for_cuda(dtype):
    """The forward and the reverse steps are one kernel each, beside no loop."""
    text = on_a_gpu(ELMAN, jax.ShapeDtypeStruct((7, 3, I), dtype))
    assert sorted(re.findall(r'name = "(\w*steps)"', text)) == ["reverse_steps", "steps"]
    assert "stablehlo.while" not in text


def test_lowered_for_another_device_it_is_the_scan():
    """A program that names a kernel for GPUs and is compiled for a CPU."""
    arguments = problem(ELMAN, 4, (3,))
    options = flags(4, 3)
    got, want = (
        outcome(functools.partial(run, ELMAN, bptt, options), *arguments)
        for bptt in (ON_A_GPU, SCAN)
    )
    assert_same(got, want, 1e-6)


# --------------------------------------------------------------------------------- refusals


def refused(message, cell, bptt, dtype=jnp.float32):
    params = random_params(cell, I, dtype=dtype)
    with pytest.raises(ValueError, match=message) as caught:
        gr.unroll(cell, params, normal(3, 2, I, dtype=dtype), bptt=bptt)
    assert "\n" not in str(caught.value)


def test_an_unknown_kernel_is_refused():
    message = "kernel: got 'mine', expected one of None, '{}' for Elman(5) on a {}"
    refused(re.escape(message.format("scan", "CPU")), ELMAN, gr.BPTT(kernel="mine"))
    known = re.escape(message.format("pallas', 'scan", "GPU"))
    refused(known, ELMAN, gr.BPTT(kernel="mine", target="gpu"))


def test_a_kernel_for_another_target_is_refused():
    message = r"kernel: got 'pallas', expected one of None, 'scan' for Elman\(5\) on a CPU"
    refused(message, ELMAN, gr.BPTT(kernel="pallas"))


def test_a_cell_without_kernels_refuses_them():
    expected = r"kernel: got 'pallas', expected one of None, 'scan' for Jordan\(4, 3\) on a GPU"
    refused(expected, gr.Jordan(4, 3), ON_A_GPU)


def test_float64_is_refused():
    message = (
        r"kernel: got 'pallas', expected None or 'scan' for Elman\(5\): it computes in at most "
        "float32, not in float64"
    )
    refused(message, ELMAN, ON_A_GPU, jnp.float64)


def test_weights_that_do_not_fit_are_refused():
    """Forward: four kernels `[256, 256]`, padded."""
    message = r"expected None or 'scan' for LSTM\(129\): its weights take 1048576 bytes, a block"
    refused(message, gr.LSTM(129), ON_A_GPU)
    refused("its weights take", gr.LSTM(129), gr.BPTT(kernel="pallas", target="gpu", save="gates"))


@pytest.mark.parametrize("precision", ["highest", "float32"])
def test_float32_products_are_refused_where_tf32_is_not_allowed(precision):
    """But not those of bfloat16."""
    with jax.default_matmul_precision(precision):
        refused(f"TF32, and jax_default_matmul_precision is '{precision}'", ELMAN, ON_A_GPU)
        *narrow, _ = problem(ELMAN, 2, (2,), dtype=jnp.bfloat16)
        gr.unroll(ELMAN, *narrow, bptt=ON_A_GPU)


def test_a_kernel_with_autodiff_is_refused():
    message = "kernel: got 'pallas', expected None or 'scan' with rule='autodiff'"
    with pytest.raises(ValueError, match=message):
        gr.BPTT(kernel="pallas", rule="autodiff")
    assert gr.BPTT(kernel="scan", rule="autodiff").kernel == "scan"
    with pytest.raises(TypeError, match="kernel: got 3, expected a name or None"):
        gr.BPTT(kernel=3)


# ------------------------------------------------------------------------- a cell of one's own


def recur_over(function):
    """The step of the toy, and `function` of it in what it adds: `(params, h, n) -> n`."""

    def recur(cell, params, carry, a):
        n = jnp.tanh(a + carry.h @ params.recurrent_kernel)
        return toy.ToyCarry(carry.h / 2 + function(params, carry.h, n)), n

    return recur


ODD = {
    "a size in the step": lambda params, h, n: n / n.shape[-1],
    "infinite in the padding": lambda params, h, n: jnp.tanh(h / n),
    "a bias in the step": lambda params, h, n: n * jnp.broadcast_to(params.bias, n.shape),
}


@pytest.mark.parametrize("function", ODD.values(), ids=ODD)
def test_a_step_that_would_notice_the_padding(function):
    *arguments, _ = problem(TOY, 4, (3,))
    of = functools.partial(run, interpreted(toy_with(recur=recur_over(function))))
    got, want = (jax.jit(of, static_argnums=(0,))(b, {}, *arguments) for b in (KERNEL, SCAN))
    assert_same(got, want)


STRANGE = {
    "reduce_sum": lambda params, h, n: jnp.broadcast_to(jnp.sum(n, -1, keepdims=True), n.shape),
    "scan": lambda params, h, n: jax.lax.fori_loop(0, 3, lambda _, v: v / 2, n),
    "exp of a matrix": lambda params, h, n: n @ jnp.exp(params.recurrent_kernel),
    "an array that is neither a weight nor an input": lambda params, h, n: (
        n * jnp.broadcast_to(np.ones(5, "f"), n.shape)
    ),
}


def backward_with_a_sum(cell, transposed, slope, dcarry):
    dh, da = toy.backward(cell, transposed, slope, dcarry)
    return dh, da + jnp.sum(da, -1, keepdims=True) / 2


@pytest.mark.parametrize("bptt", [ON_A_GPU, KERNEL], ids=["on a GPU", "interpreted"])
@pytest.mark.parametrize("name", [*STRANGE, "in reverse"])
def test_an_operation_that_the_kernel_does_not_know(name, bptt):
    """Refused in one line, in the reverse step too, where one insists; else the scan takes it."""
    if name == "in reverse":
        cell, name = toy_with(backward=backward_with_a_sum), "reduce_sum"
    else:
        cell = toy_with(recur=recur_over(STRANGE[name]))
    *arguments, _ = problem(cell, 2, (3,))
    message = (
        rf"kernel: got '{bptt.kernel}', expected None or 'scan' for Toy\(features=5.*\): its steps "
        f"have an operation that the kernel does not know, {name}"
    )
    named = cell if bptt == ON_A_GPU else interpreted(cell)
    with pytest.raises(ValueError, match=message) as caught:
        gr.unroll(named, *arguments, bptt=bptt)
    assert "\n" not in str(caught.value)
    gr.unroll(named, *arguments, bptt=dataclasses.replace(bptt, kernel=None))


# ------------------------------------------------------------------------- another target

TARGETS = ["gpu", "tpu"]


def assert_the_target_changes_no_result(cell, target):
    """In float64, values and gradients with lengths and resets."""
    rng = np.random.default_rng(5)
    params = random_params(cell, I)
    carries = (
        jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape)), cell.carry((3,), np.float64))
        for _ in range(2)
    )
    arguments = (params, normal(23, 3, I), *carries)
    of = functools.partial(run, cell, wide=True)
    options = flags(23, 3)
    got, want = (
        outcome(functools.partial(of, bptt, options), *arguments)
        for bptt in (gr.BPTT(target=target), gr.BPTT(target="cpu"))
    )
    assert_same(got, want, 1e-10)


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_changes_no_result(target):
    assert_the_target_changes_no_result(gr.GRU(4), target)


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cell", FEW.values(), ids=FEW)
def test_the_target_changes_no_result_of_any_cell(cell, target):
    assert_the_target_changes_no_result(cell, target)


def test_a_symbolic_batch_is_exported():
    """The plan asks no kernel of another target about sizes that are not known."""
    cell, bptt = gr.LSTM(4), gr.BPTT(chunk=3)
    params = random_params(cell, I, dtype=jnp.float32)
    (batch,) = jax.export.symbolic_shape("b")
    xs = jax.ShapeDtypeStruct((3, batch, I), jnp.float32)
    exported = jax.export.export(jax.jit(lambda xs: gr.unroll(cell, params, xs, bptt=bptt)[1]))(xs)
    rows = normal(3, 5, I, dtype=jnp.float32)
    np.testing.assert_allclose(exported.call(rows), gr.unroll(cell, params, rows)[1], atol=1e-6)


# ------------------------------------------------------------------------------ on a device


def small(params):
    """So small that what is rounded in one step does not grow in the next."""

    def scaled(leaf):
        return leaf * jnp.float32(min(1.0, 1.4 / np.sqrt(leaf.shape[0] if leaf.ndim > 1 else 1)))

    return jax.tree.map(scaled, params)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
class TestOnAGpu:
    """The compiled kernel against the scan, on the device; products in TF32."""

    def check(self, cell, length, batch, options, dtype, **bptt):
        *arguments, reset_carry = problem(cell, length, batch, I, dtype)
        arguments[0] = small(arguments[0])
        arguments += [reset_carry] if "resets" in options else []

        def by(name, arguments):
            of = functools.partial(run, cell, gr.BPTT(kernel=name, **bptt), options)
            return as_float32(outcome(of, *arguments))

        got, scanned = by("pallas", arguments), by("scan", arguments)
        assert any(np.any(leaf) for leaf in jax.tree.leaves(scanned))
        if dtype == jnp.float32:
            assert worst(got, scanned) < 5e-3
            return
        with jax.default_matmul_precision("highest"):
            exact = by("scan", as_float32(arguments))
        assert worst(got, exact) <= 1.5 * worst(scanned, exact) < 0.1

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
    @pytest.mark.parametrize("features", [16, 37, 128])
    @pytest.mark.parametrize("kind", [gr.LSTM, gr.GRU, gr.Elman])
    def test_sizes(self, kind, features, dtype):
        """Lengths, resets and an odd number of rows, in reverse."""
        if kind == gr.LSTM and (features, dtype) == (128, jnp.float32):
            pytest.skip("its weights do not fit")
        options = flags(20, 19) | {"reverse": True}
        self.check(kind(features), 20, (19,), options, dtype)

    @pytest.mark.parametrize(
        "cell", [pytest.param(v, id=k) for k, v in SAMPLE.items() if kernels_of(v)]
    )
    def test_every_cell(self, cell):
        """Truncated and clipped, two axes, and chunks with a remainder."""
        self.check(cell, 10, (2, 5), {}, jnp.float32, truncate=4, clip=0.5, chunk=4)

    @pytest.mark.parametrize("save", ["carries", "gates", "boundaries"])
    def test_every_way_to_save(self, save):
        self.check(gr.LSTM(16), 10, (9,), flags(10, 9), jnp.float32, save=save, chunk=5)

    def test_transformations(self):
        """Second derivatives, and `vmap` over parameters and data."""
        params, xs, *_ = problem(ELMAN, 5, (3,))
        pairs = []
        for name in ("pallas", "scan"):
            one = jax.grad(functools.partial(loss, ELMAN, gr.BPTT(kernel=name)), argnums=(0, 1))
            twice = jax.grad(lambda *at, one=one: some_of_all(one(*at)), argnums=(0, 1))
            many = jax.tree.map(lambda v: jnp.stack([v, -v, v / 2]), (params, xs))
            pairs.append((jax.jit(twice)(params, xs), jax.jit(jax.vmap(one))(*many)))
        assert worst(*pairs) < 5e-3
