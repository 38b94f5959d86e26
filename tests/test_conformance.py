"""What other libraries compute from our weights, against the committed table of errors."""

import importlib.util

import pytest
from conformance import peers, table
from conformance.cases import networks

RECORDED = table.recorded()


@pytest.mark.parametrize("case", networks())
@pytest.mark.parametrize("name", peers.NAMES)
def test_no_row_is_worse_than_the_committed_one(name, case):
    """Ten times the recorded power of ten is noise, more is not; nor may a reason come or go.

    Weights that came back to the bit must do so again.
    """
    peer = table.peer_named(name)
    for module in peer.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    noise, limit = table.NOISE[peer.dtype], table.LIMITS[peer.dtype]
    want, got = RECORDED[name][case], table.measured(peer, case)
    assert got.keys() == want.keys()
    for column, value in want.items():
        if isinstance(value, str):
            assert got[column] == value, column
        else:
            assert not isinstance(got[column], str), f"{column}: {got[column]}"
            bound = 0 if value == 0 and column == "round trip" else max(10 * value, noise)
            assert got[column] <= min(bound, limit), column


def test_the_table_is_drawn_from_these_figures():
    assert table.MARKDOWN.read_text() == table.markdown(RECORDED)
