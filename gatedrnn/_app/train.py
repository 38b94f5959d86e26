"""`gatedrnn train`: from a configuration to a folder."""

import hashlib
import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import jax

from gatedrnn._app import config as configuration
from gatedrnn._app import (
    curve,
    devices,
    evaluation,
    followed,
    interrupt,
    learning,
    leftovers,
    lock,
    memory,
    processes,
    report,
    run_folder,
    tasks,
)
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError
from gatedrnn._app.learning import State
from gatedrnn._app.loop import Training
from gatedrnn._app.processes import Place
from gatedrnn._app.record import CONFIG, LATEST
from gatedrnn._app.run_folder import RunFolder
from gatedrnn._app.task import Task


def run(
    path: str | Path,
    overrides: Sequence[str],
    *,
    overwrite: bool,
    resume: bool,
    place: Place | None = None,
) -> int:
    """Train as the configuration `path` says; the exit code of the program.

    `place` is that of this process among several that make one run.
    """
    config = tasks.load(path, overrides)
    devices.show(config.train.devices)
    if place is None:
        processes.demand_one("train")
    else:
        processes.connect(place)
    with processes.together(), ExitStack() as stack:
        processes.demand_equal()
        processes.demand_same("the settings", configuration.to_table(config))
        processes.demand_same("--overwrite and --resume", [overwrite, resume])
        processes.each(partial(devices.demand, config.train.devices))
        take = partial(_take, stack, config.run.folder, overwrite=overwrite, resume=resume)
        processes.of_first(take)
        return _run(config, overwrite=overwrite, resume=resume)


def _take(stack: ExitStack, folder: str, *, overwrite: bool, resume: bool) -> None:
    """Have `stack` hold the lock of `folder`, where the run may be written."""
    if resume:
        run_folder.find(folder)  # or else there is nothing to lock
    elif not os.path.isdir(folder):
        run_folder.check_free(folder, overwrite=overwrite)
    stack.enter_context(lock.held(folder))
    leftovers.settle(folder)
    if not resume:
        run_folder.check_free(folder, overwrite=overwrite)


def _run(config: Config, *, overwrite: bool, resume: bool) -> int:
    """Train in a folder that no other run writes to."""
    task = processes.each(config.make)
    processes.demand_same("the data", hashlib.sha256(json.dumps(task.stored).encode()).hexdigest())
    division = processes.each(partial(devices.division, config, task.batch_axes))
    if division is not None:
        task = processes.each(partial(task.divided, division.mesh.size))
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
    processes.each(partial(_demand_memory, config, task, like, division))
    baselines = processes.of_first(task.baselines)

    with interrupt.deferred() as interrupted:
        if resume:
            folder, state = processes.each(partial(_resume, config, task, like))
        else:
            state = begin(key)
            folder = followed.create(config, task.stored, overwrite=overwrite)
        training = Training(config, task, folder, processes.as_in_first(state), division)
        try:
            if not resume:
                folder.append(
                    *(
                        {"kind": "baseline", "name": name, task.criterion.name: value}
                        for name, value in baselines.items()
                    )
                )
            used = devices.described(config, task.batch_axes, division)
            print(report.introduction(task, training, baselines, used), flush=True)
            mesh = None if division is None else division.mesh
            training.run(stop=processes.soon_in_any(interrupted, mesh))
            stopped = processes.in_any(interrupted())
            if stopped and training.step and not training.folder.replaces:
                training.save()
        except Exception as error:
            with suppress(CommandError):  # the first failure is the one to report
                _draw_curve(task, training)
            if processes.is_lost(error):
                error = processes.lost(error)
            if isinstance(error, CommandError):
                left = report.remains(training.folder, config.run.folder)
                raise CommandError(
                    f"{error}; {left}", exit_code=error.exit_code, everywhere=error.everywhere
                ) from error
            raise
        finally:
            training.folder.discard_pending()
        processes.of_first(partial(_draw_curve, task, training))
        if stopped:
            said = report.interruption(task, training, config.run.folder, config.train.steps)
            raise CommandError(said, exit_code=130, everywhere=True)
    seconds = time.perf_counter() - began
    processes.of_first(partial(_finish, config, task, training, baselines, seconds))
    return 0


def _finish(
    config: Config,
    task: Task,
    training: Training,
    baselines: Mapping[str, float],
    seconds: float,
) -> None:
    """Say what a run came to, and draw its pictures."""
    print(f"\n{report.results(task, training.best, baselines)}\n", flush=True)
    best = evaluation.best_parameters(task, training.folder)
    training.folder.write_pictures(task.pictures(best))
    where = config.run.folder
    print(f"{training.step:,} steps, {seconds:.0f} s; everything is in {where}. Try:")
    for command in [f"gatedrnn eval {shlex.quote(where)}", *task.commands(where)]:
        print(f"  {command}")


def _demand_memory(
    config: Config, task: Task, like: State, division: devices.Division | None
) -> None:
    """Raise if a step of the training, whose state is shaped as `like`, takes all memory."""
    count = 1 if division is None else division.mesh.size
    sizes, most = configuration.sizes(config), memory.of_device(count // jax.process_count())
    each = "" if division is None else f" on each of {count} devices"
    what = f"the parameters and what is kept for each, before and after a step,{each}"
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
    memory.demand(f"the arrays of a step{each}", size, sizes, most=most)


def _resume(config: Config, task: Task, like: State) -> tuple[RunFolder, State]:
    """The run in the folder that `config` names, and its latest state, shaped like `like`."""
    folder = followed.find(config.run.folder)
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
    if processes.is_first() and not training.folder.pending:
        curve.draw(training.folder, task.criterion)
