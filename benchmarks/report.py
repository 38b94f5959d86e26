"""From the figures of a device to Markdown and a picture."""

import itertools
from pathlib import Path
from typing import Any

from benchmarks import picture, store, targets
from benchmarks.tables import HERE, TABLES
from benchmarks.tables.task import described

INTRO = (
    "Made by `python -m benchmarks`. A time is a median over rounds in which every candidate",
    "runs once, in random order; what counts is the ratio of two times of a row. Memory is",
    "XLA's own account of temporaries. A training step is the mean square of the outputs with",
    "its gradients for all parameters and the inputs, unless it says otherwise.",
)
PICTURE = "Time and memory of the training step"


def render(path: Path) -> list[Path]:
    """Write the Markdown and the picture beside the JSON file."""
    data = store.load(path)
    text, image = path.with_suffix(".md"), path.with_suffix(".png")
    store.replace(text, "\n".join(markdown(data, image.name)))
    picture.draw(data, image)
    return [text, image]


def markdown(data: dict[str, Any], image: str) -> list[str]:
    """The lines of the whole report."""
    lines = [f"# Benchmarks on {data['device']}", ""]
    if data["tiny"]:
        lines += ["Sizes are tiny: it shows that the command works, figures mean nothing.", ""]
    own = [table for name, table in TABLES.items() if name not in HERE and name in data["tables"]]
    intro, shown = (own[0].INTRO, own[0].PICTURE) if own else (INTRO, PICTURE)
    lines += [
        *(*intro, ""),
        *(f"![{shown}]({image})", ""),
        *("## Targets", ""),
        *targets.markdown(data),
    ]
    held = data["tables"].values()
    every = [each for table in held for each in table["environments"]]
    environments = [each for k, each in enumerate(every) if each not in every[:k]]
    for name, table in TABLES.items():
        held = data["tables"].get(name)
        if held:
            lines += [f"## {table.TITLE}", ""]
            lines += table.markdown([row for row in held["rows"] if "error" not in row])
            lines += _failures(held["rows"])
            used = {row["environment"] for row in held["rows"]}
            here = [environments.index(held["environments"][i]) + 1 for i in sorted(used)]
            lines += [f"Measured in environment {' and '.join(map(str, here))}.", ""]
    lines += ["## Environments", ""]
    lines += [f"{k}. {_written(each)}" for k, each in enumerate(environments, 1)]
    return [*lines, ""]


def _failures(rows: list[dict[str, Any]]) -> list[str]:
    """What there are no figures of, and why; equal reasons together."""
    found = [(row["error"], described(row["of"])) for row in rows if "error" in row]
    for row in rows:
        for name, why in row.get("failed", {}).items():
            found.append((f"{name}: {why}", described(row["of"])))
    if not found:
        return []
    lines = ["Without figures:", ""]
    for why, group in itertools.groupby(sorted(found), key=lambda item: item[0]):
        where = [of for _, of in group]
        shown = "everywhere" if len(where) == len(rows) else "; ".join(where)
        lines.append(f"- {why} ({shown})")
    return [*lines, ""]


def _written(environment: dict[str, Any]) -> str:
    """An environment in one line."""
    versions = environment["versions"].items()
    parts = [
        *(environment["date"], f"device {environment['device']}"),
        f"{environment['cpu']}, {environment['cores']} cores",
        *(environment["os"], f"Python {environment['python']}"),
        ", ".join(f"{package} {version or 'missing'}" for package, version in versions),
        f"gatedrnn {environment['commit']}",
    ]
    if environment["XLA_FLAGS"]:
        parts.append(f"XLA_FLAGS {environment['XLA_FLAGS'].strip()}")
    return "; ".join(parts)
