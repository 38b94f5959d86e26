"""Illegal arguments of every converter: each raises one line of ours that names the argument."""

import functools
import inspect
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gatedrnn as gr
from gatedrnn import interop

os.environ.setdefault("KERAS_BACKEND", "jax")

I, H, B = 3, 4, 2

LAYER = gr.recurrent(gr.LSTM(H))
STACK = gr.stack(gr.LSTM(H), gr.LSTM(H))


@functools.cache
def params(layer):
    return layer.init(jax.random.key(0), I)


def lstm_of(library):
    """A module of another library, with its variables where these are apart."""
    if library == "torch":
        return (pytest.importorskip("torch").nn.LSTM(I, H),)
    if library == "linen":
        pytest.importorskip("flax")
        return interop.to_linen(LAYER, params(LAYER))
    if library == "nnx":
        pytest.importorskip("flax")
        return (interop.to_nnx(LAYER, params(LAYER)),)
    if library == "haiku":
        return (interop.to_haiku(LAYER, params(LAYER)),)
    if library == "equinox":
        pytest.importorskip("equinox")
        return (interop.to_equinox(LAYER, params(LAYER)),)
    if library == "keras":
        pytest.importorskip("keras")
        return (interop.to_keras(LAYER, params(LAYER)),)
    if library == "onnx":
        pytest.importorskip("onnx")
        return (interop.to_onnx(LAYER, params(LAYER)),)
    return (interop.to_cudnn(LAYER, params(LAYER)),)


SIZES = {"input_size": I, "hidden_size": H, "num_layers": 1, "bidirectional": False}


def legal(name):
    """The arguments of a legal call of a function, by name."""
    kind, library, *carry = name.split("_")
    if library in ("equinox", "keras"):  # which carries of theirs need as well
        pytest.importorskip(library)
    if library in ("torch", "onnx", "haiku") and kind == "to":
        pytest.importorskip(library)
    if carry:
        if kind == "to":
            return {"layer": LAYER, "carry": LAYER.carry((B,))}
        states = getattr(interop, f"to_{library}_carry")
        pytest.importorskip({"cudnn": "jax", "linen": "flax", "nnx": "flax"}.get(library, library))
        return {"layer": LAYER, "states": states(LAYER, LAYER.carry((B,)))}
    names = list(inspect.signature(getattr(interop, name)).parameters)
    if kind == "to":
        given = {"layer": LAYER, "params": params(LAYER)}
        lstm_of(library)
    else:
        given = dict(zip(names, lstm_of(library), strict=False))
    return given | (SIZES if name == "from_cudnn" else {})


def ragged():
    return [[1.0], [1.0, 2.0]]


def instead(make):
    """A tree with something else in the place of each array; an object where there is none."""

    def made(value):
        leaves = jax.tree.leaves(value)
        if not leaves or not all(isinstance(leaf, np.ndarray | jax.Array) for leaf in leaves):
            return object()
        return jax.tree.map(make, value)

    return made


