"""Illegal calls, generated: of every public function a legal call, of every argument its mistakes.

An argument has a kind, which follows from its name; a kind has mistakes, made from a legal value.
What is legal for one function is left out there by hand, in `LEGAL`.
"""

import inspect
import itertools
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr
from gatedrnn import diagnostics as d

T, B, IN, H, V = 3, 2, 3, 4, 5  # steps, rows, input features, features, tokens

KEY = jax.random.key(0)
FOLDER = tempfile.TemporaryDirectory()  # of the files that are saved; goes with the process


class Mistake(NamedTuple):
    name: str
    value: Any


# ------------------------------------------------------------------------------- kinds of mistakes

NOTHING = Mistake("None", None)
NO_ARRAYS = [
    Mistake("text", "three"),
    Mistake("bytes", b"3"),
    Mistake("dict", {"a": 1}),
    Mistake("ragged", [[1.0, 2.0], [3.0]]),
    Mistake("ragged and wide", [[2**40], [1, 2]]),
    Mistake("object", object()),
    Mistake("class", int),
    Mistake("function", lambda: 0),
    Mistake("array of text", np.array(["a", "b"])),
    Mistake("array of objects", np.array([None, 1], object)),
    Mistake("dates", np.array(["2020-01-01"], "datetime64[D]")),
]
NO_NUMBERS = [
    Mistake("text", "3"),
    Mistake("list", [3]),
    Mistake("dict", {}),
    Mistake("complex", 1j),
    Mistake("object", object()),
    Mistake("vector", np.ones(2)),
    Mistake("bool", True),
]
NO_VALUES = [
    Mistake("text", "LSTM"),
    Mistake("number", 3),
    Mistake("dict", {}),
    Mistake("list", [gr.GRU(3)]),
    Mistake("object", object()),
    Mistake("array", np.ones(2)),
]


def of_floats(legal: Any) -> list[Mistake]:
    array = np.asarray(legal)
    return [
        *NO_ARRAYS,
        Mistake("integers", np.ones(array.shape, np.int32)),
        Mistake("booleans", np.ones(array.shape, bool)),
        Mistake("complex", np.ones(array.shape, np.complex64)),
        Mistake("scalar", 1.0),
        Mistake("no axis", np.float32(1)),
    ]


def of_features(legal: Any) -> list[Mistake]:
    array = np.asarray(legal)
    return [
        *of_floats(legal),
        Mistake("vector", np.ones(IN + 4, np.float32)),
        Mistake("too many features", np.concatenate([array, array], -1)),
        Mistake("no features", array[..., :0]),
    ]


def of_tokens(legal: Any) -> list[Mistake]:
    shape = (T, B) if legal is None else np.shape(legal)
    return [
        *NO_ARRAYS,
        Mistake("floats", np.ones(shape, np.float32)),
        Mistake("booleans", np.ones(shape, bool)),
        Mistake("complex", np.ones(shape, np.complex64)),
        Mistake("another batch", np.ones((*shape[:-1], shape[-1] + 5), int)),
    ]


def of_any_tokens(legal: Any) -> list[Mistake]:
    """Tokens of any batch."""
    return [mistake for mistake in of_tokens(legal) if mistake.name != "another batch"]


def of_lengths(legal: Any) -> list[Mistake]:
    array = np.ones(B, int) if legal is None else np.asarray(legal)
    return [
        *NO_ARRAYS,
        Mistake("floats", array.astype(np.float32)),
        Mistake("booleans", array.astype(bool)),
        Mistake("complex", array.astype(np.complex64)),
        Mistake("another batch", np.ones(B + 5, int)),
        Mistake("one", 1),
        Mistake("too many axes", array[None]),
        Mistake("negative", array - 100),
        Mistake("too long", array + 100),
        Mistake("beyond 32 bits", np.full(array.shape, 2**32 + 1)),
    ]


def of_flags(legal: Any) -> list[Mistake]:
    array = np.ones((T, B), bool) if legal is None else np.asarray(legal)
    return [
        *NO_ARRAYS,
        Mistake("integers", array.astype(int)),
        Mistake("floats", array.astype(np.float32)),
        Mistake("another batch", np.ones((*array.shape[:-1], B + 5), bool)),
        Mistake("too many axes", array[None, None]),
        Mistake("one", True),
    ]


def of_row_flags(legal: Any) -> list[Mistake]:
    """Flags for any number of the first batch axes."""
    return [mistake for mistake in of_flags(legal) if mistake.name != "one"]


