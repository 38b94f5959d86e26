"""Learning as pure functions: the state, one update, one validation.

Axes: T steps of a window, B streams, V tokens, W windows. Losses are in nats per character until
they are reported, in bits per character.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]

import gatedrnn as gr
from gatedrnn._app.config import Optimiser
from gatedrnn._app.text import Windows

BITS_PER_NAT = 1.0 / math.log(2.0)


class State(NamedTuple):
    """All that changes from one step to the next."""

    step: jax.Array  # int32 []: updates so far
    params: Any
    optimiser: Any
    carry: Any  # of the B streams, where the last window ended


def optimiser(settings: Optimiser, steps: int | jax.Array) -> optax.GradientTransformation:
    """Global-norm clipping, then Adam, with the learning rate of `settings` over `steps`."""

    def learning_rate(count: jax.Array) -> jax.Array:
        progress = jnp.minimum(count.astype(jnp.float32) / steps, 1.0)
        low, high = settings.final_learning_rate, settings.learning_rate
        return low + (high - low) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))

    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), optax.adam(learning_rate))


@partial(jax.jit, static_argnames=("net", "settings", "batch"))
def initial_state(
    key: jax.Array, steps: int, *, net: Any, settings: Optimiser, batch: int
) -> State:
    """The state before the first of `steps` steps, with B = `batch` streams."""
    params = net.init(key, in_features=None)
    carry = net.carry((batch,), params=params)
    return State(jnp.int32(0), params, optimiser(settings, steps).init(params), carry)


def losses(
    net: Any, params: Any, carry: Any, inputs: jax.Array, targets: jax.Array, key: Any = None
) -> tuple[Any, jax.Array]:
    """The carry after a window, and the loss at each of `targets` [T, B].

    The last layer of `net` is the read-out, which is fused with the loss: no logits [T, B, V].
    """
    body = gr.stack(*net.layers[:-1])
    new, hs = body.apply(params[:-1], inputs, carry[:-1], key=key)
    return (*new, carry[-1]), gr.softmax_cross_entropy(params[-1], hs, targets)


@partial(jax.jit, static_argnames=("net", "settings"))
def train_step(
    state: State,
    inputs: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    steps: int,
    *,
    net: Any,
    settings: Optimiser,
) -> tuple[State, jax.Array]:
    """One update from `inputs` and `targets` [T, B], and the loss before it, a scalar.

    The gradient ends where the window begins, since it is taken with respect to the parameters
    alone; the state goes on. `key` is that of the whole run, of `steps` steps: the number of
    the step is folded in.
    """

    def loss(params: Any) -> tuple[jax.Array, Any]:
        step_key = jax.random.fold_in(key, state.step)
        carry, nats = losses(net, params, state.carry, inputs, targets, step_key)
        return nats.mean(), carry

    (value, carry), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of its count
        updates, memory = optimiser(settings, steps).update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, memory, carry), value


@partial(jax.jit, static_argnames="net")
def window_loss(
    params: Any,
    carry: Any,
    inputs: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    net: Any,
) -> tuple[Any, jax.Array]:
    """The carry after one window [T, B], and the sum of `weights` times the losses, a scalar."""
    carry, nats = losses(net, params, carry, inputs, targets)
    return carry, (nats * weights).sum()


def validation_bits(net: Any, params: Any, windows: Windows) -> float:
    """Bits per character over `windows` [W, T, B], each stream from a fresh state, no dropout."""
    carry = net.carry((windows.inputs.shape[-1],), params=params)
    total = 0.0
    for inputs, targets, weights in zip(*windows, strict=True):
        carry, nats = window_loss(params, carry, inputs, targets, weights, net=net)
        total += float(nats)
    return total / float(np.sum(windows.weights)) * BITS_PER_NAT
