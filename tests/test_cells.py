"""The cells: their step is the published equations, their parameters start as documented."""

import dataclasses
import functools
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import ALL_CELLS, FEW, TREE_CELLS, random_carry, random_params

import gatedrnn as gr
from gatedrnn._registry import cells as registry
from gatedrnn._src import checks
from gatedrnn._src.numerics import ACTIVATIONS, ActivationName

all_cells = pytest.mark.parametrize("cell", ALL_CELLS.values(), ids=ALL_CELLS)
few_cells = pytest.mark.parametrize("cell", FEW.values(), ids=FEW)


def normal(*shape, seed=2, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_trees_close(got, want, **tolerance):
    """Same structure, and every leaf close (by default to 1e-12)."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    tolerance = {"rtol": 1e-12, "atol": 1e-14} | tolerance
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


# The equations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@all_cells
def test_step_is_the_equations(cell, batch):
    params, carry = random_params(cell), random_carry(cell, batch)
    x = normal(*batch, reference.IN_FEATURES)
    got = cell.step(params, carry, x)
    assert_trees_close(got, reference.one_step(cell, params, carry, x))
    assert jax.tree.all(jax.tree.map(lambda leaf: leaf.dtype == jnp.float64, got))


@all_cells
def test_unroll_is_the_equations_step_after_step(cell):
    params, carry = random_params(cell), random_carry(cell, (2,))
    xs = normal(3, 2, reference.IN_FEATURES)
    got = gr.unroll(cell, params, xs, carry)
    assert_trees_close(got, reference.unroll(cell, params, xs, carry))


@few_cells
def test_unroll_starts_from_zeros(cell):
    params, xs = random_params(cell), normal(3, 2, reference.IN_FEATURES)
    assert_trees_close(gr.unroll(cell, params, xs), reference.unroll(cell, params, xs))


@functools.partial(jax.jit, static_argnums=0)
def gradients(cell, params, carry, xs):
    """`(ys, gradients for params, carry and xs)` of a fixed weighted sum of all outputs."""

    def loss(params, carry, xs):
        final, ys = gr.unroll(cell, params, xs, carry)
        final, outputs = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (final, ys))
        weighed = jnp.vdot(normal(*ys.shape, seed=5), outputs)
        return weighed + sum(jnp.sin(leaf).sum() for leaf in final), ys

    (_, ys), grads = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, carry, xs)
    return ys, grads


@pytest.mark.parametrize("reset", ["before", "after"])
def test_gru_keeps_is_writes_with_the_sign_of_z_flipped(reset):
    writes, keeps = (gr.GRU(4, reset=reset, update=update) for update in ("writes", "keeps"))
    sign = jnp.repeat(jnp.array([1.0, -1.0, 1.0]), 4)  # of the columns of r, z, n

    def flip(p):
        return p._replace(
            kernel=p.kernel * sign[None],
            recurrent_kernel=p.recurrent_kernel * sign[None],
            bias=p.bias * sign,
        )

    params, carry = random_params(writes), random_carry(writes, (2,))
    xs = normal(4, 2, reference.IN_FEATURES)
    ys, (dparams, dcarry, dxs) = gradients(writes, params, carry, xs)
    got = gradients(keeps, flip(params), carry, xs)
    assert_trees_close(got, (ys, (flip(dparams), dcarry, dxs)), atol=1e-12)


@pytest.mark.parametrize("rule", ["hand", "autodiff"])
def test_the_slope_of_relu_at_zero_is_zero(rule):
    """At rest (zero input, state and bias) every pre-activation is on the kink."""
    cell = gr.Elman(4, activation="relu", use_bias=False)
    params, xs = random_params(cell), jnp.zeros((2, reference.IN_FEATURES))

    def loss(xs):
        return gr.unroll(cell, params, xs, bptt=gr.BPTT(rule=rule))[1].sum()

    np.testing.assert_array_equal(jax.grad(loss)(xs), jnp.zeros_like(xs))


# Initial values ---------------------------------------------------------------------------------

H, IN, P, OUT = 64, 96, 24, 40
SIZES = {"features": H, "out_features": OUT, "projection": P}


def enlarged(cell):
    """The cell with sizes that statistics can be made of."""
    sizes = {name: size for name, size in SIZES.items() if getattr(cell, name, None) is not None}
    return dataclasses.replace(cell, **sizes)


LARGE = {name: enlarged(cell) for name, cell in FEW.items() if not hasattr(cell, "cell")} | {
    "jordan": gr.Jordan(H, OUT),
    "lstm": gr.LSTM(H, peephole="diagonal"),
    "lstm-full": gr.LSTM(H, peephole="full"),
    "lstm-projected": gr.LSTM(H, projection=P),
    "lstm-projected-up": gr.LSTM(H, projection=H + 16),
}
large = pytest.mark.parametrize("name", LARGE)


@functools.cache
def initial(name):
    return LARGE[name].init(jax.random.key(3), IN)


def assert_lecun_normal(kernel):
    kernel = np.asarray(kernel)
    scale = 1 / np.sqrt(kernel.shape[0])
    assert kernel.std() == pytest.approx(scale, rel=0.05)
    assert abs(kernel.mean()) < 0.05 * scale


@large
def test_input_kernels_start_lecun_normal(name):
    assert_lecun_normal(initial(name).kernel)


def test_output_and_projection_kernels_keep_the_scale_of_their_input():
    assert_lecun_normal(initial("jordan").output_kernel)
    assert_lecun_normal(initial("lstm-projected").projection_kernel)


@large
def test_recurrent_kernels_start_orthogonal_per_gate(name):
    kernel = np.asarray(initial(name).recurrent_kernel, np.float64)
    gates = np.split(kernel, kernel.shape[1] // H, axis=1)
    for gate in gates:
        gram = gate @ gate.T if gate.shape[0] <= gate.shape[1] else gate.T @ gate
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)
    assert len({gate.tobytes() for gate in gates}) == len(gates)  # each its own draw


def paths_of(tree):
    """The leaves of a tree by their paths."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def without_forget_bias(cell):
    """The cell, or one around it, with a forget bias of zero where it has one."""
    changes = {"forget_bias": 0.0} if hasattr(cell, "forget_bias") else {}
    if hasattr(cell, "cell"):
        changes["cell"] = without_forget_bias(cell.cell)
    return dataclasses.replace(cell, **changes)


@few_cells
def test_biases_start_at_zero(cell):
    params = paths_of(without_forget_bias(cell).init(jax.random.key(0), 5))
    biases = [leaf for name, leaf in params.items() if name.endswith("bias")]
    assert biases
    for bias in biases:
        np.testing.assert_array_equal(bias, np.zeros_like(bias))


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, {"f": 1.0}),
        ({"forget_bias": 2.5}, {"f": 2.5}),
        ({"forget_bias": 0.0}, {}),
        ({"projection": 2}, {"f": 1.0}),
        ({"coupled": True}, {"i": -1.0}),  # f = sigmoid(-a_i)
        ({"coupled": True, "forget_bias": 2.5}, {"i": -2.5}),
    ],
    ids=str,
)
def test_forget_bias_is_in_the_stored_bias(options, want):
    gates = "igo" if options.get("coupled") else "ifgo"
    bias = gr.LSTM(4, **options).init(jax.random.key(0), 3).bias
    np.testing.assert_array_equal(bias, np.repeat([want.get(gate, 0.0) for gate in gates], 4))


