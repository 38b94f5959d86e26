"""Every public name has an example that runs; docstrings open with a noun or a verb."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gatedrnn as gr
from gatedrnn._interop.conventions import LIBRARIES

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


IMPORTED = {row.name: row.module for row in LIBRARIES}


def import_what_is_needed(name):
    """The library beside JAX that the example of a public name uses; skip without it."""
    library = None
    if name.startswith("gatedrnn.plot."):
        library = "matplotlib"
    if name.startswith("gatedrnn.interop."):
        library = IMPORTED[name.removeprefix("gatedrnn.interop.").split("_")[1]]
    if library is not None:
        with jax.numpy_dtype_promotion("standard"):
            pytest.importorskip(library, exc_type=ImportError)


def run_examples(name, value):
    """Those of a public name, of which there is at least one, as in a new session."""
    tests = examples_of(name, value)
    assert tests, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        test.globs = dict(NAMES)
        failures = []
        with (
            jax.enable_x64(False),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow" if "keras" in name else "raise"),  # keras promotes
        ):
            runner.run(test, out=failures.append)
        assert not failures, "".join(failures)


@pytest.mark.parametrize("name", [n for n, value in PUBLIC.items() if not is_record(value)])
def test_examples_run(name):
    """With the output that stands below."""
    import_what_is_needed(name)
    run_examples(name, PUBLIC[name])


@pytest.mark.parametrize("name", [n for n, value in PUBLIC.items() if is_record(value)])
def test_fields_say_what_they_are(name):
    """`help(gr.LSTMParams)` does not say "Alias for field number 0"."""
    for field in PUBLIC[name]._fields:
        assert "Alias for field" not in getattr(PUBLIC[name], field).__doc__, field


ADAPTERS = {
    "gatedrnn.flax": ("from_tree", "to_tree"),
    "gatedrnn.flax.linen": ("Cell", "Layer"),
    "gatedrnn.flax.nnx": ("Cell", "Layer"),
}


@pytest.mark.parametrize(
    ("module", "name"), [(m, name) for m, names in ADAPTERS.items() for name in names]
)
def test_examples_of_adapters_run(module, name):
    """Those that are imported by themselves, where flax is installed."""
    pytest.importorskip("flax")
    value = getattr(importlib.import_module(module), name)
    (test,) = doctest.DocTestFinder(recurse=False).find(value, name, globs=dict(NAMES))
    assert test.examples, f"{name} has no example"
    failures = []
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        doctest.DocTestRunner().run(test, out=failures.append)
    assert not failures, "".join(failures)


# First lines -------------------------------------------------------------------------------------


PACKAGE = Path(gr.__file__).parent
QUESTIONS = {"what", "which", "how", "whether", "as", "when", "where"}


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
