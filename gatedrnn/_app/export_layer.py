"""The layer of a model and its parameters as a file of `gr.save`."""

from pathlib import Path
from typing import Any

import gatedrnn as gr
from gatedrnn._app.errors import CommandError
from gatedrnn._app.files import writing
from gatedrnn._app.served import layer_of
from gatedrnn._app.task import Model


def write(
    path: Path, name: str, model: Model, params: Any, *, lengths: bool, carry: bool
) -> list[tuple[str, str]]:
    """Write the file, and return what is said of it, by label."""
    for option, given in (("--lengths", lengths), ("--carry", carry)):
        if given:
            raise CommandError(f"{option}: {path.name} holds a layer, which takes either anyway")
    layer = layer_of(name, model, "a file of gr.load")
    with writing(path):
        try:
            gr.save(path, layer, params)
        except (TypeError, ValueError) as error:  # a layer that is the task's own
            raise CommandError(f"{name} cannot become a file of gr.load: {error}") from error
    return [("layer", repr(layer)), ("read it", f'layer, params = gr.load("{path}")')]
