"""The map of a scan as a figure and as an HTML page."""

import numpy as np
from etils import epath
from markupsafe import Markup

from cola_jax.report.figures import BLUE, INK, ORANGE, as_svg, style
from cola_jax.report.page import model_name, page_template, run_details, task_name
from cola_jax.report.scan import Cell, ScanSummary
from cola_jax.report.scan_table import HEAD, scan_caption, scan_rows
from cola_jax.runs.directory import RunDirectory, write_whole


def write_scan_page(run: RunDirectory, summary: ScanSummary, file: epath.PathLike) -> None:
    """Writes the page of a scan; ValueError where matplotlib is missing."""
    manifest = run.manifest()
    settings, start = manifest["settings"], manifest["starts"][-1]
    content = page_template("scan.html").render(
        summary=summary,
        model=model_name(start),
        task=task_name(start),
        head=HEAD,
        rows=scan_rows(summary),
        caption=scan_caption(summary),
        details=run_details(settings, start, len(manifest["starts"])),
        accuracy=Markup(scan_map(summary, margin=False)),
        margin=Markup(scan_map(summary, margin=True)),
    )
    target = epath.Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, content.encode())


def scan_map(summary: ScanSummary, *, margin: bool) -> str:
    """Draws the map of blocks: repeats above the diagonal, skips below it.

    A block's first layer and the layer after its last are its row and column where it is repeated,
    its column and row where it is skipped.
    """
    with style():
        from matplotlib.colors import LinearSegmentedColormap, to_rgba
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        figure = Figure(figsize=(6.4, 5.4), layout="constrained")
        axes = figure.subplots()
        values = map_values(summary, margin)
        size = summary.num_layers + 1
        # of the colour scale: what most blocks do to the model would hide what the best ones do
        top = max(float(np.nanmax(values)), -float(np.nanquantile(values, 0.5)), 0.01)
        # each half fades to nothing, so that no change looks like the page, light or dark
        colours = [(0.0, BLUE, 1), (0.5, BLUE, 0), (0.5, ORANGE, 0), (1.0, ORANGE, 1)]
        ramp = LinearSegmentedColormap.from_list(
            "worse to better", [(at, to_rgba(colour, alpha)) for at, colour, alpha in colours]
        )
        mesh = axes.pcolormesh(
            np.ma.masked_invalid(values), cmap=ramp, vmin=-top, vmax=top, antialiased=False
        )
        axes.plot((0, size), (0, size), color=INK, lw=0.7)
        row, column = place(summary.best_margin if margin else summary.best)
        axes.plot(column + 0.5, row + 0.5, "o", mfc="none", mec=INK, ms=9)
        axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal")
        step = -(-size // 16)
        ticks = np.arange(0, size, step)
        axes.set_xticks(ticks + 0.5, ticks)
        axes.set_yticks(ticks + 0.5, ticks)
        axes.tick_params(length=0)
        axes.set(
            xlabel="repeated up to, or skipped from, layer",
            ylabel="repeated from, or skipped up to, layer",
            title="repeats above the diagonal, skips below",
        )
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=30, extend="min")
        bar.outline.set(linewidth=0.5, alpha=0.5)
        bar.locator = MaxNLocator(6)
        if not margin:
            bar.formatter = FuncFormatter(lambda value, _: f"{100 * value:+g}")
        bar.update_ticks()
        name = "margin" if margin else "accuracy"
        return as_svg(figure, f"Change of {name} by block")


def map_values(summary: ScanSummary, margin: bool) -> np.ndarray:
    """Arranges the cells in a square [L + 1, L + 1], NaN where there is no block."""
    values = np.full((summary.num_layers + 1,) * 2, np.nan)
    for cell in summary.cells:
        values[place(cell)] = cell.margin.value if margin else cell.difference.value
    return values


def place(cell: Cell) -> tuple[int, int]:
    """Returns the row and the column of a cell."""
    _, start, stop = cell.block
    return (start, stop) if cell.block.kind == "repeat" else (stop, start)
