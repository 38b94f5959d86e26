"""The Tree-LSTM: binary and child-sum.

Axes: `*B` batch, `I` input features, `H` features (memory cells), `k` children that are there.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gatedrnn._src import checks
from gatedrnn._src.numerics import accumulator, lecun_normal, orthogonal_gates
from gatedrnn._src.rule import Rule
from gatedrnn._src.tree.compose import ruled_compose
from gatedrnn._src.tree.tree_lstm_rule import RULE, TreeLSTMParams, TreeLSTMState


@dataclasses.dataclass(frozen=True)
class TreeLSTM:
    """The Tree-LSTM of Tai et al. (2015): a forget gate for each child.

    `c_p = i ⊙ g + Σ_k f_k ⊙ c_k`, `h_p = o ⊙ tanh(c_p)`. Binary (eq. 9–14): every gate reads `x_p`
    and the `h` of both children, each through a matrix of its own; a child that is absent has zero
    states. Child-sum (eq. 2–8): `i, g, o` read `x_p` and `Σ_k h_k`, and `f_k` reads `x_p` and
    `h_k`; with one child it is `gr.LSTM`, parameter for parameter. The forget gates share what they
    read of `x_p`, and their bias. Gate order `i, f, g, o`; the paper's `u` is `g`.

    Attributes:
      features: `H`, the number of memory cells.
      kind: `"binary"`, at most two children, left and right, or `"child_sum"`, any number, in no
        order.
      forget_bias: added to the stored bias of the forget gates at `init`, never inside the step.
        None: 1.0 where there is a bias.
      use_bias: whether the gates have a bias.

    Raises:
      ValueError: features below 1, an unknown kind, or a forget bias without a bias to live in.
    """

    features: int
    kind: str = "binary"
    forget_bias: float | None = None
    use_bias: bool = True

    rule: ClassVar[Rule] = RULE

    @property
    def children(self) -> int | None:
        """The places for children: 2, or None for any number."""
        return 2 if self.kind == "binary" else None

    def __post_init__(self) -> None:
        checks.size("features", self.features)
        checks.option("kind", self.kind, ("binary", "child_sum"))
        checks.flag("use_bias", self.use_bias)
        if self.forget_bias is not None:
            checks.number("forget_bias", self.forget_bias)
            object.__setattr__(self, "forget_bias", float(self.forget_bias))
            if not self.use_bias:
                raise ValueError(
                    f"forget_bias: got {self.forget_bias} with use_bias=False, expected None: "
                    "it is stored in the bias, and there is none"
                )

    def init(self, key: Array, in_features: int, dtype: DTypeLike = jnp.float32) -> TreeLSTMParams:
        """Kernels LeCun normal and (semi-)orthogonal per gate, biases zero plus the forget bias."""
        checks.size("in_features", in_features)
        checks.floating("dtype", dtype)
        features = self.features
        input_key, recurrent_key = jax.random.split(key)
        rows, gates = (2 * features, 5) if self.kind == "binary" else (features, 4)
        bias = None
        if self.use_bias:
            shift = 1.0 if self.forget_bias is None else self.forget_bias
            bias = jnp.zeros(4 * features, dtype).at[features : 2 * features].set(shift)
        return TreeLSTMParams(
            kernel=lecun_normal(input_key, (in_features, 4 * features), dtype),
            recurrent_kernel=orthogonal_gates(recurrent_key, rows, features, gates, dtype),
            bias=bias,
        )

    def state(self, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> TreeLSTMState:
        """Zeros, for a child that is absent: `h [*B, H]` in `dtype`, `c` in at least float32."""
        return TreeLSTMState(
            h=jnp.zeros((*batch_shape, self.features), dtype),
            c=jnp.zeros((*batch_shape, self.features), accumulator(dtype)),
        )

    def compose(self, params: TreeLSTMParams, children: TreeLSTMState, x: Array) -> TreeLSTMState:
        """One node: states of children `[*B, k, H]` and `x [*B, I]` -> its state `[*B, H]`."""
        return ruled_compose(self, params, children, x)
