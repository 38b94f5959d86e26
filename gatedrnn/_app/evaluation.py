"""`gatedrnn eval`: the evaluation of a run, again, from the parameters that it saved."""

from typing import Any

import jax

from gatedrnn._app import curve, lock, report, run_folder, tasks
from gatedrnn._app.errors import CommandError
from gatedrnn._app.record import BEST, CONFIG, Best
from gatedrnn._app.run_folder import RunFolder
from gatedrnn._app.task import Model, Task


def run(folder: str) -> int:
    """Evaluate the best parameters of the run in `folder`, and draw its pictures; the exit code."""
    run_folder.find(folder)  # or else there is nothing to lock
    with lock.held(folder):
        found = run_folder.find(folder)
        task = tasks.load(found.path / CONFIG).make()
        demand_same_data(folder, task, found)
        parameters = best_parameters(task, found)
        best = {
            name: Best(found.record.best[name].step, task.evaluate(name, params))
            for name, params in parameters.items()
        }
        print(report.results(task, best, task.baselines()), flush=True)
        curve.draw(found, task.criterion)
        found.write_pictures(task.pictures(parameters))
    return 0


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