def of_plotted(_: Any) -> list[Mistake]:
    """Numbers of any kind but complex ones."""
    return [*NO_ARRAYS, NOTHING, Mistake("complex", np.ones(T, complex)), Mistake("one", 1.0)]


def of_names(_: Any) -> list[Mistake]:
    wrong = ("object", "class", "function", "dict")
    return [m for m in NO_ARRAYS if m.name in wrong] + [Mistake("too few", ["a"])]


def of_keys(_: Any) -> list[Mistake]:
    return [
        Mistake("text", "key"),
        Mistake("seed", 0),
        Mistake("negative seed", -1),
        Mistake("float", 0.5),
        Mistake("bool", True),
        Mistake("list", [0, 1]),
        Mistake("dict", {}),
        Mistake("object", object()),
        Mistake("function", jax.random.key),
        Mistake("split keys", jax.random.split(KEY, 7)),
        Mistake("three numbers", np.zeros(3, np.uint32)),
        Mistake("signed numbers", np.zeros(2, np.int32)),
        Mistake("floats", np.zeros(2, np.float32)),
        Mistake("rows of numbers", np.zeros((7, 2), np.uint32)),
        Mistake("array of text", np.array(["a"])),
    ]


def of_trees_of_arrays(legal: Any) -> list[Mistake]:
    """Parameters and carries: another structure, other leaves."""
    leaves, structure = jax.tree.flatten(legal)
    wrong = [*NO_VALUES, Mistake("class", int), Mistake("function", lambda: 0)]
    wrong.append(Mistake("another", gr.LSTMCarry(jnp.ones((B, 9)), jnp.ones((B, 9)))))
    if not leaves:
        return wrong

    def last(leaf: Any) -> Any:
        return jax.tree.unflatten(structure, [*leaves[:-1], leaf])

    shape = np.shape(leaves[-1])
    wrong += [
        Mistake("leaf None", last(None)),
        Mistake("leaf text", last("three")),
        Mistake("leaf list", last([1, 2])),
        Mistake("leaf object", last(object())),
        Mistake("leaf of another shape", last(jnp.ones((*shape, 2)))),
        Mistake("leaf complex", last(jnp.ones(shape, jnp.complex64))),
        Mistake("leaf booleans", last(jnp.ones(shape, bool))),
        Mistake("leaf of text", last(np.full(shape, "a"))),
    ]
    first = leaves[0]
    other = jnp.int32 if jnp.issubdtype(jnp.result_type(first), jnp.floating) else jnp.float32
    for name, leaf in (
        ("text", "three"),
        ("None", None),
        ("of another kind", jnp.ones(np.shape(first), other)),  # a counter that is no integer
        ("of another shape", jnp.ones((*np.shape(first), 2), jnp.result_type(first))),
    ):
        changed = jax.tree.unflatten(structure, [leaf, *leaves[1:]])
        wrong.append(Mistake(f"first leaf {name}", changed))
    return wrong


def of_last_leaves(legal: Any) -> list[Mistake]:
    """A pytree of which the function reads some leaves, the last among them, and not the first."""
    return [m for m in of_trees_of_arrays(legal) if not m.name.startswith("first leaf")]


def of_structures(legal: Any) -> list[Mistake]:
    """Parameters of any dtypes."""
    legal_too = ("leaf complex", "leaf booleans", "leaf integers", "first leaf of another kind")
    return [m for m in of_trees_of_arrays(legal) if m.name not in legal_too]


def of_coordinates(legal: Any) -> list[Mistake]:
    """Real numbers, integers too."""
    return [m for m in of_floats(legal) if m.name != "integers"]


def of_leaves(legal: Any) -> list[Mistake]:
    """A pytree of any structure, whose leaves are arrays."""
    wrong = ("text", "object", "class", "function", "leaf text", "leaf object", "leaf of text")
    return [m for m in of_trees_of_arrays(legal) if m.name in wrong]


def of_owners(_: Any) -> list[Mistake]:
    return [*NO_VALUES, Mistake("class", gr.GRU), Mistake("module", gr), Mistake("bptt", gr.BPTT())]


def of_sizes(_: Any) -> list[Mistake]:
    return [
        *NO_NUMBERS,
        Mistake("zero", 0),
        Mistake("negative", -1),
        Mistake("fraction", 2.5),
        Mistake("whole float", 2.0),
        Mistake("array", jnp.ones((2, 2), int)),
    ]


def of_counts(_: Any) -> list[Mistake]:
    return [m for m in of_sizes(_) if m.name != "zero"]


