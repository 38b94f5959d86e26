"""ONNX graphs in onnxruntime on a CPU, which runs recurrent nodes in float32 only."""

import numpy as np

import gatedrnn as gr
from conformance.peer import Peer


def evaluate(layer, params, xs, carry, lengths, dys, dcarry):
    import onnxruntime

    model = gr.interop.to_onnx(layer, params, lengths=lengths is not None, carry=True)
    feeds = {"xs": np.asarray(xs), **gr.interop.to_onnx_carry(layer, carry)}
    if lengths is not None:
        feeds["lengths"] = np.asarray(lengths)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    states = dict(zip(names, session.run(names, feeds), strict=True))
    ys = states.pop("ys")
    return (gr.interop.from_onnx_carry(layer, states), ys), None


PEER = Peer(
    name="onnxruntime",
    needs=("onnx", "onnxruntime"),
    dtype="float32",
    convert=gr.interop.to_onnx,
    recover=gr.interop.from_onnx,
    evaluate=evaluate,
    gradients="onnxruntime only runs forward",
)
