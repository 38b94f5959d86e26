"""Every error names the argument, what it got and what it expected, also under `jit`."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import Leaky, LeakyCarry, normal, random_params

import gatedrnn as gr

T, B, IN, H = 4, 2, 3, 5  # time, batch, input features, features

CELL = gr.GRU(H)
PARAMS = random_params(CELL, IN)
XS = normal(T, B, IN)
CARRY = gr.GRUCarry(normal(B, H))
RESETS = jnp.zeros((T, B), bool)


def unroll(cell=CELL, params=PARAMS, xs=XS, carry=None, **options):
    return lambda: gr.unroll(cell, params, xs, carry, **options)


def step(params=PARAMS, carry=CARRY, x=XS[0]):
    return lambda: CELL.step(params, carry, x)


def apply(layer, params=None, xs=XS, carry=None, in_features=IN, **options):
    """`layer.apply`, with parameters of its own unless there are others."""

    def call():
        own = random_params(layer, in_features) if params is None else params
        return layer.apply(own, xs, carry, **options)

    return call


def init(layer, in_features=IN, **options):
    return lambda: layer.init(jax.random.key(0), in_features, **options)


@dataclasses.dataclass(frozen=True)
class Unhashable(Leaky):
    """A cell that holds an array."""

    array: np.ndarray


class Halfway:
    """A cell that lacks a step."""

    def init(self):
        """Nothing."""

    def carry(self):
        """Nothing."""


# (what is wrong, the call, the type of the error, the pieces of its message, in order)
AN_INTEGER = "expected an integer of at least 1"

VALUES = [
    ("features-0", lambda: gr.GRU(0), ValueError, "features: got 0", AN_INTEGER),
    ("features-float", lambda: gr.LSTM(2.5), ValueError, "features: got 2.5", AN_INTEGER),
    ("features-text", lambda: gr.Elman("8"), ValueError, "features: got '8'", AN_INTEGER),
    ("features-bool", lambda: gr.GRU(True), ValueError, "features: got True", AN_INTEGER),
    ("out-features", lambda: gr.Jordan(3, -1), ValueError, "out_features: got -1", AN_INTEGER),
    ("hidden", lambda: gr.Jordan(0, 1), ValueError, "features: got 0", AN_INTEGER),
    (
        "activation",
        lambda: gr.Elman(3, activation="gelu"),
        ValueError,
        "activation: got 'gelu'",
        "expected one of 'tanh', 'relu', 'sigmoid', 'identity'",
    ),
    (
        "jordan-activation",
        lambda: gr.Jordan(3, 3, activation=None),
        ValueError,
        "activation: got None",
        "expected one of 'tanh'",
    ),
    (
        "output-activation",
        lambda: gr.Jordan(3, 3, output_activation=jnp.tanh),
        ValueError,
        "output_activation: got <",
        "expected one of 'tanh'",
    ),
    (
        "peephole",
        lambda: gr.LSTM(3, peephole=True),
        ValueError,
        "peephole: got True",
        "expected one of None, 'diagonal', 'full'",
    ),
    ("projection", lambda: gr.LSTM(3, projection=0), ValueError, "projection: got 0", AN_INTEGER),
    (
        "coupled",
        lambda: gr.LSTM(3, coupled="yes"),
        ValueError,
        "coupled: got 'yes'",
        "expected True or False",
    ),
    *(
        (
            f"use-bias-{name}",
            lambda make=make, sizes=sizes: make(*sizes, use_bias=1),
            ValueError,
            "use_bias: got 1",
            "expected True or False",
        )
        for name, make, *sizes in (
            ("elman", gr.Elman, 3),
            ("jordan", gr.Jordan, 3, 3),
            ("lstm", gr.LSTM, 3),
            ("gru", gr.GRU, 3),
            ("dense", gr.dense, 3),
        )
    ),
    (
        "forget-bias-without-bias",
        lambda: gr.LSTM(3, forget_bias=1.0, use_bias=False),
        ValueError,
        "forget_bias: got 1.0 with use_bias=False",
        "expected None",
    ),
    (
        "forget-bias-array",
        lambda: gr.LSTM(3, forget_bias=jnp.ones(3)),
        ValueError,
        "forget_bias: got",
        "expected a finite number",
    ),
    (
        "forget-bias-nan",
        lambda: gr.LSTM(3, forget_bias=float("nan")),
        ValueError,
        "forget_bias: got nan",
        "expected a finite number",
    ),
    (
        "reset",
        lambda: gr.GRU(3, reset="both"),
        ValueError,
        "reset: got 'both'",
        "expected one of 'before', 'after'",
    ),
    (
        "update",
        lambda: gr.GRU(3, update="keep"),
        ValueError,
        "update: got 'keep'",
        "expected one of 'writes', 'keeps'",
    ),
    (
        "rule",
        lambda: gr.BPTT(rule="auto"),
        ValueError,
        "rule: got 'auto'",
        "expected one of None, 'hand', 'autodiff'",
    ),
    ("chunk", lambda: gr.BPTT(chunk=0), ValueError, "chunk: got 0", AN_INTEGER),
    ("truncate", lambda: gr.BPTT(truncate=0), ValueError, "truncate: got 0", AN_INTEGER),
    (
        "cell-path",
        lambda: gr.BPTT(cell_path_only=1),
        ValueError,
        "cell_path_only: got 1",
        "expected True or False",
    ),
    (
        "clip",
        lambda: gr.BPTT(clip=0.0),
        ValueError,
        "clip: got 0.0",
        "expected a finite number above 0",
    ),
    (
        "save",
        lambda: gr.BPTT(save="all"),
        ValueError,
        "save: got 'all'",
        "expected one of None, 'carries', 'gates', 'boundaries'",
    ),
    ("dense-features", lambda: gr.dense(0), ValueError, "features: got 0", AN_INTEGER),
    ("vocab", lambda: gr.embed(0, 3), ValueError, "vocab: got 0", AN_INTEGER),
    ("embed-features", lambda: gr.embed(3, None), ValueError, "features: got None", AN_INTEGER),
    (
        "rate-1",
        lambda: gr.dropout(1.0),
        ValueError,
        "rate: got 1.0",
        "expected a number in [0, 1)",
    ),
    (
        "rate-text",
        lambda: gr.dropout("0.5"),
        ValueError,
        "rate: got '0.5'",
        "expected a finite number",
    ),
    (
        "shared-in-time",
        lambda: gr.dropout(0.1, shared_in_time=None),
        ValueError,
        "shared_in_time: got None",
        "expected True or False",
    ),
    (
        "initial",
        lambda: gr.recurrent(CELL, initial="ones"),
        ValueError,
        "initial: got 'ones'",
        "expected one of 'zeros', 'learned'",
    ),
    (
        "merge",
        lambda: gr.bidirectional(CELL, merge="max"),
        ValueError,
        "merge: got 'max'",
        "expected one of 'concat', 'sum', 'mean', 'mul'",
    ),
    ("n", lambda: gr.repeat(CELL, 0), ValueError, "n: got 0", AN_INTEGER),
]

CELLS_AND_LAYERS = [
    (
        "cell-class",
        unroll(cell=gr.GRU),
        TypeError,
        "cell: got <class",
        "a class, not a value",
        "expected a value with init, carry and step",
    ),
    (
        "cell-without-step",
        unroll(cell=Halfway()),
        TypeError,
        "cell: got",
        "(no step)",
        "expected a value with init, carry and step",
    ),
    (
        "cell-unhashable",
        unroll(cell=Unhashable(3, 3, np.ones(1))),
        TypeError,
        "cell: got Unhashable(hidden=3, features=3",
        "not hashable",
        "expected a frozen dataclass",
    ),
    (
        "recurrent-of-nothing",
        lambda: gr.recurrent(None),
        TypeError,
        "cell: got None",
        "expected a value with init, carry and step",
    ),
    (
        "bptt-not-a-bptt",
        unroll(bptt="autodiff"),
        TypeError,
        "bptt: got 'autodiff'",
        "expected a gr.BPTT",
    ),
    (
        "recurrent-bptt",
        lambda: gr.recurrent(CELL, None),
        TypeError,
        "bptt: got None",
        "expected a gr.BPTT",
    ),
    (
        "hand-without-rule",
        lambda: gr.recurrent(Leaky(3, 3), gr.BPTT(rule="hand")),
        ValueError,
        "rule: got 'hand'",
        "expected None or 'autodiff'",
        "Leaky(hidden=3, features=3) has no rule",
    ),
    (
        "cell-path-of-elman",
        unroll(gr.Elman(H), random_params(gr.Elman(H), IN), bptt=gr.BPTT(cell_path_only=True)),
        ValueError,
        "cell_path_only: got True",
        "expected False",
        "Elman(",
    ),
    (
        "cell-path-without-rule",
        lambda: gr.recurrent(Leaky(3, 3), gr.BPTT(cell_path_only=True)),
        ValueError,
        "cell_path_only: got True",
        "expected False",
    ),
    (
        "check-rule-without-rule",
        lambda: gr.check_rule(Leaky(3, 3)),
        ValueError,
        "cell: got Leaky(hidden=3, features=3)",
        "expected a cell with a rule",
    ),
    ("empty-stack", lambda: gr.stack(), ValueError, "layers: got none", "expected at least one"),
    (
        "stack-of-a-function",
        lambda: gr.stack(CELL, jnp.tanh),
        TypeError,
        "layers: got",
        "expected a layer or a cell, like gr.LSTM(256)",
        "a function of your own goes into",
    ),
    *(
        (
            f"{name}-of-a-layer-class",
            lambda make=make: make(type(gr.dense(3))),
            TypeError,
            f"{argument}: got <class",
            "expected a layer or a cell, like gr.LSTM(256)",
        )
        for name, argument, make in (
            ("stack", "layers", gr.stack),
            ("repeat", "layer", lambda layer: gr.repeat(layer, 2)),
            ("residual", "layer", gr.residual),
            ("final", "layer", gr.final),
        )
    ),
    *(
        (
            f"final-inside-{name}",
            lambda make=make: make(gr.final(CELL)),
            ValueError,
            f"{argument}: got final(",
            "output has no time axis; put gr.final outermost",
        )
        for name, argument, make in (
            ("stack", "layers", lambda layer: gr.stack(layer, gr.dense(3))),
            ("repeat", "layer", lambda layer: gr.repeat(layer, 2)),
            ("residual", "layer", gr.residual),
            ("final", "layer", gr.final),
        )
    ),
    (
        "bidirectional-of-both-directions",
        lambda: gr.bidirectional(gr.bidirectional(CELL)),
        ValueError,
        "forward: got bidirectional(",
        "expected a causal layer or a cell",
    ),
    (
        "bidirectional-other",
        lambda: gr.bidirectional(CELL, gr.recurrent(CELL, reverse=True)),
        ValueError,
        "backward: got recurrent(",
        "expected a causal layer or a cell",
    ),
    (
        "stream-reverse",
        lambda: gr.recurrent(CELL, reverse=True).step(None, None, normal(IN)),
        TypeError,
        "step: recurrent(",
        "cannot stream, it starts at the end of the sequence; use apply",
    ),
    (
        "final-of-mixed-directions",
        apply(gr.final(gr.residual(gr.bidirectional(gr.GRU(IN), merge="sum")))),
        ValueError,
        "final: got residual(",
        "expected a causal layer, a bidirectional one, or",
    ),
    (
        "final-of-repeated-mixed-directions",
        apply(gr.final(gr.repeat(gr.residual(gr.bidirectional(gr.GRU(IN), merge="sum")), 2))),
        ValueError,
        "final: got residual(",
        "expected a causal layer",
    ),
    (
        "stream-bidirectional",
        lambda: gr.bidirectional(CELL).step(None, None, XS[0]),
        TypeError,
        "step: bidirectional(",
        "cannot stream",
        "use apply",
    ),
]

SIZES = [
    *(
        (
            f"in-features-{type(cell).__name__}",
            init(cell, 0),
            ValueError,
            "in_features: got 0",
            AN_INTEGER,
        )
        for cell in (gr.Elman(3), gr.Jordan(3, 2), gr.LSTM(3), gr.GRU(3), gr.dense(3))
    ),
    *(
        (
            f"no-features-{type(layer).__name__}",
            init(layer, None),
            ValueError,
            "in_features: got None",
            "expected",
        )
        for layer in (
            gr.recurrent(CELL),
            gr.bidirectional(CELL),
            gr.repeat(CELL, 2),
            gr.residual(CELL),
            gr.dense(3),
            gr.dropout(0.5),
            gr.stack(gr.dense(3)),
            gr.final(CELL),
        )
    ),
    *(
        (
            f"dtype-{type(cell).__name__}",
            init(cell, dtype=jnp.int32),
            TypeError,
            "dtype: got int32",
            "expected a floating-point dtype",
        )
        for cell in (gr.Elman(3), gr.Jordan(3, 2), gr.LSTM(3), gr.GRU(3))
    ),
    (
        "dtype-complex",
        init(gr.stack(CELL), dtype=jnp.complex64),
        TypeError,
        "dtype: got complex64",
        "expected a floating-point dtype",
    ),
    (
        "embed-of-features",
        init(gr.embed(5, 3), 4),
        ValueError,
        "in_features: got 4",
        "expected None: embed(5, 3) reads tokens [T, *B]",
    ),
    (
        "embed-in-the-middle",
        init(gr.stack(gr.dense(3), gr.embed(5, 3))),
        ValueError,
        "in_features: got 3",
        "expected None: embed",
    ),
    (
        "repeat-that-changes-the-size",
        init(gr.repeat(gr.GRU(H), 2)),
        ValueError,
        "in_features: got 3",
        "which makes 5 of them",
        "expected",
    ),
    (
        "residual-that-changes-the-size",
        init(gr.residual(gr.GRU(H))),
        ValueError,
        "in_features: got 3",
        "which makes 5 of them",
        "expected",
    ),
    (
        "merge-of-unequal-sizes",
        init(gr.bidirectional(gr.GRU(3), gr.Elman(2), merge="mean")),
        ValueError,
        "merge: got 'mean' for outputs of 3 and 2 features",
        "expected 'concat', or directions of equal size",
    ),
]

SEQUENCES = [
    (
        "xs-rank",
        unroll(xs=normal(IN)),
        ValueError,
        "xs: got shape (3,)",
        "expected [T, *B, I], at least two axes",
    ),
    *(
        (
            f"xs-{dtype.__name__}",
            unroll(xs=jnp.ones((T, B, IN), dtype)),
            TypeError,
            f"xs: got dtype {np.dtype(dtype).name}",
            "expected a floating-point dtype",
        )
        for dtype in (np.int32, np.complex128, np.bool_)
    ),
    (
        "xs-features",
        unroll(xs=normal(T, B, 4)),
        ValueError,
        "params.kernel: got shape (3, 15)",
        "expected (4, 15) for GRU(5",
        "the 4 features on the last axis of xs, shape (4, 2, 4)",
    ),
    (
        "params-of-another-cell",
        unroll(params=random_params(gr.LSTM(H), IN)),
        ValueError,
        "params: got LSTMParams(kernel=[3, 20]",
        "expected GRUParams(kernel=[3, 15]",
        "as in GRU(5",
    ),
    (
        "params-of-another-size",
        unroll(params=random_params(gr.GRU(4), IN)),
        ValueError,
        "params.kernel: got shape (3, 12)",
        "expected (3, 15)",
    ),
    (
        "params-of-another-option",
        unroll(params=random_params(gr.GRU(H, use_bias=False), IN)),
        ValueError,
        "params.bias: got None",
        "expected [15]",
    ),
    (
        "params-in-a-dict",
        unroll(params=PARAMS._asdict()),
        ValueError,
        "params: got {kernel: [3, 15]",
        "expected GRUParams(",
    ),
    (
        "params-in-a-list",
        unroll(params=list(PARAMS)),
        ValueError,
        "params: got a list of 4",
        "expected GRUParams(",
    ),
    (
        "params-dtype",
        unroll(xs=XS.astype(jnp.float32)),
        TypeError,
        "params: got dtype float64 with xs in float32",
        "expected float32 in every leaf",
    ),
    (
        "params-dtype-16-bit",
        unroll(xs=XS.astype(jnp.bfloat16)),
        TypeError,
        "params: got dtype float64 with xs in bfloat16",
        "expected bfloat16 or float32 in every leaf",
    ),
    (
        "params-dtypes",
        unroll(params=PARAMS._replace(bias=PARAMS.bias.astype(jnp.float32))),
        TypeError,
        "params: got dtype float32 and float64 with xs in float64",
        "expected float64 in every leaf",
    ),
    (
        "carry-batch",
        unroll(carry=gr.GRUCarry(normal(3, H))),
        ValueError,
        "carry.h: got shape (3, 5)",
        "expected (2, 5)",
    ),
    (
        "carry-of-another-cell",
        unroll(carry=gr.ElmanCarry(normal(B, H))),
        ValueError,
        "carry: got ElmanCarry(h=[2, 5])",
        "expected GRUCarry(h=[2, 5])",
        "as in GRU(5",
    ),
    (
        "carry-bare-array",
        unroll(carry=normal(B, H)),
        ValueError,
        "carry: got [2, 5]",
        "expected GRUCarry(h=[2, 5])",
    ),
    (
        "carry-integers",
        unroll(carry=gr.GRUCarry(jnp.zeros((B, H), int))),
        TypeError,
        "carry.h: got dtype int64",
        "expected float64",
    ),
    (
        "carry-complex",
        unroll(
            Leaky(4, 2), random_params(Leaky(4, 2), IN), XS, LeakyCarry(jnp.ones((B, 4), complex))
        ),
        TypeError,
        "carry.h: got dtype complex",
        "expected float64",
    ),
    (
        "lengths-and-mask",
        unroll(lengths=jnp.array([1, 2]), mask=RESETS),
        ValueError,
        "lengths and mask: got both",
        "expected one of them or neither",
    ),
    (
        "lengths-shape",
        unroll(lengths=jnp.array([1, 2, 3])),
        ValueError,
        "lengths: got shape (3,)",
        "expected (2,)",
    ),
    (
        "lengths-floats",
        unroll(lengths=jnp.array([1.0, 2.0])),
        TypeError,
        "lengths: got dtype float64",
        "expected integers",
    ),
    (
        "lengths-too-long",
        unroll(lengths=jnp.array([1, 5])),
        ValueError,
        "lengths: got values from 1 to 5",
        "expected them between 0 and the 4 steps of xs",
    ),
    (
        "lengths-negative",
        unroll(lengths=[-1, 4]),
        ValueError,
        "lengths: got values from -1 to 4",
        "expected them between 0 and the 4 steps of xs",
    ),
    (
        "mask-dtype",
        unroll(mask=jnp.ones((T, B))),
        TypeError,
        "mask: got dtype float64",
        "expected bool",
    ),
    (
        "mask-batch-major",
        unroll(mask=jnp.ones((B, T), bool)),
        ValueError,
        "mask: got shape (2, 4)",
        "expected (4, 2)",
    ),
    (
        "resets-dtype",
        unroll(resets=jnp.zeros((T, B), int)),
        TypeError,
        "resets: got dtype int64",
        "expected bool",
    ),
    (
        "resets-shape",
        unroll(resets=jnp.zeros(T, bool)),
        ValueError,
        "resets: got shape (4,)",
        "expected (4, 2)",
    ),
    (
        "reset-carry-alone",
        unroll(reset_carry=CARRY),
        ValueError,
        "reset_carry: got one without resets",
        "expected both or neither",
    ),
    (
        "reset-carry-shape",
        unroll(resets=RESETS, reset_carry=gr.GRUCarry(normal(H))),
        ValueError,
        "reset_carry.h: got shape (5,)",
        "expected (2, 5)",
    ),
    (
        "trajectory",
        lambda: gr.trajectory(CELL, PARAMS, XS, lengths=jnp.array([9, 9])),
        ValueError,
        "lengths: got values from 9 to 9",
        "expected them between 0 and the 4 steps of xs",
    ),
]

STEPS = [
    ("x-rank", step(x=jnp.ones(())), ValueError, "x: got shape ()", "expected [*B, I]"),
    (
        "x-integers",
        step(x=jnp.ones((B, IN), int)),
        TypeError,
        "x: got dtype int64",
        "expected a floating-point dtype",
    ),
    (
        "x-features",
        step(x=normal(B, 4)),
        ValueError,
        "params.kernel: got shape (3, 15)",
        "expected (4, 15)",
        "the 4 features on the last axis of x, shape (2, 4)",
    ),
    (
        "step-dtype",
        step(x=XS[0].astype(jnp.float32)),
        TypeError,
        "params: got dtype float64 with x in float32",
        "expected float32",
    ),
    (
        "step-carry",
        step(carry=gr.GRUCarry(normal(3, H))),
        ValueError,
        "carry.h: got shape (3, 5)",
        "expected (2, 5)",
    ),
    (
        "step-carry-structure",
        step(carry=(CARRY.h, CARRY.h)),
        ValueError,
        "carry: got a tuple of 2",
        "expected GRUCarry(h=[2, 5])",
    ),
]

STACKED = gr.stack(CELL, gr.dense(2))
LEARNED = gr.recurrent(CELL, initial="learned")

LAYERS = [
    *(
        (
            f"rank-{type(layer).__name__}",
            apply(layer, xs=normal(IN)),
            ValueError,
            "xs: got shape (3,)",
            "expected [T, *B, I], at least two axes",
        )
        for layer in (
            gr.recurrent(CELL),
            gr.bidirectional(CELL),
            STACKED,
            gr.repeat(gr.GRU(IN), 2),
            gr.residual(gr.GRU(IN)),
            gr.dense(2),
            gr.dropout(0.5),
            gr.final(CELL),
        )
    ),
    (
        "layer-integers",
        apply(STACKED, xs=jnp.ones((T, B, IN), int)),
        TypeError,
        "xs: got dtype int64",
        "expected a floating-point dtype",
    ),
    (
        "layer-lengths-and-mask",
        apply(STACKED, lengths=jnp.array([1, 2]), mask=RESETS),
        ValueError,
        "lengths and mask: got both",
        "expected one of them or neither",
    ),
    (
        "layer-lengths",
        apply(STACKED, lengths=jnp.array([1, 7])),
        ValueError,
        "lengths: got values from 1 to 7",
        "the 4 steps of xs",
    ),
    (
        "layer-mask",
        apply(gr.dropout(0.5), mask=jnp.ones((T, B, IN), bool)),
        ValueError,
        "mask: got shape (4, 2, 3)",
        "expected (4, 2)",
    ),
    (
        "bidirectional-resets",
        apply(gr.bidirectional(CELL), resets=jnp.zeros((T, B))),
        TypeError,
        "resets: got dtype float64",
        "expected bool",
    ),
    (
        "layer-params-of-the-cell",
        apply(gr.recurrent(CELL), PARAMS),
        ValueError,
        "params: got GRUParams",
        "expected RecurrentParams(cell=",
    ),
    (
        "layer-step-params-of-the-cell",
        lambda: gr.recurrent(CELL).step(PARAMS, CARRY, XS[0]),
        ValueError,
        "params: got GRUParams",
        "expected RecurrentParams(cell=",
    ),
    (
        "learned-carry-without-params",
        lambda: LEARNED.carry((B,)),
        ValueError,
        "params: got None",
        "expected the layer's parameters: its initial carry is learned",
    ),
    (
        "stack-params-count",
        apply(STACKED, random_params(STACKED, IN)[:1]),
        ValueError,
        "params: got a tuple of 1",
        "expected a tuple of 2",
    ),
    (
        "stack-params-list",
        apply(STACKED, list(random_params(STACKED, IN))),
        ValueError,
        "params: got a list of 2",
        "expected a tuple of 2",
    ),
    (
        "stack-carry",
        apply(STACKED, carry=(CARRY,)),
        ValueError,
        "carry: got a tuple of 1",
        "expected a tuple of 2",
    ),
    (
        "dense-features-of-xs",
        apply(gr.dense(2), in_features=4),
        ValueError,
        "params.kernel: got shape (4, 2)",
        "expected (3, 2) for dense(2)",
    ),
    (
        "dense-params",
        apply(gr.dense(2), random_params(gr.dense(2, use_bias=False), IN)),
        ValueError,
        "params.bias: got None",
        "expected [2]",
    ),
    (
        "dense-dtype",
        apply(gr.dense(2), xs=XS.astype(jnp.float32)),
        TypeError,
        "params: got dtype float64 with xs in float32",
        "expected float32 in every leaf",
    ),
    (
        "tokens-floats",
        apply(gr.embed(5, 3), xs=jnp.ones((T, B)), in_features=None),
        TypeError,
        "xs: got dtype float64",
        "expected tokens, which are integers",
    ),
    (
        "tokens-rank",
        apply(gr.embed(5, 3), xs=jnp.ones((), int), in_features=None),
        ValueError,
        "xs: got shape ()",
        "expected [T, *B]",
    ),
    (
        "embed-params",
        apply(gr.embed(5, 3), random_params(gr.embed(6, 3), None), jnp.ones((T, B), int)),
        ValueError,
        "params.table: got shape (6, 3)",
        "expected (5, 3) for embed(5, 3)",
    ),
    (
        "embed-params-of-dense",
        apply(gr.embed(5, 3), random_params(gr.dense(2), IN), jnp.ones((T, B), int)),
        ValueError,
        "params: got DenseParams",
        "expected EmbedParams(table=[5, 3])",
    ),
]

BOTH = gr.bidirectional(CELL)
SUMMED = gr.bidirectional(CELL, gr.GRU(2), merge="sum")
REPEATED = gr.repeat(gr.GRU(IN), 2)

COMPOSED = [
    (
        "bidirectional-params-of-one",
        apply(BOTH, random_params(BOTH, IN).forward),
        ValueError,
        "params: got RecurrentParams",
        "expected Directions(forward=",
    ),
    (
        "bidirectional-params-none",
        apply(BOTH, ()),
        ValueError,
        "params: got a tuple of 0",
        "expected Directions(forward=",
    ),
    (
        "bidirectional-params-of-another-size",
        apply(BOTH, (random_params(BOTH, IN).forward, random_params(gr.recurrent(gr.GRU(2)), IN))),
        ValueError,
        "params: got a tuple of 2",
        "expected Directions(forward=",
    ),
    (
        "bidirectional-carry-of-one",
        apply(BOTH, carry=(CARRY, None)),
        ValueError,
        "carry: got a tuple of 2",
        "expected Directions(forward=",
    ),
    (
        "bidirectional-sizes-at-apply",
        apply(
            SUMMED,
            (
                random_params(SUMMED.forward, IN),
                random_params(SUMMED.backward, IN),
            ),
        ),
        ValueError,
        "merge: got 'sum' for outputs of 5 and 2 features",
        "expected 'concat'",
    ),
    (
        "repeat-params",
        apply(REPEATED, random_params(gr.repeat(gr.GRU(IN), 3), IN)),
        ValueError,
        "params.cell.kernel: got shape (3, 3, 9)",
        "expected (2, 3, 9)",
    ),
    (
        "repeat-carry",
        apply(REPEATED, carry=gr.GRUCarry(normal(3, B, IN))),
        ValueError,
        "carry.h: got shape (3, 2, 3)",
        "expected (2, 2, 3)",
    ),
    (
        "residual-sizes-at-apply",
        apply(gr.residual(gr.GRU(2)), random_params(gr.recurrent(gr.GRU(2)), IN)),
        ValueError,
        "xs: got shape (4, 2, 3)",
        "in_features: got 3",
        "expected a layer that makes as many as it reads",
    ),
    (
        "learned-carry-shape",
        apply(LEARNED, gr.recurrent(CELL, initial="zeros").init(jax.random.key(0), IN)),
        ValueError,
        "params.initial: got None",
        "expected GRUCarry(h=[5])",
    ),
    (
        "learned-carry-for-zeros",
        apply(gr.recurrent(CELL), random_params(LEARNED, IN)),
        ValueError,
        "params.initial: got GRUCarry(h=[5])",
        "expected None",
    ),
    (
        "step-without-a-carry",
        step(carry=None),
        ValueError,
        "carry: got None",
        "expected GRUCarry(h=[2, 5])",
    ),
    (
        "dense-step-rank",
        lambda: gr.dense(2).step(random_params(gr.dense(2), IN), (), 1.0),
        ValueError,
        "x: got shape ()",
        "expected [*B, I]",
    ),
    (
        "dense-step-integers",
        lambda: gr.dense(2).step(random_params(gr.dense(2), IN), (), [1, 2, 3]),
        TypeError,
        "x: got dtype int64",
        "expected a floating-point dtype",
    ),
    (
        "dropout-carry",
        apply(gr.dropout(0.5), carry=()),
        ValueError,
        "carry: got a tuple of 0",
        "expected DropoutCarry(step=[2])",
    ),
    (
        "layer-for-a-cell",
        lambda: gr.recurrent(gr.dense(3)),
        TypeError,
        "cell: got dense(3)",
        "a layer, not a cell",
    ),
    ("reverse", unroll(reverse="yes"), ValueError, "reverse: got 'yes'", "expected True or False"),
    (
        "chunk-array",
        lambda: gr.BPTT(chunk=jnp.asarray(3)),
        ValueError,
        "chunk: got Array(3",
        AN_INTEGER,
    ),
    (
        "resets-that-nothing-reads",
        apply(gr.dense(2), resets=jnp.ones(T, bool)),
        ValueError,
        "resets: got shape (4,)",
        "expected (4, 2)",
    ),
]

TABLE = VALUES + COMPOSED + CELLS_AND_LAYERS + SIZES + SEQUENCES + STEPS + LAYERS


def raised_by(call, kind):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("call", "kind", "pieces"),
    [pytest.param(call, kind, pieces, id=name) for name, call, kind, *pieces in TABLE],
)
def test_message_names_the_argument_what_it_got_and_what_it_expected(call, kind, pieces):
    """All pieces are in the message, in that order, and it starts with the argument."""
    message = raised_by(call, kind)
    assert re.search(".*".join(map(re.escape, pieces)), message, re.DOTALL), message
    assert message.startswith(pieces[0].split(":")[0])


def test_every_error_of_the_table_has_a_name_of_its_own():
    """Ids are unique, so that a failure says which one."""
    names = [row[0] for row in TABLE]
    assert len(set(names)) == len(names)


def jitted(xs=XS, params=PARAMS, carry=None, **arrays):
    """A call in which every array is traced."""

    def call():
        function = jax.jit(lambda p, x, c, a: gr.unroll(CELL, p, x, c, **a))
        return function(params, xs, carry, arrays)

    return call


@pytest.mark.parametrize(
    ("call", "kind", "pattern"),
    [
        (jitted(xs=normal(IN)), ValueError, r"xs: got shape \(3,\), expected \[T, \*B, I\]"),
        (jitted(xs=jnp.ones((T, B, IN), int)), TypeError, "xs: got dtype int64, expected"),
        (jitted(xs=normal(T, B, 4)), ValueError, r"params.kernel: got shape \(3, 15\), expected"),
        (jitted(params=PARAMS._asdict()), ValueError, "params: got {.*expected GRUParams"),
        (jitted(carry=gr.GRUCarry(normal(3, H))), ValueError, r"carry.h: got shape .*expected"),
        (jitted(lengths=jnp.array([1])), ValueError, r"lengths: got shape \(1,\), expected \(2,\)"),
        (jitted(mask=RESETS, lengths=jnp.array([1, 2])), ValueError, "lengths and mask: got both"),
        (jitted(resets=jnp.ones(T, bool)), ValueError, r"resets: got shape .*expected \(4, 2\)"),
    ],
    ids=["rank", "dtype", "features", "params", "carry", "lengths", "both", "resets"],
)
def test_static_facts_are_checked_under_jit(call, kind, pattern):
    """The same messages when every array is traced."""
    with pytest.raises(kind, match=pattern):
        call()


def test_lengths_out_of_range_under_jit_are_not_an_error():
    """Their values are not known there: those too long count as `T`, those below 0 as 0."""
    run = jax.jit(lambda lengths: gr.unroll(CELL, PARAMS, XS, lengths=lengths)[1])
    np.testing.assert_array_equal(run(jnp.array([9, -2])), run(jnp.array([T, 0])))


def test_lengths_up_to_t_are_in_range():
    """0 and T are lengths; an empty batch has none to check."""
    gr.unroll(CELL, PARAMS, XS, lengths=[0, T])
    gr.unroll(CELL, PARAMS, XS[:, :0], lengths=np.zeros(0, int))
