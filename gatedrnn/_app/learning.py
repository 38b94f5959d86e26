"""Learning as pure functions: the state of a run, and one update of it.

Several models are several independent learners: each has its own loss, gradient, clipping and
optimiser, and the same keys, so that each is trained as if it were alone.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

from gatedrnn._app.config import Optimiser
from gatedrnn._app.task import Model

Models = tuple[tuple[str, Model], ...]  # the models of a task by name, hashable


class Learner(NamedTuple):
    """The part of one model that changes."""

    params: Any
    optimiser: Any
    carry: Any  # of its streams, where the last batch ended


class State(NamedTuple):
    """All that changes from one step to the next."""

    step: jax.Array  # int32 []: updates so far
    learners: dict[str, Learner]


def learning_rate(settings: Optimiser, steps: int) -> optax.Schedule:
    """Half a cosine over `steps`, then the final learning rate."""
    ratio = settings.final_learning_rate / settings.learning_rate
    return optax.cosine_decay_schedule(settings.learning_rate, steps, alpha=ratio)


def optimiser(settings: Optimiser, steps: int) -> optax.GradientTransformation:
    """Global-norm clipping, then Adam, with the learning rate of `settings` over `steps`."""
    clip = optax.clip_by_global_norm(settings.clip_norm)
    return optax.chain(clip, optax.adam(learning_rate(settings, steps)))


@partial(jax.jit, static_argnames=("steps", "models", "settings", "batch"))
def initial_state(
    key: jax.Array, steps: int, *, models: Models, settings: Optimiser, batch: int
) -> State:
    """The state before the first of `steps` steps, with batches of `batch`."""

    def begin(model: Model) -> Learner:
        params = model.init(key)
        carry = model.carry(params, batch)
        return Learner(params, optimiser(settings, steps).init(params), carry)

    return State(jnp.int32(0), {name: begin(model) for name, model in models})


@partial(jax.jit, static_argnames=("steps", "models", "settings"))
def train_step(
    state: State, batch: Any, key: jax.Array, steps: int, *, models: Models, settings: Optimiser
) -> tuple[State, dict[str, jax.Array]]:
    """One update of every model from `batch`, and the loss of each before it, a scalar.

    The gradient ends where the batch begins, since it is taken with respect to the parameters
    alone; the carry goes on. `key` is that of the whole run, of `steps` steps: the number of
    the step is folded in.
    """
    step_key = jax.random.fold_in(key, state.step)

    def update(model: Model, learner: Learner) -> tuple[Learner, jax.Array]:
        (loss, carry), gradient = jax.value_and_grad(model.loss, has_aux=True)(
            learner.params, learner.carry, batch, step_key
        )
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of its count
            updates, memory = optimiser(settings, steps).update(
                gradient, learner.optimiser, learner.params
            )
        return Learner(optax.apply_updates(learner.params, updates), memory, carry), loss

    updated = {name: update(model, state.learners[name]) for name, model in models}
    learners = {name: learner for name, (learner, _) in updated.items()}
    return State(state.step + 1, learners), {name: loss for name, (_, loss) in updated.items()}


def memory_of_a_step(state: State, batch: Any, key: jax.Array, steps: int, **static: Any) -> int:
    """The bytes that `train_step` takes, which is compiled for it; arrays may be their shapes."""
    found = train_step.lower(state, batch, key, steps, **static).compile().memory_analysis()
    if found is None:  # not every device says
        return 0
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