def of_numbers(_: Any) -> list[Mistake]:
    return [*NO_NUMBERS, Mistake("NaN", float("nan")), Mistake("infinite", float("inf"))]


def of_positive(_: Any) -> list[Mistake]:
    return [*of_numbers(_), Mistake("negative", -1.0)]


def of_shares(_: Any) -> list[Mistake]:
    return [*of_positive(_), Mistake("above 1", 1.5)]


def of_switches(_: Any) -> list[Mistake]:
    return [
        Mistake("one", 1),
        Mistake("text", "yes"),
        Mistake("list", []),
        Mistake("array", np.ones(2, bool)),
        Mistake("NumPy's", np.bool_(True)),
    ]


def of_options(_: Any) -> list[Mistake]:
    return [
        Mistake("unknown", "nonsense"),
        Mistake("number", 3),
        Mistake("list", ["tanh"]),
        Mistake("dict", {}),
        Mistake("array", np.ones(2)),
        Mistake("function", jnp.tanh),
    ]


def of_shapes(_: Any) -> list[Mistake]:
    return [
        Mistake("number", 2),
        Mistake("negative", (-1,)),
        Mistake("float", (2.0,)),
        Mistake("text", "ab"),
        Mistake("tuple of text", ("a",)),
        Mistake("bool", (True,)),
        Mistake("dict", {2: 1}),
        Mistake("set", {2}),
        Mistake("nested", ((2,),)),
        Mistake("array", np.ones((2, 2))),
    ]


def of_dtypes(_: Any) -> list[Mistake]:
    return [
        Mistake("integer", jnp.int32),
        Mistake("bool", bool),
        Mistake("complex", "complex64"),
        Mistake("unknown", "nonsense"),
        Mistake("number", 3),
        Mistake("object", object()),
        Mistake("type", dict),
        Mistake("text", str),
        NOTHING,
    ]


def of_values(_: Any) -> list[Mistake]:
    """`gr.BPTT` and its like: frozen values of one class."""
    return [*NO_VALUES, Mistake("class", gr.BPTT), Mistake("cell", gr.GRU(3))]


def of_functions(_: Any) -> list[Mistake]:
    return [
        *NO_VALUES,
        Mistake("returns None", lambda *_: None),
        Mistake("returns text", lambda *_: "text"),
        Mistake("returns three", lambda *_: (1, 2, 3)),
        Mistake("takes nothing", lambda: 0),
    ]


def of_first_steps(_: Any) -> list[Mistake]:
    return [
        *NO_ARRAYS,
        Mistake("fraction", 1.5),
        Mistake("negative", -1),
        Mistake("bool", True),
        Mistake("other bool", False),
        Mistake("negative row", np.array([0, -1])),
        Mistake("beyond 32 bits", 2**40),
        Mistake("another batch", np.zeros(B + 5, int)),
        Mistake("too many axes", np.zeros((1, B), int)),
    ]


def of_ends(_: Any) -> list[Mistake]:
    return [*of_counts(_), Mistake("beyond the vocabulary", V)]


def of_mappings(_: Any) -> list[Mistake]:
    return [
        Mistake("text", "f"),
        Mistake("number", 3),
        Mistake("list", [1, 2]),
        Mistake("array", np.ones(2)),
        Mistake("object", object()),
        Mistake("values of text", {"f": "three"}),
        Mistake("values of None", {"f": None}),
    ]


def of_lists(_: Any) -> list[Mistake]:
    return [
        Mistake("text", "f"),
        Mistake("number", 3),
        Mistake("dict", {}),
        Mistake("object", object()),
        Mistake("list of text", ["a"]),
        Mistake("list of None", [None]),
        Mistake("too many", [1, 2, 3, 4]),
    ]


def of_forests(_: Any) -> list[Mistake]:
    return [*NO_VALUES, Mistake("floats", np.ones((2, 2))), Mistake("class", gr.Forest)]


def of_tree_lists(_: Any) -> list[Mistake]:
    return [
        Mistake("number", 3),
        Mistake("text", "cat"),
        Mistake("dict", {"a": ()}),
        Mistake("object", object()),
        Mistake("list of lists", [[[1, 2], 3]]),
        Mistake("list of None", [None]),
        Mistake("floats", [np.ones((2, 2))]),
    ]


def of_paths(_: Any) -> list[Mistake]:
    return [NOTHING, *(m for m in NO_ARRAYS if m.name != "text"), Mistake("number", 3)]


