"""ONNX: `write*` makes the graph of a network, `read*` the network of a graph."""
