"""The edge of a layer: checked and masked once, one's own layers, directions, and text."""

import ast
import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import apply, assert_trees_close, normal, outcome, random_params

import gatedrnn as gr
from gatedrnn._src import checks, validation
from gatedrnn._src.time import unroll

T, B, IN, H = 5, 3, 3, 4
KEY = jax.random.key(0)
LENGTHS = jnp.array([T, 0, 2])
CACHES = ("remembered", "params_template", "output_features")
NET = gr.stack(gr.embed(7, H), gr.LSTM(H), gr.dropout(0.2), gr.GRU(H), gr.dense(2))


# Once --------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """How often each function that checks or masks is called, by the code around it."""
    counted = {"checks": 0, "masks": 0}

    def counting(function, kind):
        def call(*arguments, **options):
            caller = inspect.currentframe().f_back.f_globals["__name__"]
            outside = caller not in (validation.__name__, checks.__name__)
            if outside and (kind == "checks" or arguments[1] is not None):
                counted[kind] += 1
            return function(*arguments, **options)

        return call

    for module in (validation, checks):
        for name, function in list(vars(module).items()):
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                kind = "masks" if name == "zero_masked" else "checks"
                if not name.startswith("_") and name not in (
                    "concrete",
                    "counts",
                    "zeros",
                    "dtype_of_params",
                    *CACHES,
                ):
                    monkeypatch.setattr(module, name, counting(function, kind))
    return counted


def test_a_network_is_checked_once(calls):
    """By its outermost call; each layer then masks its own outputs at most.

    Among the checks are those of each layer's `carry`, which is called for the initial one.
    """
    params, xs = random_params(NET, None), jnp.zeros((T, B), int)
    NET.apply(params, xs, lengths=LENGTHS, key=KEY)  # what is looked up by layers alone
    calls.update(checks=0, masks=0)
    NET.apply(params, xs, lengths=LENGTHS, key=KEY)
    assert 0 < calls["checks"] <= 14
    assert 0 < calls["masks"] <= 5


def test_each_layer_of_a_stack_has_a_scope_of_its_own():
    """Its number and name, in what is compiled."""
    params, xs = random_params(NET, None), jnp.zeros((T, B), int)
    text = jax.jit(NET.apply).lower(params, xs).as_text(debug_info=True)
    for scope in ("0_Embed", "1_LSTM", "3_GRU", "4_Dense"):
        assert f"{scope}/" in text, scope


