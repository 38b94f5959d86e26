"""The layers of a network as nodes of a graph: each as its `apply` does it, without a key.

Axes: `T` time, `B` batch, `D` directions, `I` input features, `F` output features.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.forms import cannot
from gatedrnn._interop.onnx.write_graph import Graph, Lengths, Sizes
from gatedrnn._interop.onnx.write_node import FORMS, NodeOutputs, add_node
from gatedrnn._interop.onnx.write_states import AFTER, BEFORE, state_name
from gatedrnn._interop.parts import Run, runs
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.combinators import Repeat, Residual
from gatedrnn._src.layers.many_to_one import Final, Pool
from gatedrnn._src.layers.pointwise import Dense, Dropout, Embed
from gatedrnn._src.layers.recurrent import Recurrent
from gatedrnn._src.layers.stack import Stack

Path = tuple[str, ...]


def check(layer: Any, whole: Any) -> None:
    """Raise where a part of the network `whole` has no exact counterpart.

    Raises:
      ValueError: it says what stands in the way.
    """
    match layer:
        case Stack():
            for part in layer.layers:
                check(part, whole)
        case Final():
            _check_final(layer.layer)
            check(layer.layer, whole)
        case Pool() | Repeat() | Residual():
            check(layer.layer, whole)
        case Bidirectional():
            check(layer.forward, whole)
            check(layer.backward, whole)
        case Recurrent():
            FORMS.check_cell(layer.cell)
        case Dense() | Embed() | Dropout():
            pass
        case _:
            name = type(layer).__name__
            raise cannot(whole, FORMS.target, f"it has no place for a {name} layer")


def _check_final(layer: Any) -> None:
    """Raise where no step holds the output that belongs to the final carry."""
    match layer:
        case Stack():
            top = _top(layer)
            _check_final(layer.layers[top])
        case Repeat():
            _check_final(layer.layer)
        case Bidirectional():
            pass
        case _ if not layer.causal:
            raise cannot(
                layer,
                FORMS.target,
                "its outputs mix both directions, and none belongs to its final carry",
            )


def _top(layer: Stack) -> int:
    """The last layer that does not treat every step alike and alone, or the first."""
    top = len(layer.layers) - 1
    while top > 0 and layer.layers[top].stepwise:
        top -= 1
    return top


@dataclasses.dataclass(frozen=True)
class Writer:
    """Adds layers to a graph; `lengths` is None where all steps are valid."""

    graph: Graph
    sizes: Sizes
    lengths: Lengths | None
    carry: bool  # whether initial states are inputs

    def output(self, layer: Any, params: Any, xs: str) -> str:
        """The output of the network: `[T, B, F]`, or `[B, F]` of one that drops time."""
        if self.lengths is not None:
            tokens = getattr(layer, "reads_tokens", False)
            mask = self.lengths.mask if tokens else self.lengths.valid
            zero = self.graph.integer(0, "int32") if tokens else self.graph.number(0)
            xs = self.graph.node("Where", mask, xs, zero)
        if isinstance(layer, Final):
            return self.last(layer.layer, params, (), xs)
        if isinstance(layer, Pool):
            return self._pooled(layer.how, self.sequence(layer.layer, params, (), xs))
        return self.sequence(layer, params, (), xs)

    def sequence(self, layer: Any, params: Any, path: Path, xs: str) -> str:
        """`xs [T, B, I]` -> `[T, B, F]`, zeros in the padding of both."""
        match layer:
            case Stack():
                for k, (part, p) in enumerate(zip(layer.layers, params, strict=True)):
                    xs = self.sequence(part, p, (*path, str(k)), xs)
                return xs
            case Repeat():
                for k in range(layer.n):
                    xs = self.sequence(layer.layer, _row(params, k), (*path, str(k)), xs)
                return xs
            case Residual():
                return self.graph.node("Add", xs, self.sequence(layer.layer, params, path, xs))
            case Recurrent() | Bidirectional():
                made = self._recurrent(layer, params, path, xs)
                return self._valid(self._merged(layer, [m.ys for m in made], axis=1))
            case Dense():
                return self._valid(self._dense(params, path, xs))
            case Embed():
                table = self.graph.weight(_scope(path) + "table", params.table)
                return self._valid(self.graph.node("Gather", table, xs, axis=0))
        assert isinstance(layer, Dropout)
        return xs

    def last(self, layer: Any, params: Any, path: Path, xs: str) -> str:
        """The output that belongs to the final carry, `[B, F]`; zeros for an empty row."""
        match layer:
            case Stack():
                top = _top(layer)
                alone = dataclasses.replace(self, lengths=None)  # at the last step there is none
                for k, (part, p) in enumerate(zip(layer.layers, params, strict=True)):
                    how = self.sequence if k < top else self.last if k == top else alone.sequence
                    xs = how(part, p, (*path, str(k)), xs)
                return xs if top == len(layer.layers) - 1 else self._not_empty(xs)
            case Repeat():
                for k in range(layer.n):
                    how = self.sequence if k < layer.n - 1 else self.last
                    xs = how(layer.layer, _row(params, k), (*path, str(k)), xs)
                return xs
            case Recurrent() | Bidirectional():
                made = self._recurrent(layer, params, path, xs)
                return self._not_empty(self._merged(layer, [m.ends[0] for m in made], axis=0))
        return self._last_valid(self.sequence(layer, params, path, xs))

    def _dense(self, params: Any, path: Path, xs: str) -> str:
        scope = _scope(path)
        ys = self.graph.node("MatMul", xs, self.graph.weight(f"{scope}kernel", params.kernel))
        if params.bias is None:
            return ys
        return self.graph.node("Add", ys, self.graph.weight(f"{scope}bias", params.bias))

    def _recurrent(self, layer: Any, params: Any, path: Path, xs: str) -> list[NodeOutputs]:
        """One node; or two, where the directions are of different cells."""
        both = runs(layer, params)
        paths = [path] if len(both) == 1 else [(*path, name) for name in Directions._fields]
        if len({run.cell for run in both}) == 1:
            direction = "forward" if len(both) == 1 else "bidirectional"
            return [self._node(both, direction, path, paths, xs)]
        return [
            self._node((run,), direction, own, [own], xs)
            for run, direction, own in zip(both, ("forward", "reverse"), paths, strict=True)
        ]

    def _node(
        self, both: tuple[Run, ...], direction: str, path: Path, paths: list[Path], xs: str
    ) -> NodeOutputs:
        """A node, whose states are inputs and outputs of the graph."""
        graph, initial = self.graph, None
        fields = [(name, leaf.shape[-1]) for name, leaf in _fields(both[0])]
        if self.carry:
            initial = [
                [
                    graph.input(state_name(BEFORE, own, name), graph.dtype, ("B", size))
                    for name, size in fields
                ]
                for own in paths
            ]
        made = add_node(graph, both, direction, _scope(path), xs, self.sizes, self.lengths, initial)
        for k, own in enumerate(paths):
            for (name, size), end in zip(fields, made.ends, strict=True):
                value = graph.node("Gather", end, graph.integer(k), axis=0)
                graph.output(state_name(AFTER, own, name), value, ("B", size))
        return made

    def _merged(self, layer: Recurrent | Bidirectional, made: list[str], axis: int) -> str:
        """Outputs with `D` at `axis`, of one node or of one for each direction, as the layer's."""
        graph = self.graph
        if isinstance(layer, Recurrent):
            return graph.squeeze(made[0], axis)
        if len(made) == 2:
            forward, backward = (graph.squeeze(value, axis) for value in made)
            if layer.merge == "concat":
                return graph.node("Concat", forward, backward, axis=axis + 1)
            op = "Mul" if layer.merge == "mul" else "Add"
            ys = graph.node(op, forward, backward)
        elif layer.merge == "concat":
            cell: Any = layer.forward.cell
            side_by_side = graph.node(
                "Transpose", made[0], perm=[*range(axis), axis + 1, axis, axis + 2]
            )
            shape = graph.integers(*[0] * (axis + 1), 2 * cell.features)  # 0: as it is
            return graph.node("Reshape", side_by_side, shape)
        else:
            op = "ReduceProd" if layer.merge == "mul" else "ReduceSum"
            ys = graph.reduce(op, made[0], axis)
        return graph.node("Mul", ys, graph.number(0.5)) if layer.merge == "mean" else ys

    def _valid(self, ys: str) -> str:
        """`[T, B, F]` with zeros in the padding."""
        if self.lengths is None:
            return ys
        return self.graph.node("Where", self.lengths.valid, ys, self.graph.number(0))

    def _not_empty(self, y: str) -> str:
        """`[B, F]` with zeros for empty rows."""
        if self.lengths is None:
            return y
        return self.graph.node("Where", self.lengths.any, y, self.graph.number(0))

    def _last_valid(self, ys: str) -> str:
        """`[T, B, F]` -> the last valid step of each row, `[B, F]`."""
        graph = self.graph
        if self.lengths is None:
            return graph.node("Gather", ys, graph.integer(-1), axis=0)
        chosen = graph.node("Where", self.lengths.last, ys, graph.number(0))
        return graph.reduce("ReduceSum", chosen, 0)

    def _pooled(self, how: str, ys: str) -> str:
        """`[T, B, F]` -> the mean or the maximum of each row's valid steps, `[B, F]`."""
        graph = self.graph
        if how == "max":
            if self.lengths is None:
                return graph.reduce("ReduceMax", ys, 0)
            lowest = graph.number(float(jnp.finfo(graph.dtype).min))
            valid = graph.node("Where", self.lengths.valid, ys, lowest)
            return self._not_empty(graph.reduce("ReduceMax", valid, 0))
        count = self.sizes.length
        if self.lengths is not None:
            count = graph.unsqueeze(self.lengths.at_least_one, 1)
        kind = graph.onnx.helper.np_dtype_to_tensor_dtype(graph.dtype)
        count = graph.node("Cast", count, to=kind)
        return graph.node("Div", graph.reduce("ReduceSum", ys, 0), count)


def _scope(path: Path) -> str:
    return "".join(f"{name}." for name in path)


def _row(params: Any, k: int) -> Any:
    """One layer of a repeat."""
    return jax.tree.map(lambda leaf: leaf[k], params)


def _fields(run: Run) -> list[tuple[str, Array]]:
    """The leaves of a carry by name."""
    carry = run.cell.carry(())
    return list(zip(type(carry)._fields, carry, strict=True))
