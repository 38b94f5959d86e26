"""Sequence to sequence: bridges, ragged rows, steps, gradients, and beams over a source."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_trees_close, normal, outcome

import gatedrnn as gr

S, T, B, V, H = 4, 3, 3, 5, 3
SOURCE_LENGTHS, TARGET_LENGTHS = jnp.array([4, 0, 2]), jnp.array([3, 2, 0])

DECODER = gr.stack(gr.embed(V, 2), gr.GRU(H), gr.dense(V))
ATTENTIVE = gr.stack(gr.embed(V, 2), gr.Attention(gr.LSTM(H), 2 * H, 2), gr.dense(V))
MODELS = {
    "direct": gr.seq2seq(gr.stack(gr.embed(V, 2), gr.GRU(H)), DECODER, bridge="direct"),
    "learned": gr.seq2seq(
        gr.stack(gr.embed(V, 2), gr.bidirectional(gr.LSTM(2)), gr.GRU(2)),
        gr.stack(gr.embed(V, 2), gr.LSTM(H), gr.dropout(0.5), gr.recurrent(gr.GRU(2)), gr.dense(V)),
    ),
    "attention": gr.seq2seq(gr.stack(gr.embed(V, 2), gr.bidirectional(gr.GRU(H))), ATTENTIVE),
    "attention-alone": gr.seq2seq(
        gr.stack(gr.embed(V, 2), gr.bidirectional(gr.GRU(H))), ATTENTIVE, bridge=None
    ),
}
over_models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def tokens(length, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, (length, B)))


def params_of(model, seed=0):
    """With noise in every leaf."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), dtype=jnp.float64))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape)), shapes)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, sources, targets, **options):
    return model.apply(params, sources, targets, **options)


@functools.partial(jax.jit, static_argnums=0)
def encode(model, params, sources):
    return model.encode(params, sources, lengths=SOURCE_LENGTHS)


LENGTHS = {"source_lengths": SOURCE_LENGTHS, "target_lengths": TARGET_LENGTHS}


def test_rows_are_as_alone():
    """Ragged sources and targets: each row as if it were cut to its length, alone."""
    model = MODELS["attention"]
    params, sources, targets = params_of(model), tokens(S), tokens(T, 1)
    _, logits = apply(model, params, sources, targets, **LENGTHS)
    assert logits.shape == (T, B, V)
    for b, (source, target) in enumerate(zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)):
        assert not np.any(logits[target:, b])
        if target > 0:
            alone = apply(model, params, sources[:source, b], targets[:target, b])[1]
            np.testing.assert_allclose(logits[:target, b], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "model", [MODELS["learned"], MODELS["attention"]], ids=["learned", "attention"]
)
def test_padding_reaches_nothing(model):
    """Tokens that no vocabulary has, in the padding of either."""
    params, sources, targets = params_of(model), tokens(S), tokens(T, 1)
    dirty = [
        jnp.where(np.arange(len(v))[:, None] < np.asarray(lengths), v, 99)
        for v, lengths in ((sources, SOURCE_LENGTHS), (targets, TARGET_LENGTHS))
    ]
    want = outcome(model.apply, params, sources, targets, **LENGTHS)
    assert_trees_close(outcome(model.apply, params, *dirty, **LENGTHS), want, rtol=0, atol=0)
    gradients = jax.tree.unflatten(jax.tree.structure(params), want[1])
    unused = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree.leaves_with_path(gradients)
        if not np.any(leaf)
    ]
    assert unused == []


@over_models
def test_steps_are_teacher_forcing(model):
    """`encode`, then `step` fed with the same targets."""
    params, sources, targets = params_of(model), tokens(S), tokens(T, 1)
    want = apply(model, params, sources, targets, source_lengths=SOURCE_LENGTHS)
    carry, bound = encode(model, params, sources)
    step, logits = jax.jit(model.step), []
    for x in targets:
        carry, y = step(bound, carry, x)
        logits.append(y)
    assert_trees_close((carry, jnp.stack(logits)), want)


def test_a_direct_bridge_hands_the_carry_over():
    """The decoder goes on as one network would."""
    model = MODELS["direct"]
    params = params_of(model)
    params = params._replace(decoder=(params.encoder[0], params.encoder[1], params.decoder[2]))
    both = jnp.concatenate([tokens(S), tokens(T, 1)])
    _, want = DECODER.apply(params.decoder, both)
    assert_trees_close(apply(model, params, tokens(S), tokens(T, 1))[1], want[S:])


def test_a_learned_bridge():
    """`tanh(e W + b)` of all final carries in order, split over the decoder's state."""
    model = MODELS["learned"]
    params, sources = params_of(model), tokens(S)
    carry, _ = encode(model, params, sources)
    ends, _ = model.encoder.apply(params.encoder, sources, lengths=SOURCE_LENGTHS)
    (_, both, top), parts = ends, []
    for leaf in (*both.forward, *both.backward, *top):
        parts.append(np.asarray(leaf))
    e = np.concatenate(parts, axis=-1)
    made = np.tanh(e @ np.asarray(params.bridge.kernel) + np.asarray(params.bridge.bias))
    got = np.concatenate([carry[1].h, carry[1].c, carry[3].h], axis=-1)
    np.testing.assert_allclose(got, made, rtol=1e-10)
    assert jnp.all(carry[2].step == 0)


