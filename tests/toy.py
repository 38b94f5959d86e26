"""A cell as one is added to the library: equations, rule, class, and its row of the registry."""

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr
from gatedrnn._registry.equations import Step
from gatedrnn._registry.row import Row
from gatedrnn._src import checks
from gatedrnn._src.cells.common import ruled_step
from gatedrnn._src.numerics import accumulator, lecun_normal, orthogonal_gates

Pace = Literal["slow", "fast"]
RATES = {"slow": 0.25, "fast": 0.5}


class ToyParams(NamedTuple):
    kernel: jax.Array  # U [I, H]
    recurrent_kernel: jax.Array  # W [H, H]
    bias: jax.Array | None  # b [H]


class ToyCarry(NamedTuple):
    h: jax.Array  # [*B, H]


# h' = h + α (n − h)      n = tanh(x U + (m ⊙ h) W + b)      δa = α δh' ⊙ (1 − n²)


def project(cell, params, xs):
    a = xs @ params.kernel
    return a if params.bias is None else a + jnp.broadcast_to(params.bias, a.shape).astype(a.dtype)


def recur(cell, params, carry, a, *, mask=None):
    read = carry.h if mask is None else carry.h * mask
    n = jnp.tanh(a + read @ params.recurrent_kernel)
    return ToyCarry(carry.h + RATES[cell.pace] * (n - carry.h)), n


def linearize(cell, params, record):
    return RATES[cell.pace] * (1 - record.gates**2)


def prepare(cell, params):
    return params, params.recurrent_kernel.T


def backward(cell, transposed, slope, dcarry, *, mask=None):
    da = dcarry.h * slope.astype(dcarry.h.dtype)
    through = (da.astype(transposed.dtype) @ transposed).astype(da.dtype)
    through = through if mask is None else through * mask
    return ToyCarry((1 - RATES[cell.pace]) * dcarry.h + through), da


def contract(cell, params, record, da, *, mask=None):
    read = record.before.h if mask is None else record.before.h * mask
    dtype = accumulator(da.dtype)
    xs, read, da = (v.astype(dtype) for v in (record.xs, read, da))
    dparams = ToyParams(
        jnp.einsum("...i,...o->io", xs, da),
        jnp.einsum("...i,...o->io", read, da),
        jnp.einsum("...o->o", da) if cell.use_bias else None,
    )
    return dparams, da @ params.kernel.T.astype(dtype)


@dataclasses.dataclass(frozen=True)
class Toy:
    """A network that goes a part of the way to its new state."""

    features: int
    pace: Pace = "slow"
    use_bias: bool = True

    rule: ClassVar = gr.Rule(
        project, recur, linearize, backward, contract, prepare, takes_mask=True
    )

    def __post_init__(self):
        checks.size("features", self.features)
        checks.option("pace", self.pace, Pace)
        checks.flag("use_bias", self.use_bias)

    def init(self, key, in_features, dtype=jnp.float32):
        checks.size("in_features", in_features)
        checks.floating("dtype", dtype)
        keys, features = jax.random.split(key), self.features
        return ToyParams(
            lecun_normal(keys[0], (in_features, features), dtype),
            orthogonal_gates(keys[1], features, features, 1, dtype),
            jnp.zeros(features, dtype) if self.use_bias else None,
        )

    def carry(self, batch_shape, dtype=jnp.float32):
        return ToyCarry(jnp.zeros((*batch_shape, self.features), dtype))

    def step(self, params, carry, x):
        return ruled_step(self, params, carry, x)


def equations(cell, p, carry, x):
    """The same in NumPy."""
    n = np.tanh(x @ p.kernel + carry.h @ p.recurrent_kernel + (0.0 if p.bias is None else p.bias))
    h = carry.h + {"slow": 0.25, "fast": 0.5}[cell.pace] * (n - carry.h)
    return Step(ToyCarry(h), h)


def shapes(cell, I):
    """Of every parameter."""
    found = {"kernel": (I, cell.features), "recurrent_kernel": (cell.features, cell.features)}
    return found | ({"bias": (cell.features,)} if cell.use_bias else {})


ROW = Row(Toy, step=equations, shapes=shapes, formulas="`h' = h + α (n − h)`")