def of_classes(_: Any) -> list[Mistake]:
    return [
        NOTHING,
        *NO_VALUES[:2],
        Mistake("class", gr.GRU),
        Mistake("list of values", [gr.GRU(3)]),
        Mistake("list of text", ["GRU"]),
        Mistake("of no fields", [int]),
        Mistake(
            "of one name", [gr.Elman, type("Elman", (gr.Elman,), {}), type("Elman", (gr.GRU,), {})]
        ),
    ]


def of_nothing(_: Any) -> list[Mistake]:
    """What reads tokens takes no number of features."""
    return [*NO_NUMBERS, Mistake("a number", 3)]


# The kind of every argument, by its name.
KINDS: dict[str, Callable[[Any], list[Mistake]]] = {
    **dict.fromkeys(("xs", "x", "memory", "hs"), of_features),
    **dict.fromkeys(("jacobians", "norms", "exponents", "values", "bound", "start"), of_floats),
    **dict.fromkeys(("token", "sources", "targets", "labels"), of_tokens),
    **dict.fromkeys(("lengths", "source_lengths", "target_lengths"), of_lengths),
    **dict.fromkeys(("mask", "resets", "flags"), of_flags),
    "key": of_keys,
    **dict.fromkeys(("params", "carry", "reset_carry", "other_carry"), of_trees_of_arrays),
    **dict.fromkeys(("children_states",), of_trees_of_arrays),
    **dict.fromkeys(("cell", "layer", "encoder", "decoder", "forward", "backward"), of_owners),
    **dict.fromkeys(
        ("features", "out_features", "in_features", "target_features", "memory_features", "vocab"),
        of_sizes,
    ),
    **dict.fromkeys(("n", "projection", "beams", "window", "batch"), of_sizes),
    **dict.fromkeys(("chunk", "truncate", "top_k", "steps", "shards"), of_sizes),
    **dict.fromkeys(("max_length", "length", "warm_up"), of_counts),
    "end": of_ends,
    "first_step": of_first_steps,
    **dict.fromkeys(("forget_bias",), of_numbers),
    **dict.fromkeys(
        ("temperature", "alpha", "clip", "learning_rate", "dt"), of_positive
    ),
    **dict.fromkeys(("rate", "h", "c", "top_p", "low", "high"), of_shares),
    **dict.fromkeys(
        ("use_bias", "coupled", "shared_in_time", "reverse", "cell_path_only", "labelled"),
        of_switches,
    ),
    **dict.fromkeys(("activation", "output_activation", "peephole", "reset", "update"), of_options),
    **dict.fromkeys(("merge", "initial", "how", "bridge", "rule", "save", "kind"), of_options),
    **dict.fromkeys(("of", "leaf", "target"), of_options),
    "kernel": lambda _: of_options(_)[1:],  # a rule may bring a kernel of any name
    "batch_shape": of_shapes,
    "dtype": of_dtypes,
    **dict.fromkeys(("bptt", "sizes"), of_values),
    **dict.fromkeys(("step", "loss"), of_functions),
    "seed": of_counts,
    **dict.fromkeys(("gates", "cells", "saturation", "reach"), of_mappings),
    **dict.fromkeys(("directions", "coordinates"), of_lists),
    "children": of_forests,
    **dict.fromkeys(("trees", "batches"), of_tree_lists),
    "tree": lambda _: [NOTHING, Mistake("list", [1, 2]), Mistake("list inside", ((), [1]))],
    "index": lambda _: [*NO_ARRAYS, NOTHING, Mistake("float", 1.5), Mistake("floats", np.ones(2)),
                        Mistake("too large", 99), Mistake("bool", True)],
    "surface": of_values,
    "ax": lambda _: [Mistake("text", "ax"), Mistake("number", 3), Mistake("object", object())],
    "first": of_leaves,
    "other": of_owners,
    "paths": of_mappings,
    "path": of_paths,
    "classes": of_classes,
}  # fmt: skip


# --------------------------------------------------------------------------------- the legal calls


class Call(NamedTuple):
    """A legal call: the arguments that are needed, and legal values of those that are not."""

    name: str
    function: Callable
    needed: dict[str, Any]
    optional: dict[str, Any] = {}  # noqa: RUF012
    kinds: dict[str, Callable | None] = {}  # noqa: RUF012, where the kind is not that of the name
    may_be_none: tuple[str, ...] = ()  # arguments that are needed, but of which None is legal


def floats(*shape: int) -> jax.Array:
    return jnp.linspace(-1, 1, int(np.prod(shape)), dtype=jnp.float32).reshape(shape)


