"""Diagnostics of recurrent networks: pure functions, each with a picture in `gr.plot`.

Gradients over time and distance (`gradient_norms`, `carry_gradients`, `gradient_reach`), Jacobians
of steps and their products (`step_jacobians`, `product_jacobians`, `singular_values`,
`jacobian_bound`, `lyapunov_exponents`), the surface of the loss (`loss_slice`, `descent_path`), and
gates (`gates`, `saturation`).
"""

from gatedrnn._src.diagnostics.gates import Saturation, gates, saturation
from gatedrnn._src.diagnostics.gradients import carry_gradients, gradient_norms, gradient_reach
from gatedrnn._src.diagnostics.jacobians import (
    jacobian_bound,
    lyapunov_exponents,
    product_jacobians,
    singular_values,
    step_jacobians,
)
from gatedrnn._src.diagnostics.surface import DescentPath, LossSlice, descent_path, loss_slice

__all__ = [
    "DescentPath",
    "LossSlice",
    "Saturation",
    "carry_gradients",
    "descent_path",
    "gates",
    "gradient_norms",
    "gradient_reach",
    "jacobian_bound",
    "loss_slice",
    "lyapunov_exponents",
    "product_jacobians",
    "saturation",
    "singular_values",
    "step_jacobians",
]