def test_peepholes_start_at_zero_if_diagonal_and_orthogonal_per_gate_if_full():
    diagonal, full = initial("lstm"), initial("lstm-full")
    np.testing.assert_array_equal(diagonal.peephole, np.zeros(2 * H))
    np.testing.assert_array_equal(diagonal.output_peephole, np.zeros(H))
    for gate in (*np.hsplit(np.asarray(full.peephole), 2), full.output_peephole):
        np.testing.assert_allclose(gate.T @ gate, np.eye(H), atol=1e-5)


EVERYWHERE = ALL_CELLS | TREE_CELLS


@pytest.mark.parametrize("cell", EVERYWHERE.values(), ids=EVERYWHERE)
def test_only_the_arrays_that_the_options_name_exist(cell):
    params = paths_of(random_params(cell))
    got = {name: leaf.shape for name, leaf in params.items() if not name.startswith("memory.")}
    assert got == registry.shapes_of(cell, reference.IN_FEATURES)


def test_init_is_a_function_of_its_key():
    cell = gr.LSTM(4)
    first, again, other = (cell.init(jax.random.key(seed), 3) for seed in (0, 0, 1))
    assert_trees_close(first, again, rtol=0, atol=0)
    assert not np.array_equal(first.kernel, other.kernel)


# Dtypes -----------------------------------------------------------------------------------------