XS, TOKENS = floats(T, B, IN), jnp.ones((T, B), jnp.int32)
LENGTHS, MASK = jnp.array([3, 2]), jnp.ones((T, B), bool)
CELLS = {
    "Elman": gr.Elman(H),
    "Jordan": gr.Jordan(H, 3),
    "LSTM": gr.LSTM(H, peephole="full", projection=3),
    "GRU": gr.GRU(H),
    "LayerNormLSTM": gr.LayerNormLSTM(H),
    "LayerNormGRU": gr.LayerNormGRU(H),
    "Zoneout": gr.Zoneout(gr.LSTM(H), h=0.1, c=0.2),
    "RecurrentDropout": gr.RecurrentDropout(gr.GRU(H), 0.3),
}
LAYERS = {
    "recurrent": gr.recurrent(gr.GRU(H)),
    "learned": gr.recurrent(gr.LSTM(H), initial="learned"),
    "bidirectional": gr.bidirectional(gr.GRU(H)),
    "stack": gr.stack(gr.GRU(H), gr.dropout(0.5), gr.dense(2)),
    "repeat": gr.repeat(gr.GRU(IN), 2),
    "residual": gr.residual(gr.GRU(IN)),
    "dense": gr.dense(H),
    "dropout": gr.dropout(0.5),
    "final": gr.final(gr.GRU(H)),
    "pool": gr.pool(gr.bidirectional(gr.GRU(H))),
    "zoned": gr.recurrent(gr.Zoneout(gr.LSTM(H), h=0.1)),
    "embed": gr.embed(V, H),
    "tokens": gr.stack(gr.embed(V, IN), gr.GRU(H), gr.dense(V)),
}
TREE_CELLS = {"TreeRNN": gr.TreeRNN(H), "TreeLSTM": gr.TreeLSTM(H)}
CONSTRUCTORS: list[tuple] = [
    (gr.Elman, {"features": 3}),
    (gr.Jordan, {"features": 3, "out_features": 2}),
    (gr.LSTM, {"features": 3}),
    (gr.GRU, {"features": 3}),
    (gr.LayerNormLSTM, {"features": 3}),
    (gr.LayerNormGRU, {"features": 3}),
    (gr.Zoneout, {"cell": gr.LSTM(3)}),
    (gr.RecurrentDropout, {"cell": gr.GRU(3), "rate": 0.2}),
    (gr.Attention, {"cell": gr.GRU(3), "memory_features": 2, "features": 2}),
    (gr.TreeRNN, {"features": 3}, {"children": of_sizes}),
    (gr.TreeLSTM, {"features": 3}),
    (gr.BPTT, {}),
    (gr.recurrent, {"cell": gr.GRU(3)}),
    (gr.bidirectional, {"cell": gr.GRU(3)}),
    (gr.repeat, {"layer": gr.GRU(3), "n": 2}),
    (gr.residual, {"layer": gr.GRU(3)}),
    (gr.final, {"layer": gr.GRU(3)}),
    (gr.pool, {"layer": gr.GRU(3)}),
    (gr.dense, {"features": 3}),
    (gr.embed, {"vocab": 3, "features": 3}),
    (gr.dropout, {"rate": 0.2}),
    (gr.seq2seq, {"encoder": gr.GRU(3), "decoder": gr.GRU(3)}),
    (gr.Recurrent, {"cell": gr.GRU(3)}),
    (gr.Bidirectional, {"forward": gr.recurrent(gr.GRU(3)), "backward": gr.recurrent(gr.GRU(3))}),
    (gr.Repeat, {"layer": gr.recurrent(gr.GRU(3)), "n": 2}),
    (gr.Residual, {"layer": gr.recurrent(gr.GRU(3))}),
    (gr.Final, {"layer": gr.recurrent(gr.GRU(3))}),
    (gr.Pool, {"layer": gr.recurrent(gr.GRU(3))}),
    (gr.Dense, {"features": 3}),
    (gr.Embed, {"vocab": 3, "features": 3}),
    (gr.Dropout, {"rate": 0.2}),
    (gr.Seq2Seq, {"encoder": gr.recurrent(gr.GRU(3)), "decoder": gr.recurrent(gr.GRU(3))}),
]


