"""Steps over rows as steps over columns, operation by operation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gatedrnn._src.kernels.columns import ELEMENT_WISE, Columns, Matrix, _tanh, on_columns, used

B, F, PADDED = 8, 5, 16


def rows(*features, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).uniform(0.1, 0.9, (B, *features)).astype(dtype)


def padded(values, first):
    shape = [size if axis < first else PADDED for axis, size in enumerate(values.shape)]
    full = np.zeros(shape, values.dtype)
    full[tuple(map(slice, values.shape))] = values
    return jnp.asarray(full)


def by_columns(function, *operands, weights=()):
    """The results of a step of rows and weights, on columns with padding, without that padding."""
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (*operands, *weights)]
    run = on_columns(lambda *leaves: jax.tree.leaves(function(*leaves)), shapes)
    columns = [Columns(padded(v, 1).T) for v in operands]
    kernels = [Matrix(padded(v, 0).T) if v.ndim > 1 else padded(v, 0) for v in weights]
    wanted = jax.tree.leaves(function(*map(jnp.asarray, (*operands, *weights))))
    got = []
    for value, want in zip(run(*columns, *kernels), wanted, strict=True):
        full = (*[PADDED] * (want.ndim - 1), B)
        value = value.values if isinstance(value, Columns) else value
        got.append(np.asarray(jnp.broadcast_to(value, full).T[tuple(map(slice, want.shape))]))
    return got, wanted


def assert_same(function, *operands, weights=()):
    with np.errstate(all="ignore"):
        got, wanted = by_columns(function, *operands, weights=weights)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-6, atol=1e-6)


def flag(x):
    return x > jnp.float32(0.5)


# each as a function of two arrays of numbers
OPERATIONS = {
    "abs": lambda x, y: lax.abs(x - y),
    "add": lax.add,
    "add_any": lambda x, y: jax.vjp(lambda v: (v, v), x)[1]((x, y))[0],
    "and": lambda x, y: flag(x) & flag(y),
    "clamp": lambda x, y: lax.clamp(jnp.float32(0.3), x, jnp.float32(0.6)),
    "convert_element_type": lambda x, y: x.astype(jnp.bfloat16),
    "cos": lambda x, y: lax.cos(x),
    "div": lax.div,
    "eq": lambda x, y: flag(x) == flag(y),
    "exp": lambda x, y: lax.exp(x),
    "expm1": lambda x, y: lax.expm1(x),
    "ge": lax.ge,
    "gt": lax.gt,
    "integer_pow": lambda x, y: x**3,
    "le": lax.le,
    "log": lambda x, y: lax.log(x),
    "log1p": lambda x, y: lax.log1p(x),
    "logistic": lambda x, y: lax.logistic(x),
    "lt": lax.lt,
    "max": lax.max,
    "min": lax.min,
    "mul": lax.mul,
    "ne": lambda x, y: flag(x) != flag(y),
    "neg": lambda x, y: -x,
    "not": lambda x, y: ~flag(x),
    "or": lambda x, y: flag(x) | flag(y),
    "pow": lax.pow,
    "rsqrt": lambda x, y: lax.rsqrt(x),
    "select_n": lambda x, y: jnp.where(x > y, x, y),
    "sign": lambda x, y: lax.sign(x - y),
    "sin": lambda x, y: lax.sin(x),
    "sqrt": lambda x, y: lax.sqrt(x),
    "square": lambda x, y: lax.square(x),
    "sub": lax.sub,
    "tanh": lambda x, y: lax.tanh(x),
    "xor": lambda x, y: flag(x) ^ flag(y),
}


def test_every_operation_has_a_case():
    assert set(OPERATIONS) == ELEMENT_WISE


def primitives_of(function):
    jaxpr = jax.make_jaxpr(function)(rows(F), rows(F)).jaxpr
    return {equation.primitive.name for equation in jaxpr.eqns}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_an_operation_element_by_element(name):
    function = OPERATIONS[name]
    assert_same(function, rows(F), rows(F, seed=1))
    assert name in primitives_of(function) or name == "select_n"  # that is within a call


def on_a_gpu(function):
    """`function` of two arrays in a kernel of Triton, as it is lowered for CUDA."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    shape = jax.ShapeDtypeStruct((PADDED, B), jnp.float32)

    def kernel(x, y, out):
        out[...] = jnp.asarray(function(x[...], y[...]), jnp.float32)

    call = pl.pallas_call(kernel, out_shape=shape, compiler_params=triton.CompilerParams())
    return jax.jit(call).trace(shape, shape).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_triton_knows_the_operation(name):
    """What the table lets through, the kernel can hold."""
    assert "triton" in on_a_gpu(OPERATIONS[name])


MATRIX = np.random.default_rng(2).normal(size=(F, F)).astype(np.float32)
VECTOR = np.random.default_rng(3).normal(size=F).astype(np.float32)

