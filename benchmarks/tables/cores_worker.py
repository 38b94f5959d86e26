"""The training step at one point, in a process whose CPU shows a device for each core."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks import agreement
from benchmarks.measure import Build, measure
from benchmarks.problem import Problem
from benchmarks.program import Program, Source
from benchmarks.settings import Settings
from benchmarks.tables import registry
from benchmarks.tables.cores import JIT, LIBRARIES, SHARD_MAP, divided
from benchmarks.worker import answer

AXIS = "batch"
WHOLE, ROWS = PartitionSpec(), PartitionSpec(None, AXIS)


def main(request: dict[str, Any]) -> dict[str, Any]:
    problem = Problem(request["cell"], *request["sizes"])
    mesh = jax.make_mesh((request["devices"],), (AXIS,), axis_types=(AxisType.Auto,))
    check = partial(agreement.check, tolerance=agreement.tolerance(problem.dtype))
    return measure(_builds(problem, mesh), Settings(request["seconds"], request["tiny"]), check)


def _builds(problem: Problem, mesh: Mesh) -> Iterator[tuple[str, Build]]:
    yield from registry.builds((*LIBRARIES, registry.TORCH), problem, "train")
    for library, find in registry.sources(LIBRARIES, problem, "train"):
        for how in (JIT, SHARD_MAP):
            name = divided(library, how)
            yield name, partial(_build, name, find, how, mesh)


def _build(name: str, find: Any, how: str, mesh: Mesh) -> Program | None:
    source = find()
    return None if source is None else _divided(name, source, how, mesh)()


def _divided(name: str, source: Source, how: str, mesh: Mesh) -> Source:
    """The source with the batch over the mesh; all libraries here are time-major."""
    step = source.function
    arguments = jax.device_put(source.arguments, _on(mesh, (WHOLE, ROWS)))
    answers = WHOLE, (WHOLE, ROWS)

    def of_shard(params: Any, xs: jax.Array) -> tuple:
        value, (dparams, dxs) = step(params, xs)
        return jax.lax.pmean(value, AXIS), (jax.lax.pmean(dparams, AXIS), dxs / mesh.size)

    if how == JIT:
        function = jax.jit(step, out_shardings=_on(mesh, answers))
    else:  # not every library's loops have the types that `check_vma` asks for
        function = jax.shard_map(
            of_shard, mesh=mesh, in_specs=(WHOLE, ROWS), out_specs=answers, check_vma=False
        )
    return dataclasses.replace(source, name=name, function=function, arguments=arguments)


def _on(mesh: Mesh, specs: Any) -> Any:
    return jax.tree.map(partial(NamedSharding, mesh), specs)


if __name__ == "__main__":
    answer(main)
