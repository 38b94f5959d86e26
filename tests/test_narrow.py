"""Gradients in 16 bits: rules sum cotangents in float32, whatever the size of inputs and losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_params
from reference import IN_FEATURES, SAMPLE, TREE_CELLS

import gatedrnn as gr

T, B = 4, 2
DTYPES = ("float16", "bfloat16")
# from the smallest numbers up; near those of float32, which are bfloat16's too, a CPU sees zeros
SCALES = {
    "float16": (2.0**-24, 2.0**-20, 2.0**-14, 2.0**-10, 2.0**-4, 1.0, 2.0**4, 2.0**10),
    "bfloat16": (2.0**-100, 2.0**-60, 2.0**-20, 2.0**-4, 1.0, 2.0**4, 2.0**10),
}
LOSSES = {"float16": (2.0**-10, 1.0, 2.0**12), "bfloat16": (2.0**-10, 1.0, 2.0**30)}
TREES, CHAINS = gr.forest([((0, 1), 2), (0, 1)]), gr.forest([((0,),), ((((0,),),),)])
DENSE = gr.dense(7)


def over_time(cell, params, xs):
    return gr.unroll(cell, params, xs)[1]


def over_trees(cell, params, xs):
    forest = CHAINS if getattr(cell, "children", 2) == 1 else TREES
    return gr.fold_tree(cell, params, xs, forest)[1].h


def of_loss(layer, params, hs):
    labels = jnp.arange(T * B).reshape(T, B) % 7
    return gr.softmax_cross_entropy(params, hs, labels)


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradients(function, cell, params, xs, douts):
    def loss(params, xs):
        outs = function(cell, params, xs)
        wide = jnp.dtype("float32") if outs.dtype.itemsize < 4 else outs.dtype
        return jnp.sum(outs.astype(wide) * douts.astype(wide))

    return jax.grad(loss, (0, 1), allow_int=True)(params, xs)


def cast(tree, dtype):
    return jax.tree.map(lambda v: v.astype(dtype) if v.dtype.kind != "V" else v, tree)


def scales_of(cell, dtype):
    """Without a bias states are as small as inputs: their own rounding is large near the least."""
    normal = float(jnp.finfo(dtype).smallest_normal) / float(jnp.finfo(dtype).eps)
    biased = getattr(cell, "use_bias", True)
    return [scale for scale in SCALES[dtype] if biased or scale >= normal]


def check(function, cell, dtype, shape):
    """Every gradient is that in float64 of the same numbers, within what 16 bits can say of it."""
    rng, info = np.random.default_rng(0), jnp.finfo(dtype)
    params = cast(random_params(cell, IN_FEATURES), dtype)
    noise = rng.normal(size=shape)
    out = jax.eval_shape(functools.partial(function, cell), params, jnp.zeros(shape, dtype))
    dnoise = rng.normal(size=out.shape)

    def both(scale, of_loss):
        xs = jnp.asarray(noise * scale).astype(dtype)
        douts = jnp.asarray(dnoise * of_loss).astype(out.dtype)
        got = gradients(function, cell, params, xs, douts)
        want = gradients(function, cell, *cast((params, xs, douts), "float64"))
        return got, want

    least = float(info.smallest_subnormal)
    # losses are float32, and so are their cotangents
    for of_loss in LOSSES[dtype] + ((2.0**20,) if out.dtype == jnp.float32 else ()):
        _, usual = both(1.0, of_loss)
        for scale in scales_of(cell, dtype):
            got, want = both(scale, of_loss)
            bases = jax.tree.leaves(usual)
            for (path, g), w, base in zip(
                jax.tree.leaves_with_path(got), jax.tree.leaves(want), bases, strict=True
            ):
                g, w, base = (np.asarray(v).astype(np.float64) for v in (g, w, base))
                # of inputs that saturate a cell there is hardly a gradient left, but by rounding
                most = max(np.abs(w).max(), np.abs(base).max() * (scale if scale > 1 else 0))
                allowed = 8 * float(info.eps) * most + 2 * least
                fits = np.abs(w) < float(info.max)
                assert np.all(np.abs(g - w)[fits] <= allowed), (of_loss, scale, path)


def cases(cells, few):
    """Each cell in each dtype; all but a few are marked, since each takes a second or two."""
    for name, cell in cells.items():
        for dtype in DTYPES:
            marks = () if name in few and dtype == "float16" else pytest.mark.long
            yield pytest.param(cell, dtype, id=f"{name} {dtype}", marks=marks)


@pytest.mark.parametrize(
    ("cell", "dtype"), list(cases(SAMPLE, ("LayerNormLSTM", "LayerNormGRU", "GRU")))
)
def test_rules_over_time(cell, dtype):
    check(over_time, cell, dtype, (T, B, IN_FEATURES))


@pytest.mark.parametrize(("cell", "dtype"), list(cases(TREE_CELLS, ("TreeLSTM",))))
def test_rules_over_trees(cell, dtype):
    check(over_trees, cell, dtype, (8, IN_FEATURES))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy(dtype):
    check(of_loss, DENSE, dtype, (T, B, IN_FEATURES))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", ["rows of a table", "an initial carry"])
def test_sums_outside_of_rules(what, dtype):
    """A thousand ones, added one by one to a number of 8 bits, would not be more than 256."""
    if what == "rows of a table":
        layer, xs = gr.embed(2, 3), jnp.zeros((250, 4), int)
        params = layer.init(jax.random.key(0), None, dtype)
        of_sum = jax.grad(lambda p: layer.apply(p, xs)[1].astype("float32").sum())(params).table[0]
    else:
        layer = gr.recurrent(gr.Elman(3, activation="identity"), initial="learned")
        params = cast(layer.init(jax.random.key(0), 3, "float64"), dtype)
        params = params._replace(cell=jax.tree.map(jnp.zeros_like, params.cell))
        params = params._replace(
            cell=params.cell._replace(recurrent_kernel=jnp.eye(3).astype(dtype))
        )
        xs = jnp.zeros((1, 1000, 3), dtype)
        of_sum = jax.grad(lambda p: layer.apply(p, xs)[1].astype("float32").sum())(params).initial.h
    np.testing.assert_allclose(of_sum.astype("float64"), 1000)
