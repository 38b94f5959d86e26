"""The same numbers as other libraries: outputs, final states and every gradient, in float64.

Each test gives a peer's own random parameters to our cell, in our layout, and compares. A change
of layout is linear (transposes, permutations and concatenations), so the peer's gradients are
brought to our layout by the very functions that bring its parameters there.
"""

import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gatedrnn as gr

T, B, IN, H, P = 5, 3, 4, 6, 3


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def random_like(tree, seed):
    """A tree of these shapes; every leaf is drawn with a seed of its own."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(
        normal(1000 * seed + k, *leaf.shape) for k, leaf in enumerate(leaves)
    )


XS = normal(0, T, B, IN)


def states(cell):
    """An initial carry of `cell`, and the weights with which the final carry enters the loss."""
    shapes = jax.eval_shape(lambda: cell.carry((B,), dtype=jnp.float64))
    return tuple(random_like(shapes, seed) for seed in (1, 2))


def results(run, params, carry, dcarry):
    """Outputs, final carry, and gradients for parameters, initial carry and inputs of `run`.

    `run(params, carry, xs) -> (carry, ys)`; the loss weighs every output and the final carry.
    """

    def loss(params, carry, xs):
        final, ys = run(params, carry, xs)
        weighed = jax.tree.map(jnp.vdot, (normal(3, *ys.shape), dcarry), (ys, final))
        return sum(jax.tree.leaves(weighed)), (ys, final)

    inputs = jax.tree.map(jnp.asarray, (params, carry, XS))
    grads, (ys, final) = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)
    return {"ys": ys, "final": final, **dict(zip(("params", "carry", "xs"), grads, strict=True))}


def ours(cell, params):
    def run(params, carry, xs):
        return gr.unroll(cell, params, xs, carry)

    return results(run, params, *states(cell))


def assert_same(got, want):
    """Every leaf of every result, to 1e-12 of its largest entry."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        scale = np.abs(b).max()
        assert scale > 1e-3, f"{path} would be compared with zeros"
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(scale, 1), err_msg=str(path))


def params_like(cell, **arrays):
    """`cell`'s parameters with these leaves; the others must be absent."""
    shapes = jax.eval_shape(lambda key: cell.init(key, IN), jax.random.key(0))
    absent = {name for name, leaf in shapes._asdict().items() if leaf is None}
    assert absent | set(arrays) == set(shapes._fields)
    return type(shapes)(**dict.fromkeys(absent) | arrays)


# torch ------------------------------------------------------------------------------------------


def torch_layout(cell, get, bias):
    """Torch's arrays in our layout. `get(name)` is an array, `bias(b_ih, b_hh)` our single bias."""
    b_ih, b_hh = (get(f"bias_{side}_l0") if cell.use_bias else None for side in ("ih", "hh"))
    arrays = {"kernel": get("weight_ih_l0").T, "recurrent_kernel": get("weight_hh_l0").T}
    if isinstance(cell, gr.GRU) and cell.use_bias:  # r, z add theirs; n keeps its two apart
        gates = np.concatenate([bias(b_ih, b_hh)[: 2 * H], b_ih[2 * H :]])
        arrays |= {"bias": gates, "recurrent_bias": b_hh[2 * H :]}
    elif cell.use_bias:
        arrays["bias"] = bias(b_ih, b_hh)
    if getattr(cell, "projection", None):
        arrays["projection_kernel"] = get("weight_hr_l0").T
    return params_like(cell, **arrays)


def same_gradient(b_ih, b_hh):
    """Either of torch's two biases has the gradient of our one: they are only ever added."""
    length = 2 * H if len(b_ih) == 3 * H else len(b_ih)  # but for n of the GRU
    np.testing.assert_allclose(b_ih[:length], b_hh[:length], rtol=1e-12)
    return b_ih


