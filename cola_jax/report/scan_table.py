"""The results of a scan as a table for the terminal and as CSV."""

import csv
import io

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cola_jax.deploy.scan import KINDS, Block
from cola_jax.path import format_path
from cola_jax.report.scan import Cell, ScanSummary
from cola_jax.report.table import (
    format_interval,
    format_mean,
    format_percent,
    format_points,
)

HEAD = ("", "block", "layers", "correct", "change", "p")
COLUMNS = (
    "kind", "start", "stop", "layers", "path", "correct", "correct_low", "correct_high",
    "difference", "difference_low", "difference_high", "p", "margin_difference", "margin_low",
    "margin_high", "p_margin",
)  # fmt: skip


def scan_rows(summary: ScanSummary) -> list[tuple[str, ...]]:
    """Lists the cells that a reader looks for first, each interval below its change."""
    rows = []
    for kind in KINDS:
        if (best := summary.best_of(kind)) is not None:
            rows.append((f"best {kind}", *change_of(best)))
    rows.append(("largest margin", *margin_of(summary.best_margin)))
    if (kept := summary.shortest_without_loss) is not None:
        rows.append(("longest skip kept", *change_of(kept)))
    plain = format_percent(summary.before.value)
    return [("model", "", str(summary.num_layers), plain, "", ""), *rows]


def change_of(cell: Cell) -> tuple[str, ...]:
    """Formats what a block changes of right answers."""
    change = cell.difference
    interval = format_interval(change.interval, signed=True)
    return (*named(cell), f"{format_points(change.value)}\n{interval}", f"{cell.p:.3f}")


def margin_of(cell: Cell) -> tuple[str, ...]:
    """Formats what a block changes of the mean margin."""
    low, high = (signed(bound) for bound in cell.margin.interval)
    change = f"{signed(cell.margin.value)}\n{low} to {high}"
    return (*named(cell), change, f"{cell.p_margin:.3f}")


def named(cell: Cell) -> tuple[str, str, str]:
    """Names a block by its layers, with the layers of its path and the share that is right."""
    return block_name(cell.block), str(len(cell.path)), format_percent(cell.correct.value)


def block_name(block: Block) -> str:
    """Names a block by its layers."""
    first, last = block.start, block.stop - 1
    return f"{block.kind} {first}" if first == last else f"{block.kind} {first}-{last}"


def scan_table(summary: ScanSummary) -> Table:
    """Formats the best cells of a scan."""
    table = Table(box=SIMPLE_HEAD, caption=scan_caption(summary), caption_justify="left")
    table.add_column("")
    for name in HEAD[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in scan_rows(summary):
        table.add_row(*row)
    return table


def scan_caption(summary: ScanSummary) -> str:
    """Explains what the numbers are, and what the best block does on other questions."""
    low, high = (signed(bound) for bound in summary.elsewhere_margin.interval)
    chosen = ", ".join(map(block_name, summary.elsewhere_blocks))
    return (
        f"{len(summary.cells):,} blocks on {summary.questions:,} questions. Changes are in points "
        "of accuracy, or in nats for the margin, paired over questions; a skip is kept if no fewer "
        "questions are right. p, two-sided: the chance that the largest change of all blocks, up "
        "or down, would reach this if none had an effect. A block chosen on one half of the "
        f"questions ({chosen}), measured on the other: {format_points(summary.elsewhere.value)} "
        f"points ({format_interval(summary.elsewhere.interval, signed=True)}); by margin, "
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
