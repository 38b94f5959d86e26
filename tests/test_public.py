"""The public surface is documented and complete."""

import dataclasses
import importlib
import inspect

import pytest

import gatedrnn as gr

in_all = pytest.mark.parametrize("name", gr.__all__)


@in_all
def test_public_names_have_docstrings(name):
    """A docstring of their own, not the one that a dataclass or NamedTuple generates."""
    value = getattr(gr, name)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")


@in_all
def test_public_methods_have_docstrings(name):
    """Every method of a public class that does not start with an underscore."""
    value = getattr(gr, name)
    if inspect.isclass(value):
        for method, function in vars(value).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                assert function.__doc__, method


def documented_names(value):
    """The parameters of a function, or the fields of a dataclass."""
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    if inspect.isfunction(value):
        return list(inspect.signature(value).parameters)
    return []


@in_all
def test_docstrings_mention_every_parameter(name):
    """Or say that they are those of another function, which does."""
    value = getattr(gr, name)
    doc = inspect.getdoc(value)
    if name == "trajectory":
        assert "those of `unroll`" in doc
        assert list(inspect.signature(value).parameters) == documented_names(gr.unroll)
        doc += inspect.getdoc(gr.unroll)
    assert [item for item in documented_names(value) if f"{item}:" not in doc] == []


MODULES = [value for name in gr.__all__ if inspect.ismodule(value := getattr(gr, name))]
in_modules = pytest.mark.parametrize(
    "value",
    [getattr(module, name) for module in MODULES for name in module.__all__],
    ids=[f"{module.__name__}.{name}" for module in MODULES for name in module.__all__],
)


@in_modules
def test_names_of_public_modules_are_documented(value):
    """As those of the package are; arguments may be said to be those of another function."""
    doc = inspect.getdoc(value)
    assert doc
    assert not doc.startswith(f"{value.__name__}(")
    if "Args and errors are those of" not in doc:
        assert [item for item in documented_names(value) if f"{item}:" not in doc] == []


FLAX = ("gatedrnn.flax", "gatedrnn.flax.linen", "gatedrnn.flax.nnx")  # each imported by itself


@pytest.mark.parametrize("name", FLAX)
def test_names_of_the_flax_package_are_documented(name):
    """Every parameter of every function and method, there or in the docstring of its class."""
    pytest.importorskip("flax")
    module = importlib.import_module(name)
    for value in (getattr(module, public) for public in module.__all__):
        assert value.__doc__
        members = vars(value).values() if inspect.isclass(value) else [value]
        for function in filter(inspect.isfunction, members):
            if function.__name__.startswith("_") and function.__name__ not in (
                "__init__",
                "__call__",
            ):
                continue
            own = function.__doc__
            assert own or function.__name__ == "__init__", function
            known = {"self", "parent", "name"}  # the last two are flax's
            names = set(inspect.signature(function).parameters) - known
            assert {item for item in names if f"{item}:" not in f"{value.__doc__}{own}"} == set()


def test_nothing_else_is_public():
    """What `dir` shows is `__all__`, underscored modules, and what is imported by itself."""
    apart = {name.split(".")[1] for name in FLAX}
    assert {name for name in dir(gr) if not name.startswith("_")} - apart == set(gr.__all__)
    assert sorted(set(gr.__all__)) == sorted(gr.__all__)