TORCH = {
    "LSTM": (gr.LSTM(H), {}),
    "LSTM-nobias": (gr.LSTM(H, use_bias=False), {"bias": False}),
    "LSTM-projected": (gr.LSTM(H, projection=P), {"proj_size": P}),
    "GRU": (gr.GRU(H, reset="after", update="keeps"), {}),
    "GRU-nobias": (gr.GRU(H, reset="after", update="keeps", use_bias=False), {"bias": False}),
    "RNN-tanh": (gr.Elman(H), {"nonlinearity": "tanh"}),
    "RNN-relu": (gr.Elman(H, activation="relu"), {"nonlinearity": "relu"}),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch(name):
    torch = pytest.importorskip("torch")
    cell, options = TORCH[name]
    torch.manual_seed(0)
    layer = getattr(torch.nn, name.split("-")[0])(IN, H, dtype=torch.float64, **options)
    parameters = dict(layer.named_parameters())

    initial, dcarry = states(cell)
    carry = [torch.tensor(leaf[None], requires_grad=True) for leaf in initial]  # [layer, B, .]
    xs = torch.tensor(XS, requires_grad=True)
    ys, final = layer(xs, tuple(carry) if len(carry) == 2 else carry[0])
    final = final if isinstance(final, tuple) else (final,)
    loss = (ys * torch.tensor(normal(3, *ys.shape))).sum()
    loss += sum((leaf[0] * torch.tensor(d)).sum() for leaf, d in zip(final, dcarry, strict=True))
    loss.backward()

    want = {
        "ys": ys.detach().numpy(),
        "final": type(initial)(*(leaf[0].detach().numpy() for leaf in final)),
        "params": torch_layout(cell, lambda k: parameters[k].grad.numpy(), same_gradient),
        "carry": type(initial)(*(leaf.grad[0].numpy() for leaf in carry)),
        "xs": xs.grad.numpy(),
    }
    params = torch_layout(cell, lambda k: parameters[k].detach().numpy(), np.add)
    assert_same(ours(cell, params), want)


# keras ------------------------------------------------------------------------------------------


def import_keras():
    """The module, on JAX; the warnings of its imports are not ours to mend."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("keras runs on another backend here")
    return keras


def reorder(array, order):
    """The gates, stacked on the last axis, in the given order."""
    gates = np.split(np.asarray(array), len(order), axis=-1)
    return np.concatenate([gates[k] for k in order], axis=-1)


KERAS = {
    "LSTM": (gr.LSTM(H), {}, (0, 1, 2, 3)),
    "GRU": (gr.GRU(H, update="keeps"), {"reset_after": False}, (1, 0, 2)),  # keras: z, r, n
}


def keras_layout(cell, variables, order):
    """Keras' `kernel, recurrent_kernel, bias` are ours but for the order of the gates."""
    kernel, recurrent_kernel, bias = (reorder(variable, order) for variable in variables)
    return params_like(cell, kernel=kernel, recurrent_kernel=recurrent_kernel, bias=bias)


@pytest.mark.parametrize("name", KERAS)
def test_keras(name):
    keras = import_keras()
    cell, options, order = KERAS[name]
    layer = getattr(keras.layers, name)(
        H,
        activation=jnp.tanh,  # keras' own tanh rounds to float32 on JAX
        return_sequences=True,
        return_state=True,
        dtype="float64",
        **options,
    )
    layer.build((B, T, IN))
    variables = random_like([variable.value for variable in layer.trainable_variables], seed=4)
    others = [variable.value for variable in layer.non_trainable_variables]

    def run(variables, carry, xs):
        with jax.numpy_dtype_promotion("standard"):
            (ys, *final), _ = layer.stateless_call(
                variables, others, xs.swapaxes(0, 1), initial_state=list(carry)
            )
        return type(carry)(*final), ys.swapaxes(0, 1)

    want = results(run, variables, *states(cell))
    want["params"] = keras_layout(cell, want["params"], order)
    assert_same(ours(cell, keras_layout(cell, variables, order)), want)


# flax -------------------------------------------------------------------------------------------


def flax_lstm(p):
    """`ii, if, ig, io` without, `hi, hf, hg, ho` with a bias."""
    return {
        "kernel": columns(p[f"i{gate}"]["kernel"] for gate in "ifgo"),
        "recurrent_kernel": columns(p[f"h{gate}"]["kernel"] for gate in "ifgo"),
        "bias": columns(p[f"h{gate}"]["bias"] for gate in "ifgo"),
    }


def flax_gru(p):
    """`ir, iz, in` and `hn` with a bias, `hr, hz` without."""
    return {
        "kernel": columns(p[f"i{gate}"]["kernel"] for gate in "rzn"),
        "recurrent_kernel": columns(p[f"h{gate}"]["kernel"] for gate in "rzn"),
        "bias": columns(p[f"i{gate}"]["bias"] for gate in "rzn"),
        "recurrent_bias": p["hn"]["bias"],
    }


def flax_simple(p):
    """`i` with a bias, `h` without."""
    return {
        "kernel": p["i"]["kernel"],
        "recurrent_kernel": p["h"]["kernel"],
        "bias": p["i"]["bias"],
    }


def columns(arrays):
    return np.concatenate([np.asarray(array) for array in arrays], axis=-1)


FLAX = {
    "OptimizedLSTMCell": (gr.LSTM(H), flax_lstm),
    "GRUCell": (gr.GRU(H, reset="after", update="keeps"), flax_gru),
    "SimpleCell": (gr.Elman(H), flax_simple),
}


@pytest.mark.parametrize("name", FLAX)
def test_flax(name):
    linen = pytest.importorskip("flax.linen")
    cell, layout = FLAX[name]
    layer = linen.RNN(
        getattr(linen, name)(H, param_dtype=jnp.float64), time_major=True, return_carry=True
    )
    initial, _ = states(cell)
    swapped = isinstance(cell, gr.LSTM)  # flax's carry is (c, h)

    def to_flax(carry):
        return (carry.c, carry.h) if swapped else carry.h

    def run(params, carry, xs):
        final, ys = layer.apply({"params": {"cell": params}}, xs, initial_carry=to_flax(carry))
        return type(carry)(*(reversed(final) if swapped else (final,))), ys

    shapes = jax.eval_shape(
        lambda: layer.init(jax.random.key(0), XS, initial_carry=to_flax(initial))
    )["params"]["cell"]
    params = random_like(shapes, seed=4)
    want = results(run, params, *states(cell))
    want["params"] = params_like(cell, **layout(want["params"]))
    assert_same(ours(cell, params_like(cell, **layout(params))), want)
