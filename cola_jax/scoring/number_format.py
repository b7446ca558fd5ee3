"""Shares, differences and p-values as text and as rows of tables, the same wherever shown."""

import html
import math
from typing import NamedTuple

from cola_jax.scoring.statistics import ALPHA, Share

NO_VALUE = "–"
COLUMNS = ("", "value", "95 % interval", "n")


class Row(NamedTuple):
    """One line of a table, as text; a cell may have its interval on a second line."""

    label: str
    cells: tuple[str, ...]
    control: bool = False  # of control searches, which are shown in another colour
    bold: bool = False


class Table(NamedTuple):
    """Rows with the names of their columns, the first of which is that of the labels."""

    rows: list[Row]
    heading: str = ""
    columns: tuple[str, ...] = COLUMNS


def table_html(table: Table) -> str:
    """Write a table as a notebook shows it."""
    rows = ((row.label, *row.cells) for row in table.rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{body}</table>"


def value_row(
    label: str, value: Share | float | str, n: int | None = None, *, control: bool = False
) -> Row:
    """Make the row of a share, a count, a mean or a text, in the columns value, interval and n."""
    interval = ""
    if isinstance(value, Share):
        text = format_percent(value.value)
        interval = format_interval(value.interval)
        n = value.n
    elif isinstance(value, str):
        text = value
    else:
        text = f"{value:,}" if isinstance(value, int) else format_mean(value)
    return Row(label, (text, interval, "" if n is None else f"{n:,}"), control)


def format_percent(value: float) -> str:
    """Format a share with one decimal; only none and all read as 0 and 100 %."""
    if math.isnan(value):
        return NO_VALUE
    text = f"{100 * value:.1f} %"
    if text == "0.0 %" and value > 0:
        return "<0.1 %"
    return ">99.9 %" if text == "100.0 %" and value < 1 else text


def format_signed(value: float, decimals: int = 1) -> str:
    """Format a difference with its sign."""
    return NO_VALUE if math.isnan(value) else f"{value:+.{decimals}f}".replace("-", "−")


def format_points(value: float) -> str:
    """Format a difference of shares in percentage points, with its sign."""
    return format_signed(100 * value)


def format_mean(value: float, decimals: int = 1) -> str:
    """Format a mean."""
    return NO_VALUE if math.isnan(value) else f"{value:.{decimals}f}"


def format_p(p: float) -> str:
    """Format a p-value."""
    return NO_VALUE if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def format_interval(interval: tuple[float, float], signed: bool = False) -> str:
    """Format an interval of shares in per cent, or of differences in percentage points."""
    low, high = interval
    if math.isnan(low):
        return ""
    if signed:
        return f"{format_points(low)} to {format_points(high)}"
    return f"{100 * low:.1f} to {100 * high:.1f}"


def is_shown(p: float, interval: tuple[float, float]) -> bool:
    """Whether a corrected p-value is below 0.05 and the interval of its effect excludes 0."""
    low, high = interval
    return p < ALPHA and not low <= 0 <= high
