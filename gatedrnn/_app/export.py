"""`gatedrnn export`: the network of a run, with its best parameters, as a file of its own."""

from collections.abc import Mapping
from pathlib import Path

from gatedrnn._app import evaluation, export_layer, export_onnx, export_program, run_folder, tasks
from gatedrnn._app.errors import CommandError
from gatedrnn._app.record import CONFIG
from gatedrnn._app.task import Model

# by the ending of the file: what writes it, and gives lines to be printed, each with its label
KINDS = {
    ".onnx": export_onnx.write,
    ".stablehlo": export_program.write,
    ".safetensors": export_layer.write,
}


def run(folder: str, *, to: str, model: str | None, lengths: bool, carry: bool) -> int:
    """Write the network of one model of the run in `folder` to the file `to`; the exit code."""
    path = _target(to)
    found = run_folder.find(folder)
    name, chosen = _chosen(folder, tasks.load(found.path / CONFIG).models_of(found), model)
    write = KINDS[path.suffix]
    params = evaluation.best_of(name, chosen, found)
    said = write(path, name, chosen, params, lengths=lengths, carry=carry)
    step = found.record.best[name].step
    print(f"wrote       {to}, {path.stat().st_size:,} bytes: {name} at step {step}")
    for label, words in said:
        print(f"{label:11} {words}")
    print(end="", flush=True)
    return 0


def _target(to: str) -> Path:
    """The path `to`; raise where that cannot be a file, or ends in no kind of file."""
    path = Path(to)
    if path.is_dir():
        raise CommandError(f"--to: {to} is a folder, expected a file, such as model.onnx")
    if path.suffix not in KINDS:
        raise CommandError(f"--to: got {to}, expected a name that ends in {' or '.join(KINDS)}")
    if not path.parent.is_dir():
        raise CommandError(f"--to: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise CommandError(f"--to: {to} is no regular file")
    return path


def _chosen(folder: str, models: Mapping[str, Model], name: str | None) -> tuple[str, Model]:
    names = ", ".join(models)
    if name is None:
        if len(models) > 1:
            raise CommandError(f"{folder} holds several models; --model names one of them: {names}")
        name = next(iter(models))
    if name not in models:
        raise CommandError(f"--model: got {name!r}, expected one of {names}")
    return name, models[name]