MISTAKES = {
    "None": lambda value: None,
    "text": lambda value: "cat",
    "bytes": lambda value: b"cat",
    "an integer": lambda value: 3,
    "minus one": lambda value: -1,
    "a number": lambda value: 1.5,
    "true": lambda value: True,
    "NaN": lambda value: float("nan"),
    "a dict": lambda value: {"a": 1},
    "an empty dict": lambda value: {},
    "a dict of numbers": lambda value: {1: jnp.ones(2)},
    "a dict of a dict": lambda value: {"params": {"params": 1}},
    "a list": lambda value: [1, 2],
    "an empty list": lambda value: [],
    "a ragged list": lambda value: ragged(),
    "a tuple": lambda value: (),
    "a pair": lambda value: (jnp.ones(3), None),
    "a set": lambda value: {1, 2},
    "an object": lambda value: object(),
    "a function": lambda value: len,
    "a generator": lambda value: (k for k in range(2)),
    "an array": lambda value: np.ones(3),
    "an array of text": lambda value: np.array(["cat"]),
    "an array of objects": lambda value: np.array([None, "cat"], object),
    "an array without axes": lambda value: jnp.ones(()),
    "an empty array": lambda value: np.ones((0, 0)),
    "complex": lambda value: np.ones(3, complex),
    "a cell": lambda value: gr.GRU(2),
    "a class": lambda value: gr.LSTM,
    "a layer": lambda value: gr.dense(2),
    "a stack": lambda value: STACK,
    "an attention": lambda value: gr.Attention(gr.GRU(2), 3, 4),
    "its params": lambda value: params(LAYER),
    "params of another": lambda value: params(STACK),
    "a carry of another": lambda value: gr.GRU(H).carry((B,)),
    "a batch more": lambda value: STACK.carry((B, 5)),
    "shapes only": lambda value: jax.eval_shape(lambda: params(LAYER)),
    "of other shapes": instead(lambda leaf: jnp.ones((1, *leaf.shape, 1))),
    "of integers": instead(lambda leaf: jnp.ones(leaf.shape, int)),
    "of text": instead(lambda leaf: np.full(leaf.shape, "cat")),
    "of numbers": instead(lambda leaf: 1.0),
    "of None": instead(lambda leaf: None),
    "in a list": lambda value: [value],
    "twice": lambda value: (value, value),
}

DATA = ("layer", "params", "carry", "states", "weights", "source", "module", "variables", "model")
LIBRARIES = ("cudnn", "equinox", "haiku", "keras", "linen", "nnx", "onnx", "torch")
# what an error may start with beside the argument's own name
ALSO = {
    "from_torch": ("state_dict",),
    "from_linen": ("params",),
    "layer": ("params", "carry", "states"),  # those of another layer
    # sizes that others do not fit
    "hidden_size": ("weights",),
    "num_layers": ("weights",),
    "bidirectional": ("weights",),
    "params": ("modules",),  # of haiku, none of which are there
}
FLAX_OPTIONS = ("optimized", "time_major", "return_carry")
# calls that are legal after all
LEGAL = {
    *((f"to_{library}", "params", "its params") for library in LIBRARIES),
    *(("to_" + name, option, "true") for name in ("linen", "nnx") for option in FLAX_OPTIONS),
    *(("to_onnx", option, "true") for option in ("lengths", "carry")),
    ("from_cudnn", "input_size", "an integer"),
    ("from_equinox", "source", "in a list"),
    ("from_haiku", "modules", "None"),
    ("from_keras_carry", "states", "in a list"),
    ("from_torch", "nonlinearity", "None"),
    ("to_haiku", "double_bias", "true"),
    ("to_haiku", "modules", "None"),
    ("to_haiku", "modules", "text"),
    ("to_keras", "return_state", "true"),
    ("to_onnx", "name", "text"),
    ("to_torch", "batch_first", "true"),
}
# the path of a file that is not there
PATHS = {("from_onnx", "model", "text")}


def arguments():
    for name in interop.__all__:
        for argument in inspect.signature(getattr(interop, name)).parameters:
            yield name, argument


@pytest.fixture(autouse=True)
def standard_promotion():
    """Keras needs it, for dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(("name", "argument"), list(arguments()))
def test_illegal_arguments_are_named(name, argument):
    function, given = getattr(interop, name), legal(name)
    function(**given)
    wrong = []
    for mistake, make in MISTAKES.items():
        value = make(given.get(argument))
        try:
            function(**given | {argument: value})
        except (TypeError, ValueError) as error:
            said = str(error)
            starts = (argument, *ALSO.get(name, ()), *ALSO.get(argument, ()))
            ours = type(error) in (TypeError, ValueError) and "got" in said and "\n" not in said
            if not ours or not said.startswith(starts):
                wrong.append(f"{mistake}: {type(error).__name__}: {said[:150]}")
        except Exception as error:
            if isinstance(error, FileNotFoundError) and (name, argument, mistake) in PATHS:
                continue
            wrong.append(f"{mistake}: {type(error).__name__}: {str(error)[:150]}")
        else:
            if (name, argument, mistake) not in LEGAL:
                wrong.append(f"{mistake}: accepted")
    assert not wrong, "\n".join(wrong)
