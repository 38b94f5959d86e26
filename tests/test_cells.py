"""The cells: their step is the published equations, their parameters start as documented."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import ALL_CELLS, CELLS, random_carry, random_params

import gatedrnn as gr

all_cells = pytest.mark.parametrize("cell", ALL_CELLS.values(), ids=ALL_CELLS)
cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


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
    assert_trees_close(got, reference.step(cell, params, carry, x))
    assert jax.tree.all(jax.tree.map(lambda leaf: leaf.dtype == jnp.float64, got))


@cells
def test_unroll_is_the_equations_step_after_step(cell):
    params, carry = random_params(cell), random_carry(cell, (2,))
    xs = normal(3, 2, reference.IN_FEATURES)
    got = gr.unroll(cell, params, xs, carry)
    assert_trees_close(got, reference.unroll(cell, params, xs, carry))


@pytest.mark.parametrize("cell", [gr.Elman(4), gr.Jordan(4, 3), gr.LSTM(4), gr.GRU(4)], ids=repr)
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
        flipped = {name: getattr(p, name) * sign for name in ("kernel", "recurrent_kernel", "bias")}
        return p._replace(**flipped)

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
LARGE = {
    "elman": gr.Elman(H),
    "jordan": gr.Jordan(H, OUT),
    "lstm": gr.LSTM(H, peephole="diagonal"),
    "lstm-full": gr.LSTM(H, peephole="full"),
    "lstm-projected": gr.LSTM(H, projection=P),
    "lstm-projected-up": gr.LSTM(H, projection=H + 16),
    "gru": gr.GRU(H, reset="after"),
}
large = pytest.mark.parametrize("name", LARGE)


@functools.cache
def all_initial():
    make = jax.jit(lambda key: {name: cell.init(key, IN) for name, cell in LARGE.items()})
    return make(jax.random.key(3))


def initial(name):
    return all_initial()[name]


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


def test_biases_start_at_zero():
    for bias in (
        initial("elman").bias,
        initial("jordan").bias,
        initial("jordan").output_bias,
        initial("gru").bias,
        initial("gru").recurrent_bias,
    ):
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


@all_cells
def test_only_the_arrays_that_the_options_name_exist(cell):
    got = {
        field: leaf.shape
        for field, leaf in random_params(cell)._asdict().items()
        if leaf is not None
    }
    assert got == expected_shapes(cell)


def expected_shapes(cell):
    n, m = reference.FEATURES, reference.IN_FEATURES
    if isinstance(cell, gr.Zoneout | gr.RecurrentDropout):
        return expected_shapes(cell.cell)
    biased = cell.use_bias
    match cell:
        case gr.LayerNormLSTM():
            shapes = {"kernel": (m, 4 * n), "recurrent_kernel": (n, 4 * n), "scale": (4 * n,)}
            shapes |= {"recurrent_scale": (4 * n,), "memory_scale": (n,)}
            return shapes | ({"bias": (4 * n,), "memory_bias": (n,)} if biased else {})
        case gr.LayerNormGRU():
            shapes = {"kernel": (m, 3 * n), "recurrent_kernel": (n, 3 * n), "scale": (3 * n,)}
            shapes |= {"recurrent_scale": (3 * n,)}
            return shapes | ({"bias": (3 * n,), "recurrent_bias": (n,)} if biased else {})
        case gr.Elman():
            shapes = {"kernel": (m, n), "recurrent_kernel": (n, n)}
            return shapes | ({"bias": (n,)} if biased else {})
        case gr.Jordan(out_features=out):
            kernels = {"kernel": (m, n), "recurrent_kernel": (out, n), "output_kernel": (n, out)}
            return kernels | ({"bias": (n,), "output_bias": (out,)} if biased else {})
        case gr.GRU():
            shapes = {"kernel": (m, 3 * n), "recurrent_kernel": (n, 3 * n)}
            shapes |= {"bias": (3 * n,)} if biased else {}
            return shapes | ({"recurrent_bias": (n,)} if biased and cell.reset == "after" else {})
        case gr.LSTM(peephole=peephole, projection=projection):
            gates = 3 if cell.coupled else 4
            peeping = gates - 2
            shapes = {"kernel": (m, gates * n), "recurrent_kernel": (projection or n, gates * n)}
            if biased:
                shapes["bias"] = (gates * n,)
            if peephole == "diagonal":
                shapes |= {"peephole": (peeping * n,), "output_peephole": (n,)}
            if peephole == "full":
                shapes |= {"peephole": (n, peeping * n), "output_peephole": (n, n)}
            if projection:
                shapes["projection_kernel"] = (n, projection)
            return shapes


def test_init_is_a_function_of_its_key():
    cell = gr.LSTM(4)
    first, again, other = (cell.init(jax.random.key(seed), 3) for seed in (0, 0, 1))
    assert_trees_close(first, again, rtol=0, atol=0)
    assert not np.array_equal(first.kernel, other.kernel)


# Dtypes -----------------------------------------------------------------------------------------

DTYPED = [
    gr.Elman(4),
    gr.Jordan(4, 3),
    gr.LSTM(4, peephole="diagonal", projection=3),
    gr.LSTM(4, peephole="full", coupled=True),
    gr.GRU(4),
    gr.GRU(4, reset="after", update="keeps"),
    gr.LayerNormLSTM(4),
    gr.LayerNormGRU(4),
    gr.Zoneout(gr.LSTM(4), h=0.2, c=0.4),
]
dtyped = pytest.mark.parametrize("cell", DTYPED, ids=repr)
LOWER = {jnp.float32: 2e-6, jnp.bfloat16: 3e-2}  # with the tolerance of each


def carry_dtypes(cell, dtype):
    """What a carry holds for inputs of `dtype`: the same, but the LSTM's `c` at least float32."""
    dtype = jnp.dtype(dtype)
    cell = cell.cell if isinstance(cell, gr.Zoneout) else cell
    if isinstance(cell, gr.LSTM | gr.LayerNormLSTM):
        return (dtype, jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype)
    return (dtype,)


