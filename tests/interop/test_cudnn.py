"""The vector of `jax.experimental.rnn`, and `gr.cudnn`, whose kernel is its reference here.

Without an NVIDIA GPU the kernel itself does not run: what surrounds it does, around
`jax.experimental.rnn.lstm_ref`. The last test is of the kernel, where there is one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from jax.experimental import rnn
from networks import apply, assert_trees_close, assert_trees_equal, normal, outcome, random_params

import gatedrnn as gr
from gatedrnn._interop import cudnn_layer

pytestmark = pytest.mark.long

T, IN, H, B = 5, 3, 4, 3  # time, input features, features, batch
STEPS = jnp.arange(T, dtype=jnp.int32)[:, None]
LSTM = gr.LSTM(H)
LEARNED = gr.recurrent(LSTM, initial="learned")
NETWORKS = {  # with what goes with their vectors: layers, and whether there are two directions
    "cell": (LSTM, 1, False),
    "recurrent": (gr.recurrent(LSTM), 1, False),
    "no-bias": (gr.recurrent(gr.LSTM(H, use_bias=False)), 1, False),
    "both": (gr.bidirectional(LSTM), 1, True),
    "stack": (gr.stack(LSTM, gr.stack(gr.recurrent(LSTM))), 2, False),
    "stack-both": (gr.stack(*[gr.bidirectional(LSTM)] * 2), 2, True),
    "repeat": (gr.stack(LSTM, gr.repeat(LSTM, 2)), 3, False),
}


def sizes(name):
    _, num_layers, bidirectional = NETWORKS[name]
    return {
        "input_size": IN,
        "hidden_size": H,
        "num_layers": num_layers,
        "bidirectional": bidirectional,
    }


def random_like(tree):
    """Every leaf another."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(
        normal(*leaf.shape, seed=k).astype(leaf.dtype) for k, leaf in enumerate(leaves)
    )


def reference(xs, h, c, weights, lengths, sizes):
    """`lstm_ref` from a vector, batch-major."""
    arrays = rnn.unpack_lstm_weights(weights, *sizes.values())
    *counts, bidirectional = sizes.values()
    with jax.numpy_dtype_promotion("standard"):
        return rnn.lstm_ref(xs, h, c, *arrays, lengths, *counts, 0.0, bidirectional)


# The vector -------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(
    in_features=st.integers(1, 4),
    features=st.integers(1, 4),
    layers=st.integers(1, 2),
    both=st.booleans(),
    seed=st.integers(0, 100),
)
def test_their_vectors_compute_what_ours_do(in_features, features, layers, both, seed):
    """Any sizes, ragged lengths, states that are not zero; the second biases are not, either."""
    sizes = {
        "input_size": in_features,
        "hidden_size": features,
        "num_layers": layers,
        "bidirectional": both,
    }
    one = gr.bidirectional(gr.LSTM(features)) if both else gr.recurrent(gr.LSTM(features))

    @jax.jit
    def run(weights, xs, states, lengths):
        net, params = gr.interop.from_cudnn(weights, **sizes)
        assert net == (one if layers == 1 else gr.stack(*[one] * layers))
        carry = gr.interop.from_cudnn_carry(net, states)
        carry, ours = net.apply(params, xs, carry, lengths=lengths)
        ys, *final = reference(jnp.swapaxes(xs, 0, 1), *states, weights, lengths, sizes)
        want = jnp.swapaxes(ys, 0, 1), tuple(final)
        return (ours, gr.interop.to_cudnn_carry(net, carry)), want

    weights = normal(rnn.get_num_params_in_lstm(*sizes.values()), seed=seed)
    shape = (layers * (1 + both), B, features)
    states = normal(*shape, seed=seed + 2), normal(*shape, seed=seed + 3)
    lengths = jnp.asarray(np.random.default_rng(seed).integers(1, T + 1, B), jnp.int32)
    assert_trees_close(*run(weights, normal(T, B, in_features, seed=seed + 1), states, lengths))


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back_to_the_bit(name):
    """A bare cell comes back as its layer, nested stacks and repeats flat, no bias as zeros."""
    net = NETWORKS[name][0]
    params = random_params(net, IN)
    weights = gr.interop.to_cudnn(net, params)
    assert weights.shape == (rnn.get_num_params_in_lstm(*sizes(name).values()),)
    back, recovered = gr.interop.from_cudnn(weights, **sizes(name))
    assert_trees_equal(gr.interop.to_cudnn(back, recovered), weights)
    if name in ("recurrent", "both", "stack-both"):
        assert back == net
        assert_trees_equal(recovered, params)
    if name == "no-bias":
        assert not recovered.cell.bias.any()
    xs = normal(T, B, IN)
    whole = net if name != "cell" else gr.recurrent(net)
    own = params if name != "cell" else gr.RecurrentParams(params, None)
    assert_trees_equal(apply(back, recovered, xs)[1], apply(whole, own, xs)[1])


