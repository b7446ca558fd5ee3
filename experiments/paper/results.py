"""Read finished searches for the tables and figures of the paper, and print Markdown."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from cola_jax.report.document import model_name, task_name
from cola_jax.report.tables import markdown_table
from cola_jax.runs.layer_use import CONTROLS, CORRECTED, RETAINED, Depth
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.scoring.number_format import (
    format_interval,
    format_mean,
    format_p,
    format_points,
    format_signed,
)
from cola_jax.scoring.preference import Net, SavedLayers
from cola_jax.scoring.statistics import Mean

GROUPS = (RETAINED, CONTROLS[RETAINED], CORRECTED, CONTROLS[CORRECTED])


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished search."""

    name: str  # of its model and task
    run: Run
    results: Results
    num_layers: int


def read(directories: Iterable[str]) -> list[Result]:
    """Read the searches of run directories."""
    results = []
    for directory in directories:
        run = Run(directory)
        facts = run.facts()
        name = f"{model_name(facts.start)}, {task_name(facts.start).removesuffix('.jsonl')}"
        results.append(Result(name, run, run.summary(), facts.num_layers))
    return results


def show(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print("\n".join(markdown_table(tuple(head), [tuple(row) for row in rows])))


def points(net: Net | Mean, corrected: float | None = None, *, counts: bool = True) -> str:
    """Format a difference in points with its interval and p-value, also as corrected.

    Where too few questions differ, format hits and expected hits, unless
    those are no `counts`, as in a comparison of two runs.
    """
    if math.isnan(net.value):
        return "–"
    if isinstance(net, Net) and net.undecided:
        return "cannot be told from preference"
    p = ""
    if isinstance(net, Net):
        p = f"p = {format_p(net.p)}".replace("= <", "< ")
        p += by_holm(corrected)
        if math.isnan(net.interval[0]) and not counts:
            return f"{format_points(net.value)} (too few differ, {p})"
        if math.isnan(net.interval[0]):
            return f"{net.reached} of {net.n}, {net.expected:.1f} expected ({p})"
    cells = [format_interval(net.interval, signed=True), p]
    return f"{format_points(net.value)} ({', '.join(filter(None, cells))})"


def layers(kept: SavedLayers, corrected: float | None = None) -> str:
    """Format a difference in layers with its interval and p-value, also as corrected."""
    if math.isnan(kept.interval[0]):
        return "–"
    value, low, high = map(format_signed, (kept.difference, *kept.interval))
    return f"{value} ({low} to {high}, p = {format_p(kept.p)}{by_holm(corrected)})"


def p_of(figure: Net | SavedLayers | None) -> float:
    """Return the p-value that a table corrects for, NaN for none."""
    if figure is None or (isinstance(figure, Net) and figure.undecided):
        return math.nan
    return figure.p


def by_holm(corrected: float | None) -> str:
    """Format a corrected p-value, unless it is 1."""
    return "" if corrected is None or corrected > 0.999 else f", corrected {format_p(corrected)}"


def depth(paths: Depth) -> str:
    """Format the mean layers of paths, and of them the different ones."""
    return f"{format_mean(paths.layers)} ({format_mean(paths.distinct)})"
