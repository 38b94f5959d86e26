"""`cd tests; python -m conformance [PEER ...]` measures the table anew and writes it."""

import sys

import jax

jax.config.update("jax_enable_x64", True)

from conformance import peers, table  # noqa: E402
from conformance.cases import networks  # noqa: E402
from tqdm import tqdm  # noqa: E402

found = table.recorded()
for name in sys.argv[1:] or peers.NAMES:
    peer = table.peer_named(name)
    found[name] = {
        case: table.measured(peer, case) for case in tqdm(networks(), desc=peer.name)
    }
    table.write(found)