def of_cell(name: str, cell: Any) -> Iterator[Call]:
    params, carry = cell.init(KEY, IN), cell.carry((B,))
    yield Call(f"{name}.init", cell.init, {"key": KEY, "in_features": IN})
    yield Call(f"{name}.carry", cell.carry, {"batch_shape": (B,)})
    steps = {"key": KEY} if hasattr(cell, "draw") else {}
    yield Call(f"{name}.step", cell.step, {"params": params, "carry": carry, "x": XS[0]}, steps)
    for function in (gr.unroll, gr.trajectory):
        optional = {"carry": carry, "lengths": LENGTHS, "mask": MASK, "resets": MASK}
        needed = {"cell": cell, "params": params, "xs": XS}
        yield Call(f"{function.__name__} {name}", function, needed, {**optional, **steps})


def of_layer(name: str, layer: Any) -> Iterator[Call]:
    features = None if layer.reads_tokens else IN
    params = layer.init(KEY, features)
    carry = layer.carry((B,), params=params)
    xs = TOKENS if layer.reads_tokens else XS
    kinds: dict[str, Callable | None] = {}
    if layer.reads_tokens:
        kinds = {"xs": of_any_tokens, "x": of_any_tokens, "in_features": of_nothing}
    elif name == "dropout":  # of any number of features
        kinds = {"xs": of_floats, "x": of_floats}
    needed = {"key": KEY} if features is None else {"key": KEY, "in_features": IN}
    yield Call(f"{name}.init", layer.init, {**needed, "in_features": features}, kinds=kinds)
    # parameters are read where an initial carry is learned
    learned = {"params": of_last_leaves if name == "learned" else None}
    given = {"batch_shape": (B,), "params": params}
    yield Call(f"{name}.carry", layer.carry, given, kinds=learned)
    optional = {"carry": carry, "lengths": LENGTHS, "mask": MASK, "resets": MASK, "key": KEY}
    yield Call(f"{name}.apply", layer.apply, {"params": params, "xs": xs}, optional, kinds)
    if layer.causal:
        yield Call(f"{name}.final", layer.final, {"params": params, "xs": xs}, optional, kinds)
    if layer.streams:
        needed, optional = {"params": params, "x": xs[0]}, {"resets": MASK[0], "key": KEY}
        yield Call(
            f"{name}.step", layer.step, {**needed, "carry": carry}, optional, kinds, ("carry",)
        )


def of_tree_cell(name: str, cell: Any) -> Iterator[Call]:
    params = cell.init(KEY, IN)
    yield Call(f"{name}.init", cell.init, {"key": KEY, "in_features": IN})
    yield Call(f"{name}.state", cell.state, {"batch_shape": (B,)})
    yield Call(
        f"{name}.compose",
        cell.compose,
        {"params": params, "children": cell.state((2,)), "x": floats(IN)},
        kinds={"children": of_trees_of_arrays},
    )
    needed = {
        "cell": cell,
        "params": params,
        "xs": floats(3, IN),
        "children": gr.forest([((), ())]),
    }
    yield Call(f"fold_tree {name}", gr.fold_tree, needed)


def of_seq2seq() -> Iterator[Call]:
    looking = gr.Attention(gr.GRU(H), memory_features=H, features=2)
    encoder = gr.stack(gr.embed(V, IN), gr.GRU(H))
    model = gr.seq2seq(encoder, gr.stack(gr.embed(V, IN), looking, gr.dense(V)))
    params = model.init(KEY)
    carry, bound = model.encode(params, TOKENS)
    lengths = {"source_lengths": LENGTHS, "target_lengths": LENGTHS}
    features = ("in_features", "target_features")
    both = {"params": params, "sources": TOKENS, "targets": TOKENS}
    yield Call("seq2seq.init", model.init, {"key": KEY}, kinds=dict.fromkeys(features, of_nothing))
    yield Call("seq2seq.apply", model.apply, both, {**lengths, "key": KEY})
    yield Call("seq2seq.attention", model.attention, both, lengths)
    encoded = {"params": params, "sources": TOKENS}
    optional = {"lengths": LENGTHS, "key": KEY}
    kinds = {"sources": of_any_tokens}
    yield Call("seq2seq.encode", model.encode, encoded, optional, kinds)
    decoded = {"params": bound, "carry": carry, "targets": TOKENS}
    kinds = {"params": lambda _: of_trees_of_arrays(())}  # the last leaf is the bridge's
    yield Call("seq2seq.decode", model.decode, decoded, {"lengths": LENGTHS, "key": KEY}, kinds)
    step = {"params": bound, "carry": carry, "x": TOKENS[0]}
    yield Call("seq2seq.step", model.step, step, {"key": KEY}, {**kinds, "x": of_tokens})
    cell = gr.Attention(gr.GRU(H), memory_features=IN, features=2)
    params = cell.init(KEY, IN)
    read = {"params": of_last_leaves, "carry": of_last_leaves}
    valid = {"lengths": LENGTHS, "mask": MASK}
    yield Call("attend", gr.attend, {"params": params, "memory": XS}, valid, read)
    bound = gr.attend(params, XS)
    at = {"params": bound, "carry": cell.carry((B,))}
    yield Call("attention_weights", gr.attention_weights, at, kinds=read)
    yield Call("unroll Attention", gr.unroll, {"cell": cell, "params": bound, "xs": XS})
    yield Call(
        "Attention.step", cell.step, {"params": bound, "carry": cell.carry((B,)), "x": XS[0]}
    )


