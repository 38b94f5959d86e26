"""The networks that the table compares: cell × option, then several layers."""

import gatedrnn as gr

IN, H, P = 3, 4, 2

CELLS = {
    "Elman tanh": gr.Elman(H),
    "Elman relu": gr.Elman(H, activation="relu"),
    "Elman sigmoid": gr.Elman(H, activation="sigmoid"),
    "Elman identity": gr.Elman(H, activation="identity"),
    "Elman without bias": gr.Elman(H, use_bias=False),
    "Jordan": gr.Jordan(H, out_features=P),
    "LSTM": gr.LSTM(H),
    "LSTM without bias": gr.LSTM(H, use_bias=False),
    "LSTM, diagonal peepholes": gr.LSTM(H, peephole="diagonal"),
    "LSTM, full peepholes": gr.LSTM(H, peephole="full"),
    "LSTM, projection": gr.LSTM(H, projection=P),
    "LSTM, coupled": gr.LSTM(H, coupled=True),
    "LSTM, coupled, peepholes": gr.LSTM(H, coupled=True, peephole="diagonal"),
    "GRU after, keeps": gr.GRU(H, reset="after", update="keeps"),
    "GRU after, writes": gr.GRU(H, reset="after", update="writes"),
    "GRU after, without bias": gr.GRU(H, reset="after", update="keeps", use_bias=False),
    "GRU before, keeps": gr.GRU(H, reset="before", update="keeps"),
    "GRU before, writes": gr.GRU(H, reset="before", update="writes"),
    "GRU before, without bias": gr.GRU(H, reset="before", update="writes", use_bias=False),
}


def networks() -> dict[str, tuple]:
    """For each row of the table: the network, and the same in both directions."""
    single = {name: (gr.recurrent(cell), gr.bidirectional(cell)) for name, cell in CELLS.items()}
    deep = {
        f"{name}, 3 layers": (
            gr.stack(*[cell] * 3),
            gr.stack(*[gr.bidirectional(cell)] * 3),
        )
        for name, cell in CELLS.items()
        if name in ("Elman tanh", "LSTM", "GRU after, keeps", "GRU before, writes")
    }
    return single | deep