def test_arrays_are_where_jax_looks_for_them():
    """Our bias is the input's, the recurrent one zero."""
    net = NETWORKS["both"][0]
    params = random_params(net, IN)
    found = rnn.unpack_lstm_weights(gr.interop.to_cudnn(net, params), *sizes("both").values())
    for k, p in enumerate((params.forward.cell, params.backward.cell)):
        want = (p.kernel.T, p.recurrent_kernel.T, p.bias, jnp.zeros(4 * H))
        assert_trees_equal(tuple(arrays[k] for arrays in found), want)


def test_states_there_and_back():
    """`(h, c)`, layers in order, the forward direction first; a bare cell has a layer's axis."""
    net = gr.stack(gr.bidirectional(LSTM), gr.bidirectional(LSTM))
    shapes = jax.eval_shape(lambda: net.carry((2, B), jnp.float64))
    carry = random_like(shapes)
    h, c = gr.interop.to_cudnn_carry(net, carry)
    assert h.shape == (4, 2, B, H)
    assert_trees_equal((h[1], c[2]), (carry[0].backward.h, carry[1].forward.c))
    assert_trees_equal(gr.interop.from_cudnn_carry(net, (h, c)), carry)
    states = gr.interop.to_cudnn_carry(LSTM, carry[0].forward)
    assert states[0].shape == (1, 2, B, H)
    assert_trees_equal(gr.interop.from_cudnn_carry(LSTM, states), carry[0].forward)


def test_their_reference_takes_the_last_padded_state_for_a_length_of_zero():
    """The kernel is never asked for one; ours is the initial state."""
    net, params = gr.recurrent(LSTM), random_params(gr.recurrent(LSTM), IN)
    weights, xs = gr.interop.to_cudnn(net, params), normal(T, 1, IN)
    zeros = jnp.zeros((1, 1, H))
    arguments = (jnp.swapaxes(xs, 0, 1), zeros, zeros, weights, jnp.zeros(1, jnp.int32))
    _, h, _ = reference(*arguments, sizes("recurrent"))
    assert_trees_close(h[0], apply(net, params, xs)[0].h)
    assert not apply(net, params, xs, lengths=jnp.zeros(1, jnp.int32))[0].h.any()


def to(layer, params=None):
    return lambda: gr.interop.to_cudnn(
        layer, random_params(layer, IN) if params is None else params
    )


def take(weights=None, **options):
    options = sizes("recurrent") | options
    weights = jnp.zeros(rnn.get_num_params_in_lstm(IN, H, 1, False)) if weights is None else weights
    return lambda: gr.interop.from_cudnn(weights, **options)


def wrap(layer):
    return lambda: gr.cudnn(layer)