@pytest.mark.parametrize("dtype", [jnp.float64, *LOWER], ids=lambda dtype: dtype.__name__)
@dtyped
def test_parameters_are_in_the_dtype_of_init_and_the_carry_in_its_own(cell, dtype):
    params = jax.eval_shape(lambda key: cell.init(key, 5, dtype=dtype), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    carry = cell.carry((2,), dtype=dtype)
    assert tuple(leaf.dtype for leaf in carry) == carry_dtypes(cell, dtype)
    np.testing.assert_array_equal(np.concatenate(carry, axis=-1), 0)


@dtyped
def test_the_default_dtype_is_float32(cell):
    params = jax.eval_shape(lambda key: cell.init(key, 5), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, cell.carry((2,))))} == {
        jnp.dtype(jnp.float32)
    }


@pytest.mark.parametrize("dtype", LOWER, ids=lambda dtype: dtype.__name__)
@dtyped
def test_outputs_are_in_the_dtype_of_the_input_and_close_to_float64(cell, dtype):
    """Parameters in float32 serve inputs of either precision."""
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), random_params(cell))
    xs = normal(4, 2, reference.IN_FEATURES, dtype=dtype)

    want_carry, want_ys = reference.unroll(cell, params, xs.astype(jnp.float64))
    carry, ys = gr.unroll(cell, params, xs)
    assert ys.dtype == dtype
    assert tuple(leaf.dtype for leaf in carry) == carry_dtypes(cell, dtype)
    as_float64 = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (carry, ys))
    tolerance = LOWER[dtype]
    assert_trees_close(as_float64, (want_carry, want_ys), rtol=tolerance, atol=tolerance)

    carry, y = cell.step(params, cell.carry((2,), dtype=dtype), xs[0])
    assert y.dtype == dtype
    assert tuple(leaf.dtype for leaf in carry) == carry_dtypes(cell, dtype)


@pytest.mark.parametrize("cell", [DTYPED[2], DTYPED[4]], ids=repr)
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
    again = eval(repr(cell), vars(gr))
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
    for cell in (gr.Elman(4), gr.GRU(4)):
        (h,) = cell.carry(batch)
        assert h.shape == (*batch, 4)
        np.testing.assert_array_equal(h, np.zeros(h.shape))


# Errors -----------------------------------------------------------------------------------------

BAD = [
    (gr.Elman, (4,), {"activation": "softplus"}, "activation"),
    (gr.Jordan, (4, 3), {"activation": "softplus"}, "activation"),
    (gr.Jordan, (4, 3), {"output_activation": "softmax"}, "output_activation"),
    (gr.LSTM, (4,), {"peephole": "dense"}, "peephole"),
    (gr.GRU, (4,), {"reset": "during"}, "reset"),
    (gr.GRU, (4,), {"update": "forgets"}, "update"),
    (gr.Elman, (0,), {}, "features"),
    (gr.LSTM, (-1,), {}, "features"),
    (gr.GRU, (0,), {}, "features"),
    (gr.Jordan, (0, 3), {}, "features"),
    (gr.Jordan, (4, 0), {}, "out_features"),
    (gr.LSTM, (4,), {"projection": 0}, "projection"),
]


@pytest.mark.parametrize(
    ("make", "sizes", "options", "name"),
    BAD,
    ids=[f"{make.__name__}{sizes}{options}" for make, sizes, options, _ in BAD],
)
def test_a_bad_option_names_the_argument_what_it_got_and_what_it_expected(
    make, sizes, options, name
):
    with pytest.raises(ValueError, match="expected") as error:
        make(*sizes, **options)
    message = str(error.value)
    got = options.get(name, sizes[1 if name == "out_features" else 0])
    assert name in message
    assert repr(got) in message
    if isinstance(got, str):  # the message lists what would have been right
        assert repr(getattr(make(*sizes), name)) in message


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("forget_bias", [0.0, 1.0])
def test_a_forget_bias_needs_a_bias(forget_bias, coupled):
    with pytest.raises(ValueError, match=r"forget_bias.*use_bias"):
        gr.LSTM(4, forget_bias=forget_bias, coupled=coupled, use_bias=False)
