"""The public surface is documented and complete, and the arrows between modules hold."""

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import gatedrnn as gr

PACKAGE = Path(gr.__file__).parent
SOURCES = sorted((PACKAGE / "_src").rglob("*.py"))
CELLS = {
    "attention",
    "elman",
    "jordan",
    "lstm",
    "gru",
    "layer_norm_lstm",
    "layer_norm_gru",
    "zoneout",
    "recurrent_dropout",
}
TREE_CELLS = {"tree_rnn", "tree_lstm"}

in_all = pytest.mark.parametrize("name", gr.__all__)
in_source = pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE / "_src"))
)


# What is public ---------------------------------------------------------------------------------


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


# Which module imports which ---------------------------------------------------------------------


def imports(path):
    """The absolute names of all modules that a file imports, or imports something from.

    Not what stands below `if TYPE_CHECKING:`, which never runs.
    """
    found, tree = set(), ast.parse(path.read_text())
    for branch in ast.walk(tree):
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING":
            branch.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def path_of(module):
    """The file of a module of this package, None for anything else."""
    base = PACKAGE.parent.joinpath(*module.split("."))
    found = [p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()]
    return found[0] if module.split(".")[0] == "gatedrnn" and found else None


def reached_from(name):
    """The names of all modules of `_src` that importing one of them runs, itself left out."""
    start = path_of(f"gatedrnn._src.{name}")
    assert start is not None
    seen, left = set(), [start]
    while left:
        path = left.pop()
        if path not in seen:
            seen.add(path)
            left += [found for module in imports(path) if (found := path_of(module))]
    return {path.stem for path in seen - {start}}


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_cells_never_import_the_engine(cell):
    """Neither themselves nor through others, nor one another."""
    reached = reached_from(cell)
    assert "rule" in reached
    assert not reached & {"engine", "plan", "unroll"}
    assert not reached & CELLS


@pytest.mark.parametrize("cell", sorted(TREE_CELLS))
def test_tree_cells_never_import_an_engine(cell):
    """Neither that of trees nor that of sequences, nor another cell."""
    reached = reached_from(f"tree.{cell}")
    assert "rule" in reached
    assert not reached & {"engine", "plan", "unroll", "fold", *CELLS}
    assert not reached & (TREE_CELLS - {cell})


def test_the_tree_engine_never_imports_a_cell():
    """Nor the engine of sequences."""
    reached = reached_from("tree.engine")
    assert "forest" in reached
    assert not reached & (CELLS | TREE_CELLS | {"engine", "plan", "unroll"})


def test_the_read_out_never_imports_a_recurrence():
    """The dense layer and the checks at the edge are all that it builds on."""
    reached = reached_from("readout")
    assert "stepwise" in reached
    assert not reached & (CELLS | {"engine", "plan", "unroll"})


def test_the_engine_never_imports_a_cell():
    """Neither itself nor through others; layers and checks of inputs stay outside as well."""
    reached = reached_from("engine")
    assert "rule" in reached
    assert not reached & CELLS
    assert not any("layers" in module for module in imports(PACKAGE / "_src" / "engine.py"))


LOOPS = {"scan", "while_loop", "fori_loop", "custom_vjp", "custom_jvp"}


def loops_in(path):
    """The names of JAX's loops and custom derivatives that a file mentions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.name.split(".")[-1])
    return found & LOOPS


MAY_LOOP = {
    "engine": {"scan", "custom_vjp"},  # over time
    "tree/engine": {"scan", "custom_vjp"},  # over the levels of trees
    "readout": {"scan", "custom_vjp"},  # over the vocabulary
    "decoding/token_by_token": {"while_loop"},  # until every row has ended
    "decoding/beam": {"while_loop", "scan"},  # the same, and back from the last step
    "decoding/free_running": {"scan"},
    "seq2seq": {"scan"},  # over the steps of a picture
}


@in_source
def test_only_the_engines_the_read_out_and_decoding_loop(path):
    """A recurrence over given inputs goes through an engine, whatever is built on it.

    What a diagnostic follows (QR after QR, one step of descent after another) is no recurrence of
    a cell.
    """
    name = path.relative_to(PACKAGE / "_src").with_suffix("").as_posix()
    if name.startswith("diagnostics/"):
        assert loops_in(path) <= {"scan"}
    else:
        assert loops_in(path) == MAY_LOOP.get(name, set())


@in_source
def test_the_library_needs_jax_and_numpy_only(path):
    """Nothing else beside the standard library and itself."""
    allowed = {"jax", "numpy", "gatedrnn"} | sys.stdlib_module_names
    assert {module.split(".")[0] for module in imports(path)} <= allowed
    assert not any(module.startswith("gatedrnn._app") for module in imports(path))


INTEROP = sorted((PACKAGE / "_interop").rglob("*.py"))


@pytest.mark.parametrize("path", INTEROP, ids=lambda p: str(p.relative_to(PACKAGE / "_interop")))
def test_converters_import_other_libraries_where_they_are_used(path):
    """Each module by itself: at its top are JAX, NumPy and ours."""
    top = [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.If)]
    found = {
        name.split(".")[0]
        for node in top
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else map(_name, node.names))
    }
    assert found <= {"jax", "numpy", "gatedrnn"} | sys.stdlib_module_names


def _name(alias):
    return alias.name


@in_source
def test_the_library_never_converts(path):
    """Arrows go from converters to the library."""
    assert not any(module.startswith("gatedrnn._interop") for module in imports(path))


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_modules_are_short(path):
    """None above 300 lines, those of the commands included."""
    assert len(path.read_text().splitlines()) <= 300


def test_import_needs_nothing_optional():
    """`import gatedrnn` works without what the commands and tests need, and loads no command."""
    program = """
import sys
for name in ("optax", "orbax", "matplotlib", "sklearn", "tqdm", "tomli_w", "hypothesis"):
    sys.modules[name] = None  # an import of it raises
for name in ("flax", "torch", "keras", "equinox", "haiku", "onnx", "onnxruntime"):
    sys.modules[name] = None
import gatedrnn
assert not [name for name in sys.modules if name.startswith("gatedrnn._app")]
assert gatedrnn.LSTM(3).carry((2,)).h.shape == (2, 3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
