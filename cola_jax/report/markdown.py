"""The tables of search runs in Markdown, for notes and pages."""

from collections.abc import Sequence

from etils import epath

from cola_jax.deploy.model_card import literal
from cola_jax.files import write_whole
from cola_jax.report.details import model_name, run_details, task_name
from cola_jax.report.summary import Summary
from cola_jax.report.table import summary_caption, summary_rows
from cola_jax.runs.run import Run


def write_markdown(runs: Sequence[Run], summaries: Sequence[Summary], file: epath.PathLike) -> None:
    """Writes the results of search runs as Markdown; OSError where it cannot be written."""
    target = epath.Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, "\n".join(map(markdown, runs, summaries)).encode(errors="replace"))


def markdown(run: Run, summary: Summary) -> str:
    """Formats the results of a search run, and what made it."""
    manifest = run.manifest()
    settings, starts = manifest["settings"], manifest["starts"]
    model, task = literal(model_name(starts[-1])), literal(task_name(starts[-1]))
    lines = [f"# {model} on {task}", "", summary_caption(summary)]
    for heading, rows in summary_rows(summary):
        lines += ["", f"## {heading}", ""]
        cells = [(literal(row.label), literal(row.value), row.interval, row.n) for row in rows]
        lines += table(("", "value", "95 % interval", "n"), cells)
    details = run_details(settings, starts[-1], len(starts))
    cells = [(literal(name), literal(value)) for name, value in details]
    lines += ["", "## Run", "", *table(("", ""), cells)]
    return "\n".join(lines) + "\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Formats a table, numbers to the right of the first column."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return [table_row(head), table_row(marks), *(table_row(row) for row in rows)]


def table_row(cells: tuple[str, ...] | list[str]) -> str:
    """Formats one row; a bar or a line break within a cell would end it."""
    cells = [" ".join(cell.splitlines()).replace("|", "\\|") for cell in cells]
    return "| " + " | ".join(cells) + " |"