def test_the_weights_of_the_attention():
    """Those of each step, over the valid positions of the source; zeros beyond either length."""
    model = MODELS["attention"]
    params, sources, targets = params_of(model), tokens(S), tokens(T, 1)
    weights = jax.jit(model.attention)(params, sources, targets, **LENGTHS)
    assert weights.shape == (T, B, S)
    np.testing.assert_allclose(weights.sum(axis=-1), [[1, 0, 0], [1, 0, 0], [1, 0, 0]], atol=1e-12)
    carry, bound = encode(model, params, sources)
    memory = model.encoder.apply(params.encoder, sources, lengths=SOURCE_LENGTHS)[1]
    step = jax.jit(model.step)
    for t in range(T):
        look = gr.attention_weights(bound, carry)
        carry, _ = step(bound, carry, targets[t])
        context = np.einsum("bs,sbm->bm", look, memory)
        np.testing.assert_allclose(carry[1].output[:, H:], context, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(weights[t, 0], look[0], rtol=1e-10)


def test_decoding():
    """Greedy and one beam agree; every beam's log-probability is that of teacher forcing."""
    model = MODELS["attention"]
    params, sources = params_of(model), tokens(S)
    carry, bound = encode(model, params, sources)
    step, start = jax.tree_util.Partial(model.step, bound), jnp.zeros(B, jnp.int32)
    options = {"max_length": T, "end": 1}
    one = gr.beam_search(step, carry, start, beams=1, **options)
    assert_trees_close(one.tokens[..., 0], gr.greedy(step, carry, start, **options).tokens)
    out = gr.beam_search(step, carry, start, beams=3, alpha=0.6, **options)
    for beam in range(3):
        said = out.tokens[..., beam]
        fed = jnp.concatenate([start[None], said])[:-1]
        lengths = {"source_lengths": SOURCE_LENGTHS, "target_lengths": out.lengths[:, beam]}
        _, logits = apply(model, params, sources, fed, **lengths)
        each = jnp.take_along_axis(jax.nn.log_softmax(logits), said[..., None], -1)[..., 0]
        valid = np.arange(T)[:, None] < np.asarray(out.lengths[:, beam])
        want = np.where(valid, each, 0).sum(axis=0)
        np.testing.assert_allclose(out.log_probs[:, beam], want, rtol=1e-10)


def test_dropout_needs_its_key():
    """None: no dropout; with a key, encoder and decoder differ from without."""
    model = MODELS["learned"]
    params, sources, targets = params_of(model), tokens(S), tokens(T, 1)
    plain = apply(model, params, sources, targets)
    dropped = apply(model, params, sources, targets, key=jax.random.key(0))
    assert np.any(plain[1] != dropped[1])


def test_features_instead_of_tokens():
    """Continuous sources and targets, in bfloat16, with two batch axes."""
    model = gr.seq2seq(gr.LSTM(3), gr.stack(gr.Attention(gr.LSTM(2), 3, 2), gr.dense(2)))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), 3, 2, jnp.bfloat16))
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes)
    sources, targets = normal(S, 2, 1, 3), normal(T, 2, 1, 2, seed=1)
    sources, targets = sources.astype(jnp.bfloat16), targets.astype(jnp.bfloat16)
    lengths = {"source_lengths": jnp.array([[0], [S]])}
    carry, ys = apply(model, params, sources, targets, **lengths)
    assert ys.dtype == carry[0].cell.h.dtype == jnp.bfloat16
    assert carry[0].cell.c.dtype == jnp.float32
    assert np.all(np.isfinite(ys.astype(jnp.float32)))
    weights = jax.eval_shape(model.attention, params, sources, targets, **lengths)
    assert weights.shape == (T, 2, 1, S)
    _, empty = jax.eval_shape(model.apply, params, sources[:, :0], targets[:, :0])
    assert empty.shape == (T, 0, 1, 2)


def test_errors():
    """Each names the argument, what it got and what it expected."""
    encoder = gr.stack(gr.embed(V, 2), gr.GRU(H))
    with pytest.raises(ValueError, match=r"decoder: got .* expected a causal layer"):
        gr.seq2seq(encoder, gr.bidirectional(gr.GRU(H)))
    with pytest.raises(ValueError, match=r"encoder: got .* no time axis"):
        gr.seq2seq(gr.final(encoder), DECODER)
    with pytest.raises(ValueError, match="bridge: got 'dense', expected one of"):
        gr.seq2seq(encoder, DECODER, bridge="dense")
    with pytest.raises(TypeError, match=r"decoder: got 3"):
        gr.Seq2Seq(encoder, 3)
    for first, second, name in [
        (gr.embed(V, 2), DECODER, "encoder"),
        (encoder, gr.embed(V, 2), "decoder"),
    ]:
        with pytest.raises(ValueError, match=f"{name}: got .* which has no state"):
            gr.seq2seq(first, second).init(jax.random.key(0))
    unequal = gr.seq2seq(gr.stack(gr.embed(V, 2), gr.LSTM(H)), DECODER, bridge="direct")
    with pytest.raises(ValueError, match=r"bridge: got 'direct' .*\(3, 3\), \(3, 3\).* expected"):
        apply(unequal, params_of(unequal), tokens(S), tokens(T))
    model = MODELS["direct"]
    params = params_of(model)
    with pytest.raises(ValueError, match=r"params: got a tuple, .*, expected Seq2SeqParams"):
        model.encode(tuple(params), tokens(S))
    with pytest.raises(ValueError, match=r"params.bridge: got NoneType for the bridge 'learned'"):
        gr.seq2seq(model.encoder, model.decoder).encode(params, tokens(S))
    with pytest.raises(ValueError, match=r"params: got 0 of a gr.Attention"):
        model.attention(params, tokens(S), tokens(T))
