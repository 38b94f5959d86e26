"""The loops over the steps of a chunk: their signature, and the one by `lax.scan`.

Axes: `T` time, `*B` batch, `F` features of a leaf.

A loop is a function that runs a step over time. The engine makes the step, forward or in reverse,
and hands over all that the step reads; so a loop knows nothing of cells, masks or truncation, and
one may take the place of another.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from jax import Array, lax

from gatedrnn._src.describe import documented
from gatedrnn._src.target import Target


class Steps(NamedTuple):
    """The inputs of the steps, stacked over time; None where a step reads nothing."""

    xs: Any  # [T, *B, F] in every leaf, or of a cell that draws masks: masks.Keyed
    skips: Array | None = None  # [T, *B], True: the step is skipped and keeps the carry
    resets: Array | None = None  # [T, *B], True: the step starts from the reset carry
    cuts: Array | None = None  # [T], True: no gradient from this step to the one before


class Step(Protocol):
    """One step, of the forward or of the reverse recurrence."""

    def __call__(self, weights: Any, rows: Any, carry: Any, inputs: Steps, /) -> tuple[Any, Any]:
        """Return the next carry and what is kept of the step.

        Args:
          weights: the parameters that the step reads, the same for all rows and steps.
          rows: the values `[*B, F]` that the step reads, the same for all steps.
          carry: `[*B, F]` in every leaf.
          inputs: those of one step, without the axis `T`; flags may have a last axis of one
            element, beside features.

        Returns:
          The carry, and any pytree of arrays `[*B, ...]`.
        """
        ...


class Loop(Protocol):
    """The way in which a step runs over time."""

    def __call__(
        self, step: Step, weights: Any, rows: Any, carry: Any, inputs: Steps, *, reverse: bool
    ) -> tuple[Any, Any]:
        """Return the final carry and what is kept of every step, `[T, *B, ...]`.

        Args:
          step: the step.
          weights: see `Step`.
          rows: see `Step`.
          carry: the carry before the first step.
          inputs: those of all steps, with the leading axis `T`.
          reverse: True to run from the last step to the first.
        """
        ...


def scan(
    step: Step,
    weights: Any,
    rows: Any,
    carry: Any,
    inputs: Steps,
    *,
    reverse: bool,
    unroll: int = 1,
) -> tuple[Any, Any]:
    """Run `step` by `lax.scan`: a program of several operations for each step.

    Args:
      step: the step.
      weights: see `Step`.
      rows: see `Step`.
      carry: the carry before the first step.
      inputs: those of all steps.
      reverse: True to run from the last step to the first.
      unroll: the number of steps in one pass of the compiled loop.

    Returns:
      The final carry and what is kept of every step.
    """
    return lax.scan(partial(step, weights, rows), carry, inputs, reverse=reverse, unroll=unroll)


@documented
class Kernel(NamedTuple):
    """A loop over the steps of a rule that is one program on the device, and what it can run.

    A rule names its kernels (`Rule.kernels`). Those of this library run any rule whose `recur` and
    `backward` are element-wise operations and products of rows with parameters, and to which extra
    features that are zero do no harm: give it those of `gr.GRU.rule.kernels`.

    Attributes:
      name: the name by which `gr.BPTT(kernel=...)` asks for it.
      target: the kind of device that it is for; elsewhere the steps go by `jax.lax.scan`.
      refusal: `(weights, carry) -> reason`, of the shapes and dtypes of both, for the forward and
        for the reverse steps: the reason, in words, why it cannot run them, or None.
      preferred: `(carry, device_kind) -> bool`: True where it is taken unasked, since it is known
        to be faster than a scan on such a device.
      loop: `(step, weights, rows, carry, inputs, *, reverse) -> (carry, kept)`, as a scan over the
        leading axis of `inputs`, with `step(weights, rows, carry, inputs) -> (carry, kept)`: masks,
        resets, truncation and clipping are in the step. `weights` are the same for all rows,
        `rows [*B, F]` for all steps. As it is traced it may raise NotImplementedError, with an
        operation of the step that it does not know for a message: a refusal too.

    Example:
      >>> [(kernel.name, kernel.target) for kernel in gr.GRU.rule.kernels][0]
      ('pallas', 'gpu')
      >>> weights, carry = [jnp.ones((8192, 8192), "float32")], gr.GRU(8192).carry((4,))
      >>> gr.GRU.rule.kernels[0].refusal(weights, carry)
      'its weights take 268435456 bytes, a block of the device holds 212992'
    """

    name: str
    target: Target
    refusal: Callable[[Any, Any], str | None]
    preferred: Callable[[Any, str], bool]
    loop: Loop