OTHERS = {  # what cuDNN does not have, for the vector and the layer
    "GRU": (gr.GRU(H), "layer: got GRU.*cuDNN's LSTM: there is no GRU cell"),
    "peepholes": (gr.LSTM(H, peephole="diagonal"), "there are no diagonal peepholes"),
    "projection": (gr.LSTM(H, projection=2), "there is no recurrent projection"),
    "coupled": (gr.bidirectional(gr.LSTM(H, coupled=True)), "never coupled"),
    "merge": (gr.bidirectional(LSTM, merge="sum"), "it concatenates both directions, no sum"),
    "sizes": (gr.stack(LSTM, gr.LSTM(H + 1)), "its layers are all of one size"),
    "sizes-of-directions": (gr.bidirectional(LSTM, gr.LSTM(H + 1)), "all of one size"),
    "directions": (gr.stack(LSTM, gr.bidirectional(LSTM)), "of as many directions"),
    "dropout": (gr.stack(LSTM, gr.dropout(0.1), LSTM), "it has no place for dropout"),
    "residual": (gr.residual(gr.LSTM(IN)), "it has no place for residual"),
    "zoneout": (gr.Zoneout(LSTM, 0.1, 0.1), "there is no Zoneout cell"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_cudnn_does_not_have_is_refused(name):
    layer, message = OTHERS[name]
    for call in (to(layer), wrap(layer)):
        with pytest.raises(ValueError, match=message):
            call()


ERRORS = {
    "learned": (to(LEARNED), ValueError, "its initial state is an input, never learned"),
    "params": (to(LSTM, random_params(gr.GRU(H), IN)), ValueError, "params: got GRUParams"),
    "second-layer": (
        to(gr.stack(LSTM, LSTM), (random_params(gr.recurrent(LSTM), IN),) * 2),
        ValueError,
        r"kernel: got shape \(3, 16\), expected \(4, 16\) .* the output of layer 0",
    ),
    "backward-direction": (
        to(
            gr.bidirectional(LSTM),
            gr.Directions(*(random_params(gr.recurrent(LSTM), n) for n in (IN, IN + 1))),
        ),
        ValueError,
        r"kernel: got shape \(4, 16\), expected \(3, 16\)",
    ),
    "length": (
        take(jnp.zeros(100)),
        ValueError,
        r"weights: got shape \(100,\), expected \(144,\) for num_layers=1, bidirectional=False",
    ),
    "axes": (take(jnp.zeros((1, 144))), ValueError, r"weights: got shape \(1, 144\)"),
    "dtype": (take(jnp.zeros(144, int)), TypeError, "weights: got dtype int64"),
    "no-array": (take([0.0]), TypeError, "weights: got list, expected an array"),
    "input_size": (take(input_size=0), ValueError, "input_size: got 0"),
    "hidden_size": (take(hidden_size=2.0), ValueError, "hidden_size: got 2.0"),
    "num_layers": (take(num_layers=None), ValueError, "num_layers: got None"),
    "bidirectional": (take(bidirectional=1), ValueError, "bidirectional: got 1"),
    "states": (
        lambda: gr.interop.from_cudnn_carry(gr.stack(LSTM, LSTM), (normal(1, B, H),) * 2),
        ValueError,
        r"states\[0\]: got shape \(1, 3, 4\), expected 2 layers and directions",
    ),
    "one-state": (
        lambda: gr.interop.from_cudnn_carry(LSTM, (normal(1, B, H),)),
        ValueError,
        "states: got 1, expected h, c",
    ),
    "carry-of-another": (
        lambda: gr.interop.to_cudnn_carry(gr.GRU(H), gr.GRU(H).carry((B,))),
        ValueError,
        "there is no GRU cell",
    ),
    "bptt": (
        wrap(gr.recurrent(LSTM, gr.BPTT(truncate=3))),
        ValueError,
        r"its backward pass has no options, BPTT\(.*truncate=3",
    ),
    "bptt-of-one": (
        wrap(gr.bidirectional(LSTM, gr.recurrent(LSTM, gr.BPTT(clip=1.0)))),
        ValueError,
        "its backward pass has no options",
    ),
    "rule": (wrap(gr.recurrent(LSTM, gr.BPTT(rule="hand"))), ValueError, "has no options"),
    "cell-path": (wrap(gr.recurrent(LSTM, gr.BPTT(cell_path_only=True))), ValueError, "no options"),
    "not-a-layer": (wrap(3), TypeError, "layer: got 3"),
    "final-inside": (wrap(gr.final(LSTM)), ValueError, "put gr.final outermost"),
    "twice": (wrap(gr.cudnn(LSTM)), ValueError, "it has no place for cudnn"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_stands_in_the_way(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()


# The layer --------------------------------------------------------------------------------------


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_an_nvidia_gpu_apply_refuses():
    """Also under `jit`; initial parameters, carries and steps need none."""
    net = gr.cudnn(LSTM)
    params, xs = random_params(net, IN, dtype=jnp.float32), normal(T, B, IN, dtype=np.float32)
    for call in (net.apply, jax.jit(net.apply), gr.final(net).apply):
        with pytest.raises(RuntimeError, match=r"gr.cudnn: got the platform .cpu., .* NVIDIA GPU"):
            call(params, xs)
    plain = gr.recurrent(LSTM)
    key = jax.random.key(0)
    assert_trees_equal(net.init(key, IN), plain.init(key, IN))
    assert_trees_equal(net.carry((B,)), plain.carry((B,)))
    assert net.out_features(IN) == plain.out_features(IN)
    carry = net.carry((B,))
    assert_trees_equal(net.step(params, carry, xs[0]), plain.step(params, carry, xs[0]))


@pytest.mark.parametrize("where", ["cpu", "device"])
def test_the_default_device_decides(where, monkeypatch):
    device = "cpu" if where == "cpu" else jax.devices("cpu")[0]
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: [device_of(backend)])

    def device_of(backend):
        return jax.devices(backend)[0] if backend else Nvidia()

    class Nvidia:
        platform = "gpu"
        client = type("Client", (), {"platform_version": "PJRT C API\ncuda 13000"})

    cudnn_layer._check_platform()
    with jax.default_device(device), pytest.raises(RuntimeError, match="platform 'cpu'"):
        cudnn_layer._check_platform()
    monkeypatch.setattr(Nvidia.client, "platform_version", "PJRT C API\nrocm 60300")
    with pytest.raises(RuntimeError, match="platform 'gpu', expected an NVIDIA GPU"):
        cudnn_layer._check_platform()


@pytest.fixture
def kernel(monkeypatch):
    """CuDNN's kernel by its reference; the keywords of every call."""
    calls = []

    def lstm(x, h_0, c_0, weights, seq_lengths, *, dropout, precision, **sizes):
        calls.append({"dropout": dropout, "precision": precision, **sizes})
        assert {a.dtype.name for a in (x, h_0, c_0, weights)} == {"float32"}
        assert seq_lengths.dtype == jnp.int32
        spoilt = jnp.where(seq_lengths == 0, jnp.nan, 1).astype(jnp.float32)
        x = x * spoilt[:, None, None]
        return reference(x, h_0, c_0, weights, seq_lengths, sizes)

    monkeypatch.setattr(rnn, "lstm", lstm)
    monkeypatch.setattr(cudnn_layer, "_platform", lambda: ("gpu", "cuda 13000"))
    return calls


def arguments_of(layer, in_features=IN, batch=(B,), length=T):
    """Parameters, inputs and an initial carry that is not zero, in float32."""
    params = random_params(layer, in_features, dtype=jnp.float32)
    xs = normal(length, *batch, in_features, seed=1, dtype=np.float32)
    shapes = jax.eval_shape(lambda: layer.carry(batch, jnp.float32, params))
    return params, xs, random_like(shapes)


def assert_same(got, want):
    """To the rounding of float32, of the largest entry of a leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = max(float(jnp.max(jnp.abs(b), initial=0)), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale, strict=True)


def assert_computes(net, plain, *arguments, **options):
    """Outputs, final carry and all gradients are those of `plain`."""
    got, want = (outcome(lambda *a, n=n: n.apply(*a, **options), *arguments) for n in (net, plain))
    assert_same(got, want)


def empty(batch):
    """The first row, if there are several."""
    return np.arange(np.prod(batch, dtype=int)).reshape(batch) == (0 if batch else -1)


LEARNS = {"learned": LEARNED, "learned-back": gr.bidirectional(LSTM, LEARNED)}


@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # not to shrink: each compiles
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from([*NETWORKS, *LEARNS]),
    batch=st.sampled_from([(), (3,), (2, 2)]),
    padding=st.sampled_from(["none", "lengths", "mask"]),
    given_carry=st.booleans(),
    seed=st.integers(0, 100),
)
@example(name="both", batch=(2, 2), padding="lengths", given_carry=True, seed=0)
@example(name="recurrent", batch=(3,), padding="mask", given_carry=True, seed=0)
@example(name="learned", batch=(3,), padding="lengths", given_carry=False, seed=0)
def test_layer_computes_what_it_wraps(kernel, name, batch, padding, given_carry, seed):
    """Any batch axes, ragged lengths (zero among them), masks of any pattern, learned carries."""
    net = gr.cudnn(LEARNS[name] if name in LEARNS else NETWORKS[name][0])
    params, xs, carry = arguments_of(net.layer, batch=batch)
    rng, options = np.random.default_rng(seed), {}
    if padding == "lengths":
        lengths = rng.integers(0, T + 1, batch)
        options["lengths"] = jnp.asarray(np.where(empty(batch), 0, lengths), jnp.int32)
    elif padding == "mask":
        options["mask"] = jnp.asarray((rng.random((T, *batch)) < 0.6) & ~empty(batch))
    assert_computes(net, net.layer, params, xs, *([carry] if given_carry else []), **options)


COMPOSED = {
    "stack": lambda wrap: gr.stack(
        wrap(gr.stack(LSTM, LSTM)), gr.dropout(0.3), wrap(gr.bidirectional(LSTM)), gr.dense(2)
    ),
    "repeat": lambda wrap: gr.repeat(gr.residual(wrap(gr.recurrent(gr.LSTM(IN)))), 2),
    "pool": lambda wrap: gr.pool(wrap(gr.bidirectional(LSTM))),
    "final": lambda wrap: gr.final(wrap(LEARNED)),
    "final-both": lambda wrap: gr.final(wrap(gr.stack(*[gr.bidirectional(LSTM)] * 2))),
    "final-stack": lambda wrap: gr.final(gr.stack(wrap(gr.stack(LSTM, LSTM)), gr.dense(2))),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_composes_as_the_layer_does(kernel, name):
    """Inside of others, which hand lengths on as masks; with dropout beside it; an empty row."""
    net, plain = COMPOSED[name](gr.cudnn), COMPOSED[name](lambda layer: layer)
    options = {"lengths": jnp.asarray([T, 0, 2], jnp.int32), "key": jax.random.key(4)}
    params, xs, _ = arguments_of(plain)
    assert_computes(net, plain, params, xs, **options)
    assert kernel


def test_kernel_is_asked_for_what_the_network_is(kernel):
    """And for its highest precision, without which products are rounded to TF32."""
    net = gr.cudnn(NETWORKS["stack-both"][0])
    params, xs, _ = arguments_of(net)
    jax.eval_shape(net.apply, params, xs)
    highest = jax.lax.Precision.HIGHEST
    assert kernel == [sizes("stack-both") | {"dropout": 0.0, "precision": highest}]
    assert not rnn._lstm_cudnn_allow_tf32(highest)
    assert rnn._lstm_cudnn_allow_tf32(None)


def test_the_kernel_reads_and_writes_row_major_arrays(kernel, monkeypatch):
    """Or XLA hands it the time-major inputs as they lie: seen on a device, and mended since."""

    @jax.jit
    def stand_in(xs, h, c):
        return jnp.zeros((B, T, H)), h, c

    monkeypatch.setattr(rnn, "lstm", lambda xs, h, c, *_, **sizes: stand_in(xs, h, c))
    layer = gr.cudnn(LSTM)
    equations = jax.make_jaxpr(layer.apply)(*arguments_of(layer)[:2]).jaxpr.eqns
    (call,) = (e for e in equations if e.params.get("name") == "stand_in")
    constraints = [e for e in equations if e.primitive.name == "layout_constraint"]
    assert all(
        e.params["layout"].major_to_minor == tuple(range(e.invars[0].aval.ndim))
        for e in constraints
    )
    assert set(call.invars) <= {v for e in constraints for v in e.outvars}
    read = {v for e in equations if e is not call for v in e.invars if v in call.outvars}
    assert read == {v for e in constraints for v in e.invars if v in call.outvars}
    assert len(read) == 3


@pytest.mark.parametrize("kind", ["lengths", "mask"])
def test_nan_in_the_padding_reaches_nothing(kernel, kind):
    """Neither outputs nor carries nor gradients, also from the cotangents of the padding."""
    net = gr.cudnn(gr.bidirectional(LSTM))
    params, xs, carry = arguments_of(net)
    lengths = jnp.asarray([2, 0, T], jnp.int32)
    mask = lengths[None] > STEPS
    options = {"lengths": lengths} if kind == "lengths" else {"mask": mask}
    holed = jnp.where(mask[..., None], xs, jnp.nan)

    @jax.jit
    def pulled(xs, hole):
        """Outputs, and gradients for cotangents with this in the padding."""
        out, pull = jax.vjp(lambda *a: net.apply(*a, **options), params, xs, carry)
        ones = jax.tree.map(jnp.ones_like, out)
        return out, pull((ones[0], jnp.where(mask[..., None], ones[1], hole)))

    assert_trees_equal(pulled(holed, jnp.nan), pulled(xs, 0))


def test_masks_are_gathered_and_lengths_are_not(kernel):
    net = gr.cudnn(LSTM)
    params, xs, _ = arguments_of(net)
    lengths = jnp.full(B, 2, jnp.int32)

    def program(**options):
        return str(jax.make_jaxpr(lambda xs: net.apply(params, xs, **options))(xs))

    assert "sort[" not in program(lengths=lengths)
    assert "sort[" in program(mask=lengths[None] > STEPS)


@pytest.mark.parametrize(("length", "batch"), [(0, (B,)), (T, (0,)), (T, (2, 0))])
def test_nothing_gives_nothing(kernel, length, batch):
    """The kernel is not asked at all."""
    net = gr.cudnn(gr.stack(LSTM, LSTM))
    params, xs, carry = arguments_of(net, batch=batch, length=length)
    final, ys = net.apply(params, xs, carry)
    assert_trees_equal(final, carry)
    assert ys.shape == (length, *batch, H)
    assert gr.final(net).apply(params, xs)[1].shape == (*batch, H)
    assert not kernel


def test_streaming_goes_on_where_the_kernel_stopped(kernel):
    net = gr.cudnn(gr.stack(LSTM, LSTM))
    params, xs, _ = arguments_of(net)
    want, ys = net.apply(params, xs)
    carry, _ = net.apply(params, xs[:-1])
    carry, y = net.step(params, carry, xs[-1])
    assert_same((carry, y), (want, ys[-1]))
    both = gr.cudnn(gr.bidirectional(LSTM))
    params, _, carry = arguments_of(both)
    with pytest.raises(TypeError, match=r"bidirectional.* cannot stream"):
        both.step(params, carry, xs[-1])


def test_what_it_does_not_take_is_refused(kernel):
    """Before the platform is looked at."""
    net = gr.cudnn(LSTM)
    params, xs, carry = arguments_of(net)
    double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    resets = jnp.zeros((T, B), bool)
    for error, message, arguments, options in (
        (ValueError, "resets: got them .* expected None", (params, xs), {"resets": resets}),
        (TypeError, "xs: got dtype float64, expected float32", (double, xs.astype(float)), {}),
        (TypeError, "xs: got dtype bfloat16", (params, xs.astype(jnp.bfloat16)), {}),
        (TypeError, "params: got dtype float64 with xs in float32", (double, xs), {}),
        (ValueError, r"kernel: got shape \(3, 16\), expected \(2, 16\)", (params, xs[..., 1:]), {}),
        (ValueError, r"carry.h: got shape \(3, 4\)", (params, xs[:, :2], carry), {}),
        (ValueError, "carry: got GRUCarry", (params, xs, gr.GRUCarry(carry.h)), {}),
        (ValueError, "params: got LSTMParams", (params.cell, xs), {}),
        (ValueError, "lengths: got values from 0 to 9", (params, xs), {"lengths": [0, 9, 1]}),
    ):
        options = {k: jnp.asarray(v) for k, v in options.items()}
        with pytest.raises(error, match=message):
            net.apply(*arguments, **options)
    assert not kernel


def is_nvidia():
    return "cuda" in jax.local_devices()[0].client.platform_version


@pytest.mark.gpu
@pytest.mark.skipif(not is_nvidia(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("name", [*NETWORKS, *LEARNS])
@pytest.mark.parametrize("padding", ["none", "lengths", "mask"])
def test_the_kernel_itself(name, padding):
    """On a GPU: everything as above, without the reference."""
    net = gr.cudnn(LEARNS[name] if name in LEARNS else NETWORKS[name][0])
    options = {
        "none": {},
        "lengths": {"lengths": jnp.asarray([T, 0, 2], jnp.int32)},
        "mask": {"mask": jnp.asarray(np.random.default_rng(0).random((T, B)) < 0.6)},
    }[padding]
    with jax.default_matmul_precision("highest"):
        assert_computes(net, net.layer, *arguments_of(net.layer), **options)
