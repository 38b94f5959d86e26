"""Every example in a docstring of converters, adapters and pictures does what it says."""

import doctest
import importlib
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported

import jax
import jax.numpy as jnp
import pytest

import gatedrnn as gr
from gatedrnn._interop.conventions import LIBRARIES

NAMES = {"gr": gr, "jax": jax, "jnp": jnp}
NEEDS = {row.name: row.module for row in LIBRARIES}
ADAPTERS = {
    "gatedrnn.flax": ("from_tree", "to_tree"),
    "gatedrnn.flax.linen": ("Cell", "Layer"),
    "gatedrnn.flax.nnx": ("Cell", "Layer"),
}


def run(name, value):
    """Those of a function or a class, of which there is at least one, as a user has JAX."""
    (test,) = doctest.DocTestFinder(recurse=False).find(value, name, globs=dict(NAMES))
    assert test.examples, f"{name} has no example"
    failures = []
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        doctest.DocTestRunner().run(test, out=failures.append)
    assert not failures, "".join(failures)


@pytest.mark.parametrize("name", gr.interop.__all__)
def test_converters(name):
    library = name.split("_")[1]
    with jax.numpy_dtype_promotion("standard"):
        pytest.importorskip(NEEDS[library], exc_type=ImportError)
    run(name, getattr(gr.interop, name))


@pytest.mark.parametrize(
    ("module", "name"), [(m, n) for m, names in ADAPTERS.items() for n in names]
)
def test_adapters(module, name):
    pytest.importorskip("flax")
    run(name, getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", gr.plot.__all__)
def test_pictures(name):
    pytest.importorskip("matplotlib").use("agg")
    run(name, getattr(gr.plot, name))


def test_layer_of_cudnn():
    """Made anywhere, run on a GPU."""
    run("cudnn", gr.cudnn)
