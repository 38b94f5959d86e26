"""The floor: the matrix products of a cell and next to nothing else; it computes nothing of use.

The products are those of an ideal implementation. Forward: of the inputs with the kernel, for many
steps at once, and of `h` with the recurrent kernel in every step. Training step: besides, of `δa`
with the transposed recurrent kernel in every step back, and for many steps at once the gradients of
both kernels and of the inputs. Where a cell has gates, there is a sum or a repetition with a scale:
that keeps XLA from merging products, and values from growing. Only `h` is stored.

Axes: `T` time, `k` steps of a chunk, `B` batch, `I` input features, `H` features, `G` gates.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from benchmarks.problem import Problem
from benchmarks.program import Source

NAME = "floor"

# Time is taken in chunks of at most so many rows of `[k B, GH]`: on a CPU, touching fresh memory
# costs more than arithmetic, and chunks that fit a cache beat both longer and shorter ones.
ROWS = 1024
SCALE = 0.25


def programs(problem: Problem) -> dict[str, Source]:
    weights = problem.weights()
    arguments = tuple(
        jnp.asarray(a) for a in (weights.kernel, weights.recurrent_kernel, problem.inputs())
    )
    # the gates of each product of a step: a GRU that resets before has two, one after the other
    gates = [2, 1] if problem.cell == "GRU before" else [weights.kernel.shape[-1] // problem.H]

    def forward(kernel: Array, recurrent: Array, xs: Array) -> Array:
        return _forward(gates, kernel, recurrent, xs)[0].reshape(*xs.shape[:2], -1)

    def train(kernel: Array, recurrent: Array, xs: Array) -> tuple:
        return _train(gates, kernel, recurrent, xs)

    return {
        "forward": Source(NAME, forward, arguments),
        "train": Source(NAME, train, arguments),
    }


def _chunked(xs: Array) -> Array:
    """`xs [T, B, I]` as `[T/k, k, B, I]`, `k` the largest divisor of `T` within `ROWS`."""
    T, B, _ = xs.shape
    k = max(k for k in range(1, T + 1) if T % k == 0 and (k == 1 or k * B <= ROWS))
    return xs.reshape(-1, k, *xs.shape[1:])


def _parts(array: Array, gates: list[int]) -> list[Array]:
    """The columns of `[..., GH]` that belong to each product of a step."""
    H = array.shape[-1] // sum(gates)
    return jnp.split(array, [n * H for n in gates[:-1]], axis=-1)


def _folded(a: Array, H: int) -> Array:
    """`[..., GH]` to `[..., H]`: the sum over gates, scaled."""
    return SCALE * sum(jnp.split(a, a.shape[-1] // H, axis=-1))


def _flat(a: Array) -> Array:
    """`[k, B, ...]` as the rows of a matrix: as fast a product as there is."""
    return a.reshape(-1, a.shape[-1])


def _forward(gates: list[int], kernel: Array, recurrent: Array, xs: Array) -> tuple[Array, Array]:
    """The outputs `[T/k, k, B, H]`, and `h` before each chunk `[T/k, B, H]`."""
    H = len(recurrent)
    kernels = _parts(recurrent, gates)

    def step(h: Array, inputs: list[Array]) -> tuple[Array, Array]:
        for a, u in zip(inputs, kernels, strict=True):
            h = a + _folded(h @ u, H)
        return h, h

    def chunk(h: Array, xs: Array) -> tuple[Array, tuple[Array, Array]]:
        a = _parts(_flat(xs) @ kernel, gates)
        last, hs = lax.scan(step, h, [_folded(part, H).reshape(-1, *h.shape) for part in a])
        return last, (hs, h)

    return lax.scan(chunk, jnp.zeros((xs.shape[1], H), xs.dtype), _chunked(xs))[1]


def _train(gates: list[int], kernel: Array, recurrent: Array, xs: Array) -> tuple:
    """A loss, and arrays of the shapes of the gradients for both kernels and the inputs."""
    H = len(recurrent)
    hs, starts = _forward(gates, kernel, recurrent, xs)
    loss = jnp.mean(jnp.square(hs.astype(jnp.float32)))
    scale = 2 / hs.size
    transposed = [u.T for u in _parts(recurrent, gates)]

    def step(dh: Array, dy: Array) -> tuple[Array, Array]:
        dh, das = dh + dy, []
        for u in reversed(transposed):
            das.insert(0, jnp.tile(SCALE * dh, len(u) // H))
            dh = das[0] @ u
        return dh, jnp.concatenate(das, axis=-1)

    def chunk(carry: Any, inputs: Any) -> tuple[Any, Array]:
        dh, dkernel, drecurrent = carry
        xs, hs, start = inputs
        dh, da = lax.scan(step, dh, scale * hs, reverse=True)
        before, da = jnp.concatenate([start[None], hs[:-1]]), _flat(da)
        dkernel += _flat(xs).T @ da
        drecurrent += _flat(before).T @ da
        return (dh, dkernel, drecurrent), (da @ kernel.T).reshape(xs.shape)

    zeros = (jnp.zeros_like(starts[0]), jnp.zeros_like(kernel), jnp.zeros_like(recurrent))
    (_, *dkernels), dxs = lax.scan(chunk, zeros, (_chunked(xs), hs, starts), reverse=True)
    return loss, (*dkernels, dxs.reshape(xs.shape))
