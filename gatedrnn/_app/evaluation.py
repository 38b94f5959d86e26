"""`gatedrnn eval`: the evaluation of a run, again, from the parameters that it saved."""

from contextlib import ExitStack
from typing import Any

import jax

from gatedrnn._app import curve, lock, processes, report, run_folder, tasks
from gatedrnn._app.errors import CommandError, notice
from gatedrnn._app.record import BEST, CONFIG, CURVE, Best
from gatedrnn._app.run_folder import RunFolder
from gatedrnn._app.task import Model, Task


def run(folder: str) -> int:
    """Evaluate the best parameters of the run in `folder`, and draw its pictures; the exit code.

    The pictures are written where no other process writes to the run, and where a lock tells.
    """
    processes.demand_one("eval")
    found = run_folder.find(folder)
    task = tasks.load(found.path / CONFIG).make()
    demand_same_data(folder, task, found)
    found, parameters = _of_one_moment(folder, task)
    best = {
        name: Best(found.record.best[name].step, task.evaluate(name, params))
        for name, params in parameters.items()
    }
    drawn = curve.drawn(found, task.criterion)  # raises before anything is said
    print(report.results(task, best, task.baselines()), flush=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.held(folder, surely=True))
            now = run_folder.find(folder)
            if now.record.checkpoints != found.record.checkpoints:
                raise CommandError(f"{folder} has been gone on with")
        except CommandError as error:
            notice(f"{error}; the curve and the pictures were left as they are")
            return 0
        now.write(CURVE, drawn)
        now.write_pictures(task.pictures(parameters))
    return 0


def _of_one_moment(folder: str, task: Task) -> tuple[RunFolder, dict[str, Any]]:
    """A run, which another process may go on with, and the best parameters of its record."""
    while True:
        found = run_folder.find(folder)
        parameters = best_parameters(task, found)
        if run_folder.find(folder).record.best == found.record.best:
            return found, parameters


def best_parameters(task: Task, folder: RunFolder) -> dict[str, Any]:
    """The best parameters of every model of a run."""
    return {name: best_of(name, model, folder) for name, model in task.models.items()}


def best_of(name: str, model: Model, folder: RunFolder) -> Any:
    """The best parameters of one model of a run."""
    like = jax.eval_shape(model.init, jax.random.key(0))
    return folder.restore(f"{BEST}/{name}", like)


def demand_same_data(name: str, task: Task, folder: RunFolder) -> None:
    """Raise unless the data of `task` are those that the run in `folder` began with."""
    if folder.stored() != task.stored:
        raise CommandError(f"{name}: the data are not those that the run began with")
