"""`cd tests; python -m conformance [PEER ...]` measures the table anew and writes it."""

import sys

import conftest  # noqa: F401  float64, and the flags that the tests run with
from tqdm import tqdm

from conformance import peers, table
from conformance.cases import networks

found = table.recorded()
for name in sys.argv[1:] or peers.NAMES:
    peer = table.peer_named(name)
    found[name] = {case: table.measured(peer, case) for case in tqdm(networks(), desc=peer.name)}
    table.write(found)
