"""Nodes that join what several tensors hold: two directions, a layer and its input, all steps."""

import dataclasses
from collections.abc import Callable

import numpy as np

from gatedrnn._interop.networks import layer_of, network_of
from gatedrnn._interop.onnx.read_axes import axis_number, ends_with_last_step
from gatedrnn._interop.onnx.read_graph import Graph, Node, refused
from gatedrnn._interop.onnx.read_layers import add_bias
from gatedrnn._interop.onnx.read_values import (
    Backward,
    Count,
    Flow,
    Given,
    Memory,
    Pair,
    Pieces,
    Source,
    Step,
    Value,
    alike,
    axis_of,
    both_ways,
    is_stated,
    replaced,
    settled,
    size_of,
    steps_of,
)
from gatedrnn._src.layers.base import is_stepwise
from gatedrnn._src.layers.bidirectional import Bidirectional
from gatedrnn._src.layers.combinators import Residual
from gatedrnn._src.layers.recurrent import Recurrent


def concat(graph: Graph, node: Node) -> list[Value]:
    """Two directions side by side, or states of several layers."""
    flows = [graph.flow(node, k) for k in range(len(node.inputs))]
    first, nets = flows[0], [flow.net for flow in flows]
    k = axis_number(node, node.attributes["axis"], len(first.axes))
    if len(flows) == 1:
        return [first]
    if all(len(flow.axes) == len(first.axes) for flow in flows):
        along = axis_of(sum(size_of(flow.axes[k]) for flow in flows))
        fed = [net for net in nets if isinstance(net, Source | Given)]
        if len(fed) == len(nets):
            given = Given(frozenset().union(*(net.names for net in fed)))
            return [first._replace(net=given, axes=replaced(first.axes, k, along))]
        if all(alike(first, flow, but=k) for flow in flows):
            if len(flows) == 2 and (pair := both_ways(*nets)):
                return [_side_by_side(node, flows[0], flows[1], pair, k)]
            if len(flows) == 2 and both_ways(*nets[::-1]):
                raise refused(node, "the backward direction comes before the forward one")
            if all(is_state(flow) for flow in flows):
                sizes = [size_of(flow.axes[k]) for flow in flows]
                if len(set(sizes)) == 1:  # layers, then directions
                    along = (*axis_of(len(flows)), *axis_of(sizes[0]))
                joint = Pieces(tuple(flows), k, along)
                return [first._replace(net=joint, axes=replaced(first.axes, k, along))]
    raise refused(
        node, "what it puts side by side is not a forward and a reverse node of the same input"
    )


def _side_by_side(node: Node, ahead: Flow, back: Flow, pair: Pair, k: int) -> Flow:
    features = getattr(back.net, "features", None)
    if (ahead.axes[k], back.axes[k]) == (pair.features, features):
        if size_of(ahead.axes[k]) != size_of(back.axes[k]):
            both = axis_of(size_of(ahead.axes[k]) + size_of(back.axes[k]))
            net = Step(pair.below, *layer_of(pair.recurrences), both, pair.nodes)
            return ahead._replace(net=net, axes=replaced(ahead.axes, k, both))
    elif ahead.axes[k] or back.axes[k]:
        raise refused(node, f"it joins two directions along axis {k}, which is not of features")
    axis = (pair.directions, *ahead.axes[k])
    return ahead._replace(net=pair, axes=replaced(ahead.axes, k, axis))


def is_state(flow: Flow) -> bool:
    """Whether this is a part of the final carry as nodes return it."""
    layer = flow.net.layer if isinstance(flow.net, Step) else None
    kinds = (Memory, Pieces, Pair, Backward)
    of_node = isinstance(flow.net, kinds) or isinstance(layer, Recurrent)
    return flow.end == "final" and of_node


def add(graph: Graph, node: Node) -> list[Value]:
    """Two directions, a layer beside its input, or a bias."""
    values = [graph.value(node, k) for k in range(len(node.inputs))]
    flows = [settled(value) for value in values if isinstance(value, Flow)]
    if len(values) == 1:
        return [graph.flow(node)]
    if len(values) != 2:
        raise refused(node, f"it adds {len(values)} tensors")
    if len(flows) == 1:
        return [add_bias(graph, node, flows[0], 1 if isinstance(values[0], Flow) else 0)]
    one, two = flows
    both = _merged(one, two, "sum")
    return [both or _residual(node, one, two)]


def _merged(one: Flow, two: Flow, merge: str) -> Flow | None:
    """Two directions as one layer; None if they are something else."""
    for ahead, back in ((one, two), (two, one)):
        pair = both_ways(ahead.net, back.net)
        if pair is not None and alike(ahead, back) and _commutes(merge, one.end):
            return ahead._replace(net=pair.merged(merge))
    return None


def _commutes(merge: str, end: str) -> bool:
    """Whether a merge after the end of time is the same as one before."""
    return end in ("", "final") or (merge != "mul" and end in ("mean", "sum"))


