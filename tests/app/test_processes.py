"""Several processes: connected ones make one run, and else nothing."""

from pathlib import Path

import pytest

from .connected import CONNECTED, port, start
from .runs import TRAIN


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [TRAIN, ("eval", "runs/tiny")])
def test_connected_processes_are_refused_before_anything_is_written(workplace, arguments):
    """Each would write to the folder; nothing is made, and both end at once."""
    before = sorted(Path().rglob("*"))
    address = f"127.0.0.1:{port()}"
    both = [start("-c", CONNECTED, address, "2", str(i), *arguments) for i in range(2)]
    for i, process in enumerate(both):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2, err
        assert f"this is process {i} of 2 that JAX has connected; gatedrnn {arguments[0]}" in err
    assert sorted(Path().rglob("*")) == before
