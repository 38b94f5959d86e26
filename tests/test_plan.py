"""The plan of a recurrence: chunks, and the layout in which the weights reach the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from networks import normal, random_params
from reference import FEW

import gatedrnn as gr
from gatedrnn._src.kernels.mosaic import MOSAIC
from gatedrnn._src.kernels.triton import TRITON
from gatedrnn._src.loops import Steps
from gatedrnn._src.target import default_target
from gatedrnn._src.target import device_kind as kind_for
from gatedrnn._src.time.bptt import target_of
from gatedrnn._src.time.plan import HABITS, planned
from gatedrnn._src.time.recurrence import Recurrence

CELLS = {name: cell for name, cell in FEW.items() if not hasattr(cell, "cell")}


def plan(length, batch, features, cell=gr.LSTM, in_features=4, bptt=gr.BPTT(), device_kind=""):
    """The plan of a run of these sizes, in float32."""
    cell = cell(features)
    xs = jax.ShapeDtypeStruct((length, batch, in_features), jnp.float32)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), in_features))
    carry = jax.eval_shape(lambda: cell.carry((batch,)))
    recurrence = Recurrence(cell, bptt, False, False, target_of(bptt), device_kind)
    return planned(recurrence, params, carry, Steps(xs)).plan


def chunk(*sizes, **options):
    return plan(*sizes, **options).chunk_size


def bytes_of_a_step(batch, features):
    """What one step of an LSTM makes forward: the projection, the carry and the gates."""
    return 4 * batch * (4 + 2 + 4) * features


def test_a_chunk_is_a_twentieth_of_the_sequence():
    """Between the two bounds."""
    assert chunk(1000, 16, 64) == 50


def test_a_chunk_is_not_too_small_for_its_overhead():
    """It makes the lower bound, however short the sequence is; or it is the whole sequence."""
    least = HABITS["cpu"].chunk_bytes[0] // bytes_of_a_step(16, 64)
    assert least // 2 < chunk(100, 16, 64) <= least
    assert chunk(8, 2, 3) == 8


def test_a_chunk_is_not_too_large_for_the_caches():
    """It makes no more than the upper bound, however long the sequence is; or is one step."""
    most = HABITS["cpu"].chunk_bytes[1] // bytes_of_a_step(64, 256)
    assert most // 2 < chunk(10_000, 64, 256) <= most
    assert chunk(10_000, 4096, 4096) == 1


@pytest.mark.parametrize("length", [997, 1000, 1001, 1024])
def test_a_chunk_divides_the_sequence_where_it_can(length):
    """A remainder costs a copy; at most half of the chunk is given up to avoid one."""
    wanted = length // HABITS["cpu"].chunk_share
    size = chunk(length, 16, 64)
    divisors = [n for n in range(wanted // 2 + 1, wanted + 1) if length % n == 0]
    assert size == (max(divisors) if divisors else wanted)


def test_a_chunk_that_is_asked_for_is_taken():
    """Up to the length of the sequence; an empty sequence has chunks of one."""
    assert chunk(100, 2, 3, bptt=gr.BPTT(chunk=7)) == 7
    assert chunk(5, 2, 3, bptt=gr.BPTT(chunk=7)) == 5
    assert chunk(0, 2, 3) == 1


def loops_and_widths(target, **options):
    """Of the scans over single steps, forward and in reverse: `unroll`, and widths of weights."""
    cell, xs = gr.LSTM(8), jax.ShapeDtypeStruct((40, 2, 3), jnp.float32)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 3))

    def loss(params, xs):
        return jnp.sum(
            gr.unroll(cell, params, xs, bptt=gr.BPTT(kernel="scan", target=target, **options))[1]
        )

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params, xs).jaxpr
    scans = [e for e in equations(jaxpr) if e.primitive.name == "scan"]
    recurrent = [
        {v.aval.shape for v in scan.invars if v.aval.ndim == 2 and 8 in v.aval.shape} - {(2, 8)}
        for scan in scans
    ]
    return [(scan.params["unroll"], shapes) for scan, shapes in zip(scans, recurrent, strict=True)]


def test_the_target_chooses_the_loop():
    """Kernels of gates as one and several steps in a pass, on a GPU and a TPU, wherever this is."""
    assert loops_and_widths("cpu", chunk=40) == [(1, {(8, 8)})] * 2
    for target in ("gpu", "tpu"):
        unroll = HABITS[target].unroll
        assert unroll > 1
        assert loops_and_widths(target) == [(unroll, {(8, 32)}), (unroll, {(32, 8)})]


def test_the_target_chooses_the_plan():
    """One chunk on a GPU and a TPU, up to what their memory bears."""
    for target in ("gpu", "tpu"):
        bptt = gr.BPTT(target=target, kernel="scan")
        made = plan(1000, 16, 64, bptt=bptt)
        assert (made.chunk_size, made.stacked) == (1000, (True, True))
        most = HABITS[target].chunk_bytes[1] // bytes_of_a_step(4096, 512)
        assert most // 2 < chunk(10_000, 4096, 512, bptt=bptt) <= most
        assert chunk(1000, 16, 64, bptt=gr.BPTT(target=target, chunk=7)) == 7
    on_a_cpu = plan(1000, 16, 64, bptt=gr.BPTT(target="cpu"))
    assert (on_a_cpu.chunk_size, on_a_cpu.stacked) == (50, (False, False))
    assert on_a_cpu.loop.keywords == {"unroll": 1}


def test_gates_are_saved_on_a_cpu():
    """As long as they and the carries stay below the bound; what is asked for is done."""
    saved = 4 * 16 * (2 + 4) * 64  # bytes of a step of an LSTM: two carries, four gates
    most = HABITS["cpu"].gates_bytes // saved
    assert plan(most, 16, 64).save == "gates"
    assert plan(most + 1, 16, 64).save == "carries"
    assert plan(100, 16, 64, bptt=gr.BPTT(save="boundaries")).save == "boundaries"
    assert plan(100, 16, 64, bptt=gr.BPTT(rule="autodiff")).save == "carries"
    for target in ("gpu", "tpu"):
        assert plan(100, 16, 64, bptt=gr.BPTT(target=target)).save == "carries"
    assert plan(100, 16, 64, gr.GRU).save == "gates"  # three times as many values as its carry
    assert plan(100, 16, 64, gr.LayerNormGRU).save == "carries"  # what is normalised besides


@pytest.mark.parametrize(("length", "unroll"), [(100, 10), (97, 10), (24, 8), (49, 7)])
def test_a_pass_of_the_loop_has_steps_that_divide_it(length, unroll):
    """Where a number near the most does; the loop itself has the others."""
    made = plan(length, 2, 3, bptt=gr.BPTT(target="gpu", kernel="scan"))
    assert made.loop.keywords == {"unroll": unroll}


def test_a_kernel_reads_the_kernels_of_gates_one_by_one():
    """And its own loop is what runs the steps; projections are made before it."""
    made = plan(7, 2, 3, in_features=1, bptt=gr.BPTT(target="gpu", kernel="pallas"))
    assert (made.loop, made.stacked) == (TRITON.loop, (False, False))
    assert not made.project_one
    assert plan(7, 2, 3, in_features=1).project_one


def test_a_kernel_is_taken_unasked_where_it_was_measured():
    """An LSTM's on a GPU, as long as all its blocks of rows run at once."""
    bptt, h200 = gr.BPTT(target="gpu"), {"device_kind": "NVIDIA H200"}
    assert plan(7, 132 * 8, 3, bptt=bptt, **h200).loop is TRITON.loop
    assert plan(7, 132 * 8 + 1, 3, bptt=bptt, **h200).loop is not TRITON.loop
    assert plan(7, 2, 128, bptt=bptt, **h200).loop is not TRITON.loop  # its weights do not fit
    assert plan(7, 2, 3, gr.GRU, bptt=bptt, **h200).loop is not TRITON.loop
    assert plan(7, 2, 3, bptt=bptt, device_kind="NVIDIA A100-SXM4-40GB").loop is not TRITON.loop
    assert plan(7, 2, 3, bptt=bptt).loop is not TRITON.loop
    assert plan(7, 2, 3, bptt=gr.BPTT(target="tpu"), device_kind="TPU v5e").loop is not MOSAIC.loop


