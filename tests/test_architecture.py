"""The arrows between modules hold, and nothing needs what is optional."""

import ast
import graphlib
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import gatedrnn as gr

PACKAGE = Path(gr.__file__).parent
LIBRARY = PACKAGE / "_src"
ROOF = LIBRARY / "__init__.py"  # over all rooms, a docstring alone
SOURCES = sorted(set(LIBRARY.rglob("*.py")) - {ROOF})
MODULES = sorted(PACKAGE.rglob("*.py"))

# Every room of the library, a folder or a module beside the folders, and what it may import. In
# particular cells know no engine, and what runs over time or trees knows no cell.
GROUND = {
    "base",
    "checks",
    "describe",
    "episodes",
    "integers",
    "masks",
    "numerics",
    "placement",
    "pytree",
}
GROUND |= {"loops", "target", "validation"}
ARROWS = {
    "base": {"describe", "loops"},
    "checks": {"describe"},
    "describe": set(),
    "episodes": set(),
    "exported": set(),
    "integers": set(),
    "loops": {"describe", "target"},
    "target": set(),
    "kernels": {"loops", "pytree"},
    "numerics": set(),
    "placement": {"base"},
    "pytree": {"base", "numerics"},
    "validation": {"base", "checks", "describe", "integers"},
    "masks": {"base", "describe", "integers", "validation"},
    "rows": {"base", "integers", "placement", "pytree", "validation"},
    "cells": GROUND | {"kernels"},
    "time": GROUND | {"kernels"},
    "trees": GROUND,
    "layers": GROUND | {"time"},
    "decoding": GROUND,
    "cross_entropy": GROUND | {"layers"},
    "losses": GROUND | {"cross_entropy", "layers"},
    "seq2seq": GROUND | {"cells", "layers"},
    "checking": GROUND | {"time", "trees"},
    "diagnostics": GROUND | {"cells", "time"},
}


def imports(path, *, typing=True):
    """The absolute names of all modules that a file imports, or imports something from.

    Without `typing` not what stands below `if TYPE_CHECKING:`, which never runs.
    """
    found, tree = set(), ast.parse(path.read_text())
    if not typing:
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
    return found[0] if module.split(".")[0] == "gatedrnn" and found not in ([], [ROOF]) else None


def room_of(path):
    """The folder of a module of the library, or the module itself where it has none."""
    first = path.relative_to(LIBRARY).parts[0]
    return first.removesuffix(".py")


def ids(folder):
    return lambda path: str(path.relative_to(folder))


in_source = pytest.mark.parametrize("path", SOURCES, ids=ids(LIBRARY))


# Arrows -----------------------------------------------------------------------------------------


@in_source
def test_a_room_imports_what_the_table_allows(path):
    """And of the package nothing outside the library."""
    ours = {found for name in imports(path) if (found := path_of(name))}
    assert all(found.is_relative_to(LIBRARY) for found in ours)
    room = room_of(path)
    assert {room_of(found) for found in ours} - {room} <= ARROWS[room]


def test_the_table_has_every_room_and_no_circle():
    """A circle raises CycleError."""
    assert {room_of(path) for path in SOURCES} == set(ARROWS)
    order = list(graphlib.TopologicalSorter(ARROWS).static_order())
    assert set(order) == set(ARROWS)


def test_no_module_imports_itself_through_others():
    """In the whole package, what only a type checker sees included."""
    graph = {
        path: {found for name in imports(path) if (found := path_of(name))} - {path}
        for path in MODULES
        if path.name != "__init__.py"
    }
    graph = {path: found & set(graph) for path, found in graph.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", sorted((LIBRARY / "cells").glob("*.py")), ids=lambda p: p.stem)
def test_a_cell_imports_no_other_cell(path):
    """Shared code is in modules that are no cell's own; a layer-normalised cell shares a carry."""
    shared = {"__init__", "alignment", "common", "normalisation"}
    cells = {p for p in (LIBRARY / "cells").glob("*.py") if p.stem not in shared} - {path}
    cells -= {path.with_stem(path.stem.removeprefix("layer_norm_"))}
    assert not {found for name in imports(path) if (found := path_of(name))} & cells


def test_the_engine_never_imports_what_checks():
    """Nothing inside checks again."""
    assert not any("validation" in name for name in imports(LIBRARY / "time" / "engine.py"))


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
    "loops": {"scan"},  # over time, for the engine
    "kernels/common": {"custom_jvp", "scan"},  # the same where a kernel cannot, and derivatives
    "kernels/triton": {"fori_loop"},  # inside a kernel
    "time/plan": {"scan"},
    "time/recurrence": {"scan"},
    "time/engine": {"scan", "custom_vjp"},  # over chunks
    "trees/engine": {"scan", "custom_vjp"},  # over the levels of trees
    "layers/combinators": {"scan"},  # over depth
    "cross_entropy": {"scan", "custom_vjp"},  # over the vocabulary
    "decoding/rows": {"while_loop"},  # until every row has ended
    "decoding/beam": {"scan"},  # back from the last step
    "decoding/free_running": {"scan"},
    "seq2seq": {"scan"},  # over the steps of a picture
}


