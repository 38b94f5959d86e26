"""One module for each library, with a `PEER`."""

NAMES = ("torch_", "keras_", "linen_", "nnx_", "equinox_", "haiku_", "cudnn_", "onnx_")
