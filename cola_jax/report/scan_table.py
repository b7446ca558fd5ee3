"""The results of a scan as a table for the terminal and as CSV."""

import csv
import io

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cola_jax.path import format_path
from cola_jax.report.scan import Cell, ScanSummary
from cola_jax.report.table import (
    format_interval,
    format_mean,
    format_percent,
    format_points,
)

COLUMNS = (
    "kind", "start", "stop", "layers", "path", "correct", "correct_low", "correct_high",
    "difference", "difference_low", "difference_high", "p", "margin_difference", "margin_low",
    "margin_high", "p_margin",
)  # fmt: skip


def scan_rows(summary: ScanSummary) -> list[tuple[str, Cell]]:
    """Lists the cells that a reader looks for first."""
    rows = [("most right", summary.best), ("largest margin", summary.best_margin)]
    if summary.shortest_without_loss is not None:
        rows.append(("longest skip without loss", summary.shortest_without_loss))
    return rows


def describe(cell: Cell) -> str:
    """Names a block by its layers."""
    first, last = cell.block.start, cell.block.stop - 1
    return f"{cell.block.kind} {first}" if first == last else f"{cell.block.kind} {first}-{last}"


def scan_table(summary: ScanSummary) -> Table:
    """Formats the best cells of a scan."""
    table = Table(box=SIMPLE_HEAD, caption=scan_caption(summary), caption_justify="left")
    table.add_column("")
    for name in ("block", "layers", "correct", "points more", "95 %", "p", "margin", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    plain = format_percent(summary.before.value)
    table.add_row("pretrained model", "", str(summary.num_layers), plain, "", "", "", "", "")
    for label, cell in scan_rows(summary):
        table.add_row(label, *cells(cell))
    return table


def cells(cell: Cell) -> list[str]:
    """Formats the columns of a cell."""
    return [
        describe(cell),
        str(len(cell.path)),
        format_percent(cell.correct.value),
        format_points(cell.difference.value),
        format_interval(cell.difference.interval, signed=True),
        f"{cell.p:.3f}",
        signed(cell.margin.value),
        f"{cell.p_margin:.3f}",
    ]


def scan_caption(summary: ScanSummary) -> str:
    """Explains what the numbers are, and what the best block does on other questions."""
    low, high = (signed(bound) for bound in summary.elsewhere_margin.interval)
    return (
        f"{len(summary.cells):,} blocks on {summary.questions:,} questions. Differences to the "
        "pretrained model are paired over questions. p: the chance that the best of all blocks "
        "would reach this if none had an effect. A block chosen on one half of the questions, "
        f"measured on the other: {format_points(summary.elsewhere.value)} points "
        f"({format_interval(summary.elsewhere.interval, signed=True)}); by margin, "
        f"{signed(summary.elsewhere_margin.value)} ({low} to {high})."
    )


def signed(value: float) -> str:
    """Formats a difference of margins."""
    text = format_mean(value, 2)
    return (text if text.startswith("-") or value != value else f"+{text}").replace("-", "−")


def scan_csv(summary: ScanSummary) -> str:
    """Writes every cell as a row of CSV; p-values are corrected for the number of cells."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in summary.cells:
        writer.writerow(
            [
                *cell.block,
                len(cell.path),
                format_path(cell.path),
                cell.correct.value,
                *cell.correct.interval,
                cell.difference.value,
                *cell.difference.interval,
                cell.p,
                cell.margin.value,
                *cell.margin.interval,
                cell.p_margin,
            ]
        )
    return out.getvalue()
