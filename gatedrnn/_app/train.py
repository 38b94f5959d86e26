"""`gatedrnn train`: from a configuration to a folder."""

import os
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import jax

from gatedrnn._app import config as configuration
from gatedrnn._app import (
    curve,
    devices,
    evaluation,
    interrupt,
    learning,
    leftovers,
    lock,
    memory,
    report,
    run_folder,
    tasks,
)
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError
from gatedrnn._app.learning import State
from gatedrnn._app.loop import Training
from gatedrnn._app.record import CONFIG, LATEST
from gatedrnn._app.run_folder import RunFolder
from gatedrnn._app.task import Task


def run(path: str | Path, overrides: Sequence[str], *, overwrite: bool, resume: bool) -> int:
    """Train as the configuration `path` says; the exit code of the program."""
    config = tasks.load(path, overrides)
    devices.show(config.train.devices)
    where = config.run.folder
    if resume:
        run_folder.find(where)  # or else there is nothing to lock
    elif not os.path.isdir(where):
        run_folder.check_free(where, overwrite=overwrite)
    with lock.held(where):
        leftovers.settle(where)
        if not resume:
            run_folder.check_free(where, overwrite=overwrite)
        return _run(config, overwrite=overwrite, resume=resume)


def _run(config: Config, *, overwrite: bool, resume: bool) -> int:
    """Train in a folder that no other process writes to."""
    task = config.make()
    division = devices.division(config, task.batch_axes)
    key = jax.random.key(config.train.seed)
    begin = partial(
        learning.initial_state,
        steps=config.train.steps,
        models=tuple(task.models.items()),
        settings=config.optimiser,
        batch=config.train.batch,
    )
    began = time.perf_counter()
    like = jax.eval_shape(begin, key)
    _demand_memory(config, task, like, division)
    baselines = task.baselines()

    with interrupt.deferred() as interrupted:
        if resume:
            folder, state = _resume(config, task, like)
        else:
            state = begin(key)
            folder = run_folder.create(config, task.stored, overwrite=overwrite)
        training = Training(config, task, folder, state, division)
        try:
            if not resume:
                folder.append(
                    *(
                        {"kind": "baseline", "name": name, task.criterion.name: value}
                        for name, value in baselines.items()
                    )
                )
            print(report.introduction(task, training, baselines), flush=True)
            training.run(stop=interrupted)
            if interrupted() and training.step and not training.folder.replaces:
                training.save()
        except Exception as error:
            with suppress(CommandError):  # the first failure is the one to report
                _draw_curve(task, training)
            if isinstance(error, CommandError):
                left = report.remains(training.folder, config.run.folder)
                raise CommandError(f"{error}; {left}", exit_code=error.exit_code) from error
            raise
        finally:
            training.folder.discard_pending()
        _draw_curve(task, training)
        if interrupted():
            said = report.interruption(task, training, config.run.folder, config.train.steps)
            raise CommandError(said, exit_code=130)
    seconds = time.perf_counter() - began
    print(f"\n{report.results(task, training.best, baselines)}\n", flush=True)
    best = evaluation.best_parameters(task, training.folder)
    training.folder.write_pictures(task.pictures(best))
    where = config.run.folder
    print(f"{training.step:,} steps, {seconds:.0f} s; everything is in {where}. Try:")
    for command in [f"gatedrnn eval {shlex.quote(where)}", *task.commands(where)]:
        print(f"  {command}")
    return 0


def _demand_memory(
    config: Config, task: Task, like: State, division: devices.Division | None
) -> None:
    """Raise if a step of the training, whose state is shaped as `like`, takes all memory."""
    sizes, most = configuration.sizes(config), memory.of_device(config.train.devices)
    what = "the parameters and what is kept for each, before and after a step,"
    memory.demand(what, 2 * memory.size_of(like), sizes, most=most)
    batch = task.batch(0)
    if division is not None:
        like, batch = division.shapes(like, batch)
    size = learning.memory_of_a_step(
        like,
        batch,
        jax.random.key(0),
        config.train.steps,
        models=tuple(task.models.items()),
        settings=config.optimiser,
    )
    memory.demand("the arrays of a step", size, sizes, most=most)


def _resume(config: Config, task: Task, like: State) -> tuple[RunFolder, State]:
    """The run in the folder that `config` names, and its latest state, shaped like `like`."""
    folder = run_folder.find(config.run.folder)
    changes = configuration.differences(tasks.load(folder.path / CONFIG), config)
    for key in sorted(changes.keys() - config.may_change):
        old, new = changes[key]
        raise CommandError(
            f"--resume: {key} is {new!r}, but {old!r} in {config.run.folder};"
            f" {', '.join(sorted(config.may_change))} alone may differ, of the same data"
        )
    evaluation.demand_same_data("--resume", task, folder)
    state = folder.restore(LATEST, like)
    done = int(state.step)
    if "train.steps" in changes and config.train.steps <= done:
        raise CommandError(
            f"train.steps: got {config.train.steps}, expected more than the {done} steps that the"
            " run has done"
        )
    folder = folder.rewind(task.criterion.name)
    folder.write_config(config)
    return folder, state


def _draw_curve(task: Task, training: Training) -> None:
    if not training.folder.pending:
        curve.draw(training.folder, task.criterion)
