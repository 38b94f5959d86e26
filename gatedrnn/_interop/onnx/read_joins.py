"""Nodes that join what several tensors hold: two directions, a layer and its input, all steps."""

import dataclasses
from collections.abc import Callable

import numpy as np

from gatedrnn._interop.networks import layer_of, network_of
from gatedrnn._interop.onnx.read_axes import axis_number, ends_with_last_step
from gatedrnn._interop.onnx.read_layers import add_bias
from gatedrnn._interop.onnx.read_tensors import (
    Axis,
    BothDirections,
    FinalMemory,
    FromLengths,
    GivenStates,
    GraphInput,
    GraphReader,
    JoinedStates,
    LayerOutput,
    Node,
    Origin,
    ReverseOutput,
    Tensor,
    Value,
    as_layer_output,
    axis_of,
    both_directions,
    is_stated,
    layers_below,
    refused,
    same_axes,
    size_of,
    with_axes,
)
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.combinators import Residual
from gatedrnn._src.layers.recurrent import Recurrent


def concat(graph: GraphReader, node: Node) -> list[Value]:
    """Two directions side by side, or states of several layers."""
    tensors = [graph.tensor(node, k) for k in range(len(node.inputs))]
    first, origins = tensors[0], [tensor.origin for tensor in tensors]
    k = axis_number(node, node.attributes["axis"], len(first.axes))
    if len(tensors) == 1:
        return [first]
    if all(len(tensor.axes) == len(first.axes) for tensor in tensors):
        whole = sum(size_of(tensor.axes[k]) for tensor in tensors)
        if whole >= 2**63:
            raise refused(node, "what it joins is larger than integers of 64 bits")
        along = axis_of(whole)
        fed = [origin for origin in origins if isinstance(origin, GraphInput | GivenStates)]
        if len(fed) == len(origins):
            if not all(is_stated(tensor.axes[k]) for tensor in tensors):
                raise refused(node, f"it joins states along axis {k}, whose size is open")
            given = GivenStates(frozenset().union(*(origin.names for origin in fed)))
            return [first._replace(origin=given, axes=with_axes(first.axes, k, along))]
        if all(same_axes(first, tensor, but=k) for tensor in tensors):
            if len(tensors) == 2 and (pair := both_directions(*origins)):
                return [_side_by_side(node, tensors[0], tensors[1], pair, k)]
            if len(tensors) == 2 and both_directions(*origins[::-1]):
                raise refused(node, "the backward direction comes before the forward one")
            if all(is_state(tensor) for tensor in tensors):
                sizes = [size_of(tensor.axes[k]) for tensor in tensors]
                if len(set(sizes)) == 1:  # layers, then directions
                    along = (*axis_of(len(tensors)), *axis_of(sizes[0]))
                joint = _joined(node, tensors, k, along)
                return [first._replace(origin=joint, axes=with_axes(first.axes, k, along))]
    raise refused(
        node, "what it puts side by side is not a forward and a reverse node of the same input"
    )


def _joined(node: Node, tensors: list[Tensor], k: int, along: Axis) -> JoinedStates:
    """Several states in one tensor, each of them once."""
    each = [_states(tensor.origin) for tensor in tensors]
    states = frozenset().union(*each)
    if len(states) < sum(map(len, each)):
        raise refused(node, "it joins a state with itself")
    nodes = frozenset(name for name, _ in states)
    return JoinedStates(tuple(tensors), k, along, nodes, states)


def _states(origin: Origin) -> frozenset[tuple[str, bool]]:
    if isinstance(origin, JoinedStates):
        return origin.states
    return frozenset((name, isinstance(origin, FinalMemory)) for name in origin.nodes)


