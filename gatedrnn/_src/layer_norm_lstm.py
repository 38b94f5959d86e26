"""The layer-normalised LSTM.

Axes: `*B` batch, `I` input features, `H` features (memory cells).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.layer_norm_lstm_rule import RULE, LayerNormLSTMParams
from gatedrnn._src.lstm_rule import LSTMCarry
from gatedrnn._src.numerics import accumulator, lecun_normal, orthogonal_gates
from gatedrnn._src.rule import Rule
from gatedrnn._src.step import ruled_step


@dataclasses.dataclass(frozen=True)
class LayerNormLSTM:
    """Long short-term memory with layer normalisation (Ba et al. 2016).

    `a = LN(x W; γ_x) + LN(h U; γ_h) + b`; `i, f, o = σ(a)`, `g = tanh(a)`, `c' = f ⊙ c + i ⊙ g`,
    `h' = o ⊙ tanh(LN(c'; γ_c) + β_c)`; the output is `h'`. `LN(v; γ) = γ ⊙ (v − μ) / √(var + ε)`
    with ε = 1e-5 and, as published, mean and variance over the stacked vector of all four gates; of
    the published shifts of the two products and `b`, which are only ever added, there is one `b`.
    Statistics are in at least float32. Gate order `i, f, g, o`; no peepholes and no projection, as
    published.

    Attributes:
      features: `H`, the number of memory cells.
      forget_bias: added to the stored bias of the forget gate at `init`, never inside the step.
        None: 1.0 where there is a bias.
      use_bias: whether there are `b` and `β_c`.

    Raises:
      ValueError: features below 1, or a forget bias without a bias to live in.
    """

    features: int
    forget_bias: float | None = None
    use_bias: bool = True

    rule: ClassVar[Rule] = RULE

    def __post_init__(self) -> None:
        checks.size("features", self.features)
        checks.flag("use_bias", self.use_bias)
        bias = checks.forget_bias(self.forget_bias, self.use_bias)
        object.__setattr__(self, "forget_bias", bias)

    def init(
        self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32
    ) -> LayerNormLSTMParams:
        """Kernels LeCun normal and orthogonal per gate, gains 1, biases 0 plus the forget bias."""
        checks.size("in_features", in_features)
        checks.floating("dtype", dtype)
        features = self.features
        input_key, recurrent_key = jax.random.split(key)
        bias = memory_bias = None
        if self.use_bias:
            shift = 1.0 if self.forget_bias is None else self.forget_bias
            bias = jnp.zeros(4 * features, dtype).at[features : 2 * features].set(shift)
            memory_bias = jnp.zeros(features, dtype)
        return LayerNormLSTMParams(
            kernel=lecun_normal(input_key, (in_features, 4 * features), dtype),
            recurrent_kernel=orthogonal_gates(recurrent_key, features, features, 4, dtype),
            scale=jnp.ones(4 * features, dtype),
            recurrent_scale=jnp.ones(4 * features, dtype),
            memory_scale=jnp.ones(features, dtype),
            bias=bias,
            memory_bias=memory_bias,
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> LSTMCarry:
        """Zeros: `h [*B, H]` in `dtype`, `c [*B, H]` in at least float32."""
        return LSTMCarry(
            h=jnp.zeros((*batch_shape, self.features), dtype),
            c=jnp.zeros((*batch_shape, self.features), accumulator(dtype)),
        )

    def step(
        self, params: LayerNormLSTMParams, carry: LSTMCarry, x: Array
    ) -> tuple[LSTMCarry, Array]:
        """One time step: `x [*B, I]` -> the new carry and the output `[*B, H]`."""
        return ruled_step(self, params, carry, x)
