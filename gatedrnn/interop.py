"""Weights from and to other libraries, exact or refused.

`from_X(...)` gives `(layer, params)` in our own terms, `to_X(layer, params)` another library's
model; `from_X_carry` and `to_X_carry` do the same for states, which every library orders in its own
way. A conversion that would change the function raises, and says what stands in the way. A library
is imported when it is used: `pip install "gatedrnn[torch]"`, or `[interop]` for all of them.
"""

from gatedrnn._interop.onnx.read import from_onnx
from gatedrnn._interop.torch import (
    from_torch,
    from_torch_carry,
    to_torch,
    to_torch_carry,
)

__all__ = [
    "from_onnx",
    "from_torch",
    "from_torch_carry",
    "to_torch",
    "to_torch_carry",
]