def _side_by_side(node: Node, ahead: Tensor, back: Tensor, pair: BothDirections, k: int) -> Tensor:
    features = getattr(back.origin, "features", None)
    if (ahead.axes[k], back.axes[k]) == (pair.features, features):
        if size_of(ahead.axes[k]) != size_of(back.axes[k]):
            both = axis_of(size_of(ahead.axes[k]) + size_of(back.axes[k]))
            origin = LayerOutput(pair.below, *layer_of(pair.recurrences), both, pair.nodes)
            return ahead._replace(origin=origin, axes=with_axes(ahead.axes, k, both))
    elif ahead.axes[k] or back.axes[k]:
        raise refused(node, f"it joins two directions along axis {k}, which is not of features")
    axis = (pair.directions, *ahead.axes[k])
    return ahead._replace(origin=pair, axes=with_axes(ahead.axes, k, axis))


def is_state(tensor: Tensor) -> bool:
    """Return whether this is a part of the final carry as nodes return it."""
    layer = tensor.origin.layer if isinstance(tensor.origin, LayerOutput) else None
    kinds = (FinalMemory, JoinedStates, BothDirections, ReverseOutput)
    of_node = isinstance(tensor.origin, kinds) or isinstance(layer, Recurrent)
    return tensor.end == "final" and of_node


def add(graph: GraphReader, node: Node) -> list[Value]:
    """Two directions, a layer beside its input, or a bias."""
    values = [graph.value(node, k) for k in range(len(node.inputs))]
    tensors = [as_layer_output(value) for value in values if isinstance(value, Tensor)]
    if len(values) == 1:
        return [graph.tensor(node)]
    if len(values) != 2:
        raise refused(node, f"it adds {len(values)} tensors")
    if len(tensors) == 1:
        return [add_bias(graph, node, tensors[0], 1 if isinstance(values[0], Tensor) else 0)]
    one, two = tensors
    both = _merged(one, two, "sum")
    return [both or _residual(node, one, two)]


def _merged(one: Tensor, two: Tensor, merge: str) -> Tensor | None:
    """Two directions as one layer; None if they are something else."""
    for ahead, back in ((one, two), (two, one)):
        pair = both_directions(ahead.origin, back.origin)
        if pair is not None and same_axes(ahead, back) and _commutes(merge, one.end):
            return ahead._replace(origin=pair.merged(merge))
    return None


def _commutes(merge: str, end: str) -> bool:
    """Return whether a merge after the end of time is the same as one before."""
    return end in ("", "final") or (merge != "mul" and end in ("mean", "sum"))


def _residual(node: Node, one: Tensor, two: Tensor) -> Tensor:
    """A layer, or several, beside what they read."""
    for below, above in ((one, two), (two, one)):
        layers = layers_below(above.origin)
        reads = [k for k, own in enumerate(layers) if own.below is below.origin]
        if not reads or not _fits(below, above):
            continue
        inner = layers[reads[0] :]
        layer, params = network_of([own.layer for own in inner], [own.params for own in inner])
        nodes = frozenset().union(*(own.nodes for own in inner))
        origin = LayerOutput(below.origin, Residual(layer), params, inner[-1].features, nodes)
        # of other layers, the final output is not that of a step, which is what can be added to
        at_a_step = all(map(ends_with_last_step, (below.origin, origin)))
        if above.end == "final" and not (origin.layer.stepwise or at_a_step):
            break
        padding = "zero" if below.padding == above.padding == "zero" else ""
        return above._replace(origin=origin, padding=padding)
    raise refused(node, "it adds neither two directions, nor a bias, nor a layer and its input")


def _fits(below: Tensor, above: Tensor) -> bool:
    """Return whether all axes are the same but for those of features, which are of one size."""
    features = getattr(above.origin, "features", None)
    return (
        len(below.axes) == len(above.axes)
        and "last" not in (below.padding, above.padding)
        and below.end == above.end in ("", "final")
        and all(
            one == two or (two == features and size_of(one) == size_of(two))
            for one, two in zip(below.axes, above.axes, strict=True)
        )
    )


def mul(graph: GraphReader, node: Node) -> list[Value]:
    """The product of two directions, or half of their sum."""
    values = [graph.value(node, k) for k in range(2)]
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len(tensors) == 2:
        both = _merged(tensors[0], tensors[1], "mul")
        if both is None:
            raise refused(node, "it multiplies other than two directions")
        return [both]
    factor = graph.weight(node, 1 if isinstance(values[0], Tensor) else 0)
    return [_scaled(node, tensors[0], factor)]


