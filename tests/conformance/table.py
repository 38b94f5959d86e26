"""The committed table: kept as JSON to be compared with, drawn as Markdown to be read."""

import functools
import importlib
import json
import math
from pathlib import Path

from conformance import measure, peers
from conformance.cases import networks
from conformance.peer import Peer

JSON = Path(__file__).with_name("table.json")
MARKDOWN = Path(__file__).with_name("table.md")
LIMITS = {"float32": 1e-5, "float64": 1e-12}
NOISE = {"float32": 1e-6, "float64": 1e-14}

Row = dict[str, float | str]

HEAD = """# What agrees with what

Our networks, converted by `gr.interop`, run by the other library: the largest difference of any
entry from ours, relative to the largest entry of its array, rounded up to a power of ten. Random
weights and inputs, initial states that are not zero. Rows are the cells of the registry with the
options that are not their defaults (a GRU resets before the product, its update gate writes), of
one layer where they do not say. *Round trip*: the weights there and back, 0 is to the bit.
*Gradients* are for all parameters, the inputs and the initial state. *Ragged lengths* and
*bidirectional* are the worst of outputs, final states and gradients; steps in the padding are left
out. `tests/test_conformance.py` measures it anew and fails where a figure has become worse;
`cd tests; python -m conformance` writes it.
"""


def peer_named(name: str) -> Peer:
    return importlib.import_module(f"conformance.peers.{name}").PEER


@functools.cache
def compared() -> dict[str, tuple]:
    """All networks of the table, made once."""
    return networks()


def measured(peer: Peer, case: str) -> Row:
    """A row of the table, its errors rounded up to powers of ten."""
    row = measure.row(peer, *compared()[case])
    return {
        column: value if isinstance(value, str) else rounded_up(value)
        for column, value in row.items()
    }


def rounded_up(error: float) -> float:
    return 10.0 ** math.ceil(math.log10(error)) if error else 0.0


def recorded() -> dict[str, dict[str, Row]]:
    """Module of the peer -> case -> row."""
    return json.loads(JSON.read_text()) if JSON.is_file() else {}


def write(table: dict[str, dict[str, Row]]) -> None:
    JSON.write_text(json.dumps(table, indent=1) + "\n")
    MARKDOWN.write_text(markdown(table))


def markdown(table: dict[str, dict[str, Row]]) -> str:
    """A section for each library; what it refuses is listed below its table."""
    sections = [HEAD]
    for name in peers.NAMES:
        if name not in table:
            continue
        rows = table[name]
        refused = {case: row["refused"] for case, row in rows.items() if "refused" in row}
        sections.append(_section(name, {c: r for c, r in rows.items() if c not in refused}))
        if refused:
            sections.append("Refused:\n\n" + "\n".join(_refusals(refused)) + "\n")
    return "\n".join(sections)


def _refusals(refused: dict[str, str]) -> list[str]:
    """A line for each reason, with all that it holds for."""
    cases = {why: [c for c, other in refused.items() if other == why] for why in refused.values()}
    return [f"- {why}: {'; '.join(found)}" for why, found in cases.items()]


def _section(name: str, rows: dict[str, Row]) -> str:
    peer = peer_named(name)
    notes: list[str] = []

    def cell(value: float | str) -> str:
        if not isinstance(value, str):
            return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-")
        if value not in notes:
            notes.append(value)
        return f"no ({notes.index(value) + 1})"

    lines = [
        f"## {peer.name}, {peer.dtype}\n",
        "| | " + " | ".join(measure.COLUMNS) + " |",
        "|---|" + "---:|" * len(measure.COLUMNS),
    ]
    for case, row in rows.items():
        lines.append(f"| {case} | " + " | ".join(cell(row[c]) for c in measure.COLUMNS) + " |")
    lines += [""] + [f"({k + 1}) {note}" for k, note in enumerate(notes)]
    if peer.lossy:
        lines.append(f"\nRound trip: {peer.lossy}")
    return "\n".join(lines).rstrip() + "\n"
