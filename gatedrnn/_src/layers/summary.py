"""A table of the layers of a network: output shapes and numbers of parameters."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax

from gatedrnn._src import checks, validation
from gatedrnn._src.base import Cell
from gatedrnn._src.layers.base import Layer
from gatedrnn._src.layers.checks import check_layer
from gatedrnn._src.layers.combinators import Repeat
from gatedrnn._src.layers.recurrent import as_layer, brief


class Summary(str):
    """Text that a terminal and a notebook show as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The text itself."""
        return str(self)


class _Row(NamedTuple):
    label: str
    output: str
    parameters: int


def summary(layer: Layer | Cell, in_features: int | None = None) -> Summary:
    """Tabulate the layers of a network with output shapes and numbers of parameters.

    Args:
      layer: a layer or a cell.
      in_features: `I`, or None where it reads tokens.

    Returns:
      Text: a line for each layer, those inside others indented, and the number of all parameters.

    Raises:
      TypeError: neither a layer nor a cell.
      ValueError: features that do not fit to the layer.

    Example:
      >>> gr.summary(gr.stack(gr.embed(7, 4), gr.GRU(5), gr.dense(7)))
      layer             output      parameters
      ----------------------------------------
      stack             [T, *B, 7]         220
        0  embed(7, 4)  [T, *B, 4]          28
        1  GRU(5)       [T, *B, 5]         150
        2  dense(7)     [T, *B, 7]          42
      ----------------------------------------
      220 parameters
    """
    layer = as_layer(layer)
    if in_features is not None:
        checks.size("in_features", in_features)
    if not getattr(layer, "drops_time", False):
        check_layer("layer", layer)
    rows = list(_rows("", layer, in_features))
    table = [("layer", "output", "parameters")]
    table += [(row.label, row.output, f"{row.parameters:,}") for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    first, *lines = (
        f"{label:<{widths[0]}}  {output:<{widths[1]}}  {count:>{widths[2]}}"
        for label, output, count in table
    )
    rule = "-" * len(first)
    total = f"{rows[0].parameters:,} parameters"
    return Summary("\n".join([first, rule, *lines, rule, total]))


def _rows(name: str, layer: Layer, in_features: int | None) -> Iterator[_Row]:
    """The row of a layer, and those of the layers inside, each indented by two spaces."""
    inside = layer.parts(in_features)
    template = validation.params_template(layer, in_features)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(template))
    features = layer.out_features(in_features)
    axes = [*([] if layer.drops_time else ["T"]), "*B"]
    axes += [] if features is None else [str(features)]
    what = brief(layer) if not inside else type(layer).__name__.lower()
    what += f", {layer.n} times" if isinstance(layer, Repeat) else ""
    yield _Row(f"{name}{what}", f"[{', '.join(axes)}]", count)
    for part, inner, reads in inside:
        yield from (
            row._replace(label=f"  {row.label}") for row in _rows(f"{part}  ", inner, reads)
        )