def of_decoding() -> Iterator[Call]:
    net = LAYERS["tokens"]
    step = jax.tree_util.Partial(net.step, net.init(KEY, None))
    needed = {"step": step, "carry": net.carry((B,)), "token": TOKENS[0], "max_length": 2}
    yield Call("greedy", gr.greedy, needed, {"end": 1})
    yield Call("sample", gr.sample, {**needed, "key": KEY}, {"end": 1, "top_k": 2})
    yield Call("beam_search", gr.beam_search, {**needed, "beams": 2}, {"end": 1})
    cell = gr.Elman(IN)
    params = cell.init(KEY, IN)
    first = {"step": jax.tree_util.Partial(cell.step, params), "carry": cell.carry((B,))}
    yield Call(
        "generate",
        gr.generate,
        {**first, "first": XS[0], "steps": 2},
        kinds={"steps": of_counts},
        may_be_none=("first",),
    )


def of_diagnostics() -> Iterator[Call]:
    cell = gr.GRU(H)
    params, carry = cell.init(KEY, IN), cell.carry((B,))
    unrolled = {"cell": cell, "params": params, "xs": XS}
    optional = {"carry": carry, "lengths": LENGTHS, "mask": MASK, "resets": MASK}
    yield Call("gates", d.gates, unrolled, optional)
    yield Call("step_jacobians", d.step_jacobians, unrolled, optional)
    lossy = {**unrolled, "loss": lambda carries, ys: jnp.sum(ys)}
    yield Call("carry_gradients", d.carry_gradients, lossy, optional)
    yield Call("gradient_norms", d.gradient_norms, lossy, optional)
    yield Call("gradient_reach", d.gradient_reach, {"cells": {"GRU": (cell, params)}, "xs": XS})
    made = d.gates(cell, params, XS)
    yield Call("saturation", d.saturation, {"gates": made}, {"lengths": LENGTHS, "mask": MASK})
    elman = gr.Elman(H, use_bias=False)
    yield Call(
        "jacobian_bound",
        d.jacobian_bound,
        {"cell": elman, "params": elman.init(KEY, IN), "steps": 3},
        kinds={"params": of_last_leaves},
    )
    jacobians = floats(T, B, H, H)
    for function in (d.lyapunov_exponents, d.product_jacobians, d.singular_values):
        yield Call(function.__name__, function, {"jacobians": jacobians})
    surface = {
        "loss": lambda p: jnp.sum(p["w"] ** 2),
        "params": {"w": floats(2)},
        "directions": [{"w": floats(2)}],
    }
    kinds = {"params": of_structures, "start": of_coordinates}
    given = {**surface, "coordinates": [floats(3)]}
    yield Call("loss_slice", d.loss_slice, given, kinds=kinds)
    yield Call(
        "descent_path",
        d.descent_path,
        {**surface, "start": floats(1), "learning_rate": 0.1, "steps": 2},
        kinds=kinds,
    )


