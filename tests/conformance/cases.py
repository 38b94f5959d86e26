"""The networks that the table compares: every cell for sequences, then several layers."""

import gatedrnn as gr
from gatedrnn._registry.cells import named, over_time
from gatedrnn._registry.row import SIZE, Row

IN = 3


def cells() -> dict[str, gr.Cell]:
    """Return the sample of every row of the registry, by name."""
    return named(over_time(), Row.sample)


def networks() -> dict[str, tuple]:
    """Return for each row of the table the network, and the same in both directions."""
    single = {name: (gr.recurrent(cell), gr.bidirectional(cell)) for name, cell in cells().items()}
    forms = named(over_time(), lambda row: tuple(make(SIZE) for make in row.timed().values()))
    deep = {
        f"{name}, 3 layers": (gr.stack(*[cell] * 3), gr.stack(*[gr.bidirectional(cell)] * 3))
        for name, cell in forms.items()
    }
    return single | deep
