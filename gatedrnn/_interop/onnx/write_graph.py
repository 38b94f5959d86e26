"""A graph that is being written: nodes, constants, and the values that many layers share.

Axes: `T` time, `B` batch, `F` features.
"""

import functools
from typing import Any

import numpy as np

# since which opset these take their axes as an input; those of ReduceSum are one since 13
REDUCE_AXES_INPUT = {"ReduceSum": 13, "ReduceMax": 18, "ReduceProd": 18}


class GraphBuilder:
    """Nodes, constants, inputs and outputs; a value is known by its name.

    Args:
      onnx: the module.
      opset: the version of the operators.
      dtype: of all weights and features.
    """

    def __init__(self, onnx: Any, opset: int, dtype: np.dtype) -> None:
        self.onnx, self.opset, self.dtype = onnx, opset, dtype
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def input(self, name: str, dtype: Any, shape: tuple[int | str, ...]) -> str:
        """A value that is fed; a text is the name of an axis whose size is free."""
        self.inputs.append(self._info(name, dtype, shape))
        return name

    def output(self, name: str, value: str, shape: tuple[int | str, ...]) -> None:
        """Return `value`, which takes this name; nothing may use it later."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for k, known in enumerate(names):
                    if known == value:
                        names[k] = name
        self.outputs.append(self._info(name, self.dtype, shape))

    def _info(self, name: str, dtype: Any, shape: tuple[int | str, ...]) -> Any:
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)

    def node(self, op: str, *inputs: str, outputs: tuple[str, ...] = (), **attributes: Any) -> str:
        """Add a node, and return its first output; an input that is left out is `""`."""
        count = len(self.nodes)
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        outputs = outputs or (f"{op.lower()}_{count}",)
        name = f"{count}_{op}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, outputs, name, **attributes))
        return outputs[0]

    def weight(self, name: str, array: Any) -> str:
        """A constant with a name of its own."""
        assert name not in self.initializers, name
        array = np.ascontiguousarray(np.asarray(array, self.dtype))
        self.initializers[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def number(self, value: float) -> str:
        """A number in the dtype of the weights."""
        return self._shared(f"number_{value:g}", np.asarray(value, self.dtype))

    def integer(self, value: int, dtype: Any = np.int64) -> str:
        """An integer without axes."""
        return self._shared(f"{np.dtype(dtype).name}_{value}", np.asarray(value, dtype))

    def integers(self, *values: int) -> str:
        """A vector of integers: axes, or a shape."""
        name = f"integers_{'_'.join(map(str, values))}"
        return self._shared(name, np.asarray(values, np.int64))

    def _shared(self, name: str, array: np.ndarray) -> str:
        if name not in self.initializers:
            self.initializers[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def squeeze(self, value: str, axis: int) -> str:
        """Without an axis of size 1."""
        return self.node("Squeeze", value, self.integers(axis))

    def unsqueeze(self, value: str, axis: int) -> str:
        """With an axis of size 1 more."""
        return self.node("Unsqueeze", value, self.integers(axis))

    def reduce(self, op: str, value: str, axis: int) -> str:
        """A sum, maximum or product along one axis, which goes."""
        if self.opset >= REDUCE_AXES_INPUT[op]:
            return self.node(op, value, self.integers(axis), keepdims=0)
        return self.node(op, value, axes=[axis], keepdims=0)

    def model(self, name: str, doc: str, version: str) -> Any:
        """The whole."""
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes,
            name,
            self.inputs,
            self.outputs,
            list(self.initializers.values()),
            doc_string=doc,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="gatedrnn",
            producer_version=version,
        )


class Sizes:
    """`T` and `B` while the graph runs."""

    def __init__(self, graph: GraphBuilder, xs: str) -> None:
        self._graph, self._xs = graph, xs

    @functools.cached_property
    def _shape(self) -> str:
        return self._graph.node("Shape", self._xs)

    @functools.cached_property
    def length(self) -> str:
        """`T`, int64 without axes."""
        return self._graph.node("Gather", self._shape, self._graph.integer(0), axis=0)

    @functools.cached_property
    def batch(self) -> str:
        """`B`, int64 `[1]`."""
        return self._graph.node("Gather", self._shape, self._graph.integers(1), axis=0)


class Lengths:
    """Masks and counts of valid steps, from an input `lengths [B]`.

    Runtimes differ, or fail, where a length is 0: the nodes are told 1 there, and what they make of
    it is replaced.
    """

    def __init__(self, graph: GraphBuilder, sizes: Sizes, lengths: str) -> None:
        self._graph, self._sizes, self._lengths = graph, sizes, lengths

    @functools.cached_property
    def _steps(self) -> str:
        """The number of each step, int32 `[T, 1]`."""
        graph = self._graph
        steps = graph.node("Range", graph.integer(0), self._sizes.length, graph.integer(1))
        return graph.unsqueeze(graph.node("Cast", steps, to=graph.onnx.TensorProto.INT32), 1)

    @functools.cached_property
    def mask(self) -> str:
        """Booleans `[T, B]`."""
        return self._graph.node("Less", self._steps, self._lengths)

    @functools.cached_property
    def valid(self) -> str:
        """The mask beside features, `[T, B, 1]`."""
        return self._graph.unsqueeze(self.mask, 2)

    @functools.cached_property
    def last(self) -> str:
        """A mask of the last valid step of each row, `[T, B, 1]`."""
        graph = self._graph
        wanted = graph.node("Sub", self._lengths, graph.integer(1, np.int32))
        return graph.unsqueeze(graph.node("Equal", self._steps, wanted), 2)

    @functools.cached_property
    def any(self) -> str:
        """A mask of the rows with a valid step, `[B, 1]`."""
        graph = self._graph
        some = graph.node("Greater", self._lengths, graph.integer(0, np.int32))
        return graph.unsqueeze(some, 1)

    @functools.cached_property
    def at_least_one(self) -> str:
        """The lengths that nodes are told, int32 `[B]`."""
        return self._graph.node("Max", self._lengths, self._graph.integer(1, np.int32))
