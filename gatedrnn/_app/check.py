"""`gatedrnn check`: every shipped cell and option against autodiff and finite differences."""

import argparse
import itertools
from collections.abc import Iterator

import gatedrnn as gr
from gatedrnn._app.errors import CommandError

TOLERANCE = 1e-10  # of the largest element of a gradient, against autodiff in float64
DIFFERENCE_TOLERANCE = 1e-6  # what finite differences can tell

ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")


def cells() -> Iterator[gr.Cell]:
    """Every shipped cell with every combination of its options."""
    flags = (True, False)
    for activation, use_bias in itertools.product(ACTIVATIONS, flags):
        yield gr.Elman(4, activation, use_bias)
    for activation, output, use_bias in itertools.product(ACTIVATIONS, ACTIVATIONS, flags):
        yield gr.Jordan(4, 3, activation, output, use_bias)
    peepholes = (None, "diagonal", "full")
    for peephole, projection, coupled, use_bias in itertools.product(
        peepholes, (None, 3), (False, True), flags
    ):
        yield gr.LSTM(4, peephole, projection, coupled, use_bias=use_bias)
    for reset, update, use_bias in itertools.product(
        ("before", "after"), ("writes", "keeps"), flags
    ):
        yield gr.GRU(4, reset, update, use_bias)
    for use_bias in flags:
        yield gr.LayerNormLSTM(4, use_bias=use_bias)
        yield gr.LayerNormGRU(4, use_bias)
    yield gr.Zoneout(gr.LSTM(4, "diagonal", 3), h=0.2, c=0.4)
    yield gr.Zoneout(gr.GRU(4), h=0.3)
    yield gr.Zoneout(gr.RecurrentDropout(gr.LayerNormLSTM(4), 0.4), c=0.25)
    yield gr.RecurrentDropout(gr.Elman(4), 0.4)


def describe(cell: gr.Cell) -> str:
    """The cell with the options that are not its defaults: `LSTM peephole=full coupled=True`."""
    fields = {name: f"({describe(v)})" if name == "cell" else v for name, v in vars(cell).items()}
    defaults = type(cell).__dataclass_fields__  # type: ignore[attr-defined]
    sizes = ("features", "out_features")
    said = [
        f"{name}={value}"
        for name, value in fields.items()
        if name not in sizes and value != defaults[name].default
    ]
    return " ".join([type(cell).__name__, *said])


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 0 if every gradient is exact, 1 if not."""
    wanted = (arguments.cell or "").lower()
    chosen = [cell for cell in cells() if wanted in describe(cell).lower()]
    if not chosen:
        raise CommandError(f"--cell: got {arguments.cell!r}, which is in the name of no cell")
    print("largest relative error of any gradient (parameters, inputs, initial carry), float64\n")
    print(f"{'cell':<58}{'vs autodiff':>12}{'vs differences':>16}")
    wrong = 0
    for cell in chosen:
        report = gr.check_rule(cell)
        difference = report.largest_difference or 0.0
        bad = not (report.largest <= TOLERANCE and difference <= DIFFERENCE_TOLERANCE)
        wrong += bad
        mark = "   WRONG" if bad else ""
        print(f"{describe(cell):<58}{report.largest:>12.1e}{difference:>16.1e}{mark}", flush=True)
    print(f"\n{len(chosen) - wrong} of {len(chosen)} exact")
    return 1 if wrong else 0
