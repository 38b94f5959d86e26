"""What a task is to the training: data, models, and which measure decides.

The training knows this module, and no task; the tasks are in `gatedrnn._app.tasks`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jax import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Criterion(NamedTuple):
    """The one measure of an evaluation that decides which parameters are the best."""

    name: str  # among those that `Task.evaluate` returns
    unit: str  # in words: "bits per character"
    higher: bool = False  # whether higher is better
    format: str = ".3f"
    of_loss: float | None = (
        None  # the factor from the training loss, where that is the same measure
    )

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is better than the other."""
        return value > than if self.higher else value < than

    def show(self, value: float) -> str:
        """`value` as it is printed."""
        return format(value, self.format)


class Model(Protocol):
    """A network and its loss: pure functions of a hashable value, such as a frozen dataclass.

    Models that are equal share what was compiled, so a model holds settings and no arrays.
    """

    def init(self, key: Array) -> Any:
        """New parameters."""
        ...

    def carry(self, params: Any, batch: int) -> Any:
        """The state before the first of a stream of batches; `()` where each stands alone."""
        ...

    def loss(self, params: Any, carry: Any, batch: Any, key: Array) -> tuple[Array, Any]:
        """The loss of one batch, a scalar, and the carry after it. `key` is that of the step."""
        ...


class Task(Protocol):
    """What is learned from what, made from a configuration: the data, and models to compare.

    The models of a run see the same batches, and each is trained as if it were alone: it has its
    own loss, clipping, optimiser and best parameters.
    """

    @property
    def criterion(self) -> Criterion:
        """Which measure decides."""
        ...

    @property
    def models(self) -> Mapping[str, Model]:
        """The models to train, by names that can be those of folders."""
        ...

    @property
    def unit(self) -> str:
        """What the speed counts: "char", "sequence"."""
        ...

    @property
    def amount(self) -> int:
        """How many of these are in a batch."""
        ...

    @property
    def data(self) -> str:
        """What the data are, in one line."""
        ...

    @property
    def held_out(self) -> str:
        """What the evaluation is on: "the 359 held-out digits"."""
        ...

    @property
    def stored(self) -> dict[str, Any]:
        """What is kept with the run, as JSON: what identifies the data, and what they are read by.

        A run goes on, and is evaluated, with data of which this is equal only.
        """
        ...

    def batch(self, step: int) -> Any:
        """The batch of a step, a pytree of NumPy arrays: a function of its number alone."""
        ...

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """The measures of the model `name` on the held-out data, the criterion among them."""
        ...

    def baselines(self) -> dict[str, float]:
        """What to beat: the criterion of simple predictors on the held-out data."""
        ...

    def pictures(self, params: Mapping[str, Any]) -> "dict[str, Figure | str]":
        """What is worth looking at, by the name of a file: figures, or the text of other files.

        `params` are the best ones of every model.
        """
        ...

    def commands(self, folder: str) -> list[str]:
        """Commands to try with the run in `folder`, beside `gatedrnn eval`."""
        ...
