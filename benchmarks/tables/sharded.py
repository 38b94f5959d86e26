"""Several devices: which collectives a training step has, with the batch sharded over four.

Over four devices that a CPU is made to show, also where there is a GPU: what is counted does not
depend on the device, and the times are for orientation only.
"""

from collections.abc import Iterator
from functools import partial

from benchmarks import hlo
from benchmarks import markdown as md
from benchmarks.settings import Settings
from benchmarks.tables.task import Task
from benchmarks.tables.variants import figure
from benchmarks.worker import on_cpu_devices

TITLE = "Several devices"
OPTIONS = {"seconds"}
WORKER = "benchmarks.tables.sharded_worker"
DEVICES = 4
LAYERS = ("gr.unroll", "gr.bidirectional", "gr.stack")
UNSHARDED, JIT, SHARD_MAP = "one device", "jit, Auto mesh", "shard_map"


def tasks(settings: Settings) -> Iterator[Task]:
    T, B, H, chunk = (12, 4, 8, 4) if settings.tiny else (200, 32, 64, 20)
    for layer in LAYERS[:1] if settings.tiny else LAYERS:  # a process for each takes its time
        request = {"layer": layer, "T": T, "B": B, "H": H, "chunk": chunk}
        request |= {"seconds": settings.seconds, "tiny": settings.tiny}
        yield Task({"layer": layer}, partial(on_cpu_devices, WORKER, request, DEVICES))


def markdown(rows: list[dict]) -> list[str]:
    lines = []
    for row in rows:
        for name in (UNSHARDED, JIT, SHARD_MAP):
            found = row.get("collectives", {}).get(name)
            time = figure(row, name)
            if time is not None:
                counts = [md.NONE if found is None else _counts(found[w]) for w in WHERE]
                lines.append([f"{row['of']['layer']}, {name}", *counts, md.milliseconds(time)])
    text = (
        f"Collectives in the compiled training step of LSTMs, the batch over {DEVICES} host "
        "devices, as written in the program: one in a loop runs as often as the loop. Times on "
        "host devices that share the cores are for orientation only."
    )
    return [text, "", *md.table(["", *WHERE, "[ms]"], lines)]


WHERE = (hlo.STEPS, hlo.CHUNKS, hlo.OUTSIDE)


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in sorted(found.items())) or "0"
