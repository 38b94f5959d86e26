"""What the tests of several devices share: meshes of both kinds, collectives of a program."""

import contextlib
import math

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from networks import assert_trees_close

from benchmarks import hlo

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


# an explicit mesh has types of its own, an automatic one takes the program of one device
of_both_kinds = pytest.mark.parametrize(
    "kind", [pytest.param("auto", marks=pytest.mark.long), "explicit"]
)


def mesh_of(kind, shape=(4,), names=("data",)):
    """Return a mesh of the four devices that `conftest` makes of one CPU."""
    assert jax.device_count() == 4
    return jax.make_mesh(
        shape,
        names,
        axis_types=(KINDS[kind],) * len(names),
        devices=jax.devices()[: math.prod(shape)],
    )


def put(mesh, tree, specs):
    """Return `tree` on the devices of `mesh`; `specs` is a prefix of it."""
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    return jax.device_put(tree, places)


def equals_one_device(mesh, function, arguments, specs, *, context=True, jit=True, **tolerance):
    """Raise unless `function` returns on `mesh` what it returns on one device; that, on `mesh`."""
    expected = jax.jit(function)(*arguments)
    moved = put(mesh, arguments, specs)
    with jax.set_mesh(mesh) if context else contextlib.nullcontext():
        got = (jax.jit(function) if jit else function)(*moved)
    fetched = jax.tree.map(np.asarray, got)
    assert_trees_close(fetched, jax.tree.map(np.asarray, expected), **tolerance)
    return got


def places(tree):
    """Return the axes of the mesh over which every leaf is divided, up to the last of them."""

    def place(leaf):
        spec = tuple(leaf.sharding.spec)
        while spec and spec[-1] is None:
            spec = spec[:-1]
        return spec

    return jax.tree.map(place, tree)


def compiled(mesh, function, arguments, specs):
    """Return the text of the program of `function` over `mesh`."""
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*put(mesh, arguments, specs)).compile().as_text()


def collectives(text):
    """`(depth in loops, name)` of every collective of a compiled program.

    The condition of a loop is in the loop, as its body is.
    """
    program = hlo.parsed(text)

    def walk(name, depth):
        for instruction in program.get(name, []):
            kind = instruction.opcode.removesuffix("-start")
            if kind in hlo.COLLECTIVES:
                yield depth, kind
            for called in instruction.inlined:
                yield from walk(called, depth)
            if instruction.opcode == "while":
                for part in ("condition", "body"):
                    yield from walk(instruction.called(part), depth + 1)

    return list(walk("ENTRY", 0))