def test_the_device_is_that_of_the_mesh_in_use():
    """Else the one on which JAX runs; a target that is neither has no device."""
    h100 = AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
    assert (default_target(), kind_for("cpu"), kind_for("gpu")) == ("cpu", "cpu", "")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=h100)):
        assert (default_target(), kind_for("gpu")) == ("gpu", h100.device_kind)
        assert kind_for("cpu") == ""


def innermost_loops(jaxpr):
    """The bodies of all scans that hold no other."""
    found, inner = [], False
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for each in value if isinstance(value, tuple | list) else (value,):
                if isinstance(each, core.ClosedJaxpr | core.Jaxpr):
                    body = getattr(each, "jaxpr", each)
                    below = innermost_loops(body)
                    is_scan = equation.primitive.name == "scan"
                    found += below or ([body] if is_scan else [])
                    inner = inner or bool(below) or is_scan
    return found if inner else []


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_no_step_lays_out_a_weight(cell):
    """Forward and backward, kernels come into the loop over steps as its products want them."""
    params, xs = random_params(cell, 5), normal(6, 2, 5)  # no size of a cell is 2

    def loss(params):
        return jnp.sum(gr.unroll(cell, params, xs, bptt=gr.BPTT(chunk=2))[1])

    loops = innermost_loops(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
    products = 0
    assert len(loops) == 2
    for body in loops:
        matrices = {v for v in body.invars if len(v.aval.shape) == 2 and v.aval.shape[0] != 2}
        assert matrices
        for equation in body.eqns:
            read = matrices & {v for v in equation.invars if not isinstance(v, core.Literal)}
            if read:
                assert equation.primitive.name == "dot_general"
                assert equation.params["dimension_numbers"] == (((1,), (0,)), ((), ()))
                products += 1
    assert products > 0


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("save", ["carries", "gates", "boundaries"])
def test_a_single_input_feature(cell, save):
    """What is multiplied within the step is what would be contracted before it."""
    params, xs = random_params(cell, 1), normal(7, 3, 1)
    beside = params._replace(kernel=jnp.concatenate([params.kernel, jnp.ones_like(params.kernel)]))
    lengths = jnp.array([7, 0, 4])

    def gradients(params, xs, bptt):
        def loss(params, xs):
            carry, ys = gr.unroll(cell, params, xs, lengths=lengths, bptt=bptt)
            return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in carry)

        return jax.value_and_grad(loss, argnums=(0, 1))(params, xs)

    loss, (dparams, dxs) = gradients(params, xs, gr.BPTT(save=save, chunk=3))
    wide = jnp.concatenate([xs, jnp.zeros_like(xs)], axis=-1)  # a second feature, always zero
    wanted, (dwide, dxs_wide) = gradients(beside, wide, gr.BPTT(rule="autodiff"))
    np.testing.assert_allclose(loss, wanted, rtol=1e-12)
    np.testing.assert_allclose(dxs, dxs_wide[..., :1], rtol=1e-10, atol=1e-12)
    for name, leaf in dparams._asdict().items():
        if leaf is not None:
            other = dwide._asdict()[name][:1] if name == "kernel" else dwide._asdict()[name]
            np.testing.assert_allclose(leaf, other, rtol=1e-10, atol=1e-12, err_msg=name)


def equations(jaxpr):
    """All equations of a jaxpr and of those within it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for each in value if isinstance(value, tuple | list) else (value,):
                if isinstance(each, core.ClosedJaxpr | core.Jaxpr):
                    yield from equations(getattr(each, "jaxpr", each))


def test_initial_values_need_no_batched_decomposition():
    """On a CPU with few threads, several of those in one program can wait for one another."""
    net = gr.stack(gr.LSTM(4, peephole="full"), gr.repeat(gr.GRU(4), 3))
    jaxpr = jax.make_jaxpr(lambda key: net.init(key, 4))(jax.random.key(0)).jaxpr
    decomposed = [e.invars[0].aval for e in equations(jaxpr) if e.primitive.name in ("qr", "geqrf")]
    assert decomposed
    assert all(matrix.ndim == 2 for matrix in decomposed)
