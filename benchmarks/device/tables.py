"""The rows as Markdown: ratios first, then every figure, then what failed or was left out."""

from collections.abc import Iterable
from typing import Any

from benchmarks import markdown as md
from benchmarks.device.cases import CELLS, DTYPES, FIGURES, KINDS
from benchmarks.device.flag import VARIANTS, WITHOUT
from benchmarks.device.rivals import CANDIDATES, CUDNN, FLAX, HALF, PALLAS, REFERENCE, SCAN, TORCH

Row = dict[str, Any]
Group = dict[str, Row]  # by candidate, of one case and kind

IDENTITY = ("stage", "variant", "file", "cell", "point", "dtype", "kind", "candidate")
TITLES = {"forward": "forward", "train": "training step"}
# ours over the fastest of the others
RATIOS = {
    "scan / flax": (SCAN, FLAX),
    "kernel / flax": (PALLAS, FLAX),
    "kernel / cuDNN": (PALLAS, (CUDNN, TORCH, HALF)),
    "kernel / scan": (PALLAS, (SCAN,)),
    "scan / cuDNN": (SCAN, (CUDNN, TORCH, HALF)),
}
TEXT = (
    "Medians in ms, of rounds in which every candidate runs once, in random order; *flax* and "
    "*cuDNN* are the fastest of the candidates that are. cuDNN runs by `jax.experimental.rnn` "
    "(float32), by torch in the same type, and by torch in float16 beside bfloat16; torch runs "
    "several heads one after the other. Products in float32 are TF32 everywhere, by default. "
    "Programs were compiled side by side, so that their seconds of compilation are too long to "
    "compare with others'. *Error* is the largest of an answer, over its largest entry, against "
    "our scan in float32 at the highest precision; where it is above the tolerance (**!**), the "
    "candidate counts in no ratio."
)


def markdown(rows: list[Row]) -> str:
    """The tables of all rows; of two of the same, the later one counts."""
    latest: dict[tuple, Row] = {}
    for row in rows:
        skipped = str(row.get("skipped", ""))
        latest[(*(row.get(name) for name in IDENTITY), skipped)] = row
    shown = list(latest.values())
    groups = _groups(row for row in shown if row["stage"] == "grid")
    lines = ["# A run on a device", "", *_where(rows), TEXT, ""]
    lines += ["## Ratios", "", *_ratios(groups)]
    lines += ["## Tests", "", *_tests(row for row in shown if row["stage"] == "tests")]
    lines += ["## Grid", "", *_grid(groups)]
    lines += ["## Published", "", *_published(groups)]
    lines += ["## A loop as one command", "", *_flag([r for r in shown if r["stage"] == "flag"])]
    lines += ["## Profile", "", *_profile(r for r in shown if r["stage"] == "profile")]
    lines += ["## Failed or left out", "", *_failed(shown)]
    return "\n".join(lines)


def line(row: Row) -> str:
    """A row in one line."""
    of = [str(row[name]) for name in IDENTITY if row.get(name)]
    return f"{', '.join(of)}: {_said(row)}"


def _said(row: Row) -> str:
    for key in ("failed", "died", "skipped", "error"):
        if row.get(key) and not isinstance(row[key], float):
            return f"{key}: {row[key]}"
    if "median_ms" in row:
        time, seconds = md.number(row["median_ms"]), md.number(row["compile_seconds"])
        return f"{time} ms, compiled in {seconds} s, error {_error(row)}"
    if "environment" in row:
        return f"on {row['environment']['device']}, {row['environment']['versions']}"
    return ", ".join(f"{k} {row[k]}" for k in ("counts", "launches", "busy_ms") if k in row)


def _where(rows: list[Row]) -> list[str]:
    """Every environment that a row comes from."""
    found: dict[str, None] = {}
    for row in rows:
        where = row.get("environment")
        if where:
            versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
            found[
                f"- {where['device']}; {where['cores']} cores of {where['cpu']}; {where['os']}; "
                f"Python {where['python']}; {versions}; {where['commit']}"
                + (f"; XLA_FLAGS {where['XLA_FLAGS']}" if where["XLA_FLAGS"] else "")
            ] = None
    return [*found, ""]


def _groups(rows: Iterable[Row]) -> dict[tuple[str, str, str, str], Group]:
    """`(cell, dtype, kind, point)` -> the rows of its candidates."""
    groups: dict[tuple[str, str, str, str], Group] = {}
    for row in rows:
        if "candidate" in row:
            key = row["cell"], row["dtype"], row["kind"], row["point"]
            groups.setdefault(key, {})[row["candidate"]] = row
    return groups


def _counts(row: Row) -> bool:
    """Whether a row has a time, and its answer is the right one."""
    error = row.get("error")
    return "median_ms" in row and (error is None or error <= row["tolerance"])


def _ratio(group: Group, name: str, others: tuple[str, ...]) -> float | None:
    if name not in group or not _counts(group[name]):
        return None
    times = [group[o]["median_ms"] for o in others if o in group and _counts(group[o])]
    return md.over(group[name]["median_ms"], min(times)) if times else None


def _ratios(groups: dict[tuple[str, str, str, str], Group]) -> list[str]:
    """Geometric means, and the range."""
    lines = []
    for cell in CELLS:
        for dtype in DTYPES:
            for kind in KINDS:
                of = [g for key, g in groups.items() if key[:3] == (cell, dtype, kind)]
                cells = []
                for name, others in RATIOS.values():
                    found = [r for g in of if (r := _ratio(g, name, others)) is not None]
                    cells.append(_mean(found))
                lines.append([f"{cell}, {dtype}, {TITLES[kind]}", *cells])
    text = "Geometric means over the points (the range, and how many there are)."
    return [text, "", *md.table(["", *RATIOS], lines)]


