"""`gatedrnn sample`: continue a text with the model of a run, one step at a time."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import gatedrnn as gr
from gatedrnn._app import evaluation, run_folder, tasks
from gatedrnn._app.config import HUGE
from gatedrnn._app.errors import CommandError
from gatedrnn._app.record import CONFIG
from gatedrnn._app.tasks import language
from gatedrnn._app.tasks.language.text import Vocabulary


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
    params = evaluation.best_of("LSTM", model, found)

    print(prompt, end="", flush=True)
    for character in continuation(
        model,
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
    model: language.LanguageModel,
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
    key = jax.random.key(seed)
    scale = jnp.float32(min(temperature, HUGE))
    carry = model.carry(params, 1)
    *first, last = jnp.asarray(vocabulary.encode(prompt)[:, None])
    for token in first:
        carry, *_ = _next(params, carry, token, key, scale, model=model)
    for index in range(length):
        step_key = jax.random.fold_in(key, index)
        carry, last, valid = _next(params, carry, last, step_key, scale, model=model)
        if not valid[0]:
            raise CommandError(
                f"the network gives no probabilities of character {index + 1}: its logits are not"
                " finite, nor are perhaps its parameters"
            )
        yield vocabulary.decode(int(last[0]))


@partial(jax.jit, static_argnames="model")
def _next(
    params: Any,
    carry: Any,
    token: jax.Array,
    key: jax.Array,
    temperature: jax.Array,
    *,
    model: language.LanguageModel,
) -> tuple[Any, jax.Array, jax.Array]:
    """The carry after `token` [B], the token [B] that is drawn to follow it, and if it is valid."""
    step = jax.tree_util.Partial(model.step, params)
    drawn = gr.sample(step, carry, token, key, max_length=1, temperature=temperature)
    return drawn.carry, drawn.tokens[-1], drawn.valid
