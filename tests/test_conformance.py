"""What other libraries compute from our weights, against the committed table of errors."""

import functools
import importlib.util

import pytest
from conformance import measure, peers, table
from conformance.cases import cells, networks
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import gatedrnn as gr
from gatedrnn._registry.cells import named, over_time
from gatedrnn._registry.row import Row

RECORDED = table.recorded()


def peer_named(name):
    """The peer, where all that it needs is installed."""
    peer = table.peer_named(name)
    for module in peer.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    return peer


# every equation, and the forms that most libraries have; the others take minutes
FIRST = {"Elman", "LSTM", "GRU reset=after", *named(over_time(), Row.few)}


def rows():
    """Every row of the table; what a library refuses, and what the table lacks, takes no time."""
    for name in peers.NAMES:
        for case in networks():
            first = case in FIRST or "outputs" not in RECORDED[name].get(case, {})
            yield pytest.param(name, case, marks=() if first else pytest.mark.long)


@pytest.mark.parametrize(("name", "case"), list(rows()))
def test_no_row_is_worse_than_the_committed_one(name, case):
    """Ten times the recorded power of ten is noise, more is not; nor may a reason come or go.

    Weights that came back to the bit must do so again.
    """
    peer = peer_named(name)
    noise, limit = table.NOISE[peer.dtype], table.LIMITS[peer.dtype]
    assert case in RECORDED[name], "not in the table: cd tests; python -m conformance"
    want, got = RECORDED[name][case], table.measured(peer, case)
    assert got.keys() == want.keys()
    for column, value in want.items():
        if isinstance(value, str):
            assert got[column] == value, column
        else:
            assert not isinstance(got[column], str), f"{column}: {got[column]}"
            bound = 0 if value == 0 and column == "round trip" else max(10 * value, noise)
            assert got[column] <= min(bound, limit), column


@pytest.mark.parametrize("name", peers.NAMES)
def test_every_other_combination_comes_back_or_is_refused(name):
    """Of the options of every cell, beyond the sample that is in the table."""
    peer = peer_named(name)
    every = named(over_time(), Row.every)
    for case in every.keys() - cells().keys():
        layer = gr.recurrent(every[case])
        if not measure.refusal(peer, layer):
            assert measure.round_trip(peer, layer) <= table.NOISE[peer.dtype], case


@functools.cache
def drawn(peer):
    """Every cell that the peer has, but those of rectified units, which may give zeros only."""
    return [
        cell
        for cell in cells().values()
        if getattr(cell, "activation", "") != "relu"
        and not measure.refusal(peer, gr.recurrent(cell))
    ]


@pytest.mark.parametrize("name", peers.NAMES)
@given(
    data=st.data(),
    layers=st.integers(1, 3),
    both=st.booleans(),
    lengths=st.none() | st.tuples(*[st.integers(1, measure.T)] * len(measure.LENGTHS)),
)
@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
def test_any_network_agrees(name, data, layers, both, lengths):
    """Or is refused: any cell, number of layers, directions and lengths."""
    peer = peer_named(name)
    cell = data.draw(st.sampled_from(drawn(peer)))
    assume(peer.ragged is True or lengths is None)
    one = gr.bidirectional(cell) if both else gr.recurrent(cell)
    layer = one if layers == 1 else gr.stack(*[one] * layers)
    assume(not measure.refusal(peer, layer))
    assert measure.max_of(measure.compare(peer, layer, lengths)) <= table.LIMITS[peer.dtype]


def test_the_table_is_drawn_from_these_figures():
    assert table.MARKDOWN.read_text() == table.markdown(RECORDED)