def test_lengths_travel_with_the_mask():
    """A layer inside is told the lengths that the mask follows from."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Look(gr.Layer):
        def out_features(self, in_features):
            return in_features

        def init(self, key, in_features, dtype=jnp.float32):
            return ()

        def run(self, params, xs, carry, context):
            seen.append(context)
            return carry, xs

    net = gr.stack(gr.GRU(H), gr.stack(Look()))
    params = random_params(net, IN)
    net.apply(params, normal(T, B, IN), lengths=LENGTHS)
    np.testing.assert_array_equal(seen[-1].lengths, LENGTHS)
    net.apply(params, normal(T, B, IN), mask=seen[-1].mask)
    assert seen[-1].lengths is None


# Layers of one's own ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shift(gr.Layer):
    """`y_t = x_{t−1} + b`, with the last input in the carry."""

    def out_features(self, in_features):
        return in_features

    def init(self, key, in_features, dtype=jnp.float32):
        return jax.random.normal(key, (in_features,), dtype)

    def carry(self, batch_shape, dtype=jnp.float32, params=None):
        return jnp.zeros((*batch_shape, IN), dtype)

    def run(self, params, xs, carry, context):
        xs = jnp.concatenate([carry[None], xs])
        return xs[-1], xs[:-1] + jnp.broadcast_to(params, xs[:-1].shape)


def test_a_layer_of_three_methods():
    """The rest follows: final, steps, masked outputs, either direction of time."""
    net = gr.stack(Shift(), gr.GRU(IN))
    params, xs = random_params(net, IN), normal(T, B, IN)
    carry, ys = apply(net, params, xs)
    np.testing.assert_allclose(apply(gr.final(net), params, xs)[1], ys[-1], rtol=1e-12)
    state, steps = net.carry((B,), jnp.float64), []
    for x in xs:
        state, y = net.step(params, state, x)
        steps.append(y)
    np.testing.assert_allclose(jnp.stack(steps), ys, rtol=1e-12)
    assert_trees_close(state, carry)
    _, padded = apply(Shift(), params[0], xs, lengths=LENGTHS)
    assert np.all(padded[2:, 2] == 0)  # b is added there too, and masked
    both = gr.bidirectional(net)
    pair = random_params(both, IN)
    _, ys = apply(both, pair, xs)
    _, ahead = apply(net, pair.forward, xs)
    _, back = apply(net, pair.backward, xs[::-1])
    np.testing.assert_allclose(ys, jnp.concatenate([ahead, back[::-1]], -1), rtol=1e-12)


def test_what_a_layer_of_ones_own_lacks_is_named():
    """When it is made; and at the edge what is wrong with one that is whole."""

    class Halfway(gr.Layer):
        def init(self, key, in_features, dtype=jnp.float32):
            return ()

    with pytest.raises(TypeError, match=r"(?s)Halfway.*out_features.*run"):
        Halfway()

    class Unhashable(Shift):
        __hash__ = None

    with pytest.raises(TypeError, match=r"layers: got .*not hashable, expected a frozen dataclass"):
        gr.stack(Unhashable())

    class Transposed(Shift):
        def carry(self, batch_shape, dtype=jnp.float32, params=None):
            return jnp.zeros((IN, *batch_shape), dtype)

    net = gr.stack(gr.GRU(IN), Transposed())
    with pytest.raises(
        TypeError, match=r"carry\[1\] has shape \(3, 11, 13\) .*, expected \(11, 13, 3\)"
    ):
        net.apply(random_params(net, IN), normal(T, B, IN))
    with pytest.raises(TypeError, match="a function of your own goes into the `run`"):
        gr.stack(jax.nn.relu, gr.GRU(3))


def test_a_layer_goes_on_from_its_own_carry():
    """One whose `run` returns a carry and that has no `carry`, or another, says so at once."""

    class Stateless(Shift):
        def carry(self, batch_shape, dtype=jnp.float32, params=None):
            return ()

        def run(self, params, xs, carry, context):
            return xs[-1], xs

    layer, xs = Stateless(), normal(T, B, IN)
    params = random_params(layer, IN)
    message = "the carry that `run` returns: got .*, expected a tuple of 0"
    with pytest.raises(ValueError, match=message):
        layer.apply(params, xs)
    with pytest.raises(ValueError, match=message):
        layer.step(params, (), xs[0])


# Either direction of time -------------------------------------------------------------------------


CAUSAL = {
    "stack": gr.stack(gr.LSTM(H), gr.dropout(0.3), gr.dense(H)),
    "cut": gr.stack(gr.recurrent(gr.GRU(H), gr.BPTT(truncate=2)), gr.residual(gr.Elman(H))),
    "repeat": gr.repeat(gr.residual(gr.recurrent(gr.LSTM(IN), initial="learned")), 2),
    "drawn": gr.stack(gr.recurrent(gr.Zoneout(gr.GRU(H), h=0.3)), gr.dense(2)),
    "dense": gr.dense(2),
}


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("padded", [False, True])
def test_bidirectional_takes_any_causal_layer(name, padded):
    """Each direction is the layer alone, the backward one over sequences that are turned round."""
    layer = CAUSAL[name]
    net = gr.bidirectional(layer)
    params, xs = random_params(net, IN), normal(T, B, IN)
    options = {"lengths": LENGTHS} if padded else {}

    def by_hand(params, xs):
        ahead, ys = layer.apply(params.forward, xs, **options)
        turned = options
        if padded:
            steps = jnp.arange(T)[:, None]
            turned = {"mask": (T - 1 - steps) < LENGTHS[None]}
        back, zs = layer.apply(params.backward, xs[::-1], **turned)
        return gr.Directions(ahead, back), jnp.concatenate([ys, zs[::-1]], axis=-1)

    got = outcome(net.apply, params, xs, **options)
    want = outcome(by_hand, params, xs)
    if name == "cut":  # where the cuts are, a turned array says otherwise
        got, want = got[0], want[0]
    assert_trees_close(got, want)


@pytest.mark.parametrize("options", ["plain", "mask", "resets"])
def test_directions_in_two_loops_are_those_in_one(options):
    """Truncation, which a flip would move, and a pair of unequal layers run apart."""
    rng = np.random.default_rng(1)
    given = {
        "plain": {},
        "mask": {"mask": jnp.asarray(rng.random((T, B)) < 0.6)},
        "resets": {"resets": jnp.asarray(rng.random((T, B)) < 0.4), "lengths": LENGTHS},
    }[options]

    def net_of(bptt):
        inner = gr.stack(gr.recurrent(gr.GRU(H), bptt), gr.dropout(0.3), gr.repeat(gr.Elman(H), 2))
        return gr.bidirectional(inner)

    one, two = net_of(gr.BPTT()), net_of(gr.BPTT(truncate=100))
    params, xs = random_params(one, IN), normal(T, B, IN)
    got = outcome(one.apply, params, xs, key=KEY, **given)
    assert_trees_close(outcome(two.apply, params, xs, key=KEY, **given), got)
    ends = [apply(gr.final(net), params, xs, key=KEY, **given) for net in (one, two)]
    assert_trees_close(*ends)


def test_a_layer_that_runs_backward_alone():
    """As the backward direction of a bidirectional one; not causal, with a final output."""
    layer, both = gr.recurrent(gr.LSTM(H), reverse=True), gr.bidirectional(gr.LSTM(H))
    pair, xs = random_params(both, IN), normal(T, B, IN)
    carry, ys = apply(layer, pair.backward, xs, lengths=LENGTHS)
    whole, merged = apply(both, pair, xs, lengths=LENGTHS)
    assert_trees_close(carry, whole.backward)
    np.testing.assert_allclose(ys, merged[..., H:], rtol=1e-12)
    direct = gr.unroll(gr.LSTM(H), pair.backward.cell, xs, lengths=LENGTHS, reverse=True)
    assert_trees_close((carry, ys), direct)
    _, y = apply(gr.final(layer), pair.backward, xs, lengths=LENGTHS)
    np.testing.assert_allclose(y, apply(gr.final(both), pair, xs, lengths=LENGTHS)[1][:, H:])
    assert not layer.causal
    assert not gr.stack(gr.dense(3), layer).causal


# Text ---------------------------------------------------------------------------------------------

WRITTEN = [
    gr.LSTM(5, peephole="diagonal"),
    gr.recurrent(gr.GRU(4), gr.BPTT(truncate=3), initial="learned", reverse=True),
    gr.bidirectional(gr.GRU(4), gr.stack(gr.GRU(4)), merge="mean"),
    gr.stack(gr.embed(7, 4), gr.repeat(gr.residual(gr.GRU(4)), 2), gr.dropout(0.5, True)),
    gr.final(gr.bidirectional(gr.recurrent(gr.Elman(4), initial="learned"))),
    gr.pool(gr.stack(gr.Zoneout(gr.LSTM(4), c=0.3), gr.dense(2, use_bias=False)), "max"),
    gr.stack(*[gr.bidirectional(gr.LSTM(256))] * 5),
]


@pytest.mark.parametrize("value", WRITTEN, ids=range(len(WRITTEN)))
def test_a_representation_makes_the_same_value(value):
    """In names that exist in `gr`, and with what differs from the defaults alone."""
    text = repr(value)
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert names <= set(gr.__all__)
    assert eval(text, vars(gr)) == value
    assert "BPTT()" not in text
    assert len(text) < 200


def test_summary():
    """Shapes and counts of every layer, those inside others indented; text shows as it is."""
    inner = gr.bidirectional(gr.stack(gr.LSTM(8), gr.dense(4)), merge="sum")
    net = gr.final(gr.stack(gr.embed(7, 4), inner, gr.repeat(gr.residual(gr.GRU(4)), 3)))
    text = gr.summary(net)
    count = sum(leaf.size for leaf in jax.tree.leaves(random_params(net, None)))
    lines = str(text).splitlines()
    assert repr(text) == str(text)
    assert lines[-1] == f"{count:,} parameters"
    assert len({len(line) for line in lines[:-1]}) == 1
    rows = {line.split("[")[0].strip(): line.split("]")[1].split()[0] for line in lines[2:-2]}
    assert rows["final"] == f"{count:,}"
    assert rows["0  embed(7, 4)"] == "28"
    assert rows["0  LSTM(8)"] == f"{4 * 8 * (4 + 8 + 1):,}"
    assert rows["2  repeat, 3 times"] == f"{3 * 3 * 4 * (4 + 4 + 1):,}"
    assert "[*B, 4]" in lines[2]
    assert "[T, *B, 4]" in lines[3]
    assert gr.summary(gr.LSTM(3), 2).endswith(f"{4 * 3 * (2 + 3 + 1)} parameters")
    with pytest.raises(TypeError, match="layer: got 3, expected a layer or a cell"):
        gr.summary(3)
    with pytest.raises(ValueError, match="in_features: got None"):
        gr.summary(gr.LSTM(3))


def test_the_arguments_of_unroll_are_one_record():
    """The same names, in the same order, with the same defaults."""
    signature = inspect.signature(gr.unroll).parameters
    keywords = {n: p.default for n, p in signature.items() if p.kind is p.KEYWORD_ONLY}
    assert keywords == unroll.Options()._asdict()
    assert list(keywords) == list(unroll.Options._fields)


# What a reviewer found ---------------------------------------------------------------------------


class Plain(gr.Layer):
    """A layer that is no dataclass."""

    def out_features(self, in_features):
        return in_features

    def init(self, key, in_features, dtype=jnp.float32):
        return ()

    def run(self, params, xs, carry, context):
        return carry, xs


@dataclasses.dataclass(frozen=True)
class NoStep(Plain):
    """A causal layer that cannot stream."""

    streams = False
    why_not = "it has no step"


def test_a_stack_streams_only_where_every_layer_does():
    net = gr.stack(gr.GRU(H), NoStep())
    with pytest.raises(TypeError, match="cannot stream, it has no step"):
        net.step(net.init(KEY, IN), None, jnp.ones((B, IN)))


def test_a_layer_that_is_no_dataclass_has_a_representation():
    assert "Plain" in repr(gr.stack(Plain()))


def test_a_layer_that_is_not_hashable_is_named_at_the_edge():
    @dataclasses.dataclass
    class Mutable(Plain):
        pass

    with pytest.raises(TypeError, match=r"^layer: got .*not hashable"):
        Mutable().apply((), jnp.ones((T, B, IN)))


def test_resets_of_a_step_are_named_in_the_shape_that_was_given():
    layer = gr.recurrent(gr.GRU(H))
    params = layer.init(KEY, IN, jnp.float64)
    with pytest.raises(ValueError, match=r"^resets: got shape \(2,\), expected \(3,\)"):
        layer.step(params, None, jnp.ones((B, IN)), resets=jnp.ones(2, bool))


@dataclasses.dataclass(frozen=True)
class Counting:
    """A cell with a counter of the default integer dtype, which the 64-bit mode changes."""

    def init(self, key, in_features, dtype=jnp.float32):
        return jnp.ones((in_features, H), dtype)

    def carry(self, batch_shape, dtype=jnp.float32):
        return jnp.zeros((*batch_shape, H), dtype), jnp.zeros(batch_shape, int)

    def step(self, params, carry, x):
        y = x @ params
        return (y, carry[1] + 1), y


def test_what_is_remembered_follows_the_64_bit_mode():
    layer = gr.recurrent(Counting())
    for enabled in (False, True, False):
        with jax.enable_x64(enabled):
            params, xs = layer.init(KEY, IN), jnp.ones((T, B, IN), jnp.float32)
            carry, _ = layer.apply(params, xs)
            counts = layer.apply(params, xs, carry)[0][1]
            assert counts.dtype == (jnp.int64 if enabled else jnp.int32)
