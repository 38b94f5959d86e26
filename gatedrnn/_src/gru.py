"""Gated recurrent units in all four published forms.

Axes: `*B` batch, `I` input features, `H` features.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.gru_rule import RULE, GRUCarry, GRUParams
from gatedrnn._src.numerics import lecun_normal, orthogonal_gates
from gatedrnn._src.rule import Rule
from gatedrnn._src.step import ruled_step


@dataclasses.dataclass(frozen=True)
class GRU:
    """Gated recurrent unit; which of the four published forms is said, never assumed.

    `r, z = σ(x W + h U + b)`; `n = tanh(x W_n + (r ⊙ h) U_n + b_n)` where the reset comes before
    the product, `n = tanh(x W_n + b_n + r ⊙ (h U_n + d_n))` where it comes after. The update gate
    writes, `h' = (1−z) ⊙ h + z ⊙ n`, or keeps, `h' = z ⊙ h + (1−z) ⊙ n`: the same model with the
    sign of `z`'s weights flipped. Gate order `r, z, n`.

    The defaults are Chung et al. (2014), as most texts print it; PyTorch, cuDNN and Flax are
    `reset="after", update="keeps"`.

    Attributes:
      features: `H`.
      reset: `"before"` or `"after"` the recurrent product of the candidate.
      update: whether `z` is the share that is written (`"writes"`) or kept (`"keeps"`).
      use_bias: whether the gates have a bias (reset after: also `d_n` inside the product).

    Raises:
      ValueError: features below 1, or an unknown option.
    """

    features: int
    reset: str = "before"
    update: str = "writes"
    use_bias: bool = True

    rule: ClassVar[Rule] = RULE

    def __post_init__(self) -> None:
        checks.size("features", self.features)
        checks.option("reset", self.reset, ("before", "after"))
        checks.option("update", self.update, ("writes", "keeps"))
        checks.flag("use_bias", self.use_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> GRUParams:
        """Kernels LeCun normal and orthogonal per gate, biases zero."""
        checks.size("in_features", in_features)
        checks.floating("dtype", dtype)
        features = self.features
        input_key, recurrent_key = jax.random.split(key)
        inside = self.use_bias and self.reset == "after"
        return GRUParams(
            kernel=lecun_normal(input_key, (in_features, 3 * features), dtype),
            recurrent_kernel=orthogonal_gates(recurrent_key, features, features, 3, dtype),
            bias=jnp.zeros(3 * features, dtype) if self.use_bias else None,
            recurrent_bias=jnp.zeros(features, dtype) if inside else None,
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> GRUCarry:
        """Zeros, `h [*B, H]` in `dtype`."""
        return GRUCarry(jnp.zeros((*batch_shape, self.features), dtype))

    def step(self, params: GRUParams, carry: GRUCarry, x: Array) -> tuple[GRUCarry, Array]:
        """One time step: `x [*B, I]` -> the new carry and the output `[*B, H]`."""
        return ruled_step(self, params, carry, x)
