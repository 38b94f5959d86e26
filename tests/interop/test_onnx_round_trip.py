"""What `to_onnx` writes, `from_onnx` reads, and written again it is the same file."""

import pytest

import gatedrnn as gr

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("gatedrnn._interop.onnx.read")

from interop.test_onnx_write import CELLS, GRU, LAYERS, LSTM, H, random_params

READ = [layer for layer in LAYERS if "initial='learned'" not in repr(layer)]


def same(model, again):
    """All weights to the bit, all nodes with their attributes; names follow from the nesting."""
    graphs = model.graph, again.graph
    nodes, weights = (
        [[(n.op_type, [str(a) for a in n.attribute]) for n in graph.node] for graph in graphs],
        [[(w.dims, w.raw_data) for w in graph.initializer] for graph in graphs],
    )
    return nodes[0] == nodes[1] and weights[0] == weights[1]


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("layer", [gr.bidirectional(cell) for cell in CELLS], ids=repr)
def test_cells(layer, lengths):
    model = gr.interop.to_onnx(layer, random_params(layer), lengths=lengths, carry=lengths)
    again = gr.interop.to_onnx(*gr.interop.from_onnx(model), lengths=lengths, carry=lengths)
    assert same(model, again)


@pytest.mark.parametrize("layer", READ, ids=repr)
def test_layers(layer):
    model = gr.interop.to_onnx(layer, random_params(layer), lengths=True, carry=True)
    again = gr.interop.to_onnx(*gr.interop.from_onnx(model), lengths=True, carry=True)
    assert same(model, again)


def test_learned_initial_carries():
    """They are in the file, unless it takes the initial states."""
    learned = gr.recurrent(LSTM, initial="learned")
    layer = gr.stack(learned, gr.bidirectional(gr.recurrent(GRU, initial="learned")), gr.dense(H))
    params = random_params(layer)
    model = gr.interop.to_onnx(layer, params)
    assert same(model, gr.interop.to_onnx(*gr.interop.from_onnx(model)))
    without, _ = gr.interop.from_onnx(gr.interop.to_onnx(layer, params, carry=True))
    assert "initial='learned'" not in repr(without)