def _residual(node: Node, one: Flow, two: Flow) -> Flow:
    """A layer, or several, beside what they read."""
    for below, above in ((one, two), (two, one)):
        steps = steps_of(above.net)
        reads = [k for k, step in enumerate(steps) if step.below is below.net]
        if not reads or not _fits(below, above):
            continue
        inner = steps[reads[0] :]
        layer, params = network_of([s.layer for s in inner], [s.params for s in inner])
        nodes = frozenset().union(*(step.nodes for step in inner))
        net = Step(below.net, Residual(layer), params, inner[-1].features, nodes)
        # of other layers, the final output is not that of a step, which is what can be added to
        at_a_step = all(ends_with_last_step(n) for n in (below.net, net) if isinstance(n, Step))
        if above.end == "final" and not (is_stepwise(net.layer) or at_a_step):
            break
        padding = "zero" if below.padding == above.padding == "zero" else ""
        return above._replace(net=net, padding=padding)
    raise refused(node, "it adds neither two directions, nor a bias, nor a layer and its input")


def _fits(below: Flow, above: Flow) -> bool:
    """Whether all axes are the same but for those of features, which are of one size."""
    features = getattr(above.net, "features", None)
    return (
        len(below.axes) == len(above.axes)
        and "last" not in (below.padding, above.padding)
        and below.end == above.end in ("", "final")
        and all(
            one == two or (two == features and size_of(one) == size_of(two))
            for one, two in zip(below.axes, above.axes, strict=True)
        )
    )


def mul(graph: Graph, node: Node) -> list[Value]:
    """The product of two directions, or half of their sum."""
    values = [graph.value(node, k) for k in range(2)]
    flows = [value for value in values if isinstance(value, Flow)]
    if len(flows) == 2:
        both = _merged(flows[0], flows[1], "mul")
        if both is None:
            raise refused(node, "it multiplies other than two directions")
        return [both]
    factor = graph.weight(node, 1 if isinstance(values[0], Flow) else 0)
    return [_scaled(node, flows[0], factor)]


def div(graph: Graph, node: Node) -> list[Value]:
    """A sum over time by the number of steps, or a sum of two directions by two."""
    flow, by, frame = graph.flow(node), graph.value(node, 1), graph.frame
    if flow.end == "sum" and frame is not None:
        if isinstance(by, Flow):
            right = isinstance(by.net, Count) and (by.net.lengths, by.net.what) == (
                frame.lengths,
                "at least 1",
            )
        else:
            right = (
                by is not None
                and frame.lengths is None
                and (by.sized or is_stated(frame.time))
                and bool(np.all(by.array == size_of(frame.time)))
            )
        if not right:
            raise refused(node, "it divides a sum over time by other than the number of steps")
        return [flow._replace(end="mean")]
    divisor = graph.weight(node, 1)
    return [_scaled(node, flow, None if divisor is None else 1 / divisor)]


def _scaled(node: Node, flow: Flow, factor: np.ndarray | None) -> Flow:
    net = flow.net
    if factor is not None and factor.size == 1 and factor.ndim <= len(flow.axes):
        if np.all(factor == 1):
            return flow
        layer = net.layer if isinstance(net, Step) else None
        if np.all(factor == 0.5) and isinstance(layer, Bidirectional) and layer.merge == "sum":
            assert isinstance(net, Step)
            mean = dataclasses.replace(layer, merge="mean")
            return flow._replace(net=dataclasses.replace(net, layer=mean))
    raise refused(node, "it scales other than the sum of two directions to their mean")


def mean(graph: Graph, node: Node) -> list[Value]:
    """The mean of two directions."""
    flows = [graph.flow(node, k) for k in range(len(node.inputs))]
    both = _merged(flows[0], flows[1], "mean") if len(flows) == 2 else None
    if both is None:
        raise refused(node, "it is the mean of other than two directions")
    return [both]


def reduction(merge: str | None, end: str | None) -> Callable[[Graph, Node], list[Value]]:
    """The handler of a node that takes both directions, or all steps, together."""

    def reduce(graph: Graph, node: Node) -> list[Value]:
        flow, axes = graph.flow(node), graph.ints(node, "axes", 1)
        if axes is None or len(axes) != 1:
            raise refused(node, "it reduces other than one axis")
        k = axis_number(node, axes[0], len(flow.axes))
        kept = ((),) if node.attributes.get("keepdims", 1) else ()
        frame, axis = graph.frame, flow.axes[k]
        both = isinstance(flow.net, Pair) and axis == (flow.net.directions,)
        if merge and both and _commutes(merge, flow.end):
            assert isinstance(flow.net, Pair)
            flow = flow._replace(net=flow.net.merged(merge))
        elif end and frame is not None and axis and axis == frame.time and not flow.end:
            ended = _pooled(node, settled(flow), end, frame.lengths)
            flow = flow._replace(end=ended, padding="")
        else:
            raise refused(node, f"along axis {k}, neither directions nor steps that it can join")
        return [flow._replace(axes=replaced(flow.axes, k, *kept))]

    return reduce


def _pooled(node: Node, flow: Flow, end: str, lengths: str | None) -> str:
    """How a reduction over time ends it; the padding must not take part."""
    if lengths is None:
        return end
    if end == "sum" and flow.padding == "last":
        if not isinstance(flow.net, Step) or not ends_with_last_step(flow.net):
            raise refused(node, "the last step is not what belongs to the final states")
        return "final"
    wanted = {"sum": "zero", "max": "lowest"}.get(end)
    if flow.padding != wanted:
        raise refused(node, "steps in the padding take part in it")
    return end
