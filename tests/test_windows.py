"""Windows of parallel streams: nothing lost, and truncated training; pooling beside it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import apply, assert_trees_close, normal, outcome, random_params

import gatedrnn as gr

# Cutting ----------------------------------------------------------------------------------------


@given(length=st.integers(0, 60), window=st.integers(1, 12), batch=st.integers(1, 9))
def test_nothing_is_lost(length, window, batch):
    """Every step is in exactly one place, and each stream is one stretch, in order."""
    cut = gr.windows(length, window=window, batch=batch)
    assert cut.steps.shape == cut.mask.shape
    assert cut.steps.shape[1:] == (window, batch)
    streams = cut.steps.reshape(-1, batch), cut.mask.reshape(-1, batch)
    joined = np.concatenate(
        [index[mask] for index, mask in zip(*(v.T for v in streams), strict=True)]
    )
    assert joined.tolist() == list(range(length))
    # padding comes last, and points to a step that exists
    assert np.all(np.diff(streams[1].astype(int), axis=0) <= 0)
    assert np.all(cut.steps[~cut.mask] == 0)
    # no window is empty
    assert np.all(cut.mask.any(axis=(1, 2)))
    each = -(-length // batch)
    assert len(cut.steps) == -(-each // window)


@pytest.mark.parametrize(
    ("argument", "value"), [("length", -1), ("window", 0), ("batch", 0), ("window", 2.0)]
)
def test_errors_of_windows(argument, value):
    """Each names the argument."""
    options = {"length": 5, "window": 2, "batch": 2} | {argument: value}
    with pytest.raises(ValueError, match=f"{argument}: got {value}"):
        gr.windows(options.pop("length"), **options)


# Training on windows ----------------------------------------------------------------------------

K = 3


def network(bptt):
    """Two recurrences, and dropout whose masks follow from the number of the step."""
    return gr.stack(
        gr.recurrent(gr.LSTM(3), bptt), gr.dropout(0.3), gr.recurrent(gr.Elman(2), bptt)
    )


def test_windows_are_truncation():
    """The gradients of all windows, summed at the same parameters: those of `truncate=k`."""
    stream, key = normal(22, 2), jax.random.key(1)  # 22 = 3 streams of 8, 8 and 6 steps
    cut = gr.windows(len(stream), window=K, batch=3)
    net, whole = network(gr.BPTT()), network(gr.BPTT(truncate=K))
    params = random_params(net, 2)
    weights = normal(*cut.mask.shape)[..., None]

    @jax.jit
    def of_window(params, carry, xs, mask, weights):
        def loss(params, xs):
            following, ys = net.apply(params, xs, carry, mask=mask, key=key)
            return jnp.sum(weights * jnp.sin(ys)), following

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, xs)

    carry, losses, total, inputs = net.carry((3,), jnp.float64, params), [], None, []
    for index, mask, w in zip(*cut, weights, strict=True):
        (loss, carry), (grads, dxs) = of_window(params, carry, stream[index], mask, w)
        losses.append(loss)
        inputs.append(dxs)
        total = grads if total is None else jax.tree.map(jnp.add, total, grads)

    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def at_once(params, xs):
        mask = jnp.asarray(cut.mask.reshape(-1, 3))
        _, ys = whole.apply(params, xs, mask=mask, key=key)
        return jnp.sum(weights.reshape(-1, 3, 1) * jnp.sin(ys))

    want, (gradients, dxs) = jax.jit(at_once)(params, stream[cut.steps.reshape(-1, 3)])
    np.testing.assert_allclose(sum(losses), want, rtol=1e-12)
    assert_trees_close(total, gradients, rtol=1e-12)
    assert_trees_close(jnp.concatenate(inputs), dxs, rtol=1e-12)


# Pooling ----------------------------------------------------------------------------------------

T, B = 5, 3
LENGTHS = jnp.array([T, 0, 2])
POOLED = {
    "cell": (gr.GRU(4), 2),
    "bidirectional": (gr.residual(gr.bidirectional(gr.GRU(1))), 2),
    "tokens": (gr.stack(gr.embed(7, 2), gr.LSTM(3), gr.dense(2)), None),
}


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("name", POOLED)
def test_pooling(name, how):
    """Over each row's valid steps, in NumPy; zeros for an empty row; the layer's carry."""
    layer, features = POOLED[name]
    net = gr.pool(layer, how)
    params = random_params(net, features)
    xs = normal(T, B, 2) if features else jnp.asarray(np.arange(T * B).reshape(T, B) % 7)
    carry, y = apply(net, params, xs, lengths=LENGTHS)
    want, ys = apply(net.layer, params, xs, lengths=LENGTHS)
    assert_trees_close(carry, want)
    pooled = {"mean": np.mean, "max": np.max}[how]
    for b, length in enumerate(np.asarray(LENGTHS)):
        row = pooled(ys[:length, b], axis=0) if length else np.zeros(ys.shape[-1])
        np.testing.assert_allclose(y[b], row, rtol=1e-12)
    assert net.out_features(features) == y.shape[-1]
    all_steps = apply(net, params, xs)[1]
    np.testing.assert_allclose(all_steps, pooled(apply(net.layer, params, xs)[1], axis=0))
    assert not np.any(net.apply(params, xs[:0])[1])


@pytest.mark.parametrize("how", ["mean", "max"])
def test_padding_reaches_no_pool(how):
    """NaN in the padding changes neither value nor gradient to the last bit."""
    net = gr.pool(gr.GRU(4), how)
    params = random_params(net, 2)
    valid = (np.arange(T)[:, None] < np.asarray(LENGTHS))[..., None]
    clean = jnp.where(valid, normal(T, B, 2), 0.0)
    got = outcome(net.apply, params, jnp.where(valid, clean, jnp.nan), lengths=LENGTHS)
    assert_trees_close(got, outcome(net.apply, params, clean, lengths=LENGTHS), rtol=0, atol=0)


def test_a_mean_of_many_in_sixteen_bits():
    """Summed in float32: 1000 equal values have themselves for a mean."""
    net = gr.pool(gr.dense(1, use_bias=False))
    params = gr.DenseParams(jnp.ones((1, 1), jnp.bfloat16), None)
    y = net.apply(params, jnp.full((1000, 1), 1.5, jnp.bfloat16))[1]
    assert y.dtype == jnp.bfloat16
    assert y == 1.5


def test_errors_of_pool():
    """Each names the argument, what it got and what it expected."""
    net = gr.pool(gr.GRU(4))
    with pytest.raises(ValueError, match="how: got 'sum', expected one of 'mean', 'max'"):
        gr.pool(gr.GRU(4), "sum")
    with pytest.raises(TypeError, match=r"step: pool.* cannot stream"):
        net.step(random_params(net, 2), net.carry((1,), jnp.float64), normal(1, 2))
    with pytest.raises(ValueError, match="no time axis"):
        gr.stack(net, gr.dense(2))
