"""The training loop: steps, validations, and what is saved when."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from tqdm import tqdm  # type: ignore[import-untyped]

from gatedrnn._app import checkpoints, learning
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError
from gatedrnn._app.learning import BITS_PER_NAT, State
from gatedrnn._app.run_folder import BEST, LATEST, RunFolder
from gatedrnn._app.text import Corpus, evaluation_windows, training_window


class Best(NamedTuple):
    """The best validation of a run."""

    step: int
    bits: float  # per character


class Training:
    """A run under way: its folder, its state, and its best validation so far (None: none yet)."""

    def __init__(
        self, config: Config, corpus: Corpus, net: Any, folder: RunFolder, state: State
    ) -> None:
        self.folder, self.state = folder, state
        self.best = min(
            (Best(r["step"], r["bits"]) for r in folder.metrics() if r["kind"] == "validation"),
            key=lambda best: best.bits,
            default=None,
        )
        self._settings, self._net, self._corpus = config, net, corpus
        self._windows = evaluation_windows(
            corpus.validation, window=config.train.window, batch=config.train.batch
        )
        # apart from the key of the initial parameters
        self._key = jax.random.fold_in(jax.random.key(config.train.seed), 1)

    @property
    def step(self) -> int:
        """How many updates there have been."""
        return int(self.state.step)

    def go(self, stop: Callable[[], bool]) -> None:
        """Train to the last step, or until `stop()`; validate and save on the way."""
        train = self._settings.train
        characters = train.window * train.batch  # of one step
        with tqdm(
            total=train.steps * characters,
            initial=self.step * characters,
            unit="char",
            unit_scale=True,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {rate_fmt}{postfix}",
            mininterval=0.1 if sys.stderr.isatty() else 10.0,  # a log needs fewer lines
        ) as bar:
            while self.step < train.steps and not stop():
                nats = self._step()
                bar.set_postfix_str(
                    f"loss {nats:.3f}, {nats * BITS_PER_NAT:.3f} bits/char", refresh=False
                )
                bar.update(characters)
                if self.step % train.validate_every == 0 or self.step == train.steps:
                    bar.write(self._validate())
                    sys.stdout.flush()  # a pipe would hold it back

    def keep(self) -> None:
        """Save where the run is; where no validation has been, the parameters count as the best."""
        if self.best is None:
            self._save(BEST, self.state.params)
        self._save(LATEST, self.state)

    def _step(self) -> float:
        """One update; the loss before it in nats per character."""
        began = time.perf_counter()
        train = self._settings.train
        inputs, targets = training_window(
            self._corpus.train, self.step, window=train.window, batch=train.batch
        )
        self.state, loss = learning.train_step(
            self.state,
            inputs,
            targets,
            self._key,
            train.steps,
            net=self._net,
            settings=self._settings.optimiser,
        )
        nats = float(loss)
        self._demand_finite(nats, "training loss")
        seconds = time.perf_counter() - began
        self.folder.append(
            kind="train",
            step=self.step,
            bits=nats * BITS_PER_NAT,
            characters_per_second=round(inputs.size / seconds, 1),
        )
        return nats

    def _validate(self) -> str:
        """Validate, save, and say how it went in one line."""
        bits = learning.validation_bits(self._net, self.state.params, self._windows)
        self._demand_finite(bits, "validation loss")
        self.folder.append(kind="validation", step=self.step, bits=bits)
        line = f"step {self.step:>6}   validation {bits:.3f} bits per character"
        if self.best is None or bits < self.best.bits:
            self.best = Best(self.step, bits)
            self._save(BEST, self.state.params)
            line += ", the best so far"
        self._save(LATEST, self.state)
        return line

    def _save(self, kind: str, tree: Any) -> None:
        checkpoints.save(self.folder.path / kind, self.step, tree)
        if kind == LATEST:  # now the run is whole: it can be sampled from and resumed
            self.folder = self.folder.publish()

    def _demand_finite(self, value: float, name: str) -> None:
        if not math.isfinite(value):
            raise CommandError(
                f"the {name} became {value} at step {self.step}"
                " (a lower optimiser.learning_rate may help)",
                exit_code=1,
            )
