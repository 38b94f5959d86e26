"""Everything compiles for an H100 and a TPU v5e, into what belongs there; no device is needed.

`.ci/accelerators` runs this in an environment that has the compilers.
"""

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flag_cases import CASES
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from networks import outcome
from reference import FEW, SAMPLE

import gatedrnn as gr
from benchmarks import hlo
from benchmarks.accelerators import H100, TARGETS, V5E, compiled_for, described
from benchmarks.candidates import ours
from benchmarks.problem import Problem
from benchmarks.program import Source
from gatedrnn._registry.cells import named, over_time, over_trees
from gatedrnn._registry.row import Row
from gatedrnn._src.base import rule_of

pytestmark = pytest.mark.accelerator

ROOT = Path(__file__).parents[2]
T = 100


@pytest.fixture(params=TARGETS.values(), ids=TARGETS)
def target(request):
    if request.param.missing:
        pytest.fail(request.param.missing)
    return request.param


@pytest.fixture(autouse=True)
def as_users_run_it():
    """In 32-bit mode, and nothing kept."""
    with jax.enable_x64(False):
        yield
    jax.clear_caches()


def misplaced(program):
    """What a program holds that does not belong on an accelerator, given to XLA or made by it."""
    texts = program.stablehlo(), program.hlo()
    return [found for text in texts for found in hlo.wide_floats(text)] + hlo.host_transfers(
        program.hlo()
    )


FEW_TREES = named(over_trees(), Row.few)

# Everything compiles ------------------------------------------------------------------------------

# Without a device to try tiles on, XLA takes some for its own products, and stops where none fits:
# see `test_batches_of_an_odd_size`. cuBLAS' fit always.
BY_CUBLAS = {"xla_gpu_enable_triton_gemm": False}
OPTIONS = {H100: BY_CUBLAS, V5E: {}}


def is_variant(name):
    """Of another case: a cell with other options, a layer that another case has as well."""
    kind, _, rest = name.partition(" ")
    if kind in ("layer", "cell"):
        return rest.startswith(("both", "streams")) if kind == "layer" else rest not in FEW
    return kind in ("hand", "autodiff") and rest not in FEW_TREES


def cases():
    """Every case for both devices, of variants one for the one and the next for the other."""
    turns = itertools.cycle(TARGETS.values())
    for name in CASES:
        for target in [next(turns)] if is_variant(name) else TARGETS.values():
            yield pytest.param(target, name, id=f"{target.key}-{name}")


@pytest.mark.parametrize(("target", "name"), list(cases()), indirect=["target"])
def test_it_compiles(name, target):
    """Values and gradients, in float32: no float64 comes in, and nothing goes to the host."""
    case = CASES[name](jnp.float32)
    function = partial(outcome, case.function) if case.differentiable else case.function
    source = Source(name, function, case.arguments, options=OPTIONS[target])
    assert misplaced(compiled_for(target, source)) == []


TIMED = {name: make for row in over_time() for name, make in row.timed().items()}


@pytest.mark.parametrize("name", TIMED)
def test_it_compiles_at_a_size_in_use(name, target):
    """The training step of every cell, with XLA's own products and its fusions of that size."""
    cell = TIMED[name](64)

    def loss(params, xs):
        return jnp.mean(jnp.square(gr.unroll(cell, params, xs)[1]))

    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 40))
    arguments = params, jax.ShapeDtypeStruct((T, 32, 40), jnp.float32)
    step = Source(name, jax.value_and_grad(loss, argnums=(0, 1)), arguments)
    assert misplaced(compiled_for(target, step)) == []


NO_TILES = pytest.mark.xfail(reason="XLA finds no tiles of 300 rows", strict=True)


@pytest.mark.parametrize("B", [1, 2, pytest.param(3, marks=NO_TILES), 4, 24])
@pytest.mark.parametrize("cell", ["LSTM", "GRU before"])
def test_batches_of_an_odd_size(cell, B):
    """By XLA's own products, on a GPU; with a device at hand it tries others where one fails."""
    compiled_for(H100, ours.programs(Problem(cell, T, B, 64, 64))["train"])


