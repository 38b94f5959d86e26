"""Figures as Markdown: numbers, ratios, tables."""

import math
from collections.abc import Iterable, Sequence

NONE = "–"


def number(value: float | None) -> str:
    """Three digits, without an exponent."""
    if value is None or not math.isfinite(value):
        return NONE
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def count(value: float | None) -> str:
    """A count, or a mean of counts, with one digit behind the point at most."""
    return NONE if value is None else f"{value:,.1f}".removesuffix(".0")


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds."""
    return NONE if seconds is None else number(seconds * 1e3)


def megabytes(size: float | None) -> str:
    """Bytes as MB, 10⁶ bytes."""
    return NONE if size is None else number(size / 1e6)


def plain(value: float | None) -> str:
    """A ratio in two decimals."""
    if value is None:
        return NONE
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def ratio(value: float | None) -> str:
    """A ratio of ours to another's, bold below 1: there we need less."""
    return f"**{plain(value)}**" if value is not None and value < 1 else plain(value)


def over(numerator: float | None, denominator: float | None) -> float | None:
    """A quotient, if there is one."""
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None if none is."""
    logs = [math.log(value) for value in values if value]
    return math.exp(sum(logs) / len(logs)) if logs else None


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; the first column to the left, figures to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]
