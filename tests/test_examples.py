"""Every public name has an example, and every example in a docstring does what it says."""

import dataclasses
import doctest
import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gatedrnn as gr

MODULES = [value for name in gr.__all__ if inspect.ismodule(value := getattr(gr, name))]
PUBLIC = {f"gr.{name}": getattr(gr, name) for name in gr.__all__} | {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
}
PUBLIC = {name: value for name, value in PUBLIC.items() if not inspect.ismodule(value)}
NAMES = {"gr": gr, "jax": jax, "jnp": jnp, "np": np, "dataclasses": dataclasses}


def is_record(value):
    """A named tuple, which is an example of its fields itself."""
    return inspect.isclass(value) and issubclass(value, tuple)


def examples_of(name, value):
    """The examples in the docstrings of a function, or of a class and its methods."""
    found = doctest.DocTestFinder(recurse=True, exclude_empty=True).find(value, name)
    return [test for test in found if test.examples]


def needs(value):
    """The library that an example needs beside JAX, by the module of what it shows."""
    module = value.__module__
    if module.startswith("gatedrnn._plot"):
        return "matplotlib"
    if module.startswith("gatedrnn._interop"):
        place = module.split(".")[2]
        return {"cudnn": None, "cudnn_layer": None}.get(place, place)
    return None


@pytest.mark.parametrize("name", [n for n, value in PUBLIC.items() if not is_record(value)])
def test_examples_run(name):
    """With the output that stands below; there is at least one."""
    value = PUBLIC[name]
    tests = examples_of(name, value)
    assert tests, f"{name} has no example"
    library = needs(value)
    if library is not None:
        pytest.importorskip(library)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        test.globs = dict(NAMES)
        failures = []
        runner.run(test, out=failures.append)
        assert not failures, "".join(failures)


@pytest.mark.parametrize("name", [n for n, value in PUBLIC.items() if is_record(value)])
def test_fields_say_what_they_are(name):
    """`help(gr.LSTMParams)` does not say "Alias for field number 0"."""
    for field in PUBLIC[name]._fields:
        assert "Alias for field" not in getattr(PUBLIC[name], field).__doc__, field


def test_examples_outside_of_the_package():
    """Those of the adapters for flax, where it is installed."""
    pytest.importorskip("flax")
    for name in ("linen", "nnx"):
        module = importlib.import_module(f"gatedrnn.flax.{name}")
        for public in module.__all__:
            assert examples_of(public, getattr(module, public)), f"{name}.{public} has no example"