STEPS = {
    "a product": (lambda x, w: x @ w, (MATRIX,)),
    "a product to fewer": (lambda x, w: x @ w, (MATRIX[:, :3],)),
    "a product of what is not zero in the padding": (lambda x, w: jnp.exp(x) @ w, (MATRIX,)),
    "a product of what is infinite in the padding": (lambda x, w: (1 / x) @ w, (MATRIX,)),
    "a product of what is no number in the padding": (lambda x, w: (x / x) @ w, (MATRIX,)),
    "a vector beside every row": (lambda x, v: x + jnp.broadcast_to(v, x.shape), (VECTOR,)),
    "a function of a vector": (lambda x, v: x * jnp.broadcast_to(jnp.exp(v), x.shape), (VECTOR,)),
    "a product of a vector": (
        lambda x, v, w: x + jnp.broadcast_to(v, x.shape) @ w,
        (VECTOR, MATRIX),
    ),
    "a vector with an axis": (lambda x, v: x * v[None], (VECTOR,)),
    "a scalar weight": (lambda x, s: x * s, (np.float32(0.3).reshape(()),)),
    "a size": (lambda x: x / x.shape[-1], ()),
    "a function that is called": (lambda x: jax.jit(jnp.tanh)(x) + jax.nn.relu(x - 0.5), ()),
    "the same value for all rows": (lambda x, v: (x, jnp.broadcast_to(v, x.shape)), (VECTOR,)),
    "a copy": (lambda x, v: jnp.array(x, copy=True) * jnp.array(v, copy=True)[None], (VECTOR,)),
    "no gradient": (lambda x, w: lax.stop_gradient(x) @ lax.stop_gradient(w), (MATRIX,)),
    "one value": (lambda x: (x, jnp.zeros_like(x)), ()),
}


@pytest.mark.parametrize(("function", "weights"), STEPS.values(), ids=STEPS)
def test_a_step(function, weights):
    assert_same(function, rows(F), weights=weights)


def test_a_flag_of_each_row():
    """Chooses all features of its row."""
    assert_same(
        lambda s, x, y: jnp.where((s > 0.5)[:, None], x, y), rows(), rows(F), rows(F, seed=1)
    )
    assert_same(
        lambda s, x, y: jnp.where((s > 0.5).reshape(B, 1), x, y), rows(), rows(F), rows(F, seed=1)
    )


def test_tanh_at_its_ends():
    """Without the compiler's own: exact to 1e-7, and 1 where the exponential is infinite."""
    x = np.tile(np.float32([-200, -1e-3, 0, 5, 200]), (B, 1))
    ((got,), _) = by_columns(jnp.tanh, x)
    np.testing.assert_allclose(got, np.tanh(np.float64(x)), rtol=0, atol=1.2e-7)


REFUSED = {
    "reduce_sum": (lambda x: jnp.sum(x, -1), ()),
    "reduce_max": (lambda x: jax.nn.softmax(x), ()),
    "cumsum": (lambda x: lax.cumsum(x, 1), ()),
    "split": (lambda x: jnp.split(x, [2], axis=-1)[0], ()),
    "concatenate": (lambda x: jnp.concatenate([x, x], axis=-1), ()),
    "transpose": (lambda x, w: x @ w.T, (MATRIX,)),
    "scan": (lambda x: lax.fori_loop(0, 3, lambda _, v: 2 * v, x), ()),
    "while": (lambda x: lax.while_loop(lambda v: jnp.all(v < 9), lambda v: 2 * v, x), ()),
    "exp of a matrix": (lambda x, w: x @ jnp.exp(w), (MATRIX,)),
    "dot_general of anything but rows and a matrix": (
        lambda x: jnp.einsum("bi,bj->ij", x, x),
        (),
    ),
    "dot_general along other axes": (
        lambda x, w: lax.dot_general(x, w, (((1,), (1,)), ((), ()))),
        (MATRIX,),
    ),
    "reshape": (lambda x: jnp.reshape(x, -1), ()),
    "broadcast_in_dim": (lambda x: jnp.broadcast_to(x[:, None], (B, 2, F)), ()),
    "an array that is neither a weight nor an input": (lambda x: x + np.ones((B, F), "f"), ()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name(name):
    function, weights = REFUSED[name]
    with pytest.raises(NotImplementedError, match=f"^{name}$"):
        by_columns(function, rows(F), weights=weights)


def test_a_vector_is_a_column_of_features_only():
    """Not beside rows that happen to be as many, nor one row for each of its elements."""
    vector = np.ones(B, np.float32)
    with pytest.raises(NotImplementedError, match=r"^add of rows and a vector$"):
        by_columns(lambda x, v: x + v, rows(), weights=(vector,))
    with pytest.raises(NotImplementedError, match=r"^reshape$"):
        by_columns(lambda x, v: x * v.reshape(B, 1), rows(F), weights=(vector,))


def test_arguments_that_are_used():
    """Read by an operation, or returned; not those that nothing reads."""

    def step(x, y, z, unread):
        return [x + y, z]

    assert used(step, [rows(F)] * 4) == [True, True, True, False]


def test_the_relative_error_of_tanh():
    """From values that vanish to values that saturate."""
    x = jnp.asarray(np.geomspace(1e-8, 20, 400), jnp.float32)
    x = jnp.concatenate([-x, x])
    np.testing.assert_allclose(_tanh(x), np.tanh(np.asarray(x, np.float64)), rtol=2e-6)


def test_one_feature_beside_many_is_refused():
    """Padded to a whole tile, it is no longer beside them; a flag has no padding."""
    shapes = [jax.ShapeDtypeStruct((8, size), jnp.float32) for size in (5, 1)]
    step = on_columns(lambda many, one: [many * one], shapes)
    padded = Columns(jnp.ones((16, 8), jnp.float32))
    with pytest.raises(NotImplementedError, match="one feature"):
        step(padded, padded)
    (found,) = step(padded, Columns(jnp.full((1, 8), 2.0, jnp.float32)))
    assert (found.values == 2).all()
