"""Every public name has an example that runs; docstrings open with a noun or a verb."""

import ast
import dataclasses
import doctest
import importlib
import inspect
from pathlib import Path

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
    """True of a named tuple, which is itself an example of its fields."""
    return inspect.isclass(value) and issubclass(value, tuple)


def examples_of(name, value):
    """The examples in the docstrings of a function, or of a class and its methods."""
    found = doctest.DocTestFinder(recurse=True, exclude_empty=True).find(value, name)
    return [test for test in found if test.examples]


def needs(value):
    """The library that an example needs beside JAX, by the module of the public name."""
    module = value.__module__
    if module.startswith("gatedrnn._plot"):
        return "matplotlib"
    if module.startswith("gatedrnn._interop"):
        place = module.split(".")[2]
        return {"cudnn": None, "cudnn_layer": None}.get(place, place)
    return None


@pytest.mark.parametrize("name", [n for n, value in PUBLIC.items() if not is_record(value)])
def test_examples_run(name):
    """Every public name has one, whose output is as written, in the dtypes of a new session."""
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
        with jax.enable_x64(False):
            runner.run(test, out=failures.append)
        assert not failures, "".join(failures)


@pytest.mark.parametrize("name", [n for n, value in PUBLIC.items() if is_record(value)])
def test_fields_say_what_they_are(name):
    """`help(gr.LSTMParams)` does not say "Alias for field number 0"."""
    for field in PUBLIC[name]._fields:
        assert "Alias for field" not in getattr(PUBLIC[name], field).__doc__, field


def test_examples_outside_of_the_package():
    """The adapters for flax have them too, where flax is installed."""
    pytest.importorskip("flax")
    for name in ("linen", "nnx"):
        module = importlib.import_module(f"gatedrnn.flax.{name}")
        for public in module.__all__:
            assert examples_of(public, getattr(module, public)), f"{name}.{public} has no example"


# First lines -------------------------------------------------------------------------------------


def docstrings(source):
    """The docstring of a module and of all that is defined in it, at any depth, by name."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (text := ast.get_docstring(node)) is not None:
            yield getattr(node, "name", "the module"), text


def opens_with_question(text):
    """True where the first word is one of a question, not a noun or a verb."""
    return text.split()[0].strip("*`,:;.").lower() in QUESTIONS


def test_docstrings_open_with_a_noun_or_a_verb():
    """No docstring of the package opens with a question word, as in "What a step reads"."""
    questions = [
        f"{path.relative_to(PACKAGE)}, {name}: {text.splitlines()[0]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, text in docstrings(path.read_text(encoding="utf-8"))
        if opens_with_question(text)
    ]
    assert questions == []


def test_questions_are_found():
    """In a module, a class, a method and a function inside it; other first words pass."""
    source = '''
"""What this is."""
class A:
    """As `B`."""
    def f(self):
        """Where: there."""
        def g():
            """How it goes."""
        def h():
            """Assert that it goes."""
'''
    found = [name for name, text in docstrings(source) if opens_with_question(text)]
    assert found == ["the module", "A", "f", "g"]
