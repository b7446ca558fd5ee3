"""The HTML page of a scan."""

from typing import Any

from etils import epath

from cola_jax.files import write_whole
from cola_jax.report.chunks import script_json
from cola_jax.report.details import model_name, run_details, task_name
from cola_jax.report.page import render
from cola_jax.report.page_data import rounded
from cola_jax.report.scan import Cell, ScanSummary
from cola_jax.report.scan_table import HEAD, scan_caption, scan_rows
from cola_jax.runs.run import Run

SCRIPTS = ("dom.js", "charts.js", "figure.js", "scan.js")
BLOCK = ("kind", "start", "stop", "layers", "correct")
MAPS = {
    "accuracy": (*BLOCK, "difference", "difference_low", "difference_high", "p"),
    "margin": (*BLOCK, "margin", "margin_low", "margin_high", "p_margin"),
}


def write_scan_page(run: Run, summary: ScanSummary, file: epath.PathLike) -> None:
    """Writes the page of a scan; OSError where the file cannot be written."""
    manifest = run.manifest()
    settings, start = manifest["settings"], manifest["starts"][-1]
    content = render(
        "scan.html",
        SCRIPTS,
        data=script_json(map_data(summary)),
        summary=summary,
        model=model_name(start),
        task=task_name(start),
        head=HEAD,
        rows=scan_rows(summary),
        caption=scan_caption(summary),
        details=run_details(settings, start, len(manifest["starts"])),
    )
    target = epath.Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, content)


def map_data(summary: ScanSummary) -> dict[str, Any]:
    """Returns both maps with a row for each block, and the best block of each."""
    best = {"accuracy": summary.best, "margin": summary.best_margin}
    return {
        "layers": summary.num_layers,
        "best": {name: cell.block._asdict() for name, cell in best.items()},
        "figures": {
            name: {
                "columns": columns,
                "rows": [tuple(map(rounded, map_row(cell, name))) for cell in summary.cells],
            }
            for name, columns in MAPS.items()
        },
    }


def map_row(cell: Cell, name: str) -> tuple[Any, ...]:
    """Lists what a map shows of a block."""
    block = (*cell.block, len(cell.path), cell.correct.value)
    if name == "accuracy":
        return (*block, cell.difference.value, *cell.difference.interval, cell.p)
    return (*block, cell.margin.value, *cell.margin.interval, cell.p_margin)