LOWER = {jnp.float32: 2e-6, jnp.bfloat16: 3e-2}  # with the tolerance of each


def carry_dtypes(cell, dtype):
    """What a carry holds for inputs of `dtype`: the same, but a memory `c` at least float32."""
    dtype = jnp.dtype(dtype)
    wide = jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype
    names = paths_of(cell.carry(()))
    return tuple(wide if name.split(".")[-1] == "c" else dtype for name in names)


def dtypes_of(carry):
    return tuple(leaf.dtype for leaf in jax.tree.leaves(carry))


@pytest.mark.parametrize("dtype", [jnp.float64, *LOWER], ids=lambda dtype: dtype.__name__)
@few_cells
def test_parameters_are_in_the_dtype_of_init_and_the_carry_in_its_own(cell, dtype):
    params = jax.eval_shape(lambda key: cell.init(key, 5, dtype=dtype), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    carry = cell.carry((2,), dtype=dtype)
    assert dtypes_of(carry) == carry_dtypes(cell, dtype)
    for leaf in jax.tree.leaves(carry):
        np.testing.assert_array_equal(leaf, 0)


@few_cells
def test_the_default_dtype_is_float32(cell):
    params = jax.eval_shape(lambda key: cell.init(key, 5), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, cell.carry((2,))))} == {
        jnp.dtype(jnp.float32)
    }


@pytest.mark.parametrize("dtype", LOWER, ids=lambda dtype: dtype.__name__)
@few_cells
def test_outputs_are_in_the_dtype_of_the_input_and_close_to_float64(cell, dtype):
    """Parameters in float32 serve inputs of either precision."""
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), random_params(cell))
    xs = normal(4, 2, reference.IN_FEATURES, dtype=dtype)

    want_carry, want_ys = reference.unroll(cell, params, xs.astype(jnp.float64))
    carry, ys = gr.unroll(cell, params, xs)
    assert ys.dtype == dtype
    assert dtypes_of(carry) == carry_dtypes(cell, dtype)
    as_float64 = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (carry, ys))
    tolerance = LOWER[dtype]
    assert_trees_close(as_float64, (want_carry, want_ys), rtol=tolerance, atol=tolerance)

    carry, y = cell.step(params, cell.carry((2,), dtype=dtype), xs[0])
    assert y.dtype == dtype
    assert dtypes_of(carry) == carry_dtypes(cell, dtype)


@pytest.mark.parametrize("cell", [gr.LSTM(4, "diagonal", 3), gr.GRU(4)], ids=repr)
def test_gradients_are_in_the_dtype_of_what_they_belong_to_and_close_to_float64(cell):
    params, carry = random_params(cell), random_carry(cell, (2,))
    xs = normal(4, 2, reference.IN_FEATURES)
    _, want = gradients(cell, params, carry, xs)
    for dtype in LOWER:
        lower = (
            jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params),
            type(carry)(
                *(leaf.astype(d) for leaf, d in zip(carry, carry_dtypes(cell, dtype), strict=True))
            ),
            xs.astype(dtype),
        )
        _, got = gradients(cell, *lower)
        for leaf, a, b in zip(*map(jax.tree.leaves, (lower, got, want)), strict=True):
            assert a.dtype == leaf.dtype
            norm = np.linalg.norm(np.ravel(a.astype(jnp.float64) - b))
            assert norm < LOWER[dtype] * np.linalg.norm(np.ravel(b))


@pytest.mark.parametrize(
    ("params_dtype", "xs_dtype"),
    [(jnp.float32, jnp.float64), (jnp.float64, jnp.float32), (jnp.bfloat16, jnp.float32)],
    ids=["float32-float64", "float64-float32", "bfloat16-float32"],
)
def test_any_other_mixture_of_dtypes_raises(params_dtype, xs_dtype):
    cell = gr.LSTM(4)
    params = cell.init(jax.random.key(0), 5, dtype=params_dtype)
    named = rf"params: got .*{params_dtype.__name__}.*{xs_dtype.__name__}.*expected"
    with pytest.raises(TypeError, match=named):
        gr.unroll(cell, params, jnp.zeros((3, 2, 5), xs_dtype))
    with pytest.raises(TypeError, match=named):
        cell.step(params, cell.carry((2,), dtype=xs_dtype), jnp.zeros((2, 5), xs_dtype))


# Values: repr, hash, equality, carries ----------------------------------------------------------


