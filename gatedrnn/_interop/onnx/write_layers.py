"""The layers of a network as nodes of a graph: each as its `apply` does it, without a key.

A recurrent layer is one `RNN`, `LSTM` or `GRU` node, or one for each direction where these are of
different cells. In what nodes make, the axis of directions comes before the batch.

Axes: `T` time, `B` batch, `D` directions, `I` input features, `F` output features, `H` features of
a cell.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.conventions import ONNX
from gatedrnn._interop.layouts import to_arrays
from gatedrnn._interop.networks import (
    DirectedCell,
    children,
    directions_of,
    recurrences_of,
    split,
)
from gatedrnn._interop.onnx.write_graph import GraphBuilder, Lengths, Sizes
from gatedrnn._interop.onnx.write_states import AFTER, BEFORE, Path, state_name
from gatedrnn._interop.supported import cannot, checked_directions, row_of
from gatedrnn._src.base import Cell
from gatedrnn._src.cells.elman import Elman
from gatedrnn._src.cells.gru import GRU
from gatedrnn._src.cells.lstm import LSTM
from gatedrnn._src.layers.bidirectional import Bidirectional, Directions
from gatedrnn._src.layers.combinators import Repeat, Residual
from gatedrnn._src.layers.many_to_one import Final, Pool
from gatedrnn._src.layers.pointwise import Dense, Dropout, Embed
from gatedrnn._src.layers.recurrent import Recurrent
from gatedrnn._src.layers.stack import Stack


def check(layer: Any, whole: Any) -> None:
    """Raise where a part of the network `whole` has no exact counterpart.

    Raises:
      ValueError: it says what stands in the way.
    """
    match layer:
        case Recurrent() | Bidirectional():
            for one in checked_directions(whole, layer, ONNX):
                row_of(ONNX, one.cell)
        case Stack() | Repeat() | Residual() | Final() | Pool():
            if isinstance(layer, Final):
                _check_final(layer.layer)
            for _, part in children(layer):
                check(part, whole)
        case Dense() | Embed() | Dropout():
            pass
        case _:
            name = type(layer).__name__
            raise cannot(whole, ONNX, f"it has no place for a {name} layer")


def _check_final(layer: Any) -> None:
    """Raise where no step holds the output that belongs to the final carry."""
    match layer:
        case Stack() | Repeat():
            _check_final(children(layer)[_top(layer)][1])
        case Bidirectional():
            pass
        case _ if not layer.causal:
            raise cannot(
                layer, ONNX, "its outputs mix both directions, and none belongs to its final carry"
            )


def _top(layer: Stack | Repeat) -> int:
    """The last layer that does not treat every step alike and alone, or the first of a stack."""
    if isinstance(layer, Repeat):
        return layer.n - 1
    top = len(layer.layers) - 1
    while top > 0 and layer.layers[top].stepwise:
        top -= 1
    return top


# One node ----------------------------------------------------------------------------------------


class NodeOutputs(NamedTuple):
    """The names of what a node makes."""

    ys: str  # [T, D, B, H]; zeros in the padding are not to be relied on
    ends: list[str]  # [D, B, H] for each leaf of the carry


def add_node(
    graph: GraphBuilder,
    both: tuple[DirectedCell, ...],
    direction: str,
    scope: str,
    xs: str,
    sizes: Sizes,
    lengths: Lengths | None,
    initial: list[list[str]] | None,
) -> NodeOutputs:
    """A node for `both` of one cell, the forward one first; `xs [T, B, I]`.

    Args:
      graph: that it is added to.
      both: one, or two for the direction `"bidirectional"`.
      direction: as ONNX has it.
      scope: what the names of its weights start with: `"0."`.
      xs: the input.
      sizes: `T` and `B`.
      lengths: which steps are valid; None: all.
      initial: for each run the names of its initial carry's leaves, `[B, H]`; None for the learned
        ones, or zeros.
    """
    cell: Any = both[0].cell
    weights = [to_arrays(ONNX, one.cell, one.params) for one in both]
    fed = {"B": "", "P": ""} | {
        name: graph.weight(f"{scope}{name}", jnp.stack([own[name] for own in weights]))
        for name in weights[0]
    }
    leaves = len(cell.carry(()))
    starts = [_start(graph, both, leaf, scope, sizes, initial) for leaf in range(leaves)]
    (kind,) = row_of(ONNX, cell).modules
    names = tuple(f"{scope}{name}" for name in ("Y", "Y_h", "Y_c")[: 1 + leaves])
    graph.node(
        kind,
        *(xs, fed["W"], fed["R"], fed["B"]),
        *("" if lengths is None else lengths.at_least_one, *starts),
        *([fed["P"]] if kind == "LSTM" else []),
        outputs=names,
        direction=direction,
        hidden_size=cell.features,
        **_attributes(cell, len(both)),
    )
    ys, *ends = names
    if lengths is not None:
        zero = graph.number(0)
        ends = [
            graph.node("Where", lengths.any, end, start or zero)
            for end, start in zip(ends, starts, strict=True)
        ]
    return NodeOutputs(ys, ends)


def _attributes(cell: Cell, directions: int) -> dict[str, Any]:
    if isinstance(cell, LSTM):
        return {"input_forget": 1} if cell.coupled else {}
    if isinstance(cell, GRU):
        return {"linear_before_reset": int(cell.reset == "after")}
    assert isinstance(cell, Elman)
    attributes: dict[str, Any] = {
        "activations": [row_of(ONNX, cell).activations[cell.activation]] * directions
    }
    if cell.activation == "identity":
        attributes |= {"activation_alpha": [1.0] * directions}
        attributes |= {"activation_beta": [0.0] * directions}
    return attributes


def _start(
    graph: GraphBuilder,
    both: tuple[DirectedCell, ...],
    leaf: int,
    scope: str,
    sizes: Sizes,
    initial: list[list[str]] | None,
) -> str:
    """One leaf of the initial carry, `[D, B, H]`; `""` for zeros."""
    if initial is not None:
        states = [graph.unsqueeze(leaves[leaf], 0) for leaves in initial]
        return states[0] if len(states) == 1 else graph.node("Concat", *states, axis=0)
    learned = [None if one.initial is None else one.initial[leaf] for one in both]
    if all(value is None for value in learned):
        return ""
    cell: Any = both[0].cell
    features = cell.features
    rows = [jnp.zeros(features) if value is None else value for value in learned]
    name = f"{scope}initial_{'hc'[leaf]}"
    value = graph.weight(name, jnp.stack([row[None].astype(graph.dtype) for row in rows]))
    ends = (graph.integers(len(both)), sizes.batch, graph.integers(features))
    return graph.node("Expand", value, graph.node("Concat", *ends, axis=0))


# Layers -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LayerWriter:
    """Adds layers to a graph; `lengths` is None where all steps are valid."""

    graph: GraphBuilder
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
            case Stack() | Repeat():
                for (name, part), p in _parts(layer, params):
                    xs = self.sequence(part, p, (*path, name), xs)
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
            case Stack() | Repeat():
                parts, top = _parts(layer, params), _top(layer)
                alone = dataclasses.replace(self, lengths=None)  # at the last step there is none
                for k, ((name, part), p) in enumerate(parts):
                    how = self.sequence if k < top else self.last if k == top else alone.sequence
                    xs = how(part, p, (*path, name), xs)
                return xs if top == len(parts) - 1 else self._not_empty(xs)
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
        both = recurrences_of(layer, params)
        paths = [path] if len(both) == 1 else [(*path, name) for name in Directions._fields]
        if len({one.cell for one in both}) == 1:
            direction = "forward" if len(both) == 1 else "bidirectional"
            return [self._node(both, direction, path, paths, xs)]
        return [
            self._node((one,), direction, own, [own], xs)
            for one, direction, own in zip(both, ("forward", "reverse"), paths, strict=True)
        ]

    def _node(
        self, both: tuple[DirectedCell, ...], direction: str, path: Path, paths: list[Path], xs: str
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
            cell: Any = directions_of(layer)[0].cell
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


def _parts(layer: Stack | Repeat, params: Any) -> list[tuple[tuple[str, Any], Any]]:
    """The layers inside by their names, with their parameters."""
    return list(zip(children(layer), split(layer, params, "params"), strict=True))


def _scope(path: Path) -> str:
    return "".join(f"{name}." for name in path)


def _fields(one: DirectedCell) -> list[tuple[str, Array]]:
    """The leaves of a carry by name."""
    carry = one.cell.carry(())
    return list(zip(type(carry)._fields, carry, strict=True))