def _mean(ratios: list[float]) -> str:
    if not ratios:
        return md.NONE
    spread = f"{md.plain(min(ratios))} to {md.plain(max(ratios))}, {len(ratios)}"
    return f"{md.ratio(md.geometric_mean(ratios))} ({spread})"


def _grid(groups: dict[tuple[str, str, str, str], Group]) -> list[str]:
    lines = []
    names = [name for name in CANDIDATES if name != REFERENCE]
    for cell in CELLS:
        for dtype in DTYPES:
            for kind in KINDS:
                of = {k[3]: g for k, g in groups.items() if k[:3] == (cell, dtype, kind)}
                if not of:
                    continue
                there = [n for n in names if any("median_ms" in g.get(n, {}) for g in of.values())]
                lines += [f"### {cell}, {dtype}, {TITLES[kind]}", ""]
                header = ["point, T B I H", *there, *RATIOS]
                lines += md.table(header, (_times(g, point, there) for point, g in of.items()))
                header = ["compile s / temporary MB / error", *there]
                lines += md.table(header, (_costs(g, point, there) for point, g in of.items()))
    return lines


def _times(group: Group, point: str, names: list[str]) -> list[str]:
    any_row = next(iter(group.values()))
    heads = f" of {any_row['heads']}" if any_row["heads"] > 1 else ""
    sizes = " ".join(str(any_row[axis]) for axis in "TBIH")
    ratios = [md.ratio(_ratio(group, *of)) for of in RATIOS.values()]
    return [f"{point}, {sizes}{heads}", *(_time(group.get(name)) for name in names), *ratios]


def _time(row: Row | None) -> str:
    if row is None or "median_ms" not in row:
        return md.NONE
    low, high = md.number(row["lower_ms"]), md.number(row["upper_ms"])
    return f"{md.number(row['median_ms'])} ({low} to {high}){'' if _counts(row) else ' **!**'}"


def _costs(group: Group, point: str, names: list[str]) -> list[str]:
    cells = []
    for row in (group.get(name, {}) for name in names):
        seconds, memory = md.number(row.get("compile_seconds")), row.get("temporary_bytes")
        cells.append(f"{seconds} / {md.megabytes(memory)} / {_error(row)}")
    return [point, *cells]


def _error(row: Row) -> str:
    return md.NONE if row.get("error") is None else f"{row['error']:.0e}"


def _tests(rows: Iterable[Row]) -> list[str]:
    lines = []
    for row in rows:
        counts = ", ".join(f"{count} {name}" for name, count in row.get("counts", {}).items())
        lines.append(f"- {row.get('file', '')}: {counts or 'none ran'}, {row.get('failed', '')}")
        lines += [f"  - {failure}" for failure in row.get("failures", [])]
    return [*lines, ""]


def _published(groups: dict[tuple[str, str, str, str], Group]) -> list[str]:
    """The figures of others beside ours, in ms."""
    text = "Published for an H100 (768 features in all, T=1024, B=16), in ms:"
    lines = [[name, *map(md.number, times)] for name, times in FIGURES.items()]
    points = [key[3] for key in groups if " x " in key[3] and key[2] == "forward"]
    for point in points:
        both = [groups.get(("LSTM", "bfloat16", kind, point), {}) for kind in KINDS]
        for name in CANDIDATES:
            if any("median_ms" in group.get(name, {}) for group in both):
                times = [group.get(name, {}).get("median_ms") for group in both]
                lines.append([f"{name}, {point}, measured here", *map(md.number, times)])
    return [text, "", *md.table(["", "forward", "forward and backward"], lines)]


def _flag(rows: list[Row]) -> list[str]:
    """Every variant beside the run without it."""
    times = {
        (r["variant"], r["candidate"], r["point"], r["kind"]): r.get("median_ms")
        for r in rows
        if "candidate" in r
    }
    lines = []
    for key in dict.fromkeys(key[1:] for key in times):
        plain = times.get((WITHOUT, *key))
        cells = [md.number(plain)]
        for variant in list(VARIANTS)[1:]:
            time = times.get((variant, *key))
            cells.append(f"{md.number(time)} ({md.ratio(md.over(time, plain))})")
        lines.append([", ".join(key), *cells])
    shown = [f"- {variant}: `{added}`" for variant, added in VARIANTS.items() if added]
    return [*shown, "", *md.table(["", *VARIANTS], lines)]


def _profile(rows: Iterable[Row]) -> list[str]:
    lines = []
    for row in rows:
        if "kernels" not in row:
            continue
        lines += [
            f"### {row['candidate']}, LSTM, {row['point']}, {row['dtype']}, training step",
            "",
            f"{row['launches']} launches; the device was at work for {md.number(row['busy_ms'])} "
            f"of {md.number(row['span_ms'])} ms. Without the profiler the step took "
            f"{md.number(row['wall_ms'])} ms.",
            "",
        ]
        kernels = (
            [f"`{k['name'][:80]}`", str(k["count"]), md.number(k["mean_us"]), md.number(k["ms"])]
            for k in row["kernels"]
        )
        lines += md.table(["kernel", "count", "mean µs", "in all ms"], kernels)
    return lines


def _failed(rows: list[Row]) -> list[str]:
    lines = []
    for row in rows:
        if row.get("missing"):
            lines.append(f"- not installed: {', '.join(row['missing'])}")
        wrong = "median_ms" in row and not _counts(row)
        if wrong or any(row.get(key) for key in ("failed", "died", "skipped")) or _broken(row):
            lines.append(f"- {line(row)}")
    return [*dict.fromkeys(lines), ""]


def _broken(row: Row) -> bool:
    return isinstance(row.get("error"), str)
