"""The interface between the training and a task: data, models, and the measure that decides.

The training knows this module, and no task; those of this package are in `gatedrnn._app.tasks`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jax import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class StoredRun(Protocol):
    """A run as a configuration sees it: its folder, and what the task keeps there."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    def stored(self) -> dict[str, Any]:
        """The JSON that the task keeps with the run."""
        ...


class Criterion(NamedTuple):
    """The one measure of an evaluation that decides which parameters are the best."""

    name: str  # among those that `Task.evaluate` returns
    unit: str  # in words: "bits per character"
    higher: bool = False  # whether higher is better
    format: str = ".3f"
    # the factor from the training loss, where that is the same measure
    of_loss: float | None = None

    def better(self, value: float, than: float) -> bool:
        """True if `value` is better than the other."""
        return value > than if self.higher else value < than

    def show(self, value: float) -> str:
        """`value` as it is printed."""
        return format(value, self.format)


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of a function that leaves Python: its axes, its dtype, and integers that it may be.

    `axes` is `"T, B, 3"`: a name for each size that is left open. Integers are below `below`, which
    is a number, or an axis whose size they may be as well; others are any real numbers.
    """

    axes: str
    dtype: str
    below: int | str | None = None


class Served(NamedTuple):
    """A function that leaves Python, of parameters and of inputs by name, each a tree of `Input`.

    The names are for a reader: inputs are given by position.
    """

    call: Callable[..., Any]  # (params, *inputs) -> a tree of arrays
    inputs: Mapping[str, Any]


class Model:
    """A network and its loss: pure functions of a hashable value, such as a frozen dataclass.

    Models that are equal share what was compiled, so a model holds settings and no arrays. A model
    whose batches stand alone has a `net` and a `mean_loss`, and `in_features`; one that carries a
    state from batch to batch has a `carry` and a `loss` of its own.
    """

    in_features: int | None  # of the inputs of `net`; None for tokens

    @property
    def net(self) -> Any:
        """The layer that is the whole model; None where none is."""
        return None

    @property
    def served(self) -> Served | None:
        """The function that answers, where that is not the network over one sequence of inputs."""
        return None

    def init(self, key: Array) -> Any:
        """New parameters."""
        return self.net.init(key, self.in_features)

    def carry(self, params: Any, batch: int) -> Any:
        """The state before the first of a stream of batches; `()` where each stands alone."""
        return ()

    def loss(self, params: Any, carry: Any, batch: Any, key: Array) -> tuple[Array, Any]:
        """The loss of one batch, a scalar, and the carry after it. `key` is that of the step."""
        return self.mean_loss(params, batch, key), carry

    def mean_loss(self, params: Any, batch: Any, key: Array) -> Array:
        """The loss of one batch that stands alone, a scalar."""
        raise NotImplementedError


class Task:
    """Data and models to compare on them, made from a configuration.

    The models of a run see the same batches, and each is trained as if it were alone: it has its
    own loss, clipping, optimiser and best parameters.
    """

    criterion: Criterion
    models: Mapping[str, Model]  # by names that can be those of folders
    unit: str  # of the speed: "char", "sequence"
    amount: int  # units in a batch
    data: str  # in words, one line
    held_out: str  # the data of the evaluation, in words: "the 359 held-out digits"
    # JSON that is kept with the run: an identification of the data, and what is needed to read
    # them. A run goes on, and is evaluated, only with data of which this is equal.
    stored: Mapping[str, Any] = {}
    # the axis in each array of a batch that is divided over devices, in the order of its leaves:
    # that of the sequences, or of the shards of a forest; None where a batch cannot be divided
    batch_axes: tuple[int, ...] | None = None

    def batch(self, step: int) -> Any:
        """The batch of a step, a pytree of NumPy arrays: a function of its number alone."""
        raise NotImplementedError

    def divided(self, count: int) -> "Task":
        """The task with every batch laid out for `count` devices, a divisor of its size.

        That is the task itself where a batch is sequences side by side. A batch has the same
        examples for any number of devices, and all batches have the same shapes.
        """
        return self

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """The measures of the model `name` on the held-out data, the criterion among them."""
        raise NotImplementedError

    def baselines(self) -> dict[str, float]:
        """The criterion of simple predictors on the held-out data, which are to be beaten."""
        return {}

    def pictures(self, params: Mapping[str, Any]) -> "dict[str, Figure | str]":
        """Figures, or the texts of other files, by the name of the file.

        `params` are the best ones of every model.
        """
        return {}

    def commands(self, folder: str) -> list[str]:
        """Commands to try with the run in `folder`, beside `gatedrnn eval`."""
        return []
