"""The fused read-out equals a dense layer and optax's loss on its logits, and never makes those."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from meshes import mesh_of
from networks import assert_trees_close, assert_trees_equal, normal, outcome, random_params

import gatedrnn as gr
from gatedrnn._src import cross_entropy, losses

T, B, F = 3, 4, 5  # time, batch, features
MASK = jnp.asarray(np.random.default_rng(3).random((T, B)) < 0.6)
LEADING = [(T, B), (), (7,), (2, 3, 2), (0, B), (T, 0)]
# V: one column, one block, several blocks, several and a remainder, the same in two groups
VOCABULARIES = [1, 4, 8, 11, 10]


@pytest.fixture(autouse=True)
def narrow_blocks(monkeypatch):
    """Blocks of four columns, so that small vocabularies have several."""
    cut(monkeypatch, bytes_of_block=0, columns=4)


def cut(monkeypatch, bytes_of_block, columns):
    monkeypatch.setattr(cross_entropy, "BLOCK_BYTES", bytes_of_block)
    monkeypatch.setattr(cross_entropy, "BLOCK_COLUMNS", columns)
    losses._masked.clear_cache()


def arguments(vocabulary, leading=(T, B), use_bias=True, seed=0, dtype=jnp.float64):
    params = random_params(gr.dense(vocabulary, use_bias), F, seed, dtype)
    labels = np.random.default_rng(seed + 1).integers(0, vocabulary, leading)
    return params, normal(*leading, F, seed=seed + 2, dtype=dtype), jnp.asarray(labels)


def dense_optax(params, hs, labels, mask=None):
    """The two steps by autodiff."""
    logits = hs @ params.kernel
    if params.bias is not None:
        logits += jnp.broadcast_to(params.bias, logits.shape)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses if mask is None else jnp.where(mask, losses, 0)


# Values and gradients -----------------------------------------------------------------------------


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_equals_dense_and_optax(vocabulary, use_bias):
    """Losses and the gradients of all parameters and inputs, each position weighted by its own."""
    given = arguments(vocabulary, use_bias=use_bias)
    assert (given[0].bias is None) is not use_bias
    got = outcome(gr.softmax_cross_entropy, *given)
    assert_trees_close(got, outcome(dense_optax, *given), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_any_leading_axes(leading):
    """None, several, and empty ones."""
    given = arguments(11, leading)
    got = outcome(gr.softmax_cross_entropy, *given)
    assert got[0].shape == leading
    assert_trees_close(got, outcome(dense_optax, *given), rtol=1e-12, atol=1e-14)


def test_without_jit():
    """The public call as it is, on arrays and on lists of labels."""
    params, hs, labels = arguments(11)
    expected = dense_optax(params, hs, labels)
    np.testing.assert_allclose(gr.softmax_cross_entropy(params, hs, labels), expected, rtol=1e-12)
    listed = gr.softmax_cross_entropy(params, hs, labels.tolist())
    np.testing.assert_allclose(listed, expected, rtol=1e-12)


def test_finite_differences_to_the_second_order():
    """Also in reverse over reverse, with an inhomogeneous function of the losses."""
    params, hs, labels = arguments(6, (2, 2))

    @jax.jit
    def function(params, hs):
        return jnp.sin(gr.softmax_cross_entropy(params, hs, labels))

    check_grads(function, (params, hs), order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


def test_second_derivatives_are_those_of_autodiff():
    """`jax.hessian`, which is forward over reverse, and gradients of gradients."""
    params, hs, labels = arguments(6, (2, 1))

    def scalar(losses, params, hs):
        return jnp.sum(jnp.square(losses(params, hs, labels)))

    def hessian(losses):
        return jax.hessian(lambda *given: scalar(losses, *given), argnums=(0, 1))(params, hs)

    def twice(losses):
        gradient = jax.grad(lambda *given: scalar(losses, *given), argnums=(0, 1))

        def norm(*given):
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(gradient(*given)))

        return jax.grad(norm, argnums=(0, 1))(params, hs)

    for derivative in (hessian, twice):
        got, expected = (
            jax.jit(derivative, static_argnums=0)(losses)
            for losses in (gr.softmax_cross_entropy, dense_optax)
        )
        assert_trees_close(got, expected)


def test_forward_mode_raises():
    """As documented: the rule is one for reverse mode."""
    params, hs, labels = arguments(6)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda hs: gr.softmax_cross_entropy(params, hs, labels), (hs,), (hs,))


@pytest.mark.parametrize("over", ["params", "positions", "both"])
def test_vmap(over):
    """Over ensembles of parameters, over examples, over both."""
    members = [arguments(11, seed=seed) for seed in (0, 10, 20)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    first = members[0]
    axes = {"params": (0, None, None), "positions": (None, 0, 0), "both": (0, 0, 0)}[over]
    given = tuple(s if axis == 0 else f for s, f, axis in zip(stacked, first, axes, strict=True))
    got = outcome(jax.vmap(gr.softmax_cross_entropy, axes), *given)
    assert_trees_close(got, outcome(jax.vmap(dense_optax, axes), *given))


# Masks and labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
def test_masked_positions_reach_nothing(compiled):
    """NaN in the features and labels out of range there: zeros, and the gradients of the rest."""
    params, hs, labels = arguments(11)
    bad_labels = jnp.where(MASK, labels, 99)

    def bad(hs):
        return jnp.where(MASK[..., None], hs, jnp.nan)

    def gradient(losses, *given):
        return jax.value_and_grad(lambda p, h: jnp.sum(losses(p, h, *given)), (0, 1))(params, hs)

    def fused(params, hs, labels):
        return gr.softmax_cross_entropy(params, bad(hs), labels, MASK)

    run = jax.jit(fused) if compiled else fused
    assert_trees_close(gradient(run, bad_labels), gradient(dense_optax, labels, MASK))
    losses, (*_, dhs) = outcome(gr.softmax_cross_entropy, params, bad(hs), bad_labels, mask=MASK)
    for values in (losses, dhs):
        assert not values[~MASK].any()
        assert values[MASK].all()


def test_all_masked():
    """Zeros everywhere."""
    params, hs, labels = arguments(11)
    got = outcome(gr.softmax_cross_entropy, params, hs, labels, mask=jnp.zeros((T, B), bool))
    assert_trees_equal(got, jax.tree.map(jnp.zeros_like, got))


@pytest.mark.parametrize("bad", [-1, 11, 2**31 - 1])
def test_labels_out_of_range_under_jit_give_nan(bad):
    """Their losses alone, and every gradient that they take part in."""
    params, hs, labels = arguments(11)
    (losses, (dkernel, dbias, dhs)) = outcome(
        gr.softmax_cross_entropy, params, hs, labels.at[1, 2].set(bad)
    )
    expected = dense_optax(params, hs, labels).at[1, 2].set(jnp.nan)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    assert np.isnan(dkernel).all()
    assert np.isnan(dbias).all()
    np.testing.assert_array_equal(np.isnan(dhs).any(-1), np.isnan(expected))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint32", "int64"])
def test_labels_of_any_integer_type(dtype):
    """Also of one that is too narrow for V, or wider than what indices are in."""
    params, hs, labels = arguments(300)
    labels = labels % 100
    got = jax.jit(gr.softmax_cross_entropy)(params, hs, labels.astype(dtype))
    np.testing.assert_allclose(got, dense_optax(params, hs, labels), rtol=1e-12)


def test_wide_labels_do_not_wrap_around():
    """2³² + 1 is not 1."""
    params, hs, labels = arguments(11)
    assert np.isnan(jax.jit(gr.softmax_cross_entropy)(params, hs, labels + 2**32)).all()


# Numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1e4, -1e4])
@pytest.mark.parametrize("shifted", [6, 11])
def test_large_logits(shift, shifted):
    """In float32, as exact as the logits: of two sizes, that differ by 2·10⁴, and all alike."""
    params, hs, labels = arguments(11)
    # quarters, so that float32 holds the logits exactly and float64 can tell the loss
    params, hs = jax.tree.map(lambda leaf: jnp.round(4 * leaf) / 4, (params, hs))
    params = params._replace(bias=jnp.where(jnp.arange(11) < shifted, shift, -shift))
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, hs))
    got = outcome(gr.softmax_cross_entropy, *narrow, labels)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(jnp.float32)}
    as_wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), got)
    expected = outcome(dense_optax, params, hs, labels)
    assert_trees_close(as_wide, expected, rtol=1e-6, atol=1e-6)


def test_forbidden_classes():
    """A bias of −∞, also in all of the first block, takes classes out."""
    params, hs, labels = arguments(11)
    bias = params.bias.at[jnp.array([0, 1, 2, 3, 9])].set(-jnp.inf)
    given = (params._replace(bias=bias), hs, 4 + labels % 5)
    got = outcome(gr.softmax_cross_entropy, *given)
    assert_trees_close(got, outcome(dense_optax, *given))
    assert np.isfinite(got[0]).all()


@pytest.mark.parametrize("params_dtype", ["bfloat16", "float32"])
def test_bfloat16_accumulates_in_float32(params_dtype):
    """Losses in float32; gradients in the dtypes of what they belong to."""
    params, hs, labels = arguments(11, (64, B), dtype=jnp.bfloat16)
    narrow = jax.tree.map(lambda leaf: leaf.astype(params_dtype), params)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, hs))
    (got, gradients), (want, expected) = (
        jax.jit(
            jax.value_and_grad(lambda *given, f=f: jnp.mean(f(*given, labels)), argnums=(0, 1))
        )(*given)
        for f, given in ((gr.softmax_cross_entropy, (narrow, hs)), (dense_optax, wide))
    )
    assert gr.softmax_cross_entropy(narrow, hs, labels).dtype == got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)
    dparams, dhs = gradients
    assert {leaf.dtype for leaf in dparams} == {jnp.dtype(params_dtype)}
    assert dhs.dtype == jnp.bfloat16
    as_wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradients)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=0.02 * float(jnp.max(jnp.abs(b)))),
        as_wide,
        expected,
    )


# What is compiled ---------------------------------------------------------------------------------


def gradient(params, hs, labels):
    return jax.grad(lambda *given: jnp.sum(gr.softmax_cross_entropy(*given, labels)), (0, 1))(
        params, hs
    )


def second(params, hs, labels):
    def norm(*given):
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient(*given, labels)))

    return jax.grad(norm)(params, hs)


@pytest.mark.parametrize("vocabulary", [63, 64], ids=["one group", "four groups"])
@pytest.mark.parametrize("function", [gr.softmax_cross_entropy, gradient, second])
def test_no_array_of_logits(function, vocabulary, monkeypatch):
    """Nothing in the compiled program has as many elements as the logits, at any order."""
    cut(monkeypatch, bytes_of_block=0, columns=16)
    params, hs, labels = arguments(vocabulary, (16, 32))
    text = jax.jit(function).lower(params, hs, labels).compile().as_text()
    sizes = [
        np.prod([int(n) for n in shape.split(",")])
        for shape in re.findall(r"\bf64\[([\d,]+)\]", text)
    ]
    assert max(sizes) < 16 * 32 * vocabulary
    assert 16 * 32 * F in sizes


def test_how_the_vocabulary_is_cut(monkeypatch):
    """At once where the logits are small, else near the bytes, in whole lanes, not too narrow."""
    cut(monkeypatch, bytes_of_block=2**22, columns=512)

    def cut_up(vocabulary, positions, features):
        kernel = jax.ShapeDtypeStruct((features, vocabulary), jnp.float32)
        hs = jax.ShapeDtypeStruct((positions, features), jnp.float32)
        columns = cross_entropy._columns(gr.DenseParams(kernel, None), hs)
        return *columns.groups, columns.width

    assert cut_up(100, 2048, 128) == (100,)
    assert cut_up(10_001, 400, 200) == (768,)  # (400 + 200) · 768 · 2 · 4 bytes = 3.5 MiB
    assert cut_up(50_001, 1024, 512) == (512,)
    assert cut_up(300, 10**6, 512) == (300,)
    assert cut_up(7, 0, 1) == (7,)


def test_as_many_groups_as_devices(monkeypatch):
    """As many as divide both; only those over which the compiler may divide an array."""
    cut(monkeypatch, bytes_of_block=2**22, columns=512)

    def groups(vocabulary):
        params, hs = gr.DenseParams(jnp.zeros((200, vocabulary)), None), jnp.zeros((400, 200))
        columns = cross_entropy._columns(params, hs)
        assert np.prod(columns.groups) * columns.of_group == vocabulary
        return columns.groups

    assert [groups(n) for n in (10_000, 10_002, 10_001)] == [(4,), (2,), ()]
    assert groups(100) == ()  # one block, of which nothing is cut out
    with jax.set_mesh(mesh_of("auto", (2, 1), ("data", "model"))):
        assert groups(10_000) == (2,)
    with jax.set_mesh(mesh_of("explicit")):
        assert groups(10_000) == ()


def test_equal_shapes_compile_once():
    """Outside `jit` too."""
    params, hs, labels = arguments(11)
    gr.softmax_cross_entropy(params, hs, labels)
    compiled = losses._masked._cache_size()
    gr.softmax_cross_entropy(params, hs + 1, (labels + 1) % 11)
    assert losses._masked._cache_size() == compiled


# Errors -------------------------------------------------------------------------------------------


def ids(table):
    return [row[0] for row in table]


PARAMS, HS, LABELS = arguments(11)
ERRORS = [
    ("params", {"params": (1, 2)}, TypeError, "params: got tuple, expected a gr.DenseParams"),
    (
        "kernel-rank",
        {"params": gr.DenseParams(jnp.zeros(3), None)},
        ValueError,
        r"params.kernel: got shape \(3,\), expected \[F, V\]",
    ),
    (
        "no-columns",
        {"params": gr.DenseParams(jnp.zeros((F, 0)), None)},
        ValueError,
        r"params.kernel: got shape \(5, 0\), expected \[F, V\]",
    ),
    (
        "features",
        {"hs": HS[..., :3]},
        ValueError,
        r"params.kernel: got shape \(5, 11\), expected \(3, 11\).* 3 features .* of hs",
    ),
    (
        "bias",
        {"params": PARAMS._replace(bias=jnp.zeros(3))},
        ValueError,
        r"params.bias: got shape \(3,\), expected \(11,\)",
    ),
    (
        "params-dtype",
        {"params": jax.tree.map(lambda leaf: leaf.astype(jnp.float32), PARAMS)},
        TypeError,
        "params: got dtype float32 with hs in float64, expected float64",
    ),
    ("hs-rank", {"hs": jnp.float64(1)}, ValueError, r"hs: got shape \(\), expected \[..., F\]"),
    (
        "hs-dtype",
        {"hs": HS.astype(jnp.int32)},
        TypeError,
        "hs: got dtype int32, expected a floating-point dtype",
    ),
    (
        "labels-dtype",
        {"labels": LABELS.astype(jnp.float32)},
        TypeError,
        "labels: got dtype float32, expected integers",
    ),
    (
        "labels-shape",
        {"labels": LABELS.T},
        ValueError,
        r"labels: got shape \(4, 3\), expected \(3, 4\), the leading axes of hs",
    ),
    (
        "mask-dtype",
        {"mask": LABELS},
        TypeError,
        "mask: got dtype int64, expected bool",
    ),
    (
        "mask-shape",
        {"mask": MASK[0]},
        ValueError,
        r"mask: got shape \(4,\), expected \(3, 4\), the leading axes of hs",
    ),
]
VALUES = [
    ("label-above", LABELS.at[0, 0].set(11), "labels: got values from 0 to 11"),
    ("label-below", LABELS.at[0, 0].set(-2), "labels: got values from -2 to "),
]


@pytest.mark.parametrize(("change", "error", "message"), [e[1:] for e in ERRORS], ids=ids(ERRORS))
@pytest.mark.parametrize("compiled", [True, False])
def test_static_facts(change, error, message, compiled):
    """Checked at the edge, under `jit` too."""
    given = {"params": PARAMS, "hs": HS, "labels": LABELS} | change
    call = jax.jit(gr.softmax_cross_entropy) if compiled else gr.softmax_cross_entropy
    with pytest.raises(error, match=message):
        call(**given)


@pytest.mark.parametrize(("labels", "message"), [e[1:] for e in VALUES], ids=ids(VALUES))
def test_known_labels_out_of_range(labels, message):
    """Where the values are known, unless masked: also of a constant inside `jit`."""
    expected = f"{message}.*, expected them between 0 and 10"
    with pytest.raises(ValueError, match=expected):
        gr.softmax_cross_entropy(PARAMS, HS, labels)
    with pytest.raises(ValueError, match=expected):
        jax.jit(lambda hs: gr.softmax_cross_entropy(PARAMS, hs, labels))(HS)
    masked = gr.softmax_cross_entropy(
        PARAMS, HS, labels, jnp.ones((T, B), bool).at[0, 0].set(False)
    )
    assert np.isfinite(masked).all()
