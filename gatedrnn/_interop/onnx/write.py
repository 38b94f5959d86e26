"""ONNX, written: a network as a graph."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gatedrnn import _version
from gatedrnn._interop.arrays import as_array, check_leaves
from gatedrnn._interop.conventions import ONNX
from gatedrnn._interop.networks import check_network, is_cell
from gatedrnn._interop.onnx.write_graph import GraphBuilder, Lengths, Sizes
from gatedrnn._interop.onnx.write_layers import LayerWriter, check
from gatedrnn._interop.require import require
from gatedrnn._interop.supported import cannot
from gatedrnn._src import checks, validation
from gatedrnn._src.describe import shown
from gatedrnn._src.layers.recurrent import RecurrentParams, as_layer

OLDEST = 13  # of the versions of the operators
LIMIT = 2**31 - 2**20  # bytes of weights, with which a file stays below the 2 GiB of its format


def to_onnx(
    layer: Any,
    params: Any,
    *,
    lengths: bool = False,
    carry: bool = False,
    opset: int = 17,
    name: str = "gatedrnn",
) -> Any:
    """The network as an ONNX graph of `RNN`, `LSTM` and `GRU` nodes: an `onnx.ModelProto`.

    What `layer.apply` computes without a key, in `layout` 0, which all runtimes have, with `T` and
    `B` left open, each 1 at least (where one is 0, onnxruntime reads what is not there, or ends the
    process):

    - input `xs [T, B, I]`, or tokens `[T, B]` int32 for a network that starts with `gr.embed`, each
      of which must be in the table (ours makes NaN of others, a runtime fails);
    - input `lengths [B]` int32 with `lengths=True`, from 0 to `T`. Whatever stands in the padding
      has no influence, outputs there are zeros, and a row of length 0 keeps its initial state;
    - inputs `carry.0.h`, `carry.0.c` ..., `[B, F]`, with `carry=True`: see `to_onnx_carry`. Without
      it, a network starts from zeros or from its learned initial carry, which is in the graph;
    - output `ys [T, B, F]`, `[B, F]` under `gr.final` and `gr.pool`;
    - outputs `final.0.h`, `final.0.c` ..., `[B, F]`: see `from_onnx_carry`.

    Our bias becomes the input's, the recurrent one is zero but for what a GRU adds inside the
    product; a GRU whose update gate writes becomes one that keeps, the same function. Coupled gates
    are `input_forget=1`, of which ONNX does not say how; onnxruntime has `f = 1 − i`, as ours.
    The dtype is that of the parameters. onnxruntime runs recurrent nodes in float32 only, on a CPU.

    Args:
      layer: cells `Elman`, `LSTM` (with diagonal peepholes, or coupled) and `GRU`; `gr.recurrent`,
        `gr.bidirectional`, `gr.stack`, `gr.repeat` (node by node), `gr.residual`, `gr.dense`,
        `gr.embed`, `gr.dropout` (which is left out), and `gr.final` or `gr.pool` outermost.
      params: its parameters, all float32 or all float64.
      lengths: whether the graph takes the lengths of the sequences.
      carry: whether it takes the initial states.
      opset: the version of ONNX's operators, 13 at least.
      name: of the graph.

    Raises:
      ModuleNotFoundError: onnx is not installed.
      TypeError: arrays that are not floating; float64 where JAX would round it.
      ValueError: ONNX has no such network, and why; `params` are those of another, or too large for
        one file; an opset that is too old, or newer than the installed onnx.

    Example:
      >>> layer = gr.recurrent(gr.LSTM(4))
      >>> model = gr.interop.to_onnx(layer, layer.init(jax.random.key(0), 3))
      >>> [value.name for value in model.graph.output]
      ['ys', 'final.h', 'final.c']
    """
    onnx = require("onnx", "onnx", "onnx")
    checks.flag("lengths", lengths)
    checks.flag("carry", carry)
    newest = onnx.defs.onnx_opset_version()
    if not isinstance(opset, int) or isinstance(opset, bool) or not OLDEST <= opset <= newest:
        raise ValueError(
            f"opset: got {shown(opset)}, expected an integer from {OLDEST} to {newest}"
        )
    if not isinstance(name, str) or not name:
        raise ValueError(f"name: got {shown(name)}, expected a string that is not empty")
    if isinstance(layer, type) or not hasattr(layer, "init"):
        check_network(layer)
    if is_cell(layer):
        layer, params = as_layer(layer), RecurrentParams(params, None)
    check(layer, layer)
    check_leaves("params", params)
    named = jax.tree_util.tree_map_with_path
    params = named(lambda at, leaf: as_array(f"params{jax.tree_util.keystr(at)}", leaf), params)
    in_features = _checked_features(layer, params)
    graph = GraphBuilder(onnx, opset, _dtype(layer, params))
    if in_features is None:
        xs = graph.input("xs", np.int32, ("T", "B"))
    else:
        xs = graph.input("xs", graph.dtype, ("T", "B", in_features))
    sizes, valid = Sizes(graph, xs), None
    if lengths:
        valid = Lengths(graph, sizes, graph.input("lengths", np.int32, ("B",)))
    ys = LayerWriter(graph, sizes, valid, carry).output(layer, params, xs)
    time = () if layer.drops_time else ("T",)
    graph.output("ys", ys, (*time, "B", layer.out_features(in_features)))
    graph.outputs.insert(0, graph.outputs.pop())
    return graph.model(name, repr(layer), _version.read())


def _checked_features(layer: Any, params: Any) -> int | None:
    """`I`, which the first matrix tells; None of tokens. Raise unless `params` are the layer's."""
    in_features = None
    if not layer.reads_tokens:
        first = next((leaf for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) >= 2), None)
        if first is None or not first.size:
            got = type(params).__name__
            raise ValueError(f"params: got {got} without a matrix, expected those of {layer!r}")
        in_features = first.shape[-2]
    expected = jax.eval_shape(lambda: layer.init(jax.random.key(0), in_features))
    validation.check_shapes("params", params, expected, layer)
    return in_features


def _dtype(layer: Any, params: Any) -> np.dtype:
    """The dtype of all parameters."""
    leaves = jax.tree.leaves(params)
    dtypes = sorted({leaf.dtype.name for leaf in leaves})
    if dtypes not in (["float32"], ["float64"]):
        raise cannot(
            layer,
            ONNX,
            f"its parameters are {' and '.join(dtypes)}, expected all float32 or all float64 "
            "(in 16 bits, sums and memory cells of ours are in float32, those of a graph are not)",
        )
    size = sum(leaf.nbytes for leaf in leaves)
    if size > LIMIT:
        raise cannot(layer, ONNX, f"{size:,} bytes of weights do not fit into one file")
    return np.dtype(dtypes[0])
