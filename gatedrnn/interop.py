"""Weights from and to other libraries, exact or refused.

`from_X(...)` gives `(layer, params)` in our own terms, `to_X(layer, params)` another library's
model; `from_X_carry` and `to_X_carry` do the same for states, which every library orders in its own
way. A conversion that would change the function raises, and says what stands in the way. What is
for training only (`gr.BPTT`, `forget_bias`) goes nowhere, and a stack in a stack or a `gr.repeat`
comes back as one stack of its layers. A library is imported when it is used:
`pip install "gatedrnn[torch]"`, or `[interop]` for all of them.
"""

from gatedrnn._interop.cudnn import from_cudnn, from_cudnn_carry, to_cudnn, to_cudnn_carry
from gatedrnn._interop.equinox import from_equinox, from_equinox_carry, to_equinox, to_equinox_carry
from gatedrnn._interop.flax.linen import from_linen, from_linen_carry, to_linen, to_linen_carry
from gatedrnn._interop.flax.nnx import from_nnx, from_nnx_carry, to_nnx, to_nnx_carry
from gatedrnn._interop.haiku import from_haiku, from_haiku_carry, to_haiku, to_haiku_carry
from gatedrnn._interop.keras.convert import from_keras, from_keras_carry, to_keras, to_keras_carry
from gatedrnn._interop.onnx.read import from_onnx
from gatedrnn._interop.onnx.write import to_onnx
from gatedrnn._interop.onnx.write_states import from_onnx_carry, to_onnx_carry
from gatedrnn._interop.torch import from_torch, from_torch_carry, to_torch, to_torch_carry

__all__ = [
    "from_cudnn",
    "from_cudnn_carry",
    "from_equinox",
    "from_equinox_carry",
    "from_haiku",
    "from_haiku_carry",
    "from_keras",
    "from_keras_carry",
    "from_linen",
    "from_linen_carry",
    "from_nnx",
    "from_nnx_carry",
    "from_onnx",
    "from_onnx_carry",
    "from_torch",
    "from_torch_carry",
    "to_cudnn",
    "to_cudnn_carry",
    "to_equinox",
    "to_equinox_carry",
    "to_haiku",
    "to_haiku_carry",
    "to_keras",
    "to_keras_carry",
    "to_linen",
    "to_linen_carry",
    "to_nnx",
    "to_nnx_carry",
    "to_onnx",
    "to_onnx_carry",
    "to_torch",
    "to_torch_carry",
]