def of_the_rest() -> Iterator[Call]:
    yield Call(
        "softmax_cross_entropy",
        gr.softmax_cross_entropy,
        {"params": gr.dense(V, use_bias=False).init(KEY, IN), "hs": XS, "labels": TOKENS},
        {"mask": MASK},
    )
    carry = gr.LSTMCarry(floats(B, H), floats(B, H))
    needed = {"flags": MASK[0], "carry": carry, "other": carry}
    kinds = {"flags": of_row_flags, "other": of_trees_of_arrays}
    yield Call("where_rows", gr.where_rows, needed, kinds=kinds)
    taken = {"carry": carry, "index": 0}
    yield Call("take_rows", gr.take_rows, taken, kinds={"carry": of_leaves}, may_be_none=("carry",))
    yield Call("windows", gr.windows, {"length": 9, "window": 2, "batch": 2})
    yield Call("check_rule", gr.check_rule, {"cell": gr.Elman(2)})
    yield Call("check_tree_rule", gr.check_tree_rule, {"cell": gr.TreeRNN(2)})
    yield Call("forest", gr.forest, {"trees": [((), ())]})
    yield Call("forest_sizes", gr.forest_sizes, {"batches": [[((), ())]]})
    yield Call("flatten_tree", gr.flatten_tree, {"tree": ((), ())})
    yield Call("summary", gr.summary, {"layer": gr.GRU(3), "in_features": 3})
    yield Call("cudnn", gr.cudnn, {"layer": gr.LSTM(3)})
    saved = {
        "path": FOLDER.name + "/dense",
        "layer": gr.dense(V),
        "params": gr.dense(V).init(KEY, IN),
    }
    yield Call("save", gr.save, saved, kinds={"params": of_structures})
    gr.save(**saved)
    yield Call("load", gr.load, {"path": saved["path"]})
    made = {"coordinates": (floats(3),), "losses": floats(3)}
    plotted = dict.fromkeys(("norms", "bound", "exponents", "values"), of_plotted)
    gates = {"gates": {"f": floats(T, H)}}
    yield Call("plot.gates", gr.plot.gates, gates, kinds={"labels": of_names})
    yield Call(
        "plot.gradient_norms",
        gr.plot.gradient_norms,
        {"norms": gr.GRUCarry(floats(T))},
        kinds=plotted,
    )
    yield Call("plot.gradient_reach", gr.plot.gradient_reach, {"reach": {"GRU": floats(T)}})
    yield Call("plot.jacobian_norms", gr.plot.jacobian_norms, {"norms": floats(T)}, kinds=plotted)
    yield Call("plot.loss_slice", gr.plot.loss_slice, {"surface": d.LossSlice(**made)})
    yield Call(
        "plot.lyapunov_exponents",
        gr.plot.lyapunov_exponents,
        {"exponents": floats(H)},
        kinds=plotted,
    )
    yield Call(
        "plot.saturation",
        gr.plot.saturation,
        {"saturation": {"f": d.Saturation(floats(H), floats(H))}},
    )
    yield Call(
        "plot.singular_values", gr.plot.singular_values, {"values": floats(T, H)}, kinds=plotted
    )


def calls() -> Iterator[Call]:
    """All legal calls."""
    for function, needed, *kinds in CONSTRUCTORS:
        yield Call(function.__name__, function, needed, {}, *kinds)
    for name, cell in CELLS.items():
        yield from of_cell(name, cell)
    for name, layer in LAYERS.items():
        yield from of_layer(name, layer)
    for name, cell in TREE_CELLS.items():
        yield from of_tree_cell(name, cell)
    yield from of_seq2seq()
    yield from of_decoding()
    yield from of_diagnostics()
    yield from of_the_rest()


# ------------------------------------------------------------------------------ the illegal calls


class Illegal(NamedTuple):
    name: str  # of the mistake
    argument: str  # that is wrong; of two that are swapped, either may be named
    call: Callable[[], Any]


def illegal(call: Call) -> Iterator[Illegal]:
    """Every mistake in every argument of a call, and every two neighbours swapped."""
    parameters = inspect.signature(call.function).parameters
    for name, parameter in parameters.items():
        kind = call.kinds.get(name, KINDS.get(name))
        if kind is None:
            continue
        optional = parameter.default is None or name in call.may_be_none
        legal = call.needed.get(name, call.optional.get(name, parameter.default))
        made = list(kind(legal))
        if name in call.needed and legal is not None and not optional:
            made.append(NOTHING)
        for mistake in made:
            if mistake.value is None and (optional or legal is None):
                continue
            arguments = {**call.needed, name: mistake.value}
            yield Illegal(
                f"{call.name}: {name} = {mistake.name}",
                name,
                lambda arguments=arguments: call.function(**arguments),
            )
    positional = [n for n in call.needed if parameters[n].kind is not parameters[n].KEYWORD_ONLY]
    for first, second in itertools.pairwise(positional):
        kinds = [call.kinds.get(name, KINDS.get(name)) for name in (first, second)]
        if kinds[0] is kinds[1] or None in kinds:
            continue
        swapped = {first: call.needed[second], second: call.needed[first]}
        arguments = {**call.needed, **swapped}
        yield Illegal(
            f"{call.name}: {first} and {second} swapped",
            f"{first}|{second}",
            lambda arguments=arguments: call.function(**arguments),
        )