@in_source
def test_only_the_engines_the_loss_and_decoding_loop(path):
    """A recurrence over given inputs goes through an engine, whatever is built on it.

    What a diagnostic follows (QR after QR, one step of descent after another) is no recurrence of
    a cell.
    """
    name = path.relative_to(LIBRARY).with_suffix("").as_posix()
    if name.startswith("diagnostics/"):
        assert loops_in(path) <= {"scan"}
    else:
        assert loops_in(path) == MAY_LOOP.get(name, set())


def test_every_folder_is_a_package():
    """None is a namespace package, whose types pyright does not find in an installed package."""
    packages = {path.parent for path in MODULES if path.name == "__init__.py"}
    assert {path.parent for path in MODULES} == packages
    assert imports(ROOF) == set()


# What is optional -------------------------------------------------------------------------------


@in_source
def test_the_library_needs_jax_and_numpy_only(path):
    """Nothing else beside the standard library and itself."""
    allowed = {"jax", "numpy", "gatedrnn"} | sys.stdlib_module_names
    assert {module.split(".")[0] for module in imports(path)} <= allowed


FOREIGN = sorted(
    path for name in ("_interop", "_saving") for path in (PACKAGE / name).rglob("*.py")
)


@pytest.mark.parametrize("path", FOREIGN, ids=ids(PACKAGE))
def test_other_libraries_are_imported_where_they_are_used(path):
    """Each module by itself: at its top are JAX, NumPy and ours."""
    top = [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.If)]
    found = {
        name.split(".")[0]
        for node in top
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert found <= {"jax", "numpy", "gatedrnn"} | sys.stdlib_module_names


def test_import_needs_nothing_optional():
    """`import gatedrnn` works without what the commands and tests need, and loads no command."""
    program = """
import sys
for name in ("optax", "orbax", "matplotlib", "sklearn", "tqdm", "tomli_w", "hypothesis", "msgspec"):
    sys.modules[name] = None  # an import of it raises
for name in ("flax", "torch", "keras", "equinox", "haiku", "onnx", "onnxruntime", "safetensors"):
    sys.modules[name] = None
import gatedrnn
assert not [name for name in sys.modules if name.startswith(("gatedrnn._app", "gatedrnn._reg"))]
assert gatedrnn.LSTM(3).carry((2,)).h.shape == (2, 3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SAVING = sorted((PACKAGE / "_saving").glob("*.py"))


@pytest.mark.parametrize("path", SAVING, ids=ids(PACKAGE / "_saving"))
def test_files_of_layers_know_the_library_alone(path):
    """No cell and no layer by itself: classes are in a table, which the package fills.

    Of the library they know what takes parameters apart, and of the converters how one imports.
    """
    of_library = {"base", "describe", "seq2seq", "validation"}
    ours = {found for name in imports(path) if (found := path_of(name))}
    others = ours - set(SAVING) - {PACKAGE / "_interop" / "require.py", PACKAGE / "_version.py"}
    others -= {found for found in others if found.name == "__init__.py"}
    assert {room_of(found) for found in others} <= of_library


# The registry of cells --------------------------------------------------------------------------

REGISTRY = sorted((PACKAGE / "_registry").glob("*.py"))


@pytest.mark.parametrize("path", REGISTRY, ids=ids(PACKAGE / "_registry"))
def test_the_registry_imports_the_library_alone(path):
    """Not what takes its list from it; the library knows nothing of it."""
    allowed = {*SOURCES, *REGISTRY, PACKAGE / "__init__.py"}
    assert {found for name in imports(path) if (found := path_of(name))} <= allowed


@pytest.mark.parametrize("name", ["equations", "tree_equations"])
def test_the_equations_share_nothing_with_the_library(name):
    """They are NumPy's."""
    found = imports(PACKAGE / "_registry" / f"{name}.py")
    ours = {name for name in found if name.startswith("gatedrnn")}
    assert {name.split(".")[0] for name in found - ours} <= {"numpy"} | sys.stdlib_module_names
    assert all("_registry" in name for name in ours)


# Size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=ids(PACKAGE))
def test_modules_are_short(path):
    """None above 500 lines."""
    assert len(path.read_text().splitlines()) <= 500


def test_the_median_module_is_short():
    """Of those that are more than a docstring."""
    lines = [len(path.read_text().splitlines()) for path in MODULES if path.name != "__init__.py"]
    assert statistics.median(lines) <= 200
