"""Pictures of the diagnostics in `gr.diagnostics`, by matplotlib: `pip install "gatedrnn[plot]"`.

Every function takes the value that the diagnostic returns, and `ax=None`; it returns the axes.
"""

from gatedrnn._plot.gates import gates, saturation
from gatedrnn._plot.surface import loss_slice
from gatedrnn._plot.time import (
    gradient_norms,
    gradient_reach,
    jacobian_norms,
    lyapunov_exponents,
    singular_values,
)

__all__ = [
    "gates",
    "gradient_norms",
    "gradient_reach",
    "jacobian_norms",
    "loss_slice",
    "lyapunov_exponents",
    "saturation",
    "singular_values",
]