@pytest.mark.parametrize(("B", "H"), [(1, 100), (4, 8), (4, 16)])
def test_layer_normalisation_at_any_size(B, H):
    """XLA's fusions for a GPU do not take a concatenation of what is normalised, at some sizes."""
    cell = gr.LayerNormGRU(H)

    def loss(params, xs):
        return jnp.sum(jnp.square(gr.unroll(cell, params, xs)[1]))

    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 40))
    arguments = params, jax.ShapeDtypeStruct((20, B, 40), jnp.float32)
    compiled_for(H100, Source("step", jax.value_and_grad(loss, argnums=(0, 1)), arguments))


# Kernels ------------------------------------------------------------------------------------------

WITH_KERNELS = {name: cell for name, cell in SAMPLE.items() if rule_of(cell).kernels}
PTXAS = next(iter(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/ptxas")), None)


def with_a_kernel(cell, dtype):
    """A training step with all that a kernel has in it, and its arguments."""
    cell = dataclasses.replace(cell, features=64)
    bptt = gr.BPTT(kernel="pallas", truncate=7, clip=1.0)

    def loss(params, xs, lengths, resets):
        options = {"lengths": lengths, "resets": resets, "bptt": bptt}
        return jnp.mean(jnp.square(gr.unroll(cell, params, xs, **options)[1].astype(jnp.float32)))

    shapes = [((20, 11, 40), dtype), ((11,), jnp.int32), ((20, 11), bool)]
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 40))
    arguments = params, *(jax.ShapeDtypeStruct(*shape) for shape in shapes)
    return jax.value_and_grad(loss, argnums=(0, 1)), arguments


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", WITH_KERNELS)
def test_kernels_compile(name, dtype, target, tmp_path):
    """One forward and one in reverse; on a GPU nothing goes from registers to memory."""
    options = {"xla_dump_to": str(tmp_path)} if target is H100 else {}
    source = Source(name, *with_a_kernel(WITH_KERNELS[name], dtype), options=options)
    program = compiled_for(target, source)
    counted = hlo.operations(hlo.parsed(program.hlo()), "ENTRY")
    assert sum(counted[kernel] for kernel in hlo.KERNELS) == 2
    assert misplaced(program) == []
    if target is H100:
        assert spills(tmp_path) == {"steps": 0, "reverse_steps": 0}


def spills(folder):
    """The bytes that the assembler has each kernel store, by its name."""
    found = {}
    for path in folder.glob("*.ptx"):
        kernel = re.search(r"\.entry (steps|reverse_steps)\b", path.read_text())
        if kernel:
            command = [PTXAS, "-v", "-arch=sm_90a", path, "-o", os.devnull]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            found[kernel.group(1)] = int(re.search(r"(\d+) bytes spill stores", said).group(1))
    return found


# How many operations ------------------------------------------------------------------------------

SIZES = (T, 32, 40, 256)
BOUNDS = {  # operations of a time step, in a training step
    "LSTM": {"h100": 9, "v5e": 10},
    "GRU after": {"h100": 19.6, "v5e": 13.3},  # 0.7 of flax's best, 28 and 19
}


@pytest.mark.parametrize("cell", BOUNDS)
def test_operations_of_a_step(cell, target):
    """Whatever XLA made of the loops: chunks, unrolled steps, loops in loops."""
    program = compiled_for(target, ours.programs(Problem(cell, *SIZES))["train"])
    count = hlo.per_step(program.hlo(), T)
    assert count <= BOUNDS[cell][target.key]
    assert misplaced(program) == []


def test_the_table_of_launches(tmp_path):
    """At a tiny size, for both devices."""
    command = [sys.executable, "-m", "benchmarks", "launches", "--tiny", "--cells", "Elman"]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([*command, "--out", tmp_path], **options)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "launches-tiny.json").read_text())["tables"]["launches"]["rows"]
    assert [row["of"]["target"] for row in rows] == [H100.name] * 2 + [V5E.name] * 2
    for row in rows:
        assert set(row["candidates"]) == {"gatedrnn", "lax.scan", "flax linen", "flax nnx"}
        assert row["failed"] == {}
        assert all(figures["operations"] >= 1 for figures in row["candidates"].values())


# Four devices -------------------------------------------------------------------------------------

