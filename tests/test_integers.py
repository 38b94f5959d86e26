"""Integers of any width: none wraps around, and those out of range are told of where asked for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from networks import normal, random_params

import gatedrnn as gr
from gatedrnn._src import integers

T, B, H = 4, 2, 2
# each would be a number in range if its low bits alone were read, or if it had a sign
WRAPPING = [
    np.array(value, dtype)
    for dtype, value in [
        ("int64", 2**32 + 1),
        ("int64", -(2**32) + 1),
        ("uint64", 2**32 + 1),
        ("uint64", 2**63 + 1),
        ("uint64", 2**64 - 1),
        ("uint32", 2**31 + 1),
        ("uint32", 2**32 - 1),
        ("int32", -1),
        ("int8", -1),
    ]
]
wrapping = pytest.mark.parametrize("value", WRAPPING, ids=lambda v: f"{v.dtype.name} {v}")
COUNTS = gr.Elman(1, activation="identity", use_bias=False)  # h' = h + x
ONES = gr.ElmanParams(jnp.ones((1, 1)), jnp.ones((1, 1)), None)


def test_the_nearest_that_fits():
    for value in WRAPPING:
        expected = min(max(int(value), -(2**31)), 2**31 - 1)
        assert int(integers.as_int32(jnp.asarray(value))) == expected
    with jax.enable_x64(False):  # where JAX itself would cut them off
        assert int(integers.as_array(np.array(2**32 + 1))) == 2**31 - 1
        assert int(integers.as_array(np.array(2**32 + 1, "uint64"))) == 2**32 - 1
        assert int(integers.as_array(np.int64(-(2**32) + 1))) == -(2**31)


# Tokens ------------------------------------------------------------------------------------------

VOCABULARY = 300
READER = gr.stack(gr.embed(VOCABULARY, H), gr.bidirectional(gr.GRU(H)), gr.repeat(gr.GRU(2 * H), 2))
STREAM = gr.stack(gr.embed(VOCABULARY, H), gr.GRU(H))
READER_PARAMS, STREAM_PARAMS = random_params(READER, None), random_params(STREAM, None)
read = jax.jit(lambda tokens: READER.apply(READER_PARAMS, tokens)[1])
take_step = jax.jit(lambda tokens: STREAM.step(STREAM_PARAMS, None, tokens)[1])


@wrapping
def test_a_token_out_of_range_is_nan_in_its_row_alone(value):
    layer, params = READER.layers[0], READER_PARAMS[0]
    tokens = np.ones((T, B), value.dtype)
    tokens[2, 0] = value
    for ys in (layer.apply(params, tokens)[1], jax.jit(layer.apply)(params, tokens)[1]):
        np.testing.assert_array_equal(np.isnan(ys).all(-1), tokens == value)
        np.testing.assert_array_equal(np.isnan(ys).any(-1), tokens == value)
    np.testing.assert_array_equal(np.isnan(read(tokens)).any((0, 2)), [True, False])
    for ys in (take_step(tokens[2]), STREAM.step(STREAM_PARAMS, None, tokens[2])[1]):
        np.testing.assert_array_equal(np.isnan(ys).any(-1), [True, False])


def test_tokens_narrower_than_the_vocabulary():
    wide = np.array([[1, 100], [127, 0]])
    for dtype in ("int8", "uint8", "int16", "uint64"):
        np.testing.assert_array_equal(read(wide.astype(dtype)), read(wide))


def test_tokens_of_the_host_without_64_bits():
    with jax.enable_x64(False):
        layer = gr.embed(5, H)
        params, tokens = layer.init(jax.random.key(0)), np.array([[2**32 + 1]])
        assert np.isnan(layer.apply(params, tokens)[1]).all()
        assert np.isnan(layer.step(params, None, tokens[0])[1]).all()


@pytest.mark.parametrize("value", WRAPPING[:3], ids=str)
def test_the_first_token_of_a_decoder(value):
    def step(carry, token):  # every token is followed by the next
        return carry, jax.nn.one_hot(token + 1, 5, dtype="float64")

    tokens = np.array([value, 1], value.dtype)
    options = {"beams": 2, "max_length": 2}
    assert gr.greedy(step, (), tokens, max_length=2).tokens.tolist() == [[0, 2], [1, 3]]
    assert gr.beam_search(step, (), tokens, **options).tokens[0, :, 0].tolist() == [0, 2]


# Lengths and rows --------------------------------------------------------------------------------


@jax.jit
def count(lengths):
    """How many steps each row has had, of 200."""
    xs = jnp.ones((200, len(lengths), 1))
    of_cell = gr.unroll(COUNTS, ONES, xs, lengths=lengths)[0].h
    layer = gr.recurrent(COUNTS)
    params = layer.init(jax.random.key(0), 1)._replace(cell=ONES)
    return of_cell[:, 0], layer.apply(params, xs, lengths=lengths)[0].h[:, 0]


@wrapping
def test_lengths_in_a_trace_count_as_clipped(value):
    for steps in count(np.array([value, 3], value.dtype)):
        np.testing.assert_array_equal(steps, [np.clip(float(value), 0, 200), 3])


def test_lengths_narrower_than_time():
    for lengths in (np.array([127, 0], "int8"), np.array([199, 0], "uint8")):
        np.testing.assert_array_equal(count(lengths)[0], lengths)


@wrapping
def test_lengths_of_a_memory(value):
    params = random_params(gr.Attention(gr.GRU(H), H, H), H)
    memory = jax.jit(lambda lengths: gr.attend(params, normal(T, 1, H), lengths=lengths))
    valid = memory(value[None]).memory.valid
    assert float(valid.sum()) == np.clip(float(value), 0, T)


@jax.jit
def taken(index):
    return gr.take_rows(gr.ElmanCarry(jnp.arange(200.0)[:, None]), index).h[:, 0]


@wrapping
def test_rows_out_of_range_are_nan(value):
    rows = taken(np.array([value, 3], value.dtype))
    np.testing.assert_array_equal(rows, [199 if value == -1 else np.nan, 3])


@wrapping
def test_the_number_of_the_first_step(value):
    """A number out of range stands for no step near the first."""
    cell, key = gr.Zoneout(gr.GRU(16), h=0.5), jax.random.key(0)
    params, xs = random_params(cell, 1), normal(1, 1, 1)
    at = jax.jit(lambda n: gr.unroll(cell, params, xs, key=key, first_step=n)[1])
    if value < 0:
        return  # numbers below 0 have masks of their own
    others = [at(np.array(n, value.dtype)) for n in (0, 1)]
    assert not any(np.array_equal(at(value), other) for other in others)


def test_windows_of_narrow_sizes():
    narrow = gr.windows(np.int16(1000), window=np.uint8(100), batch=np.int8(2))
    wide = gr.windows(1000, window=100, batch=2)
    np.testing.assert_array_equal(narrow.steps, wide.steps)


# Told of -----------------------------------------------------------------------------------------

DENSE, HIDDEN = gr.DenseParams(jnp.ones((H, 5)), None), jnp.ones((T, H))
ATTENTION = random_params(gr.Attention(gr.GRU(H), H, H), H)
MODEL = gr.seq2seq(gr.GRU(H), gr.GRU(H))
MODEL_PARAMS = MODEL.init(jax.random.key(0), H, H, "float64")
ZONED = gr.Zoneout(gr.GRU(H), h=0.5)
XS = jnp.ones((T, 1, H))
LAST = jnp.arange(T) < T - 1


def loss(labels, mask=None):
    return gr.softmax_cross_entropy(DENSE, HIDDEN, labels, mask).sum()


# by name: a function of one integer, what is in range and what is not, and the start of the error
GUARDED = {
    "lengths of unroll": (
        lambda n: gr.unroll(COUNTS, ONES, jnp.ones((T, 1, 1)), lengths=n[None])[0].h,
        *(T, T + 1, "lengths: got values from 5 to 5, expected them between 0 and the 4 steps"),
    ),
    "lengths of a layer": (
        lambda n: STREAM.apply(STREAM_PARAMS, jnp.ones((T, 1), int), lengths=n[None])[1],
        *(0, -1, "lengths: got values from -1 to -1, expected"),
    ),
    "lengths of a memory": (
        lambda n: gr.attend(ATTENTION, XS, lengths=n[None]).memory.keys,
        *(T, T + 1, "lengths: got values from 5 to 5"),
    ),
    "lengths of sources": (
        lambda n: MODEL.apply(MODEL_PARAMS, XS, XS, source_lengths=n[None])[1],
        *(T, T + 1, "source_lengths: got values from 5 to 5"),
    ),
    "lengths of targets": (
        lambda n: MODEL.apply(MODEL_PARAMS, XS, XS, target_lengths=n[None])[1],
        *(T, T + 1, "target_lengths: got values from 5 to 5"),
    ),
    "tokens": (
        lambda n: STREAM.apply(STREAM_PARAMS, jnp.full((T, 1), n))[1],
        *(VOCABULARY - 1, VOCABULARY, "tokens: got values from 300 to 300"),
    ),
    "a token": (
        lambda n: STREAM.step(STREAM_PARAMS, None, n[None])[1],
        *(0, -1, "tokens: got values from -1 to -1"),
    ),
    "labels": (lambda n: loss(jnp.full(T, n)), 4, 5, "labels: got values from 5 to 5"),
    "labels with a mask": (
        lambda n: loss(jnp.full(T, n).at[-1].set(9), LAST),
        *(4, -1, "labels: got values from -1 to 0"),
    ),
    "rows": (
        lambda n: gr.take_rows(COUNTS.carry((3,), "float64"), n).h,
        *(-3, -4, "index: got values from -4 to -4, expected them below the 3 rows"),
    ),
    "the first step": (
        lambda n: gr.unroll(
            *(ZONED, random_params(ZONED, H), XS), key=jax.random.key(0), first_step=n
        )[1],
        *(0, -1, "first_step: got values from -1 to -1"),
    ),
}
guards = pytest.mark.parametrize(
    ("function", "inside", "outside", "message"), GUARDED.values(), ids=GUARDED
)


def around(function):
    """The function by itself, in `jit`, and mapped and differentiated in a scan."""
    yield function
    yield jax.jit(function)

    def nested(scale, n):
        def scanned(total, n):
            return total + scale * jnp.sum(jax.checkpoint(function)(n)), None

        return jax.lax.scan(scanned, jnp.zeros(()), n[None])[0]

    yield lambda n: jax.vmap(jax.grad(nested), (None, 0))(1.0, n[None])


@guards
def test_checkify_raises(function, inside, outside, message):
    for f in around(function):
        checked = jax.jit(checkify.checkify(f, errors=checkify.user_checks))
        assert checked(jnp.asarray(inside))[0].get() is None
        error = checked(jnp.asarray(outside))[0].get()
        assert error is not None
        assert error.startswith(message)


@guards
def test_programs_are_the_same_without_checkify(function, inside, outside, message):
    """No effect, which would keep `jax.export` from it, and not one operation more."""
    n = jnp.asarray(inside)
    assert not jax.make_jaxpr(function)(n).effects
    guarded = jax.jit(function).lower(n).as_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integers._guard, "bind", lambda values, **_: values)
        jax.clear_caches()
        assert jax.jit(function).lower(n).as_text() == guarded


@guards
def test_debug_nans_raises(function, inside, outside, message):
    with jax.debug_nans(True):
        f = jax.jit(lambda n: function(n))
        jax.block_until_ready(f(jnp.asarray(inside)))
        with pytest.raises(
            (jax.errors.JaxRuntimeError, FloatingPointError), match=re.escape(message)
        ):
            jax.block_until_ready(f(jnp.asarray(outside)))
        jax.effects_barrier()


def test_guards_follow_the_flag_at_every_trace():
    """No program inside another remembers whether `jax_debug_nans` was on."""
    layer, dense = gr.embed(5, 2), gr.DenseParams(jnp.ones((3, 5)), None)
    table = layer.init(jax.random.key(0))

    def has_callback():
        looked_up = jax.make_jaxpr(lambda n: layer.apply(table, n)[1])(jnp.ones((2, 1), int))
        losses = jax.make_jaxpr(lambda n: gr.softmax_cross_entropy(dense, jnp.ones((2, 3)), n))
        return ["callback" in str(p) for p in (looked_up, losses(jnp.ones(2, int)))]

    for enabled in (True, False, True):
        with jax.debug_nans(enabled):
            assert has_callback() == [enabled, enabled]


@pytest.mark.parametrize("wide", [2**33, [2**33, 1], [2**70, 1], -(2**33)])
def test_integers_of_python_that_are_too_wide_are_out_of_range(wide):
    with jax.enable_x64(False):
        params, xs = (
            random_params(gr.GRU(2), 3, dtype=jnp.float32),
            jnp.ones((4, 2, 3), jnp.float32),
        )
        lengths = wide if isinstance(wide, list) else [wide, 1]
        with pytest.raises(ValueError, match=r"lengths: got values from .*, expected them between"):
            gr.unroll(gr.GRU(2), params, xs, lengths=lengths)
        with pytest.raises(ValueError, match=r"first_step: got values from .*, expected them betw"):
            gr.unroll(gr.GRU(2), params, xs, first_step=wide)
