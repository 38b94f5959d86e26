"""The loss of a language model: `gr.softmax_cross_entropy` against dense and optax's.

Axes: `T` time, `B` batch, `H` features, `V` vocabulary.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gatedrnn as gr
from benchmarks import agreement
from benchmarks.measure import measure
from benchmarks.program import Program, compiled
from benchmarks.settings import Settings
from benchmarks.tables.task import Task
from benchmarks.tables.variants import side_by_side

TITLE = "Read-out"
OPTIONS = {"seconds"}
SIZES = ((10_000, 200, 20, 20), (50_000, 512, 64, 16))  # V, H, T, B
THEIRS, OURS = "dense + optax", "gr.softmax_cross_entropy"


def tasks(settings: Settings) -> Iterator[Task]:
    for V, H, T, B in ((50, 8, 12, 3),) if settings.tiny else SIZES:
        of = {"V": V, "H": H, "T": T, "B": B}
        yield Task(of, lambda of=of: _measure(**of, settings=settings))


def _measure(V: int, H: int, T: int, B: int, settings: Settings) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    kernel = (draw.standard_normal((H, V), np.float32) / np.sqrt(H)).astype(np.float32)
    params = gr.DenseParams(jnp.asarray(kernel), jnp.zeros(V, jnp.float32))
    hs = jnp.asarray(draw.standard_normal((T, B, H), np.float32))
    labels = jnp.asarray(draw.integers(0, V, (T, B)), jnp.int32)

    def theirs(params: gr.DenseParams, hs: jax.Array, labels: jax.Array) -> jax.Array:
        logits = hs @ params.kernel + params.bias
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def ours(params: gr.DenseParams, hs: jax.Array, labels: jax.Array) -> jax.Array:
        return gr.softmax_cross_entropy(params, hs, labels).mean()

    def build(name: str, loss: Callable) -> Program:
        step = jax.value_and_grad(loss, argnums=(0, 1))
        return compiled(name, step, (params, hs, labels), _answer)

    losses = {THEIRS: theirs, OURS: ours}
    tolerance = agreement.tolerance("float32")
    builds = [(name, lambda n=name, loss=loss: build(n, loss)) for name, loss in losses.items()]
    return measure(builds, settings, partial(agreement.check, tolerance=tolerance))


def _answer(result: Any) -> dict[str, np.ndarray]:
    loss, (dparams, dhs) = result
    named = {"loss": loss, "kernel": dparams.kernel, "bias": dparams.bias, "inputs": dhs}
    return {name: np.asarray(value, np.float64) for name, value in named.items()}


def markdown(rows: list[dict]) -> list[str]:
    text = "Mean loss and its gradients for the read-out's parameters and its inputs `[T, B, H]`."
    return [text, "", *side_by_side(rows, (THEIRS, OURS))]
