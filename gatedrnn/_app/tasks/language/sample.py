"""`gatedrnn sample`: continue a text with the model of a run, one step at a time."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gatedrnn._app import checkpoints, run_folder, tasks
from gatedrnn._app.config import HUGE, TINY
from gatedrnn._app.errors import CommandError
from gatedrnn._app.run_folder import BEST, CONFIG
from gatedrnn._app.tasks import language
from gatedrnn._app.tasks.language.text import UNKNOWN, Vocabulary


def run(folder: str, *, prompt: str, length: int, temperature: float, seed: int) -> int:
    """Write `prompt` and `length` more characters to the standard output; the exit code.

    An empty prompt stands for the start of a line.
    """
    if length < 1:
        raise CommandError(f"--length: got {length}, expected at least 1")
    if not 0 <= temperature < math.inf:
        raise CommandError(
            f"--temperature: got {temperature}, expected a number of at least 0 (0 takes the"
            " likeliest character each time)"
        )
    if not 0 <= seed < 2**32:
        raise CommandError(f"--seed: got {seed}, expected an integer from 0 to 2**32 - 1")
    found = run_folder.find(folder)
    config = tasks.load(found.path / CONFIG)
    if not isinstance(config, language.Config):
        raise CommandError(
            f"{folder} holds a run of the task {config.task}, expected one of the task language"
        )
    vocabulary = language.vocabulary_of(found)
    strange = [character for character in prompt if character not in vocabulary.characters]
    if strange:
        raise CommandError(
            f"--prompt: {strange[0]!r} is not among the {len(vocabulary.characters)} characters"
            f" of the text that {folder} was trained on"
        )
    model = language.LanguageModel(config.model, vocabulary.size)
    like = jax.eval_shape(model.init, jax.random.key(0))
    params = checkpoints.restore(found.path / BEST / "LSTM", like)

    print(prompt, end="", flush=True)
    for character in continuation(
        model.net,
        params,
        vocabulary,
        prompt or vocabulary.start,
        length=length,
        temperature=temperature,
        seed=seed,
    ):
        print(character, end="", flush=True)
    print()
    return 0


def continuation(
    net: Any,
    params: Any,
    vocabulary: Vocabulary,
    prompt: str,
    *,
    length: int,
    temperature: float,
    seed: int,
) -> Iterator[str]:
    """The `length` characters that follow `prompt`, each as soon as it is drawn.

    Temperature 0 takes the likeliest character; otherwise the logits are divided by it. The unknown
    symbol is never drawn.
    """
    temperature = min(temperature, HUGE) if temperature >= TINY else 0.0  # within float32
    key = jax.random.key(seed)
    carry = net.carry((1,), params=params)
    for token in vocabulary.encode(prompt):
        carry, logits = _step(params, carry, jnp.full((1,), token, jnp.int32), net=net)
    for index in range(length):
        chosen = _draw(logits, jnp.float32(temperature), jax.random.fold_in(key, index))
        yield vocabulary.decode(int(chosen[0]))
        carry, logits = _step(params, carry, chosen, net=net)


@partial(jax.jit, static_argnames="net")
def _step(params: Any, carry: Any, token: jax.Array, *, net: Any) -> tuple[Any, jax.Array]:
    return net.step(params, carry, token)


@jax.jit
def _draw(logits: jax.Array, temperature: jax.Array, key: jax.Array) -> jax.Array:
    """One token for each row of `logits` [B, V], int32 [B]; `temperature` is a scalar."""
    logits = logits[:, UNKNOWN + 1 :]
    # the greatest becomes 0, which no temperature, however low, makes infinite
    logits -= logits.max(axis=-1, keepdims=True)
    drawn = jax.random.categorical(key, logits / jnp.where(temperature > 0, temperature, 1.0))
    chosen = jnp.where(temperature > 0, drawn, jnp.argmax(logits, axis=-1))
    return chosen.astype(jnp.int32) + (UNKNOWN + 1)
