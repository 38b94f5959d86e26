"""The picture: training-step times or operations relative to ours, and memory over length."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.problem import GRID, cells
from benchmarks.tables import length
from benchmarks.tables.grid_markdown import against
from benchmarks.tables.registry import FLOOR, OURS
from benchmarks.tables.variants import figure, names_in

# Okabe and Ito's colours, which colour-blind readers tell apart, and a marker for each candidate
STYLES = [
    *(("#E69F00", "o"), ("#D55E00", "s"), ("#0072B2", "D"), ("#56B4E9", "^"), ("#009E73", "v")),
    *(("#CC79A7", "P"), ("#7F7F7F", "X"), ("#8C6D1F", "<"), ("#5D3A9B", ">"), ("#B8A200", "h")),
]
INK, FAINT = "#222222", "#DDDDDD"
Drawn = tuple[Figure, Any, str]  # with the panels of the legend, and the title
SPREAD = 0.62  # of the distance between two points of the grid, over which candidates are laid out


def draw(data: dict[str, Any], path: Path) -> None:
    """Draw what there is: the grid and lengths, or operations of devices that are described."""
    tables = {name: held["rows"] for name, held in data["tables"].items()}
    drawn = _launches(tables["launches"]) if "launches" in tables else _measured(data, tables)
    canvas, panels, title = drawn
    if data["tiny"]:
        title += " (tiny sizes, figures mean nothing)"
    _finish(canvas, panels, title)
    canvas.savefig(path, dpi=150, format="png")


def _measured(data: dict[str, Any], tables: dict[str, list[dict]]) -> Drawn:
    """Times of a training step at each point, a panel for each cell, and memory over length."""
    train = _training(tables.get("grid", []), "median")
    drawn = _cells_of(train) or [None]
    points = _points_of(train)
    height = 2.6 + 1.05 * max(len(points), 3)
    canvas = Figure(figsize=(3.0 * len(drawn) + 4.6, height), layout="constrained")
    FigureCanvasAgg(canvas)
    widths = [3.0] * len(drawn) + [3.6]
    panels = canvas.subplots(1, len(drawn) + 1, gridspec_kw={"width_ratios": widths})
    _grid(panels[:-1], train, drawn, points, "median", _styles(train))
    _memory(
        panels[-1], [row for row in tables.get("length", []) if row["of"]["loss"] == length.ALL]
    )
    title = f"Training step on {data['device']}: time relative to {OURS}, log scale"
    return canvas, panels[:-1], title


def _launches(rows: list[dict]) -> Drawn:
    """Operations of a training step at each point: a row for each device, a panel for each cell."""
    train = _training(rows, "operations")
    drawn, points = _cells_of(train) or [None], _points_of(train)
    names = list(dict.fromkeys(row["of"]["target"] for row in rows)) or [""]
    size = (3.0 * len(drawn) + 1.6, len(names) * (1.4 + 0.75 * max(len(points), 2)) + 1.2)
    canvas = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(canvas)
    panels = canvas.subplots(len(names), len(drawn), squeeze=False)
    for line, target in zip(panels, names, strict=True):
        here = [row for row in train if row["of"]["target"] == target]
        _grid(line, here, drawn, points, "operations", _styles(train), f"{target}, ")
    _share_x(panels.ravel())
    title = f"Training step: operations of a time step relative to {OURS}, log scale"
    return canvas, panels.ravel(), title


def _training(rows: list[dict], what: str) -> list[dict]:
    """The training steps of which there is a figure of ours."""
    train = [row for row in rows if row["of"].get("kind") == "train"]
    return [row for row in train if figure(row, OURS, what) is not None]


def _cells_of(rows: list[dict]) -> list[str]:
    return [cell for cell in cells() if any(row["of"]["cell"] == cell for row in rows)]


def _points_of(rows: list[dict]) -> list[str]:
    return [point for point in GRID if any(row["of"]["point"] == point for row in rows)]


def _styles(rows: list[dict]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each candidate."""
    names = [name for name in names_in(rows) if name != OURS]
    return dict(zip(names, STYLES * (len(names) // len(STYLES) + 1), strict=False))


def _grid(
    panels: Any,
    rows: list[dict],
    drawn: list,
    points: list[str],
    what: str,
    styles: dict[str, tuple[str, str]],
    of: str = "",
) -> None:
    """A panel for each cell, all in one line."""
    for panel, cell in zip(panels, drawn, strict=True):
        here = [row for row in rows if row["of"]["cell"] == cell]
        _ratios(panel, here, points, styles, what)
        panel.set_title(
            f"{of}{cell}" if cell else "Training step", fontsize=11, color=INK, loc="left"
        )
    _share_x(panels)
    for panel in panels[1:]:
        panel.tick_params(labelleft=False)


def _finish(canvas: Figure, panels: Any, title: str) -> None:
    """The title, and one legend for all panels."""
    handles: dict[str, Any] = {}
    for panel in panels:
        found = zip(*panel.get_legend_handles_labels()[::-1], strict=True)
        handles |= {label: handle for label, handle in found if label not in handles}
    if handles:
        canvas.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=min(len(handles), 3 + 2 * (len(canvas.axes) - 1)),
            frameon=False,
            fontsize=9.5,
            handletextpad=0.3,
            columnspacing=1.4,
        )
    canvas.suptitle(title, fontsize=12.5, color=INK, x=0.01, ha="left")


def _ratios(
    panel: Axes,
    rows: list[dict],
    points: list[str],
    styles: dict[str, tuple[str, str]],
    what: str,
) -> None:
    """A dot for each candidate at each point, at its figure over ours."""
    _clean(panel)
    panel.set_xscale("log")
    panel.axvline(1, color=INK, linewidth=1.6, zorder=2, label=OURS)
    order = list(styles)
    for row in rows:
        middle = points.index(row["of"]["point"])
        here = [name for name in order if against(row, name, what) is not None]
        for k, name in enumerate(here):
            offset = SPREAD * ((k + 0.5) / len(here) - 0.5)
            colour, marker = styles[name]
            hollow = name == FLOOR  # no rival: it computes nothing of use
            panel.plot(
                [1 / against(row, name, what)],
                [middle + offset],
                marker=marker,
                markersize=6.5,
                linestyle="none",
                markerfacecolor="white" if hollow else colour,
                markeredgecolor=colour if hollow else "white",
                markeredgewidth=1.5 if hollow else 0.6,
                zorder=3,
                label=name,
            )
    for k in range(len(points)):
        if k % 2 == 0:
            panel.axhspan(k - 0.5, k + 0.5, color="#F5F5F5", zorder=0, linewidth=0)
    panel.set_yticks(range(len(points)), points)
    panel.set_ylim(max(len(points), 1) - 0.5, -0.5)
    unit = "time" if what == "median" else what
    panel.set_xlabel(f"{unit} / {OURS}", color=INK, fontsize=9.5)
    if not points:
        _say(panel, "not measured")


def _share_x(panels: Any) -> None:
    """The same range for all, with ticks that read as ratios."""
    limits = [value for panel in panels for line in panel.lines for value in line.get_xdata()]
    low, high = min([*limits, 0.6]) / 1.2, max([*limits, 2.5]) * 1.2
    for panel in panels:
        panel.set_xlim(low, high)
        subs = (1, 2, 5) if high / low < 100 else (1, 3) if high / low < 1000 else (1,)
        panel.xaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.xaxis.set_minor_locator(NullLocator())


def _memory(panel: Axes, rows: list[dict]) -> None:
    """Temporaries over length, by what is saved."""
    _clean(panel)
    panel.set_title("LSTM: temporary memory over length", fontsize=11, color=INK, loc="left")
    names = names_in(rows)
    if not names:
        _say(panel, "length: not measured")
        return
    panel.set(xscale="log", yscale="log")
    panel.grid(True, axis="y", color=FAINT, linewidth=0.7, zorder=0)
    colours = ["#0072B2", "#56B4E9", "#5D3A9B", "#D55E00", "#7F7F7F"]
    for name, colour in zip(names, colours, strict=False):
        found = [(row["of"]["T"], figure(row, name, "temporary_bytes")) for row in rows]
        found = [(T, size / 1e6) for T, size in found if size]
        if found:
            label = f"{OURS}, {name}" if name in length.SAVES else name
            panel.plot(
                *zip(*found, strict=True),
                color=colour,
                marker="o" if name in length.SAVES else "s",
                markersize=5,
                linewidth=1.6,
                zorder=3,
                label=label,
            )
    panel.set_xlabel("steps T", color=INK, fontsize=9.5)
    panel.set_ylabel("MB", color=INK, fontsize=9.5)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
        axis.set_minor_formatter(NullFormatter())
    panel.tick_params(which="both", length=0)
    panel.legend(frameon=False, fontsize=9, loc="upper left")


def _clean(panel: Axes) -> None:
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color("#AAAAAA")
    panel.tick_params(length=0, colors=INK, labelsize=9.5)
    panel.grid(True, axis="x", color=FAINT, linewidth=0.7, zorder=0)


def _say(panel: Axes, text: str) -> None:
    panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", color="#888888")
    panel.set_xticks([])
    panel.set_yticks([])