DEVICES = 4
NETWORKS = {
    "LSTM": gr.recurrent(gr.LSTM(64)),
    "GRU": gr.recurrent(gr.GRU(64)),
    "stack": gr.stack(gr.LSTM(64), gr.residual(gr.GRU(64)), gr.bidirectional(gr.GRU(32))),
}
ONE_ALL_REDUCE = {hlo.STEPS: {}, hlo.CHUNKS: {}, hlo.OUTSIDE: {"all-reduce": 1}}


@pytest.mark.parametrize("how", ["jit", "explicit", "shard_map"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_data_parallel(network, how, target):
    """The batch over four devices: gradients are summed once, and nothing else is exchanged."""
    kind = AxisType.Explicit if how == "explicit" else AxisType.Auto
    mesh = target.mesh(DEVICES, kind=kind)
    whole, rows = PartitionSpec(), PartitionSpec(None, "data")

    def gradient(params, xs):
        return jax.grad(lambda p: jnp.sum(jnp.square(network.apply(p, xs)[1])))(params)

    if how == "explicit":
        step = jax.jit(gradient)
    elif how == "jit":
        step = jax.jit(gradient, out_shardings=NamedSharding(mesh, whole))
    else:
        step = jax.shard_map(gradient, mesh=mesh, in_specs=(whole, rows), out_specs=whole)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), 64))
    source = Source(how, step, (params, jax.ShapeDtypeStruct((T, 32, 64), jnp.float32)))
    shardings = NamedSharding(mesh, whole), NamedSharding(mesh, rows)
    with target.tracing():
        program = described(source, shardings)()
    assert hlo.collectives(program.hlo()) == ONE_ALL_REDUCE
    assert misplaced(program) == []


@pytest.mark.parametrize("how", ["jit", "explicit"])
def test_data_parallel_kernels(how, target):
    """Every device runs the kernels on its own rows, one forward and one in reverse."""
    if how == "jit" and target is V5E:
        pytest.skip("libtpu divides no kernel in a program for a TPU that is not there")
    mesh = target.mesh(DEVICES, kind=AxisType.Explicit if how == "explicit" else AxisType.Auto)

    def gradient(params, xs):
        network = gr.recurrent(gr.GRU(64), gr.BPTT(kernel="pallas"))
        return jax.grad(lambda p: jnp.sum(jnp.square(network.apply(p, xs)[1])))(params)

    params = jax.eval_shape(lambda: gr.recurrent(gr.GRU(64)).init(jax.random.key(0), 64))
    source = Source(how, gradient, (params, jax.ShapeDtypeStruct((T, 32, 64), jnp.float32)))
    whole, rows = PartitionSpec(), PartitionSpec(None, "data")
    shardings = NamedSharding(mesh, whole), NamedSharding(mesh, rows)
    with target.tracing():
        text = described(source, shardings)().hlo()
    assert hlo.collectives(text) == ONE_ALL_REDUCE
    counted = hlo.operations(hlo.parsed(text), "ENTRY")
    assert sum(counted[kernel] for kernel in hlo.KERNELS) == 2


# The assertions find what they look for -----------------------------------------------------------

ARRAY = jax.ShapeDtypeStruct((8, 8), jnp.float32)


def test_float64_is_found(target):
    """It comes in by a region in 64-bit mode; XLA has none of it left for a TPU."""

    def wide(xs):
        with jax.enable_x64(True):
            return (xs.astype(jnp.float64) * 2.5).astype(jnp.float32)

    assert misplaced(compiled_for(target, Source("wide", wide, (ARRAY,))))


def test_functions_of_python_are_found(target):
    """For a GPU they do not even get as far: JAX asks for the device that is to call them."""
    source = Source("python", lambda xs: jax.pure_callback(np.asarray, xs, xs), (ARRAY,))
    if target is H100:
        with pytest.raises(RuntimeError, match="gpu"):
            compiled_for(target, source)
    else:
        assert misplaced(compiled_for(target, source))


def test_other_collectives_are_found(target):
    mesh = target.mesh(DEVICES)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    gather = jax.jit(jnp.sin, out_shardings=whole)
    source = Source("gather", gather, (ARRAY,))
    found = hlo.collectives(described(source, rows)().hlo())
    assert found[hlo.OUTSIDE] == Counter({"all-gather": 1})
