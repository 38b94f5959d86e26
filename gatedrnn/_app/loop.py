"""The training loop: steps, validations, and checkpoints."""

import math
import sys
import time
from collections.abc import Callable
from functools import partial

import jax
from tqdm import tqdm  # type: ignore[import-untyped]

from gatedrnn._app import learning, processes
from gatedrnn._app.config import Config
from gatedrnn._app.devices import Division
from gatedrnn._app.errors import CommandError
from gatedrnn._app.learning import State
from gatedrnn._app.record import Best
from gatedrnn._app.run_folder import RunFolder
from gatedrnn._app.task import Task


class Training:
    """A run under way: its folder, its state, and each model's best validation so far."""

    def __init__(
        self,
        config: Config,
        task: Task,
        folder: RunFolder,
        state: State,
        division: Division | None = None,
    ) -> None:
        self.folder, self._division = folder, division
        self.state = state if division is None else division.state(state)
        self._settings, self._task = config, task
        self._models = tuple(task.models.items())
        # apart from the key of the initial parameters
        self._key = jax.random.fold_in(jax.random.key(config.train.seed), 1)
        self.best = {name: best for name, best in folder.record.best.items() if best.measures}

    @property
    def step(self) -> int:
        """The number of updates so far."""
        return int(self.state.step)

    def run(self, stop: Callable[[], bool]) -> None:
        """Train to the last step, or until `stop()`; validate and save on the way."""
        train, amount = self._settings.train, self._task.amount
        with tqdm(
            total=train.steps * amount,
            initial=self.step * amount,
            unit=self._task.unit,
            unit_scale=True,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {rate_fmt}{postfix}",
            disable=not processes.is_first(),
            mininterval=0.1 if sys.stderr.isatty() else 10.0,  # a log needs fewer lines
        ) as bar:
            while self.step < train.steps and not stop():
                losses = self._step()
                bar.set_postfix_str(self._postfix(losses), refresh=False)
                bar.update(amount)
                if self.step % train.validate_every == 0 or self.step == train.steps:
                    self._validate(bar.write)
                    sys.stdout.flush()  # a pipe would hold it back

    def save(self) -> None:
        """Save the state of the run; parameters that were never validated count as the best."""
        if self.folder.record.latest != self.step:
            unvalidated = (name for name in self.state.learners if name not in self.best)
            self._save({name: Best(self.step, {}) for name in unvalidated})

    def _step(self) -> dict[str, float]:
        """One update; the loss of each model before it."""
        began, division = time.perf_counter(), self._division
        batch = self._task.batch(self.step)
        self.state, values = learning.train_step(
            self.state,
            batch if division is None else division.batch(batch),
            self._key,
            self._settings.train.steps,
            models=self._models,
            settings=self._settings.optimiser,
        )
        if division is not None:  # XLA may have left it elsewhere
            self.state = division.state(self.state)
        losses = {name: float(values[name]) for name in self._task.models}
        for name, loss in losses.items():
            self._demand_finite(loss, f"training loss of {name}")
        speed = round(self._task.amount / (time.perf_counter() - began), 1)
        self.folder.append(
            *(
                {"kind": "train", "step": self.step, "model": name, "loss": loss, "speed": speed}
                for name, loss in losses.items()
            )
        )
        return losses

    def _postfix(self, losses: dict[str, float]) -> str:
        """The losses for the bar."""
        if len(losses) == 1:
            return f"loss {next(iter(losses.values())):.3f}"
        return ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())

    def _validate(self, write: Callable[[str], None]) -> None:
        """Validate every model, save, and write the result in one line."""
        criterion, division, said = self._task.criterion, self._division, []
        better: dict[str, Best] = {}
        for name in self._task.models:
            params = self.state.learners[name].params
            if division is not None:  # by one device: each would do all of it
                params = division.whole(params)
            measures = processes.of_first(partial(self._task.evaluate, name, params))
            value = measures[criterion.name]
            self._demand_finite(value, f"validation of {name}")
            self.folder.append({"kind": "validation", "step": self.step, "model": name, **measures})
            said.append(f"{name} {criterion.show(value)}")
            old, new = self.best.get(name), Best(self.step, measures)
            if old is None or criterion.better(value, old.measures[criterion.name]):
                better[name] = new
        line = f"step {self.step:>6}   {', '.join(said)} {criterion.unit}"
        if better:
            line += ", the best so far" + (f" of {', '.join(better)}" if len(said) > 1 else "")
        self._save(better)
        self.best |= better
        write(line)

    def _save(self, best: dict[str, Best]) -> None:
        """Save the state, and the parameters of `best`."""
        learners = self.state.learners
        kept = {name: (found, learners[name].params) for name, found in best.items()}
        self.folder = self.folder.save(self.step, self.state, kept)

    def _demand_finite(self, value: float, name: str) -> None:
        if not math.isfinite(value):
            raise CommandError(
                f"the {name} became {value} at step {self.step}"
                " (a lower optimiser.learning_rate may help)",
                exit_code=1,
                everywhere=True,
            )