def div(graph: GraphReader, node: Node) -> list[Value]:
    """A sum over time by the number of steps, or a sum of two directions by two."""
    tensor, by, sequence = graph.tensor(node), graph.value(node, 1), graph.sequence
    if tensor.end == "sum" and sequence is not None:
        if isinstance(by, Tensor):
            steps = (sequence.lengths, "at least 1")
            right = (
                isinstance(by.origin, FromLengths) and (by.origin.lengths, by.origin.what) == steps
            )
        else:
            right = (
                by is not None
                and sequence.lengths is None
                and (by.from_sizes or is_stated(sequence.time))
                and bool(np.all(by.array == size_of(sequence.time)))
            )
        if not right:
            raise refused(node, "it divides a sum over time by other than the number of steps")
        return [tensor._replace(end="mean")]
    divisor = graph.weight(node, 1)
    with np.errstate(all="ignore"):
        return [_scaled(node, tensor, None if divisor is None else 1 / divisor)]


def _scaled(node: Node, tensor: Tensor, factor: np.ndarray | None) -> Tensor:
    origin = tensor.origin
    if factor is not None and factor.size == 1 and factor.ndim <= len(tensor.axes):
        if np.all(factor == 1):
            return tensor
        layer = origin.layer if isinstance(origin, LayerOutput) else None
        if np.all(factor == 0.5) and isinstance(layer, Bidirectional) and layer.merge == "sum":
            assert isinstance(origin, LayerOutput)
            mean = dataclasses.replace(layer, merge="mean")
            return tensor._replace(origin=dataclasses.replace(origin, layer=mean))
    raise refused(node, "it scales other than the sum of two directions to their mean")


def mean(graph: GraphReader, node: Node) -> list[Value]:
    """The mean of two directions."""
    tensors = [graph.tensor(node, k) for k in range(len(node.inputs))]
    both = _merged(tensors[0], tensors[1], "mean") if len(tensors) == 2 else None
    if both is None:
        raise refused(node, "it is the mean of other than two directions")
    return [both]


def reduction(merge: str | None, end: str | None) -> Callable[[GraphReader, Node], list[Value]]:
    """The handler of a node that takes both directions, or all steps, together."""

    def reduce(graph: GraphReader, node: Node) -> list[Value]:
        tensor, axes = graph.tensor(node), graph.ints(node, "axes", 1)
        if axes is None or len(axes) != 1:
            raise refused(node, "it reduces other than one axis")
        k = axis_number(node, axes[0], len(tensor.axes))
        kept = ((),) if node.attributes.get("keepdims", 1) else ()
        sequence, axis = graph.sequence, tensor.axes[k]
        both = isinstance(tensor.origin, BothDirections) and axis == (tensor.origin.directions,)
        if merge and both and _commutes(merge, tensor.end):
            assert isinstance(tensor.origin, BothDirections)
            tensor = tensor._replace(origin=tensor.origin.merged(merge))
        elif end and sequence is not None and axis and axis == sequence.time and not tensor.end:
            ended = _pooled(node, as_layer_output(tensor), end, sequence.lengths)
            tensor = tensor._replace(end=ended, padding="")
        else:
            raise refused(node, f"along axis {k}, neither directions nor steps that it can join")
        return [tensor._replace(axes=with_axes(tensor.axes, k, *kept))]

    return reduce


def _pooled(node: Node, tensor: Tensor, end: str, lengths: str | None) -> str:
    """The `end` of a sequence that is reduced over time; the padding must not take part."""
    if lengths is None:
        return end
    if end == "sum" and tensor.padding == "last":
        if not isinstance(tensor.origin, LayerOutput) or not ends_with_last_step(tensor.origin):
            raise refused(node, "the last step is not what belongs to the final states")
        return "final"
    wanted = {"sum": "zero", "max": "lowest"}.get(end)
    if tensor.padding != wanted:
        raise refused(node, "steps in the padding take part in it")
    return end