@all_cells
def test_a_cell_prints_as_what_makes_it(cell):
    again = eval(repr(cell), vars(gr) | {type(cell).__name__: type(cell)})
    assert again == cell
    assert hash(again) == hash(cell)


def test_cells_compare_by_value_and_are_frozen():
    assert len({*ALL_CELLS.values()}) == len(ALL_CELLS)
    assert gr.LSTM(4) != gr.LSTM(5)
    assert gr.Elman(4) != gr.GRU(4)
    with pytest.raises(AttributeError):
        gr.GRU(4).features = 5


@pytest.mark.parametrize("batch", [(), (0,), (2,), (2, 3)], ids=str)
def test_carries_are_zeros_of_the_batch_shape(batch):
    h, c = gr.LSTM(4, projection=3).carry(batch)
    assert (h.shape, c.shape) == ((*batch, 3), (*batch, 4))
    (o,) = gr.Jordan(4, 3).carry(batch)
    assert o.shape == (*batch, 3)
    for cell in FEW.values():
        for leaf in jax.tree.leaves(cell.carry(batch)):
            np.testing.assert_array_equal(leaf, np.zeros((*batch, leaf.shape[-1])), strict=False)
            assert leaf.shape[:-1] == batch


# Errors -----------------------------------------------------------------------------------------


def bad_values():
    """For every option and size of every cell: its annotation, and values that it cannot have."""
    for row in registry.ROWS:
        for name in row.options() if row.enumerated else ():
            annotation = get_type_hints(row.cell)[name]
            if name in row.initial:
                continue
            if int in (annotation, *get_args(annotation)):
                values = (0, -1, 2.5, True, "8")
            else:
                values = (1,) if annotation is bool else ("no such", True, jnp.tanh)
            yield from ((row, name, annotation, value) for value in values)


@pytest.mark.parametrize(
    ("row", "name", "annotation", "value"),
    [
        pytest.param(*case, id=f"{case[0].name} {case[1]}={str(case[-1]).split(' ')[0]}")
        for case in bad_values()
    ],
)
def test_a_bad_value_names_the_argument_what_it_got_and_what_it_expected(
    row, name, annotation, value
):
    options = {field: values[0] for field, values in row.options().items()}
    with pytest.raises(ValueError, match="expected") as error:
        row.cell(**options | {name: value})
    message = str(error.value)
    assert message.startswith(f"{name}: got {value!r}, expected ")
    if not {int, bool} & {annotation, *get_args(annotation)}:
        assert all(repr(right) in message for right in checks.choices(annotation))


def test_the_names_of_activations_are_those_that_there_are():
    assert checks.choices(ActivationName) == tuple(ACTIVATIONS)


@pytest.mark.parametrize("cell", (FEW | TREE_CELLS).values(), ids=FEW | TREE_CELLS)
def test_no_features_and_no_floats_are_refused(cell):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="in_features: got 0, expected an integer of at least 1"):
        cell.init(key, 0)
    with pytest.raises(TypeError, match="dtype: got int32, expected a floating-point dtype"):
        cell.init(key, 3, dtype=jnp.int32)


FORGETFUL = {row.name: row.cell for row in registry.ROWS if "forget_bias" in row.initial}
FORGETFUL["coupled"] = functools.partial(gr.LSTM, coupled=True)


@pytest.mark.parametrize("cell", FORGETFUL.values(), ids=FORGETFUL)
@pytest.mark.parametrize("forget_bias", [0.0, 1.0])
def test_a_forget_bias_needs_a_bias(forget_bias, cell):
    with pytest.raises(ValueError, match=r"forget_bias.*use_bias"):
        cell(4, forget_bias=forget_bias, use_bias=False)


def test_sizes_of_numpy_become_python_integers():
    """A narrow one would overflow in the size of a kernel, and print as what it is."""
    for cell in (
        gr.LSTM(np.int8(100), projection=np.uint8(7)),
        gr.Attention(gr.GRU(3), *np.int8([2, 3])),
    ):
        assert cell.init(jax.random.key(0), 3)
        assert "int8" not in repr(cell)
    assert gr.LSTM(np.int8(100)) == gr.LSTM(100)
    assert gr.embed(np.int8(5), np.int8(100)).init(jax.random.key(0)).table.shape == (5, 100)
    assert gr.BPTT(chunk=np.int8(2)) == gr.BPTT(chunk=2)
