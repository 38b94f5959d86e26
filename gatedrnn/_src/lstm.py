"""Long short-term memory: peepholes, recurrent projection, coupled gates.

Axes: `*B` batch, `I` input features, `H` features (memory cells), `P` projected features,
`R` recurrent features (`P` with projection, else `H`), `n` gates (4, or 3 if coupled).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.lstm_rule import RULE, LSTMCarry, LSTMParams
from gatedrnn._src.numerics import accumulator, lecun_normal, orthogonal_gates
from gatedrnn._src.rule import Rule
from gatedrnn._src.step import ruled_step


@dataclasses.dataclass(frozen=True)
class LSTM:
    """Long short-term memory.

    `i, f, o = σ(x W + r W_r + c P + b)`, `g = tanh(x W_g + r W_gr + b_g)`,
    `c' = f ⊙ c + i ⊙ g`, `m = o ⊙ tanh(c')`, `r' = m R`; the output is `r'`. The peephole of `o`
    reads the new `c'`, those of `i` and `f` the old `c`. Gate order `i, f, g, o`; coupled
    (`f = 1 − i`): `i, g, o`.

    Attributes:
      features: `H`, the number of memory cells.
      peephole: None, `"diagonal"` (Gers et al. 2002) or `"full"` (a matrix per gate).
      projection: `P`, the size of the recurrent projection (Sak et al. 2014), or None.
      coupled: whether the forget gate is `1 − i` (Greff et al. 2017).
      forget_bias: added to the stored bias of the forget gate at `init` (coupled: subtracted from
        the bias of `i`), never inside the step. None: 1.0 where there is a bias.
      use_bias: whether the gates have a bias.

    Raises:
      ValueError: sizes below 1, an unknown peephole, or a forget bias without a bias to live in.
    """

    features: int
    peephole: str | None = None
    projection: int | None = None
    coupled: bool = False
    forget_bias: float | None = None
    use_bias: bool = True

    rule: ClassVar[Rule] = RULE

    @property
    def gates(self) -> int:
        """`n`: 4, or 3 where two are coupled."""
        return 3 if self.coupled else 4

    def __post_init__(self) -> None:
        checks.size("features", self.features)
        checks.option("peephole", self.peephole, (None, "diagonal", "full"))
        if self.projection is not None:
            checks.size("projection", self.projection)
        checks.flag("coupled", self.coupled)
        checks.flag("use_bias", self.use_bias)
        forget_bias = checks.forget_bias(self.forget_bias, self.use_bias)
        object.__setattr__(self, "forget_bias", forget_bias)

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> LSTMParams:
        """Kernels LeCun normal and orthogonal per gate, biases zero plus the forget bias.

        Diagonal peepholes start at zero, full ones orthogonal, the projection LeCun normal.
        """
        checks.size("in_features", in_features)
        checks.floating("dtype", dtype)
        features, gates = self.features, self.gates
        recurrent = self.projection or features
        keys = jax.random.split(key, 5)
        peephole = output_peephole = bias = projection = None
        if self.peephole == "diagonal":
            peephole = jnp.zeros((gates - 2) * features, dtype)
            output_peephole = jnp.zeros(features, dtype)
        elif self.peephole == "full":
            peephole = orthogonal_gates(keys[2], features, features, gates - 2, dtype)
            output_peephole = orthogonal_gates(keys[3], features, features, 1, dtype)
        if self.use_bias:
            shift = 1.0 if self.forget_bias is None else self.forget_bias
            start, shift = (0, -shift) if self.coupled else (features, shift)
            bias = jnp.zeros(gates * features, dtype).at[start : start + features].set(shift)
        if self.projection is not None:
            projection = lecun_normal(keys[4], (features, self.projection), dtype)
        return LSTMParams(
            kernel=lecun_normal(keys[0], (in_features, gates * features), dtype),
            recurrent_kernel=orthogonal_gates(keys[1], recurrent, features, gates, dtype),
            bias=bias,
            peephole=peephole,
            output_peephole=output_peephole,
            projection_kernel=projection,
        )

    def carry(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> LSTMCarry:
        """Zeros: `h [*B, R]` in `dtype`, `c [*B, H]` in at least float32."""
        return LSTMCarry(
            h=jnp.zeros((*batch_shape, self.projection or self.features), dtype),
            c=jnp.zeros((*batch_shape, self.features), accumulator(dtype)),
        )

    def step(self, params: LSTMParams, carry: LSTMCarry, x: Array) -> tuple[LSTMCarry, Array]:
        """One time step: `x [*B, I]` -> the new carry and the output `[*B, R]`."""
        return ruled_step(self, params, carry, x)
